"""One network: rows of segments in, hidden states out, with a memory of what is already encoded."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from hybrid.nets.compiled import Compiled, evaluating
from hybrid.nets.head import predictions
from hybrid.nets.layout import Segment, attention, near, running
from hybrid.nets.memory import Growing, Memory, Part
from hybrid.nets.quantised import size_of
from hybrid.records import Prompts

__all__ = ["Memory", "Network", "Part", "first_position", "parts", "prompt_segment", "reach"]


class Network(nn.Module):
    """A transformers model read as a function of segments.

    `forward` returns hidden states per segment; `logits` turns the wanted ones into predictions.

    can_denoise: attends both ways, so that it can draft a canvas. can_write: predicts each token from its left alone.
    rereads: keeps no keys and values, so that every forward reads the prompt once more.
    can_compile: its sampling can be, which is what `compiled` then runs.
    reads_vectors: a canvas may bring vectors of its own instead of tokens.
    """

    can_denoise: ClassVar[bool] = True
    can_write: ClassVar[bool] = True
    rereads: ClassVar[bool] = False
    can_compile: ClassVar[bool] = True
    reads_vectors: ClassVar[bool] = True
    compiled: Compiled | None = None

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.is_compiled = False
        self.config = model.config.get_text_config()
        self.is_by_kind, self.distance = reach(model)
        self.first_position = first_position(model)

    @property
    def room(self) -> int | None:
        """Positions that the network has; None: no limit."""
        known = getattr(self.config, "max_position_embeddings", None)
        return None if known is None else known - self.first_position

    def compile_training(self) -> None:
        """Compile rows that carry a gradient; drafting and writing, whose shapes change all the time, stay eager."""
        self.model.base_model.compile()
        self.is_compiled = True

    def compile_sampling(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile what is read with a memory: the prompt, the steps of a draft and the tokens of an answer.

        It costs half a minute or more for each kind of shape (see `Compiled`), and takes away what small networks and
        batches spend most of their time on: starting kernels. Tokens stay those of the plain forwards, up to ties.
        Call it when the network is where it stays: graphs do not notice a model that is moved, cast or rebuilt.

        Raises:
            ValueError: a network that does not keep keys and values alone.
        """
        if not self.can_compile:
            raise ValueError(f"{type(self.model).__name__}: only what keeps keys and values alone can be compiled")
        self.compiled = Compiled(self, backend)

    def forward(self, segments: Sequence[Segment], memory: Memory | None = None) -> dict[str, Float[Tensor, "b n d"]]:
        """Hidden states of each segment, by name. A memory given is seen by all, and grows unless read-only.

        A call without rows runs a blank one, and gives no rows back: ranks that share weights make the same calls.
        """
        if len(segments[0].tokens) == 0:
            row = (1, sum(s.tokens.shape[1] for s in segments))
            nothing = torch.zeros(row, dtype=torch.long, device=segments[0].tokens.device)
            blank = Segment("", nothing, nothing == 0, nothing, is_causal=True)
            return parts(self.forward([blank])[""][:0], segments)
        if memory is not None and self.model.training:  # recomputed activations have no memory, and no dropout drafts
            with evaluating(self.model):
                return self._states(segments, memory)
        return self._states(segments, memory)

    def _states(self, segments: Sequence[Segment], memory: Memory | None) -> dict[str, Float[Tensor, "b _ d"]]:
        """What `forward` gives for one row or more."""
        self._fit_to(segments[0].tokens.device)
        trunk = self.model.base_model
        # A module that was compiled stays so when called; its `forward` is never.
        is_plain = self.is_compiled and (memory is not None or not torch.is_grad_enabled())
        run = trunk.forward if is_plain else trunk
        keys_and_values = {} if memory is None else {"past_key_values": memory.cache}
        attends = attention(segments, None if memory is None else memory.keep)
        fast = None if memory is None or torch.is_grad_enabled() else self.compiled
        if fast is not None and memory is not None and fast.takes(memory):
            return parts(fast.states(self._read(segments), segments, attends, memory), segments)
        states = run(
            **self._read(segments),
            **keys_and_values,
            position_ids=torch.cat([s.positions for s in segments], dim=1) + self.first_position,
            attention_mask=self._masks(segments, memory, attends),
            use_cache=memory is not None,
        ).last_hidden_state
        return parts(states, segments)

    def _read(self, segments: Sequence[Segment]) -> dict[str, Tensor]:
        """The tokens of a row, or its vectors where a segment brings some."""
        if all(s.vectors is None and s.added is None for s in segments):
            return {"input_ids": torch.cat([s.tokens for s in segments], dim=1)}
        vectors = [self.embed(s.tokens) if s.vectors is None else s.vectors for s in segments]
        vectors = [v if s.added is None else v + s.added for v, s in zip(vectors, segments, strict=True)]
        return {"inputs_embeds": torch.cat([v.to(vectors[0].dtype) for v in vectors], dim=1)}

    def embed(self, tokens: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        """What the model reads for tokens, before their positions."""
        vectors: Tensor = self.model.get_input_embeddings()(tokens)
        return vectors

    def _masks(
        self, segments: Sequence[Segment], memory: Memory | None, attends: Bool[Tensor, "b 1 n m"]
    ) -> Tensor | dict[str, Tensor]:
        """The mask of a row of segments, after what is remembered."""
        at = torch.cat([s.positions for s in segments], dim=1)
        before = at[:, :0] if memory is None else running(memory.keep)
        return self.masks(attends, at, torch.cat([before, at], dim=1))

    def masks(
        self, attends: Bool[Tensor, "b 1 n m"], queries: Int[Tensor, "b n"], keys: Int[Tensor, "b m"]
    ) -> Tensor | dict[str, Tensor]:
        """The mask as the model takes it: by kind of layer where it has several kinds, windows cut to their distance.
        queries, keys: positions."""
        if self.distance is None:
            return self._additive(attends)
        sliding = self._additive(attends & near(queries, keys, self.distance))
        if not self.is_by_kind:
            return sliding
        return {"full_attention": self._additive(attends), "sliding_attention": sliding}

    def _additive(self, attends: Bool[Tensor, "b 1 n m"]) -> Float[Tensor, "b 1 n m"]:
        """Additive, since a boolean mask leaks under eager attention: it is added as 0 and 1. In the precision of the
        scores, which a wider mask would widen for nothing: 0 and -inf are exact in any.
        """
        kind = attends.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.model.dtype
        return torch.zeros(attends.shape, dtype=dtype, device=attends.device).masked_fill(~attends, -torch.inf)

    def _fit_to(self, device: torch.device) -> None:
        """The faster attention: fused, but for training on CPUs, where its bf16 backward is ten times slower, and for
        scores that are capped (Gemma 2), which have no fused kernel.
        """
        is_plain = getattr(self.config, "attn_logit_softcapping", None) is not None
        is_plain = is_plain or (device.type == "cpu" and torch.is_grad_enabled())
        wanted = "eager" if is_plain else "sdpa"
        if self.model.config._attn_implementation != wanted:
            self.model.set_attn_implementation(wanted)

    def logits(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """Predictions of the head; positions nobody asks about should not be passed."""
        return predictions(self.model, hidden)

    def remember(
        self, segments: Sequence[Segment], memory: Memory | None = None
    ) -> tuple[dict[str, Float[Tensor, "b n d"]], Memory]:
        """`forward`, and the memory of everything seen so far. The memory given is used up."""
        before = memory or Memory(self._cache(), segments[0].keep[:, :0])
        hidden = self(segments, before)
        return hidden, Memory(before.cache, torch.cat([before.keep, *(s.keep for s in segments)], dim=1))

    def _cache(self) -> Cache:
        """Empty. Sliding windows are the mask's business: a layer that forgot would forget by place, not position."""
        return Cache(layers=[Growing() for _ in range(self.config.num_hidden_layers)])

    def flops(self, positions: int, context: float) -> float:
        """Floating-point operations of a forward over `positions` positions of one row that see `context` others
        on average: 2 per weight of every matrix that a position meets, 4 per attended pair, head width and layer.
        """
        config, heads = self.config, self.config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
        attended = 4 * config.num_hidden_layers * heads * head_width * context
        return positions * (2.0 * self._weights + attended)

    @cached_property
    def _weights(self) -> float:
        """Weights of the matrices that one position meets: look-ups are none, of experts those that are routed to."""
        looked_up = {id(m.weight) for m in self.model.modules() if isinstance(m, nn.Embedding)}
        experts = getattr(self.config, "num_experts", None)
        names = ("num_experts_per_tok", "top_k_experts")
        chosen = next((n for name in names if (n := getattr(self.config, name, None))), experts)
        matrices = {id(p): p for p in self._body().parameters() if p.ndim in (2, 3) and id(p) not in looked_up}
        total = 0.0
        for p in matrices.values():
            total += size_of(p) * (chosen / experts if experts and p.ndim == 3 and p.shape[0] == experts else 1)
        head = self.model.get_output_embeddings()
        is_counted = any(id(p) in matrices and p.shape == head.weight.shape for p in head.parameters())
        return total + (0 if is_counted else head.weight.numel())  # a tied head multiplies by what is looked up

    def _body(self) -> nn.Module:
        """What a token runs through, of all that the model has."""
        return self.model


def parts(states: Float[Tensor, "b n d"], segments: Sequence[Segment]) -> dict[str, Float[Tensor, "b _ d"]]:
    """Each segment's share of a row."""
    split = states.split([s.tokens.shape[1] for s in segments], dim=1)
    return {s.name: part for s, part in zip(segments, split, strict=True)}


def reach(model: PreTrainedModel) -> tuple[bool, int | None]:
    """(masks are by kind of layer, the farthest distance that a sliding layer attends to; None: no layer slides).

    Raises:
        ValueError: a kind of layer that no mask of ours serves.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if unknown := sorted(set(kinds or ()) - {"full_attention", "sliding_attention"}):
        raise ValueError(f"{type(model).__name__} has layers of kind {unknown[0]}, whose attention is not supported")
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    if window is None or not slides:
        return False, None
    # Causal families count the position itself as one of the window; ModernBERT gives the distance to each side.
    return bool(kinds), window if config.model_type == "modernbert" else window - 1


def first_position(model: PreTrainedModel) -> int:
    """The position id of a row's first token: RoBERTa's families begin after that of padding."""
    embeddings = getattr(model.base_model, "embeddings", None)
    if embeddings is None or not hasattr(embeddings, "create_position_ids_from_input_ids"):
        return 0
    return int(embeddings.padding_idx) + 1


def prompt_segment(prompts: Prompts) -> Segment:
    """The prompt: causal, sees nothing else, so that its encoding never depends on a draft."""
    return Segment("prompt", prompts.tokens, prompts.keep, running(prompts.keep), is_causal=True)
