"""A chain that is internalised: its tokens are taken away as training goes on, until the trunk answers without them."""

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hybrid.diffusion import noise as streams
from hybrid.diffusion.noise import Noise
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.drafters.drafter import Drafter
from hybrid.kinds import register
from hybrid.records import Batch, Special


@register(Drafter, "internalised")
@dataclass(frozen=True)
class Internalised(Autoregressive):
    """The autoregressive drafter under stepwise internalisation (Deng et al. 2024, arXiv 2405.14838): training leaves
    out more and more of a sketch's tokens, the first ones first, and what was a chain comes to be worked out within the
    network. It writes what is left: in the end an end token and the answer.

    after: training steps on whole sketches. over: further steps in which the share that is left falls from 1 to 0,
        linearly; each row's number of tokens is rounded up or down at random. The trainer still divides costs by the
        tokens of whole sketches, so that an end token weighs no more when it stands alone; `Reasoner.loss`, which knows
        one batch as it is taught, divides by those that are left.
    """

    after: int = 1000
    over: int = 10000

    def __post_init__(self) -> None:
        if self.after < 0:
            raise ValueError(f"after={self.after}: must be 0 or more training steps")
        if self.over < 1:
            raise ValueError(f"over={self.over}: must be 1 or more training steps")

    def taught(self, batch: Batch, noise: Noise, special: Special) -> Batch:
        share = min(1.0, max(0.0, (noise.epoch - self.after) / self.over))
        sketch, length = batch.sketch, batch.sketch.shape[1]
        tokens = ((sketch != special.pad) & (sketch != special.end)).sum(-1)
        gone = (share * tokens + noise.uniform(streams.CHOOSE, 0)[:, 0]).long()
        left = math.ceil((1 - share) * (length - 1)) + 1  # at most, and the end token
        gone = gone.clamp(min=tokens + 1 - left, max=tokens)
        places = gone[:, None] + torch.arange(left, device=gone.device)
        rest = F.pad(sketch, (0, left), value=special.pad).gather(1, places)
        return dataclasses.replace(batch, sketch=rest)

    def honest(self) -> Autoregressive:
        return Autoregressive()
