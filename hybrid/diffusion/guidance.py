"""Denoisers and the wrappers round them: parameterisation and rules live here, never in the drafting loop."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.records import Spent


class Denoiser:
    """Predicts clean tokens: `denoiser(z, t)` -> logits (b, l, k), bound to the prompts of b rows."""

    def __call__(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"]) -> Float[Tensor, "b l k"]:
        raise NotImplementedError

    def select(self, rows: Int[Tensor, "r"]) -> "Denoiser":
        """The same denoiser bound to some of its rows; one that knows no rows returns itself."""
        return self


@dataclass(frozen=True)
class Predict(Denoiser):
    """A plain function of (z, t), the same for every row."""

    function: Callable[[Int[Tensor, "b l"], Float[Tensor, "b"]], Float[Tensor, "b l k"]]

    def __call__(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"]) -> Float[Tensor, "b l k"]:
        return self.function(z, t)


@dataclass(frozen=True)
class Counted(Denoiser):
    """Charges every call to `spent`, for the rows that take part in it.

    flops: per row and call. extra: positions per row and call beyond the canvas, such as its opening marker.
    """

    inner: Denoiser
    spent: Spent
    rows: Int[Tensor, "b"]
    flops: float = 0.0
    extra: int = 0

    def __call__(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"]) -> Float[Tensor, "b l k"]:
        self.spent.charge("denoiser", positions=z.shape[1] + self.extra, flops=self.flops, rows=self.rows)
        return self.inner(z, t)

    def select(self, rows: Int[Tensor, "r"]) -> "Counted":
        mine = self.rows[rows.to(self.rows.device)]
        return Counted(self.inner.select(rows), self.spent, mine, self.flops, self.extra)


@dataclass(frozen=True)
class Banned(Denoiser):
    """Gives the banned tokens zero probability: the mask token, and what else never stands in a sketch."""

    inner: Denoiser
    banned: tuple[int, ...]

    def __call__(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"]) -> Float[Tensor, "b l k"]:
        logits = self.inner(z, t)
        is_banned = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        is_banned[list(self.banned)] = True
        return logits.masked_fill(is_banned, -torch.inf)

    def select(self, rows: Int[Tensor, "r"]) -> "Banned":
        return Banned(self.inner.select(rows), self.banned)


@dataclass(frozen=True)
class Ending:
    """How a sketch ends on its canvas: tokens, one end token, then pads.

    The data obeys three rules, which make pads free instead of teaching them as text:
      after a visible end or pad stands a pad; before a visible token or end stands neither pad nor end.
    """

    end_id: int
    pad_id: int
    mask_id: int

    def is_over(self, z: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        """Positions after a visible end or pad."""
        stop = (z == self.end_id) | (z == self.pad_id)
        return (stop.cumsum(-1) - stop.long()) > 0

    def is_before_text(self, z: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        """Positions before a visible token or end."""
        text = (z != self.pad_id) & (z != self.mask_id)
        return (text.flip(-1).cumsum(-1).flip(-1) - text.long()) > 0

    def close(self, z: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """Open positions after a visible end or pad become pads: their law is certain, so this costs no step."""
        return torch.where((z == self.mask_id) & self.is_over(z), self.pad_id, z)


@dataclass(frozen=True)
class Ended(Denoiser):
    """Enforces `Ending`: certain pads have probability 1 (and cost 0 in the bound), impossible ends 0."""

    inner: Denoiser
    ending: Ending

    def __call__(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"]) -> Float[Tensor, "b l k"]:
        logits = self.inner(z, t)
        token = torch.arange(logits.shape[-1], device=logits.device)
        is_pad = token == self.ending.pad_id
        is_stop = is_pad | (token == self.ending.end_id)
        over = self.ending.is_over(z)[..., None]
        before_text = self.ending.is_before_text(z)[..., None] & ~over
        return logits.masked_fill((over & ~is_pad) | (before_text & is_stop), -torch.inf)

    def select(self, rows: Int[Tensor, "r"]) -> "Ended":
        return Ended(self.inner.select(rows), self.ending)
