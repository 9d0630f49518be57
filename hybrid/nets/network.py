"""One network: rows of segments in, hidden states out, with a memory of what is already encoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from hybrid.nets.layout import Segment, attention, running
from hybrid.records import Prompts


class _ReadOnlyLayer(DynamicLayer):
    """Attends to remembered keys and values without adding to them."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


@dataclass(frozen=True)
class Memory:
    """Keys and values of encoded tokens, for b rows.

    keep: False on remembered padding.
    """

    cache: Cache
    keep: Bool[Tensor, "b m"]

    @property
    def next_position(self) -> Int[Tensor, "b"]:
        """Where each row goes on: positions count kept tokens only."""
        return self.keep.sum(-1)

    def select(self, rows: Int[Tensor, "r"]) -> "Memory":
        """The memory of some of its rows, read-only if this one is; this one stays as it is."""
        return Memory(_copy(self.cache, None, lambda part: part[rows]), self.keep[rows])

    def read_only(self) -> "Memory":
        """The same memory, to which later forwards add nothing."""
        return Memory(_copy(self.cache, _ReadOnlyLayer), self.keep)

    def fork(self) -> "Memory":
        """The same memory, to be grown apart from this one."""
        return Memory(_copy(self.cache, DynamicLayer), self.keep)

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


class Network(nn.Module):
    """A transformers model read as a function of segments.

    `forward` returns hidden states per segment; `logits` turns the wanted ones into predictions.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.is_compiled = False

    def compile_training(self) -> None:
        """Compile rows that carry a gradient; drafting and writing, whose shapes change all the time, stay eager."""
        self.model.base_model.compile()
        self.is_compiled = True

    def forward(self, segments: Sequence[Segment], memory: Memory | None = None) -> dict[str, Float[Tensor, "b n d"]]:
        """Hidden states of each segment, by name. A memory given is seen by all, and grows unless read-only.

        A call without rows runs a blank one, and gives no rows back: ranks that share weights make the same calls.
        """
        if len(segments[0].tokens) == 0:
            row = (1, sum(s.tokens.shape[1] for s in segments))
            nothing = torch.zeros(row, dtype=torch.long, device=segments[0].tokens.device)
            blank = Segment("", nothing, nothing == 0, nothing, is_causal=True)
            hidden = self.forward([blank])[""][:0].split([s.tokens.shape[1] for s in segments], dim=1)
            return {s.name: part for s, part in zip(segments, hidden, strict=True)}
        if memory is not None and self.model.training:  # recomputed activations have no memory, and no dropout drafts
            self.model.eval()
            try:
                return self.forward(segments, memory)
            finally:
                self.model.train()
        tokens = torch.cat([s.tokens for s in segments], dim=1)
        device = tokens.device
        self._fit_to(device)
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else self.model.dtype
        attends = attention(segments, None if memory is None else memory.keep)
        trunk = self.model.base_model
        # A module that was compiled stays so when called; its `forward` is never.
        is_plain = self.is_compiled and (memory is not None or not torch.is_grad_enabled())
        run = trunk.forward if is_plain else trunk
        states = run(
            input_ids=tokens,
            position_ids=torch.cat([s.positions for s in segments], dim=1),
            # Additive, since a boolean mask leaks under eager attention: it is added as 0 and 1. In the precision
            # of the scores, which a wider mask would widen for nothing: 0 and -inf are exact in any.
            attention_mask=torch.zeros(attends.shape, dtype=dtype, device=device).masked_fill(~attends, -torch.inf),
            past_key_values=None if memory is None else memory.cache,
            use_cache=memory is not None,
        ).last_hidden_state
        parts = states.split([s.tokens.shape[1] for s in segments], dim=1)
        return {s.name: part for s, part in zip(segments, parts, strict=True)}

    def _fit_to(self, device: torch.device) -> None:
        """The faster attention: fused, but for training on CPUs, where its bf16 backward is ten times slower."""
        wanted = "eager" if device.type == "cpu" and torch.is_grad_enabled() else "sdpa"
        if self.model.config._attn_implementation != wanted:
            self.model.set_attn_implementation(wanted)

    def logits(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """Predictions of the head; positions nobody asks about should not be passed."""
        return self.model.get_output_embeddings()(hidden)

    def remember(
        self, segments: Sequence[Segment], memory: Memory | None = None
    ) -> tuple[dict[str, Float[Tensor, "b n d"]], Memory]:
        """`forward`, and the memory of everything seen so far. The memory given is used up."""
        before = memory or Memory(DynamicCache(config=self.model.config), segments[0].keep[:, :0])
        hidden = self(segments, before)
        return hidden, Memory(before.cache, torch.cat([before.keep, *(s.keep for s in segments)], dim=1))

    def flops(self, positions: int, context: float) -> float:
        """Floating-point operations of a forward over `positions` positions of one row that see `context` others
        on average: 2 per weight of every matrix and position, 4 per attended pair, head width and layer.
        """
        config = self.model.config
        head = self.model.get_output_embeddings().weight
        weights = sum(p.numel() for p in self.model.parameters() if p.ndim == 2)
        if not config.tie_word_embeddings:
            weights -= head.numel()  # the input embedding is a look-up
        heads = config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
        attended = 4 * config.num_hidden_layers * heads * head_width * context
        return positions * (2.0 * weights + attended)


def prompt_segment(prompts: Prompts) -> Segment:
    """The prompt: causal, sees nothing else, so that its encoding never depends on a draft."""
    return Segment("prompt", prompts.tokens, prompts.keep, running(prompts.keep), is_causal=True)
