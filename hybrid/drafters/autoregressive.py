"""The autoregressive drafter: writes the same sketch token by token. With a shared network it is the chain."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hybrid.bridge import Tokens
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.draft import State
from hybrid.diffusion.noise import Noise
from hybrid.drafters.causal import drafted, opening, room
from hybrid.drafters.drafter import Drafter, Drafting, Plan, Request
from hybrid.kinds import register
from hybrid.nets.decode import write
from hybrid.nets.network import Network, prompt_segment
from hybrid.nets.pairing import Hidden
from hybrid.records import Batch, Special, Spent


@register(Drafter, "autoregressive")
@dataclass(frozen=True)
class Autoregressive(Drafter):
    """Writes the sketch left to right, greedily, up to its end token or the canvas. Steps do not apply to it."""

    learns: ClassVar[bool] = True

    def plan(
        self, network: Network, batch: Batch, t: Float[Tensor, "b"], noise: Noise, special: Special
    ) -> Plan | None:
        prompt = prompt_segment(batch.prompts)
        # The very segment that a decoder reads: under a shared network and gold feed, the two are one.
        sketch = Tokens().segment(batch.sketch, batch.prompts.keep.sum(-1), special)
        is_text = batch.sketch != special.pad

        def cost(hidden: Hidden) -> Float[Tensor, "b"]:
            logits = network.logits(hidden["sketch"][:, :-1]).float()
            nll = F.cross_entropy(logits.movedim(-1, 1), batch.sketch, reduction="none")
            return torch.where(is_text, nll, 0.0).sum(-1)

        return Plan([prompt, sketch], cost, is_text.sum(-1))

    def draft(self, network: Network | None, request: Request, budget: Budget, noise: Noise, spent: Spent) -> Drafting:
        assert network is not None
        special = request.special
        written = write(
            network, opening(request), None, room(request), end_id=special.end, pad_id=special.pad,
            banned=special.never_written, spent=spent, part="denoiser", agree=request.agree,
            pace=request.pace,
        )  # fmt: skip
        found = drafted(network, request, written)
        assert found.confidence is not None
        everywhere = torch.ones_like(found.sketch, dtype=torch.bool)
        yield State(0, found.sketch, everywhere, found.confidence, ~everywhere)
        return found
