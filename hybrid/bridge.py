"""How a sketch enters the decoder."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from hybrid.diffusion.guidance import Ending
from hybrid.kinds import register
from hybrid.nets.layout import Segment, running
from hybrid.nets.network import Memory, prompt_segment
from hybrid.nets.pairing import Pairing
from hybrid.records import Prompts, Special, Spent


@dataclass(frozen=True)
class Bridge:
    """Turns a canvas into the segment named "sketch" that the decoder reads after the prompt.

    forwards: network calls that its module makes, which a budget of forwards reserves.
    """

    forwards: ClassVar[int] = 0

    def segment(self, sketch: Int[Tensor, "b l"], start: Int[Tensor, "b"], special: Special) -> Segment:
        """`start` is the position after the prompt. A canvas of pads alone means no sketch: nothing is kept."""
        raise NotImplementedError

    def module(self, networks: Pairing) -> "Projection | None":
        """What the bridge learns; None where it learns nothing."""
        return None


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


@register(Bridge, "latent")
@dataclass(frozen=True)
class Latent(Tokens):
    """The sketch as the drafter's hidden states over it, projected into the decoder's input (Latent-DARM, arXiv
    2603.09184; SoftCoT, arXiv 2502.12134). The sketch stays readable: the states are those over its text.

    It costs one more forward of the drafter, which is charged as every other.

    text: the states are added to the embeddings of the sketch's tokens, and begin at zero; else they stand alone.
    gradient: the answer's loss reaches the drafter through the states. frozen: the projection does not train.
    """

    text: bool = True
    gradient: bool = False
    frozen: bool = False

    forwards: ClassVar[int] = 1

    @property
    def title(self) -> str:
        """Its name in tables: what the decoder reads, and whether its loss goes through it."""
        return "latent" + (" and text" if self.text else "") + (", gradient" if self.gradient else "")

    def module(self, networks: Pairing) -> "Projection | None":
        if networks.drafter is None:
            return None
        return Projection(networks, self).requires_grad_(not self.frozen)


class Projection(nn.Module):
    """Hidden states of the drafter, normalised, to vectors of the decoder's input."""

    def __init__(self, networks: Pairing, config: Latent) -> None:
        super().__init__()
        assert networks.drafter is not None
        own, into = (network.config.hidden_size for network in (networks.drafter, networks.decoder))
        self.config = config
        self.norm, self.project = nn.LayerNorm(own), nn.Linear(own, into)
        if config.text:
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)

    def forward(
        self,
        networks: Pairing,
        prompts: Prompts,
        sketch: Segment,
        memory: Memory | None = None,
        spent: Spent | None = None,
    ) -> Segment:
        """The segment "sketch" with vectors. memory: the prompts as the drafter remembers them, where it does, left
        as it is. spent: charged for the rows that have a sketch.
        """
        network, (width, n) = networks.drafter, (prompts.tokens.shape[1], sketch.tokens.shape[1])
        assert network is not None
        if spent is not None:
            sent = n + (width if memory is None or network.rereads else 0)
            rows = sketch.keep.any(-1).nonzero()[:, 0].cpu()
            spent.charge("denoiser", sent, network.flops(sent, width + n), rows)
        at = prompts.keep.sum(-1, keepdim=True) + torch.arange(n, device=sketch.tokens.device)
        canvas = Segment("canvas", sketch.tokens, torch.ones_like(sketch.keep), at, is_causal=False, sees=("prompt",))
        row = [canvas] if memory is not None else [prompt_segment(prompts), canvas]
        with torch.set_grad_enabled(self.config.gradient and torch.is_grad_enabled()):
            states = network(row, None if memory is None else memory.read_only())["canvas"]
        vectors = self.project(self.norm(states.to(self.norm.weight.dtype))).to(states.dtype)
        return replace(sketch, **{"added" if self.config.text else "vectors": vectors})
