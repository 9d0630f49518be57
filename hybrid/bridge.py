"""How a sketch enters the decoder."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from hybrid.diffusion.guidance import Ending
from hybrid.kinds import register
from hybrid.nets.layout import Segment, running
from hybrid.records import Special


@dataclass(frozen=True)
class Bridge:
    """Turns a canvas into the segment named "sketch" that the decoder reads after the prompt."""

    def segment(self, sketch: Int[Tensor, "b l"], start: Int[Tensor, "b"], special: Special) -> Segment:
        """`start` is the position after the prompt. A canvas of pads alone means no sketch: nothing is kept."""
        raise NotImplementedError


@register(Bridge, "tokens")
@dataclass(frozen=True)
class Tokens(Bridge):
    """The sketch as text: a marker, then its tokens up to and with the end token. Holes are read as holes."""

    def segment(self, sketch: Int[Tensor, "b l"], start: Int[Tensor, "b"], special: Special) -> Segment:
        ending = Ending(special.end, special.pad, special.mask)
        keep = (sketch != special.pad) & ~ending.is_over(sketch)
        tokens = F.pad(sketch, (1, 0), value=special.sketch)
        keep = torch.cat([keep.any(-1, keepdim=True), keep], dim=1)
        return Segment("sketch", tokens, keep, running(keep, start), is_causal=True, sees=("prompt",))
