"""Policies that take back what was committed: remasking, editing, and correcting under uniform corruption."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hybrid.diffusion import noise as streams
from hybrid.diffusion.corruption import Corruption
from hybrid.diffusion.policy import Ancestral, Policy, commit_top
from hybrid.diffusion.proposal import Clock, Proposal
from hybrid.kinds import register


@register(Policy, "remask")
@dataclass(frozen=True)
class Remask(Ancestral):
    """ReMDM (arXiv 2503.00307): a committed token returns to the mask with probability sigma, and a masked position is
    revealed with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), which keeps the marginals of
    ancestral sampling for any sigma up to sigma_max = min(1, (1 - alpha_s) / alpha_t). Steps may exceed the canvas.

    rule: how sigma is set.
        cap: min(rate, sigma_max). rescale: rate * sigma_max.
        conf: rate * sigma_max, shared out among the committed tokens by softmax(-probability when drawn) and 0 at
            masks. The least certain go first; the marginal is not preserved.
        loop: a share `on` of the steps drafts from t = 1 to t = `hold`, the noise then stays at `hold` for a share
            `loop` of the steps, in which tokens are remasked by `cap` and drawn again, and the rest finishes.
    rate: 0 is ancestral sampling.
    """

    exact: ClassVar[bool] = True
    reopens: ClassVar[bool] = True

    rule: Literal["cap", "rescale", "conf", "loop"] = "rescale"
    rate: float = 0.1
    on: float = 0.45
    loop: float = 0.5
    hold: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate={self.rate}: must be between 0 (never remask) and 1")
        if not (0 < self.on and 0 <= self.loop and self.on + self.loop < 1):
            raise ValueError(f"on={self.on}, loop={self.loop}: shares of the steps, above 0 and together below 1")
        if not 0 < self.hold < 1:
            raise ValueError(f"hold={self.hold}: must be a time between 0 (clean) and 1 (noise)")

    def times(self, clock: Clock) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        t, s = super().times(clock)
        if self.rule != "loop":
            return t, s
        done = 1 - s  # share of the steps after this one
        first = 1 - (1 - self.hold) * done / self.on
        last = self.hold * (1 - done) / (1 - self.on - self.loop)
        return t, torch.where(done < self.on, first, last.clamp(max=self.hold))

    def sigma(self, proposal: Proposal) -> Float[Tensor, "b l"]:
        """Chance of a committed token to be remasked; at open positions, the sigma that their reveal makes up for."""
        alpha_t, alpha_s = proposal.survive_t[:, None], proposal.survive_s[:, None]
        most = ((1 - alpha_s) / alpha_t.clamp(min=1e-12)).clamp(max=1).expand(proposal.z.shape)
        if self.rule == "rescale":
            return self.rate * most
        if self.rule == "conf":
            least = torch.where(proposal.is_committed, -proposal.certainty, -torch.inf).double()
            return self.rate * most * least.softmax(-1).nan_to_num(0.0)
        sigma = most.clamp(max=self.rate)
        return sigma if self.rule == "cap" else torch.where(alpha_s == alpha_t, sigma, 0.0)

    def keep(self, proposal: Proposal) -> Bool[Tensor, "b l"]:
        alpha_t, alpha_s = proposal.survive_t[:, None], proposal.survive_s[:, None]
        reveal = (alpha_s - (1 - self.sigma(proposal)) * alpha_t) / (1 - alpha_t)
        return proposal.is_open & (proposal.chance < reveal)

    def reopen(self, proposal: Proposal, keep: Bool[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        u = proposal.noise.uniform(streams.REMASK, proposal.step, proposal.z.shape[1])
        return proposal.is_committed & (u < self.sigma(proposal))

    def refusal(self, corruption: Corruption) -> str | None:
        return None if corruption.marks_noise else "there is no mask to return to; use predictor_corrector"


@register(Policy, "edit")
@dataclass(frozen=True)
class Edit(Policy):
    """Drafts by threshold, and rereads what stands: a committed token is replaced where another token is now drawn
    with more than `edit` probability (LLaDA 2.1, arXiv 2602.08676: mask-to-token and token-to-token editing).

    A full canvas is reread while steps are left, until nothing changes.
    """

    always_commits: ClassVar[bool] = False
    rereads: ClassVar[bool] = True

    threshold: float = 0.9
    edit: float = 0.9

    def __post_init__(self) -> None:
        for name in ("threshold", "edit"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0 and at most 1")

    def keep(self, proposal: Proposal) -> Bool[Tensor, "b l"]:
        confidence = proposal.confidence
        sure = proposal.is_open & (confidence >= self.threshold)
        edited = proposal.is_committed & (proposal.tokens != proposal.z) & (confidence > self.edit)
        return sure | edited | commit_top(confidence, proposal.is_open, proposal.quota)


@register(Policy, "predictor_corrector")
@dataclass(frozen=True)
class PredictorCorrector(Ancestral):
    """For uniform corruption: z_s ~ (1 - rate) q(z_s | z_t, x) + rate q(z_s | x), the reverse step mixed with the
    forward process from the predicted token (Psi-samplers, arXiv 2602.21185). Both have the marginal of time s, so
    every mixture keeps it; the second forgets z_t, which undoes earlier mistakes. rate: 0 is ancestral sampling.
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate={self.rate}: must be between 0 (ancestral) and 1")

    def chances(self, proposal: Proposal) -> tuple[Float[Tensor, "b l"], Float[Tensor, "b l"]]:
        commit, renoise = super().chances(proposal)
        alpha_s = proposal.survive_s[:, None]
        return commit + self.rate * (alpha_s - commit), renoise + self.rate * (1 - alpha_s - renoise)

    def refusal(self, corruption: Corruption) -> str | None:
        return "under masks it is ReMDM; use remask" if corruption.marks_noise else None
