"""Networks with a running state: Mamba, linear attention, and their mixtures with attention layers."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from hybrid.nets.layout import Segment, running
from hybrid.nets.network import Memory, Network, parts


@dataclass(frozen=True)
class Carried(Memory):
    """Running states, and keys and values of the attention layers among them."""

    def select(self, rows: Int[Tensor, "r"]) -> "Carried":
        layers = []
        for old in self.cache.layers:
            new = copy.copy(old)
            vars(new).update({name: _rows(value, rows) for name, value in vars(old).items()})
            layers.append(new)
        cache = copy.copy(self.cache)
        cache.layers = layers
        return Carried(cache, self.keep[rows])


class Recurrent(Network):
    """Reads a row left to right, so it writes and cannot denoise: what it reads changes all that it reads later.

    A state cannot skip padding by a mask, so a row's kept tokens are moved together to its right end, behind its
    padding, which the library's own padding mask keeps out of the state.
    """

    can_denoise: ClassVar[bool] = False
    can_compile: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel) -> None:
        nn.Module.__init__(self)
        self.model = model
        self.is_compiled = False
        self.config = model.config.get_text_config()
        self.first_position = 0
        takes = signature(model.base_model.forward).parameters
        self.cache_name = "cache_params" if "cache_params" in takes else "past_key_values"
        self.takes_positions = "position_ids" in takes

    def _states(self, segments: Sequence[Segment], memory: Memory | None) -> dict[str, Float[Tensor, "b _ d"]]:
        """Hidden states of each segment, by name; those of padding mean nothing.

        Raises:
            ValueError: segments that are not one causal row, each seeing all before it.
        """
        _check_is_causal(segments)
        keep = torch.cat([s.keep for s in segments], dim=1)
        order = keep.long().argsort(dim=1, stable=True)  # padding first, then the kept tokens in their order
        inputs = {name: _moved(x, order) for name, x in self._read(segments).items()}
        compact = keep.gather(1, order)
        before = compact[:, :0] if memory is None else memory.keep
        seen = torch.cat([before, compact], dim=1)
        if memory is not None:
            inputs |= {self.cache_name: memory.cache}
        if self.takes_positions:
            inputs["position_ids"] = running(seen)[:, before.shape[1] :]
        is_step = compact.shape[1] == 1 and before.shape[1] > 0
        mask = None if is_step and self.cache_name == "cache_params" else seen.long()
        states = self.model.base_model(**inputs, attention_mask=mask, use_cache=memory is not None).last_hidden_state
        return parts(_moved(states, order.argsort(dim=1)), segments)

    def remember(
        self, segments: Sequence[Segment], memory: Memory | None = None
    ) -> tuple[dict[str, Float[Tensor, "b n d"]], Memory]:
        before = memory or Carried(self._cache(), segments[0].keep[:, :0])
        hidden = self(segments, before)
        kept = torch.cat([s.keep for s in segments], dim=1)
        keep = torch.cat([before.keep, _together(kept)], dim=1)
        return hidden, Carried(before.cache, keep)

    def _cache(self) -> Cache:
        return DynamicCache(config=self.config)

    def flops(self, positions: int, context: float) -> float:
        """2 per weight of every matrix, and attended pairs of the attention layers; the scans themselves, linear in
        positions and small beside the matrices, are left out.
        """
        kinds = getattr(self.config, "layer_types", None) or []
        layers = sum("attention" in kind and "linear" not in kind for kind in kinds)
        width = getattr(self.config, "head_dim", None) or self.config.hidden_size // max(
            1, getattr(self.config, "num_attention_heads", 1)
        )
        heads = getattr(self.config, "num_attention_heads", 0)
        return positions * (2.0 * self._weights + 4 * layers * heads * width * context)


def is_recurrent(model: PreTrainedModel) -> bool:
    """Whether some layer of the model remembers by a state."""
    try:
        return any(DynamicCache(config=model.config.get_text_config()).is_linear)
    except (AttributeError, KeyError, TypeError, ValueError):  # a family that the library's caches do not know
        return False


def _rows(value: Any, rows: Int[Tensor, "r"]) -> Any:
    """Some rows of what a layer keeps: tensors, by name or by number; all else as it is."""
    if isinstance(value, dict):
        return {key: _rows(one, rows) for key, one in value.items()}
    return value[rows] if isinstance(value, Tensor) else value


def _together(keep: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    return keep.long().sort(dim=1, stable=True).values.bool()


def _moved(x: Tensor, order: Tensor) -> Tensor:
    """Columns of x in another order, row by row."""
    return x.gather(1, order if x.ndim == 2 else order[..., None].expand(-1, -1, x.shape[-1]))


def _check_is_causal(segments: Sequence[Segment]) -> None:
    for i, segment in enumerate(segments):
        if not segment.is_causal or not {s.name for s in segments[:i]} <= set(segment.sees):
            raise ValueError(
                f"a recurrent network reads one row from left to right, and segment {segment.name!r} does not"
            )
