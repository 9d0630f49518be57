"""Policies: which positions one denoising step commits, and which it reopens. Predicting and drawing are the loop's."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.diffusion import noise as streams
from hybrid.diffusion.corruption import Corruption
from hybrid.diffusion.guidance import Denoiser
from hybrid.diffusion.proposal import Clock, Proposal
from hybrid.kinds import register


def commit_top(
    score: Float[Tensor, "b l"], is_open: Bool[Tensor, "b l"], quota: Int[Tensor, "b"]
) -> Bool[Tensor, "b l"]:
    """The `quota` open positions of highest score in each row; ties go to the left."""
    order = torch.where(is_open, score, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(score.shape[1], device=score.device).expand_as(order)
    )
    return is_open & (rank < quota[:, None])


@dataclass(frozen=True)
class Policy:
    """One decision per step, stateless.

    exact: the committed positions depend on the canvas alone, not on the tokens drawn, so that one token
        per step reproduces the model's joint law (under a corruption that marks its noise).
    always_commits: every step commits at least one position, so steps beyond the open positions are refused.
    by_chance: which positions it commits is drawn.
    reopens: returns committed positions to noise, so a full canvas goes on while there are steps.
    rereads: is shown predictions at committed positions too, and may replace their tokens; a full canvas goes on
        until a step changes nothing.
    settles: what is committed is decided. Where False, only the canvas says so: under a corruption whose noise
        looks like text, all stays open until the last step.
    """

    exact: ClassVar[bool] = False
    always_commits: ClassVar[bool] = True
    by_chance: ClassVar[bool] = False
    reopens: ClassVar[bool] = False
    rereads: ClassVar[bool] = False
    settles: ClassVar[bool] = True

    def times(self, clock: Clock) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """The time that the denoiser is told, and the time s at which the step ends: here an even grid."""
        return clock.t, 1 - (clock.taken + 1) / clock.given.double()

    def wrapped(self, denoise: Denoiser) -> Denoiser:
        """The denoiser as the policy reads it: here as it is."""
        return denoise

    def keep(self, proposal: Proposal) -> Bool[Tensor, "b l"]:
        """Positions that take their drawn token now: open ones, or committed ones where the policy rereads."""
        raise NotImplementedError

    def reopen(self, proposal: Proposal, keep: Bool[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        """Positions, none of `keep`, that return to noise: committed ones, or open ones whose noise is drawn anew."""
        return torch.zeros_like(keep)

    def refusal(self, corruption: Corruption) -> str | None:
        """Why the policy makes no sense under a corruption; None where it does."""
        return None


@register(Policy, "ancestral")
@dataclass(frozen=True)
class Ancestral(Policy):
    """The reverse process: z_s ~ q(z_s | z_t, x) with x drawn from the prediction (MDLM, arXiv 2406.07524, eq. 6;
    D3PM, 2107.03006). Under absorbing corruption each open position is revealed with probability
    (alpha_s - alpha_t) / (1 - alpha_t); under uniform it takes the drawn token, stays, or becomes noise afresh.
    """

    by_chance: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    always_commits: ClassVar[bool] = False
    settles: ClassVar[bool] = False

    def chances(self, proposal: Proposal) -> tuple[Float[Tensor, "b l"], Float[Tensor, "b l"]]:
        """Of taking the drawn token, and of becoming noise afresh."""
        p = proposal
        return p.corruption.reverse(p.z, p.tokens, p.survive_t, p.survive_s, p.alphabet)

    def keep(self, proposal: Proposal) -> Bool[Tensor, "b l"]:
        commit, _ = self.chances(proposal)
        return proposal.is_open & (proposal.chance < commit)

    def reopen(self, proposal: Proposal, keep: Bool[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        commit, renoise = self.chances(proposal)
        return proposal.is_open & ~keep & (proposal.chance < commit + renoise)


@dataclass(frozen=True)
class Ranked(Policy):
    """Commit the quota of open positions that score highest."""

    def score(self, proposal: Proposal) -> Float[Tensor, "b l"]:
        raise NotImplementedError

    def keep(self, proposal: Proposal) -> Bool[Tensor, "b l"]:
        return commit_top(self.score(proposal), proposal.is_open, proposal.quota)


@register(Policy, "confidence")
@dataclass(frozen=True)
class Confidence(Ranked):
    """Highest probability of the *drawn* token first (MaskGIT, arXiv 2202.04200; LLaDA's low-confidence remasking).

    Not exact when drawing at a temperature: keeping the most confident draws sharpens the joint.
    """

    def score(self, proposal: Proposal) -> Float[Tensor, "b l"]:
        return proposal.confidence


@register(Policy, "margin")
@dataclass(frozen=True)
class Margin(Ranked):
    """Largest gap between the two likeliest tokens first (Kim et al., arXiv 2502.06768)."""

    exact: ClassVar[bool] = True

    def score(self, proposal: Proposal) -> Float[Tensor, "b l"]:
        first, second = proposal.logp.topk(2, dim=-1).values.exp().unbind(-1)
        return proposal.spread(first - second)


@register(Policy, "entropy")
@dataclass(frozen=True)
class Entropy(Ranked):
    """Lowest entropy of the prediction first (Dream's `entropy`; arXiv 2508.15487)."""

    exact: ClassVar[bool] = True

    def score(self, proposal: Proposal) -> Float[Tensor, "b l"]:
        return -proposal.entropy


@register(Policy, "left_to_right")
@dataclass(frozen=True)
class LeftToRight(Ranked):
    """Leftmost open positions first: with one position a step, autoregressive order."""

    exact: ClassVar[bool] = True

    def score(self, proposal: Proposal) -> Float[Tensor, "b l"]:
        is_open = proposal.is_open
        return -torch.arange(is_open.shape[1], device=is_open.device).expand_as(is_open).float()


@register(Policy, "random")
@dataclass(frozen=True)
class Random(Ranked):
    """Positions in random order, evenly paced: ancestral sampling with its counts made certain."""

    by_chance: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def score(self, proposal: Proposal) -> Float[Tensor, "b l"]:
        return proposal.chance


@register(Policy, "first_hitting")
@dataclass(frozen=True)
class FirstHitting(Random):
    """The reverse process in continuous time, jumping from one reveal to the next (arXiv 2409.02908).

    With n positions masked at time t, the next one is revealed at the time t' with 1 - alpha(t') =
    (1 - alpha(t)) u^(1/n), the largest of n; which one is chance. Fewer steps than positions take several reveals
    at once, and the clock passes all of their times. The denoiser is told the first.
    """

    def times(self, clock: Clock) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        reveals = torch.arange(clock.canvas, device=clock.t.device)
        u = clock.noise.uniform(streams.CLOCK, clock.step, clock.canvas)
        left = (clock.n_open[:, None] - reveals).clamp(min=1)
        log_share = torch.where(reveals < clock.quota[:, None], u.log() / left, 0.0).cumsum(-1)
        masked = (1 - clock.schedule.alpha(clock.t))[:, None] * log_share.exp()
        hits = clock.schedule.inverse(1 - masked)
        return hits[:, 0], hits[:, -1]

    def refusal(self, corruption: Corruption) -> str | None:
        return None if corruption.marks_noise else "its times are those at which masks are revealed"


@register(Policy, "threshold")
@dataclass(frozen=True)
class Threshold(Policy):
    """All positions whose drawn token has at least `threshold` probability, and never fewer than the quota
    (Fast-dLLM, arXiv 2505.22618, alg. 1; the quota keeps the budget hard). Stops early when all is committed.
    """

    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, not {self.threshold}")

    def keep(self, proposal: Proposal) -> Bool[Tensor, "b l"]:
        sure = proposal.is_open & (proposal.confidence >= self.threshold)
        return sure | commit_top(proposal.confidence, proposal.is_open, proposal.quota)


@register(Policy, "factor")
@dataclass(frozen=True)
class Factor(Policy):
    """The n most confident positions, for the largest n with (n + 1)(1 - c_n) < factor, c_n the n-th confidence, and
    never fewer than the quota (Fast-dLLM, arXiv 2505.22618: under that bound greedy parallel decoding is
    greedy decoding of the joint).
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor={self.factor}: must be above 0")

    def keep(self, proposal: Proposal) -> Bool[Tensor, "b l"]:
        confidence = proposal.confidence
        ranked = torch.where(proposal.is_open, confidence, 0.0).sort(dim=-1, descending=True).values
        n = torch.arange(1, ranked.shape[1] + 1, device=ranked.device)
        count = ((n + 1) * (1 - ranked) < self.factor).sum(-1)  # the left side grows with n
        return commit_top(confidence, proposal.is_open, count.maximum(proposal.quota))


@register(Policy, "entropy_bound")
@dataclass(frozen=True)
class EntropyBound(Policy):
    """The k positions of lowest entropy, for the largest k whose entropies' sum less the largest is at most `bound`
    nats, and never fewer than the quota (Ben-Hamu et al., arXiv 2505.24857).

    That difference bounds the information the k tokens hold about one another, which drawing them apart loses.
    """

    exact: ClassVar[bool] = True

    bound: float = 0.1

    def __post_init__(self) -> None:
        if not self.bound >= 0:
            raise ValueError(f"bound={self.bound}: must be 0 nats or more")

    def keep(self, proposal: Proposal) -> Bool[Tensor, "b l"]:
        ranked = torch.where(proposal.is_open, proposal.entropy, torch.inf).sort(dim=-1).values
        before = ranked.cumsum(-1) - ranked  # sorted, the largest of the first k is the last of them
        count = ((before <= self.bound) & ranked.isfinite()).sum(-1)
        return commit_top(-proposal.entropy, proposal.is_open, count.maximum(proposal.quota))
