"""Controls under the drafter's contract: what an experiment needs before it may conclude anything."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from hybrid.diffusion.budget import Budget
from hybrid.diffusion.draft import State
from hybrid.diffusion.noise import Noise
from hybrid.drafters.drafter import Drafted, Drafter, Drafting, Request
from hybrid.feed import blanked
from hybrid.kinds import register
from hybrid.nets.network import Network
from hybrid.records import Spent


@dataclass(frozen=True)
class Given(Drafter):
    """A sketch that costs no forward."""

    def sketch(self, request: Request) -> Int[Tensor, "b l"]:
        raise NotImplementedError

    def draft(self, network: Network | None, request: Request, budget: Budget, noise: Noise, spent: Spent) -> Drafting:
        z = self.sketch(request)
        everywhere = torch.ones_like(z, dtype=torch.bool)
        yield State(0, z, everywhere, torch.ones(z.shape, device=z.device), ~everywhere)
        return Drafted(z)


def _blank(request: Request, token: int) -> Int[Tensor, "b l"]:
    return torch.full((len(request.prompts), request.canvas), token, device=request.prompts.tokens.device)


@register(Drafter, "none")
@dataclass(frozen=True)
class NoSketch(Given):
    """No sketch: the decoder answers from the prompt alone."""

    def sketch(self, request: Request) -> Int[Tensor, "b l"]:
        return _blank(request, request.special.pad)


@register(Drafter, "gold")
@dataclass(frozen=True)
class GoldSketch(Given):
    """The data's own sketch: the ceiling of every drafter."""

    def sketch(self, request: Request) -> Int[Tensor, "b l"]:
        if request.gold is None:
            raise ValueError("drafter 'gold' needs gold sketches, which a prompt alone does not have")
        return request.gold


@register(Drafter, "shuffled")
@dataclass(frozen=True)
class ShuffledSketch(Given):
    """Another example's gold sketch: well-formed, and wrong here. What it earns, the sketch did not carry."""

    def sketch(self, request: Request) -> Int[Tensor, "b l"]:
        if request.other is None:
            raise ValueError("drafter 'shuffled' needs the sketches of other examples, which a prompt alone lacks")
        return request.other


@register(Drafter, "pause")
@dataclass(frozen=True)
class Pause(Given):
    """As many blank tokens as the gold sketch has: what mere computation earns (pause tokens, arXiv 2310.02226).

    The blank is the mask token, which the decoder knows as a hole from partial sketches.
    """

    blanks: ClassVar[bool] = True

    def sketch(self, request: Request) -> Int[Tensor, "b l"]:
        if request.gold is None:
            raise ValueError("drafter 'pause' needs gold sketches for their length, which a prompt alone lacks")
        return blanked(request.gold, request.special)
