"""A noise schedule, a policy and a drafter from outside the package; run.yaml beside this names them by path."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hybrid.diffusion.budget import Budget
from hybrid.diffusion.corruption import Alphabet
from hybrid.diffusion.draft import draft
from hybrid.diffusion.guidance import Ending
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Proposal, Ranked, commit_top
from hybrid.diffusion.schedule import NoiseSchedule
from hybrid.drafters import Drafted, Request
from hybrid.drafters.diffusion import Diffusion
from hybrid.drafters.drafter import Drafting
from hybrid.nets.network import Network
from hybrid.records import Spent


@dataclass(frozen=True)
class Exponential(NoiseSchedule):
    """alpha(t) = (e^(-rate t) - e^(-rate)) / (1 - e^(-rate)): most tokens are masked early; rate -> 0 is linear."""

    rate: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 50:
            raise ValueError(f"rate={self.rate}: must be above 0 and at most 50")

    @property
    def _end(self) -> float:
        return -torch.expm1(torch.tensor(-self.rate, dtype=torch.float64)).item()

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 1 + torch.expm1(-self.rate * t) / self._end

    def slope(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -self.rate * torch.exp(-self.rate * t) / self._end

    def inverse(self, alpha: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -torch.log1p(-(1 - alpha) * self._end) / self.rate

    def weight(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.rate / torch.expm1(self.rate * t)


@dataclass(frozen=True)
class EvenOdd(Ranked):
    """Even positions from the left, then odd ones. Each odd token is drawn between two that are known."""

    exact: ClassVar[bool] = True  # the score never looks at the drawn tokens

    def score(self, proposal: Proposal) -> Float[Tensor, "b l"]:
        length = proposal.is_open.shape[1]
        at = torch.arange(length, device=proposal.is_open.device)
        return -(at + length * (at % 2)).expand_as(proposal.is_open).float()


@dataclass(frozen=True)
class Redraft(Diffusion):
    """Diffusion in two passes: half of the steps draft; the least confident text is reopened and drafted again.

    reopen: share of the text positions. The end token and pads stay, so the second pass keeps the length.
    Both passes draw from the budget of the call: the drafting loop spends the first half rounded up, then as
    much of the rest as there are positions to draft again.
    """

    reopen: float = 1 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.reopen <= 1:
            raise ValueError(f"reopen={self.reopen}: must be above 0 and at most 1")

    def draft(self, network: Network | None, request: Request, budget: Budget, noise: Noise, spent: Spent) -> Drafting:
        assert network is not None
        special = request.special
        denoise, memory = self.bind(network, request, spent)  # the prompts are encoded once for both passes
        rows, device = len(request.prompts), request.prompts.tokens.device
        z = torch.full((rows, request.canvas), special.mask, device=device)
        steps = budget.rows(rows, request.canvas, device)
        options = dict(
            corruption=self.corruption, schedule=self.schedule, temperature=self.temperature,
            alphabet=Alphabet(special.mask, network.model.config.vocab_size, special.never_drafted),
            close=Ending(special.end, special.pad, special.mask).close,
        )  # fmt: skip
        for state in draft(denoise, z, self.policy, (steps + 1) // 2, noise, **options):
            yield state
        first = state

        is_text = (first.z != special.pad) & (first.z != special.end) & (first.z != special.mask)
        is_again = self._least_confident(first.confidence, is_text)
        left = (steps // 2).minimum(is_again.sum(-1))
        z = torch.where(is_again & (left > 0)[:, None], special.mask, first.z)
        # The second pass visits the same examples again, so it draws other numbers for them.
        again = dataclasses.replace(noise, epoch=noise.epoch + 1)
        for state in draft(denoise, z, self.policy, left, again, **options):
            confidence = torch.where(z == special.mask, state.confidence, first.confidence)
            state = dataclasses.replace(state, step=first.step + state.step, confidence=confidence)
            yield state
        is_blank = (state.z == special.mask).all(-1, keepdim=True)  # rows whose budget was 0
        return Drafted(torch.where(is_blank, special.pad, state.z), state.confidence, memory)

    def _least_confident(self, confidence: Float[Tensor, "b l"], is_text: Bool[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        """The share `reopen` of each row's text, rounded up, of lowest confidence."""
        return commit_top(-confidence, is_text, (is_text.sum(-1) * self.reopen).ceil().long())
