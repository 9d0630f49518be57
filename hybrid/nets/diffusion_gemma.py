"""DiffusionGemma as a shared trunk: a causal encoder and a canvas decoder over the encoder's keys and values.

The two share their weights; the canvas side adds self-conditioning, which reads zeros here, as in its first step.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from hybrid.nets.layout import Segment, attention
from hybrid.nets.network import Memory, Network, parts

CLASS = "DiffusionGemmaForBlockDiffusion"


class CanvasDecoder(Network):
    """Causal segments go through the encoder, and then bidirectional ones through the decoder, over all of them."""

    can_compile: ClassVar[bool] = False
    reads_vectors: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        for name, module in model.named_modules():
            if name.endswith(("vision_tower", "embed_vision")):  # no text goes through them
                module.requires_grad_(False)

    def _states(self, segments: Sequence[Segment], memory: Memory | None) -> dict[str, Float[Tensor, "b _ d"]]:
        """Hidden states of each segment, by name.

        Raises:
            ValueError: a causal segment that sees a canvas, which the encoder cannot.
        """
        causal = [s for s in segments if s.is_causal]
        canvases = [s for s in segments if not s.is_causal]
        for segment in causal:
            if seen := [s.name for s in canvases if s.name in segment.sees]:
                raise ValueError(f"segment {segment.name!r} sees {seen[0]!r}: {CLASS} encodes no canvas")
        if memory is None and not causal:  # the decoder asks for keys: those of a column that nobody sees
            blank = torch.zeros_like(canvases[0].tokens[:, :1])
            causal = [Segment("", blank, blank > 0, blank, is_causal=True)]
        self._fit_to(segments[0].tokens.device)
        row = [*causal, *canvases]
        masks = self._masks(row, memory, attention(row, None if memory is None else memory.keep))
        assert isinstance(masks, dict)  # the family has sliding layers
        width = sum(s.tokens.shape[1] for s in causal)
        before = 0 if memory is None else memory.keep.shape[1]
        cache = self._cache() if memory is None else memory.cache
        hidden: dict[str, Float[Tensor, "b _ d"]] = {}
        if causal:
            hidden |= parts(
                self.model.model.encoder.language_model(
                    **self._read(causal),
                    position_ids=torch.cat([s.positions for s in causal], dim=1),
                    attention_mask={kind: mask[:, :, :width, : before + width] for kind, mask in masks.items()},
                    past_key_values=cache,
                ).last_hidden_state,
                causal,
            )
        if canvases:
            hidden |= parts(
                self.model.model.decoder(
                    decoder_input_ids=torch.cat([s.tokens for s in canvases], dim=1),
                    decoder_position_ids=torch.cat([s.positions for s in canvases], dim=1),
                    decoder_attention_mask={kind: mask[:, :, width:] for kind, mask in masks.items()},
                    past_key_values=cache,
                ).last_hidden_state,
                canvases,
            )
        return {s.name: hidden[s.name] for s in segments}

    def _body(self) -> nn.Module:
        """One of the two sides: they share their weights; the vision tower sees no text."""
        return nn.ModuleList([self.model.model.decoder, self.model.lm_head])


def is_diffusion_gemma(model: PreTrainedModel) -> bool:
    return type(model).__name__ == CLASS
