"""How clean tokens are corrupted, and what a prediction of them costs.

A corruption is a forward process q(z_t | x), independent per position, with its own bound. The parts that
use it (bound, drafting loop, policies) meet it only through this contract.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.diffusion.schedule import NoiseSchedule
from hybrid.kinds import register


@dataclass(frozen=True)
class Corruption:
    """The forward process over a vocabulary of k tokens, one of which is `mask_id`."""

    def corrupt(
        self, x: Int[Tensor, "b l"], alpha: Float[Tensor, "b"], u: Float[Tensor, "b l"], mask_id: int
    ) -> Int[Tensor, "b l"]:
        """z_t ~ q(. | x) for survival probability alpha, decided by uniform numbers u."""
        raise NotImplementedError

    def pure_noise(self, rows: int, length: int, u: Float[Tensor, "b l"], mask_id: int) -> Int[Tensor, "b l"]:
        """z_1, the state that drafting starts from."""
        raise NotImplementedError

    def is_open(self, z: Int[Tensor, "b l"], mask_id: int) -> Bool[Tensor, "b l"]:
        """Positions that drafting has yet to decide."""
        raise NotImplementedError

    def cost(
        self,
        logits: Float[Tensor, "b l k"],
        x: Int[Tensor, "b l"],
        z: Int[Tensor, "b l"],
        t: Float[Tensor, "b"],
        schedule: NoiseSchedule,
        mask_id: int,
    ) -> Float[Tensor, "b l"]:
        """Integrand of the bound on -log p(x) at time t, in nats per position."""
        raise NotImplementedError


@register(Corruption, "absorbing")
@dataclass(frozen=True)
class Absorbing(Corruption):
    """Each token survives with probability alpha(t) and is otherwise the mask token (MDLM, arXiv 2406.07524)."""

    def corrupt(
        self, x: Int[Tensor, "b l"], alpha: Float[Tensor, "b"], u: Float[Tensor, "b l"], mask_id: int
    ) -> Int[Tensor, "b l"]:
        return torch.where(u < alpha[:, None], x, mask_id)

    def pure_noise(self, rows: int, length: int, u: Float[Tensor, "b l"], mask_id: int) -> Int[Tensor, "b l"]:
        return torch.full((rows, length), mask_id, dtype=torch.int64, device=u.device)

    def is_open(self, z: Int[Tensor, "b l"], mask_id: int) -> Bool[Tensor, "b l"]:
        return z == mask_id

    def cost(
        self,
        logits: Float[Tensor, "b l k"],
        x: Int[Tensor, "b l"],
        z: Int[Tensor, "b l"],
        t: Float[Tensor, "b"],
        schedule: NoiseSchedule,
        mask_id: int,
    ) -> Float[Tensor, "b l"]:
        """weight(t) * -log p(x_i | z_t) at masked positions, 0 elsewhere (MDLM eq. 10)."""
        nll = F.cross_entropy(logits.float().movedim(-1, 1), x, reduction="none")
        return torch.where(self.is_open(z, mask_id), schedule.weight(t)[:, None].to(nll.dtype) * nll, 0.0)
