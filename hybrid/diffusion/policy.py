"""Policies: which open positions one denoising step commits. Prediction and drawing are the loop's."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.diffusion import noise as streams
from hybrid.diffusion.noise import Noise
from hybrid.kinds import register


@dataclass(frozen=True)
class Proposal:
    """What a policy sees of one step: the prediction, the tokens drawn from it, and what the budget allows.

    is_open: positions not yet decided. quota: positions to commit now for an even pace.
    survive_t, survive_s: alpha at this step's time t and at the next, s < t, per row.
    is_last: rows whose budget ends with this step; the loop commits all that is open there.
    """

    logits: Float[Tensor, "b l k"]
    tokens: Int[Tensor, "b l"]
    is_open: Bool[Tensor, "b l"]
    quota: Int[Tensor, "b"]
    survive_t: Float[Tensor, "b"]
    survive_s: Float[Tensor, "b"]
    noise: Noise
    step: int

    @cached_property
    def logp(self) -> Float[Tensor, "b l k"]:
        return torch.log_softmax(self.logits.float(), dim=-1)

    @cached_property
    def confidence(self) -> Float[Tensor, "b l"]:
        """Probability of the token drawn at each position."""
        return self.logp.gather(-1, self.tokens[..., None])[..., 0].exp()


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
        per step reproduces the model's joint law.
    always_commits: every step commits at least one position, so steps beyond the open positions are refused.
    """

    exact: ClassVar[bool] = False
    always_commits: ClassVar[bool] = True

    def keep(self, proposal: Proposal) -> Bool[Tensor, "b l"]:
        """Open positions to commit now, a subset of `proposal.is_open`."""
        raise NotImplementedError


@register(Policy, "ancestral")
@dataclass(frozen=True)
class Ancestral(Policy):
    """Each open position is revealed with probability (alpha_s - alpha_t) / (1 - alpha_t) (MDLM eq. 6)."""

    exact: ClassVar[bool] = True
    always_commits: ClassVar[bool] = False

    def keep(self, proposal: Proposal) -> Bool[Tensor, "b l"]:
        reveal = (proposal.survive_s - proposal.survive_t) / (1 - proposal.survive_t)
        u = proposal.noise.uniform(streams.CHOOSE, proposal.step, proposal.is_open.shape[1])
        return proposal.is_open & (u < reveal[:, None])


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
        return first - second


@register(Policy, "entropy")
@dataclass(frozen=True)
class Entropy(Ranked):
    """Lowest entropy of the prediction first (Dream's `entropy`; arXiv 2508.15487)."""

    exact: ClassVar[bool] = True

    def score(self, proposal: Proposal) -> Float[Tensor, "b l"]:
        return -torch.special.entr(proposal.logp.exp()).sum(-1)


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

    exact: ClassVar[bool] = True

    def score(self, proposal: Proposal) -> Float[Tensor, "b l"]:
        return proposal.noise.uniform(streams.CHOOSE, proposal.step, proposal.is_open.shape[1])


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
