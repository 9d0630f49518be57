"""What a network remembers of rows that it has read: keys and values, written in place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class Growing(DynamicLayer):
    """Adds keys and values to what it remembers, in place: there is room behind, and more is taken in large pieces.

    room: keys and values of more columns than `keys` and `values` show; None: none behind them. A layer never shares
    its room, so what is remembered may be shown to others.
    """

    is_initialized: bool

    def __init__(self) -> None:
        super().__init__()
        self.room: tuple[Tensor, Tensor] | None = None

    @property
    def used(self) -> int:
        return self.keys.shape[-2]

    def begin(self, keys: Float[Tensor, "b h 0 d"], values: Float[Tensor, "b h 0 d"]) -> None:
        """Nothing is remembered yet, of this shape."""
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.keys, self.values = keys, values

    def reserve(self, columns: int, spare: float = 0.5) -> tuple[Tensor, Tensor]:
        """Room for so many columns more. `spare`: what a new room has beyond that, as a share."""
        end = self.used + columns
        if self.room is None or self.room[0].shape[-2] < end:
            room = end + int(spare * end)
            self.room = _roomy(self.keys, room), _roomy(self.values, room)
        return self.room

    def grow(self, columns: int) -> tuple[Tensor, Tensor]:
        """What is remembered, when so many columns of the room have been filled."""
        self.keys, self.values = self.first(self.used + columns)
        return self.keys, self.values

    def first(self, columns: int) -> tuple[Tensor, Tensor]:
        assert self.room is not None
        return self.room[0][:, :, :columns], self.room[1][:, :, :columns]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        spare = 0.5 if self.is_initialized else 0.0
        if not self.is_initialized:
            self.begin(key_states[:, :, :0], value_states[:, :, :0])
        n = key_states.shape[-2]
        if torch.is_grad_enabled():  # a gradient forbids writing in place
            return self._joined(key_states, value_states)
        used = self.used
        for room, new in zip(self.reserve(n, spare), (key_states, value_states), strict=True):
            room[:, :, used : used + n] = new
        return self.grow(n)

    def _joined(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (torch.cat(pair, dim=-2) for pair in ((self.keys, keys), (self.values, values)))
        self.room = None
        return self.keys, self.values


class ReadOnly(Growing):
    """Attends to remembered keys and values without adding to them: the room behind is used again by every forward."""

    def grow(self, columns: int) -> tuple[Tensor, Tensor]:
        return self.first(self.used + columns)

    def _joined(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, keys], dim=-2), torch.cat([self.values, values], dim=-2)


def _roomy(old: Float[Tensor, "b h m d"], columns: int) -> Float[Tensor, "b h _ d"]:
    """What is remembered, copied to where there is room for so many columns; zeros, since what nobody may see must
    still be numbers."""
    room = old.new_zeros(*old.shape[:2], columns, old.shape[3])
    room[:, :, : old.shape[2]] = old
    return room


@dataclass(frozen=True)
class Memory:
    """Keys and values of encoded tokens, for b rows.

    keep: False on remembered padding.
    """

    cache: Cache
    keep: Bool[Tensor, "b m"]

    @property
    def is_begun(self) -> bool:
        """Whether there is something to grow."""
        return all(layer.is_initialized for layer in self.cache.layers)

    @property
    def next_position(self) -> Int[Tensor, "b"]:
        """Where each row goes on: positions count kept tokens only."""
        return self.keep.sum(-1)

    def select(self, rows: Int[Tensor, "r"]) -> "Memory":
        """The memory of some of its rows, read-only if this one is; this one stays as it is."""
        return Memory(_copy(self.cache, None, lambda part: part[rows]), self.keep[rows])

    def read_only(self) -> "Memory":
        """The same memory, to which later forwards add nothing; one object for all of them, with one room to use."""
        return self._reading

    @cached_property
    def _reading(self) -> "Memory":
        return Memory(_copy(self.cache, ReadOnly), self.keep)

    def fork(self) -> "Memory":
        """The same memory, to be grown apart from this one."""
        return Memory(_copy(self.cache, Growing), self.keep)

    def first(self, columns: int) -> "Memory":
        """What was remembered first; the rest is forgotten."""
        return Memory(_copy(self.cache, None, lambda part: part[:, :, :columns]), self.keep[:, :columns])

    def without_last(self, rows: Bool[Tensor, "b"]) -> "Memory":
        """The last token remembered of these rows is forgotten."""
        is_last = self.keep & (self.keep.flip(-1).cumsum(-1).flip(-1) == 1)
        return Memory(self.cache, self.keep & ~(is_last & rows[:, None]))

    def packed(self) -> "Memory":
        """As many columns as the longest row keeps: padding between tokens goes, and each row moves to the right."""
        columns = int(self.keep.sum(-1).max())
        order = self.keep.int().argsort(dim=-1, stable=True)[:, self.keep.shape[1] - columns :]

        def moved(part: Float[Tensor, "b h m d"]) -> Float[Tensor, "b h _ d"]:
            return part.gather(2, order[:, None, :, None].expand(-1, part.shape[1], -1, part.shape[3]))

        return Memory(_copy(self.cache, None, moved), self.keep.gather(1, order))

    @classmethod
    def joined(cls, parts: Sequence["Part"]) -> "Memory":
        """One memory of rows that are remembered apart; each part says which of the rows its own are."""
        order = torch.cat([rows for rows, _ in parts]).argsort()
        columns = max(memory.keep.shape[1] for _, memory in parts)
        free = [columns - memory.keep.shape[1] for _, memory in parts]
        layers = []
        for same in zip(*(memory.cache.layers for _, memory in parts), strict=True):
            layer = _copy_layer(same[0], None)
            for name in ("keys", "values"):
                wide = [F.pad(getattr(old, name), (0, 0, 0, n)) for old, n in zip(same, free, strict=True)]
                setattr(layer, name, torch.cat(wide)[order])
            layers.append(layer)
        keep = [F.pad(memory.keep, (0, n)) for (_, memory), n in zip(parts, free, strict=True)]
        return cls(Cache(layers=layers), torch.cat(keep)[order])


# A memory of some rows of a batch, and which rows those are, on the host.
Part = tuple[Int[Tensor, "_"], Memory]


def _copy_layer(old: DynamicLayer, kind: type[DynamicLayer] | None) -> DynamicLayer:
    """An empty layer of `kind` (None: of its own) that is ready for such tensors."""
    new = (kind or type(old))()
    new.dtype, new.device, new.is_initialized = old.dtype, old.device, True
    return new


def _copy(
    cache: Cache, kind: type[DynamicLayer] | None, change: Callable[[Tensor], Tensor] = lambda part: part
) -> Cache:
    """A cache with layers of `kind` (None: of their own) over the same keys and values, or changed ones."""
    layers = []
    for old in cache.layers:
        new = _copy_layer(old, kind)
        new.keys, new.values = change(old.keys), change(old.values)
        layers.append(new)
    return Cache(layers=layers)
