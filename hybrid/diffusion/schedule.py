"""Noise schedules: how likely a token is to survive to time t."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hybrid.kinds import register


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha falls from alpha(0) = 1 to alpha(1) = 0. A schedule states alpha, its slope and its inverse."""

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Chance that a token survives to time t."""
        raise NotImplementedError

    def slope(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """d alpha / d t, never positive."""
        raise NotImplementedError

    def inverse(self, alpha: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The time at which a token survives with probability `alpha`."""
        raise NotImplementedError

    def weight(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """-alpha'(t) / (1 - alpha(t)), the weight of the absorbing bound (MDLM, arXiv 2406.07524, eq. 10)."""
        return -self.slope(t) / (1 - self.alpha(t))


@register(NoiseSchedule, "polynomial")
@dataclass(frozen=True)
class Polynomial(NoiseSchedule):
    """alpha(t) = 1 - t^power; its weight is power / t (MD4, arXiv 2406.04329, table 1)."""

    power: float = 2.0

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"power must be above 0, not {self.power}")

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 1 - t**self.power

    def slope(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -self.power * t ** (self.power - 1)

    def inverse(self, alpha: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (1 - alpha) ** (1 / self.power)

    def weight(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.power / t


@register(NoiseSchedule, "linear")
@dataclass(frozen=True)
class Linear(NoiseSchedule):
    """alpha(t) = 1 - t; its weight is 1 / t."""

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 1 - t

    def slope(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -torch.ones_like(t)

    def inverse(self, alpha: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 1 - alpha


@register(NoiseSchedule, "cosine")
@dataclass(frozen=True)
class Cosine(NoiseSchedule):
    """alpha(t) = 1 - cos(pi/2 (1 - t)), so that 1 - alpha = sin(pi/2 t) (MaskGIT's; MD4, table 1)."""

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 1 - torch.sin(math.pi / 2 * t)

    def slope(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -math.pi / 2 * torch.cos(math.pi / 2 * t)

    def inverse(self, alpha: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 2 / math.pi * torch.asin((1 - alpha).clamp(0, 1))
