"""Early exit: rules by which a row commits all that is open in its window, before its steps are used up."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.diffusion.proposal import Proposal
from hybrid.kinds import register

# What a rule remembers between steps: tensors with one entry per row.
Memory = tuple[Tensor, ...]


@dataclass(frozen=True)
class Stop:
    """One judgement per step, stateless: what it remembers is handed in and out."""

    def begin(self, z: Int[Tensor, "b l"]) -> Memory:
        """Before the first step, with the canvas z."""
        return ()

    def judge(
        self, proposal: Proposal, progress: Float[Tensor, "b"], memory: Memory
    ) -> tuple[Bool[Tensor, "b"], Memory]:
        """Rows that take this step as the last of their window; `progress`: share of its steps taken before it."""
        raise NotImplementedError


def mean_over(values: Float[Tensor, "b l"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "b"]:
    """Means over the positions of `where`; 0 where there are none."""
    return torch.where(where, values, 0.0).sum(-1) / where.sum(-1).clamp(min=1)


def asks(proposal: Proposal) -> Bool[Tensor, "b"]:
    """Rows with predictions of something open. A rule about all that is open would be true of nothing: it would end
    the rereading of a full canvas, or its remasking."""
    return (proposal.is_open & proposal.where).any(-1)


@register(Stop, "stable")
@dataclass(frozen=True)
class Stable(Stop):
    """The likeliest canvas has been the same for `steps` predictions in a row, and the open positions' mean entropy
    is below `entropy` nats (the rule of DiffusionGemma: stable and confident).
    """

    steps: int = 2
    entropy: float = 0.005

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: must be 1 or more predictions")
        if not self.entropy > 0:
            raise ValueError(f"entropy={self.entropy}: must be above 0 nats")

    def begin(self, z: Int[Tensor, "b l"]) -> Memory:
        return torch.full_like(z, -1), torch.zeros(len(z), dtype=torch.int64, device=z.device)

    def judge(
        self, proposal: Proposal, progress: Float[Tensor, "b"], memory: Memory
    ) -> tuple[Bool[Tensor, "b"], Memory]:
        canvas, seen = memory
        same = (proposal.best == canvas).all(-1)
        seen = torch.where(same, seen + 1, 1)
        sure = mean_over(proposal.entropy, proposal.is_open & proposal.where) < self.entropy
        return sure & (seen >= self.steps) & asks(proposal), (proposal.best, seen)


@register(Stop, "prophet")
@dataclass(frozen=True)
class Prophet(Stop):
    """At every open position the two likeliest tokens differ by a log-probability gap above a threshold that falls
    evenly from `early` to `late` nats over the steps (Prophet, arXiv 2508.19982, whose threshold falls in three
    stairs from 7.5 to 2.5 and bounds the mean gap; the least gap leaves no doubtful position behind).
    """

    early: float = 7.5
    late: float = 2.5

    def __post_init__(self) -> None:
        if not 0 <= self.late <= self.early:
            raise ValueError(f"early={self.early}, late={self.late}: the threshold falls, and never below 0")

    def judge(
        self, proposal: Proposal, progress: Float[Tensor, "b"], memory: Memory
    ) -> tuple[Bool[Tensor, "b"], Memory]:
        first, second = proposal.logits.topk(2, dim=-1).values.unbind(-1)
        gap = proposal.spread(first - second, torch.inf)
        least = torch.where(proposal.is_open, gap, torch.inf).amin(-1)
        return (least > self.early + (self.late - self.early) * progress) & asks(proposal), memory
