"""What a policy is told: where each row stands in time, and what one step proposes."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from hybrid.diffusion import noise as streams
from hybrid.diffusion.corruption import Alphabet, Corruption
from hybrid.diffusion.guidance import pack, spread
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class Clock:
    """Where each row stands in time, before a step.

    t: its time. taken, given: steps of its window, so far and in all. n_open: open positions of the window.
    quota: positions to commit now for an even pace. canvas: its length.
    """

    t: Float[Tensor, "b"]
    taken: Int[Tensor, "b"]
    given: Int[Tensor, "b"]
    n_open: Int[Tensor, "b"]
    quota: Int[Tensor, "b"]
    schedule: NoiseSchedule
    noise: Noise
    step: int
    canvas: int


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a policy sees of one step: the prediction, the tokens drawn from it, and what the budget allows.

    z: the canvas. logits: predictions at the n positions of `where`, row by row. tokens: drawn there, else as in z.
    is_open: positions not yet decided. is_committed: those that this draft has decided, in the open window; context
        is neither. certainty: the probability each committed token had when drawn.
    quota: positions to commit now for an even pace. taken, given: steps of its window, so far and in all.
    survive_t, survive_s: alpha at this step's time t and at the next, s <= t, per row.
    """

    z: Int[Tensor, "b l"]
    logits: Float[Tensor, "n k"]
    where: Bool[Tensor, "b l"]
    tokens: Int[Tensor, "b l"]
    is_open: Bool[Tensor, "b l"]
    is_committed: Bool[Tensor, "b l"]
    certainty: Float[Tensor, "b l"]
    quota: Int[Tensor, "b"]
    taken: Int[Tensor, "b"]
    given: Int[Tensor, "b"]
    survive_t: Float[Tensor, "b"]
    survive_s: Float[Tensor, "b"]
    corruption: Corruption
    alphabet: Alphabet
    noise: Noise
    step: int

    def spread(self, values: Shaped[Tensor, "n"], fill: float = 0.0) -> Shaped[Tensor, "b l"]:
        """Values of the positions asked about at their places, `fill` elsewhere."""
        return spread(values, self.where, fill)

    @cached_property
    def logp(self) -> Float[Tensor, "n k"]:
        return torch.log_softmax(self.logits.float(), dim=-1)

    @cached_property
    def confidence(self) -> Float[Tensor, "b l"]:
        """Probability of the token drawn at each position; 0 where nothing was asked."""
        drawn = pack(self.tokens, self.where, len(self.logits))
        return self.spread(self.logp.gather(-1, drawn[:, None])[:, 0].exp())

    @cached_property
    def entropy(self) -> Float[Tensor, "b l"]:
        """Of the prediction, in nats; 0 where nothing was asked."""
        return self.spread(torch.special.entr(self.logp.exp()).sum(-1))

    @cached_property
    def best(self) -> Int[Tensor, "b l"]:
        """The canvas with the likeliest token at every position asked about."""
        return self.z.masked_scatter(self.where, self.logits.argmax(-1))

    @cached_property
    def chance(self) -> Float[Tensor, "b l"]:
        """One uniform number per position for what the step decides by chance."""
        return self.noise.uniform(streams.CHOOSE, self.step, self.is_open.shape[1])
