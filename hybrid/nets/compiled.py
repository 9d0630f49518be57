"""A network's sampling as compiled graphs: its kernels are shorter than what it takes to launch them one by one."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from transformers.cache_utils import Cache, DynamicLayer

from hybrid.nets.layout import Segment, running
from hybrid.nets.memory import Memory

Rooms = list[tuple[Tensor, Tensor]]  # keys and values of each layer, with columns that are not filled yet


class _InPlace(DynamicLayer):
    """Writes keys and values to given columns of a room, and shows the whole of it."""

    def __init__(self, keys: Tensor, values: Tensor, at: Int[Tensor, "n"]) -> None:
        super().__init__()
        self.keys, self.values, self.at, self.is_initialized = keys, values, at, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.at, key_states)
        self.values.index_copy_(2, self.at, value_states)
        return self.keys, self.values


def chosen(logits: Float[Tensor, "b k"], banned: Float[Tensor, "k"]) -> tuple[Int[Tensor, "b"], Float[Tensor, "b"]]:
    """The likeliest token of each row, and its probability. banned: -inf at what is never chosen, else 0."""
    logits = logits.float() + banned
    token = logits.argmax(-1)
    return token, probability(logits, token)


def probability(logits: Float[Tensor, "b k"], token: Int[Tensor, "b"]) -> Float[Tensor, "b"]:
    """Of that token in each row."""
    return logits.softmax(-1).gather(-1, token[:, None])[:, 0]


def _guards(entries: Sequence[Any]) -> list[bool]:
    """What a graph checks before every run: the tensors that it is given. To check that the model is still the same
    would take as long as its matrix products."""
    return [
        g.guard_type in ("GLOBAL_STATE", "SHAPE_ENV")
        or (g.guard_type == "TENSOR_MATCH" and not g.is_global and not isinstance(g.value, nn.Parameter))
        for g in entries
    ]


def _graph(run: Callable[..., Any], backend: str | Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """`run` compiled. Where the compiler fails, which is before anything has run, it is left at `run` from then on.

    On CPUs its kernels are called from C++: from Python, that takes a quarter of the time of a token at batch 1.
    """
    options: dict[str, Any] = {"guard_filter_fn": _guards}
    if backend == "inductor" and device.type == "cpu":
        options["cpp_wrapper"] = True
    compiled = torch.compile(run, backend=backend, dynamic=True, options=options)

    is_broken = False

    def attempt(*inputs: Any) -> Any:
        nonlocal is_broken
        if is_broken:
            return run(*inputs)
        try:
            return compiled(*inputs)
        except TorchDynamoException as error:
            is_broken = True
            said = " ".join(str(error).strip().splitlines()[:2])
            warnings.warn(f"not compiled, run as it is: {said}", stacklevel=2)
            return run(*inputs)

    return attempt


class Compiled:
    """The two forwards of sampling with a memory, in place and in graphs.

    Rows, positions and columns may change from call to call: they are symbols of a graph. Where one of them is 1, or
    two are equal, as where a memory begins, a graph of its own is made when that is first met; beyond torch's limit of
    eight, calls run as they would without.

    network: the `Network` whose model runs. layers: keys and values of no column, as memories have shown that each
    layer makes them, by autocast's precision (None: without it).
    """

    def __init__(self, network: Any, backend: str | Callable[..., Any] = "inductor") -> None:
        self.network = network
        self.layers: dict[torch.dtype | None, Rooms] = {}
        device = network.model.device
        self._run_trunk, self._run_next = (_graph(run, backend, device) for run in (self._trunk, self._next))

    def _trunk(
        self,
        inputs: dict[str, Tensor],
        positions: Int[Tensor, "b n"],
        attends: Bool[Tensor, "b 1 n m"],
        columns: Int[Tensor, "b m"],
        at: Int[Tensor, "n"],
        rooms: Rooms,
    ) -> Float[Tensor, "b n d"]:
        cache = Cache(layers=[_InPlace(keys, values, at) for keys, values in rooms])
        return self.network.model.base_model.forward(
            **inputs,
            position_ids=positions + self.network.first_position,
            attention_mask=self.network.masks(attends, positions, columns),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def takes(self, memory: Memory) -> bool:
        """Whether `states` can write to the memory. The very first one is begun without: it shows what layers keep."""
        return memory.is_begun or self._precision in self.layers

    @property
    def _precision(self) -> torch.dtype | None:
        kind = self.network.model.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None

    def states(
        self, inputs: dict[str, Tensor], segments: Sequence[Segment], attends: Bool[Tensor, "b 1 n m"], memory: Memory
    ) -> Float[Tensor, "b n d"]:
        """Hidden states of a row of segments; the memory grows, unless read-only."""
        layers, precision = memory.cache.layers, self._precision
        if precision not in self.layers:
            self.layers[precision] = [(x.keys[:0, :, :0].clone(), x.values[:0, :, :0].clone()) for x in layers]
        if not memory.is_begun:
            for layer, parts in zip(layers, self.layers[precision], strict=True):
                layer.begin(*(part.new_zeros(len(memory.keep), *part.shape[1:]) for part in parts))
        positions = torch.cat([s.positions for s in segments], dim=1)
        n, used = positions.shape[1], memory.keep.shape[1]
        rooms = [layer.reserve(n, spare=0.0) for layer in layers]
        at = torch.arange(used, used + n, device=positions.device)
        # Widened out here: sums of sizes inside a graph are more than the compiler can follow.
        free = (0, rooms[0][0].shape[2] - used - n)
        columns = F.pad(torch.cat([running(memory.keep), positions], dim=1), free)
        states: Tensor = self._run_trunk(inputs, positions, F.pad(attends, free), columns, at, rooms)
        for layer in layers:
            layer.grow(n)
        return states

    def next(
        self,
        token: Int[Tensor, "b"],
        keep: Bool[Tensor, "b m"],
        at: Int[Tensor, "1"],
        rooms: Rooms,
        banned: Float[Tensor, "k"],
    ) -> tuple[Int[Tensor, "b"], Float[Tensor, "b"]]:
        """Reads a token at column `at`, all in place, and chooses the next; `at` moves on."""
        with evaluating(self.network.model):
            found: tuple[Tensor, Tensor] = self._run_next(token, keep, at, rooms, banned)
        return found

    def _next(
        self,
        token: Int[Tensor, "b"],
        keep: Bool[Tensor, "b m"],
        at: Int[Tensor, "1"],
        rooms: Rooms,
        banned: Float[Tensor, "k"],
    ) -> tuple[Int[Tensor, "b"], Float[Tensor, "b"]]:
        keep.index_fill_(1, at, True)
        columns = running(keep)
        positions = keep.sum(-1, keepdim=True) - 1
        states = self._trunk({"input_ids": token[:, None]}, positions, keep[:, None, None], columns, at, rooms)
        at.add_(1)
        return chosen(self.network.logits(states[:, -1]), banned)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout, and as it was afterwards."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


class Pen:
    """Writes on over a memory, which is used up, at most `more` tokens."""

    def __init__(self, compiled: Compiled, memory: Memory, banned: Float[Tensor, "k"], more: int) -> None:
        self.compiled, self.cache, self.banned = compiled, memory.cache, banned
        self.rooms = [layer.reserve(more, spare=0.0) for layer in memory.cache.layers]
        self.used, self.count = memory.keep.shape[1], 0
        self.keep = F.pad(memory.keep, (0, self.rooms[0][0].shape[2] - self.used))
        self.at = torch.tensor([self.used], device=memory.keep.device)

    def next(self, token: Int[Tensor, "b"]) -> tuple[Int[Tensor, "b"], Float[Tensor, "b"]]:
        """Read a token in every row; the one to write after it, and its probability."""
        self.count += 1
        return self.compiled.next(token, self.keep, self.at, self.rooms, self.banned)

    def memory(self) -> Memory:
        """All that was read."""
        for layer in self.cache.layers:
            layer.grow(self.count)
        self.used, self.count = self.used + self.count, 0
        return Memory(self.cache, self.keep[:, : self.used])
