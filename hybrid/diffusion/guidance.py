"""Denoisers and the wrappers round them: parameterisation and rules live here, never in the drafting loop."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from hybrid.records import Spent


def pack(values: Tensor, where: Bool[Tensor, "b l"], n: int) -> Tensor:
    """The values (b, l, ...) at the `n` positions of `where`, row by row.

    Knowing n, nobody waits for the device to count them, as `values[where]` does.
    """
    row, position = torch.nonzero_static(where, size=n).unbind(-1)
    return values[row, position]


def spread(values: Shaped[Tensor, "n *d"], where: Bool[Tensor, "b l"], fill: float) -> Shaped[Tensor, "b l *d"]:
    """The inverse of `pack`: values at the positions of `where`, `fill` elsewhere."""
    empty = torch.full((*where.shape, *values.shape[1:]), fill, dtype=values.dtype, device=values.device)
    return empty.masked_scatter(where[(..., *[None] * (values.ndim - 1))], values)


@lru_cache(maxsize=16)
def _among(tokens: tuple[int, ...], k: int, device: torch.device) -> Bool[Tensor, "k"]:
    """Which of k tokens are among `tokens`."""
    with torch.inference_mode(False):  # what is kept may serve training next
        is_among = torch.zeros(k, dtype=torch.bool, device=device)
        is_among[list(tokens)] = True
    return is_among


class Denoiser:
    """Predicts clean tokens, bound to the prompts of b rows. A denoiser defines one of two methods:

    `logits(z, t, where)`: predictions at the n positions of `where` alone, row by row, so that nothing is computed
    for positions nobody asks about, and a row that asks nothing is charged nothing; `denoiser(z, t)`: those of the
    whole canvas, (b, l, k).
    """

    def logits(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "n k"]:
        return self(z, t)[where]

    def __call__(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"]) -> Float[Tensor, "b l k"]:
        return self.logits(z, t, torch.ones_like(z, dtype=torch.bool)).unflatten(0, z.shape)

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
class Known(Denoiser):
    """Predictions made already, for the positions that will be asked about."""

    known: Float[Tensor, "n k"]

    def logits(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "n k"]:
        return self.known


@dataclass(frozen=True)
class Counted(Denoiser):
    """Charges every call to `spent`, for the rows that ask something in it.

    flops: per row and call. extra: positions per row and call beyond the canvas, such as its opening marker.
    """

    inner: Denoiser
    spent: Spent
    rows: Int[Tensor, "b"]
    flops: float = 0.0
    extra: int = 0

    def logits(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "n k"]:
        asking = self.rows[where.any(-1).to(self.rows.device)]
        self.spent.charge("denoiser", positions=z.shape[1] + self.extra, flops=self.flops, rows=asking)
        return self.inner.logits(z, t, where)

    def select(self, rows: Int[Tensor, "r"]) -> "Counted":
        mine = self.rows[rows.to(self.rows.device)]
        return Counted(self.inner.select(rows), self.spent, mine, self.flops, self.extra)


@dataclass(frozen=True)
class Banned(Denoiser):
    """Gives the banned tokens zero probability: the mask token, and what else never stands in a sketch."""

    inner: Denoiser
    banned: tuple[int, ...]

    def logits(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "n k"]:
        logits = self.inner.logits(z, t, where)
        return logits.masked_fill(_among(self.banned, logits.shape[-1], logits.device), -torch.inf)

    def select(self, rows: Int[Tensor, "r"]) -> "Banned":
        return Banned(self.inner.select(rows), self.banned)


@dataclass(frozen=True)
class FromLeaveOneOut(Denoiser):
    """The posterior of a network that predicts x_i from all but z_i, under uniform corruption.

    p(x_i = y | z) is proportional to p(y | z without z_i) q(z_i | y), and q(z_i | y) is greater at y = z_i than at
    any other y by the factor 1 + alpha k / (1 - alpha) (arXiv 2605.22765, eq. 13). Here time enters.
    """

    inner: Denoiser
    alpha: Callable[[Float[Tensor, "b"]], Float[Tensor, "b"]]
    k: int

    def logits(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "n k"]:
        logits = self.inner.logits(z, t, where)
        alpha = self.alpha(t)
        evidence = torch.log1p(alpha * self.k / (1 - alpha).clamp(min=1e-12)).to(logits.dtype)
        evidence = pack(evidence[:, None].expand(z.shape), where, len(logits))[:, None]
        return logits.scatter_add(-1, pack(z, where, len(logits))[:, None], evidence)

    def select(self, rows: Int[Tensor, "r"]) -> "FromLeaveOneOut":
        return FromLeaveOneOut(self.inner.select(rows), self.alpha, self.k)


@dataclass(frozen=True)
class Guided(Denoiser):
    """Classifier-free guidance on the prompt: log p = (1 + scale) log p(x | prompt) - scale log p(x | no prompt),
    up to a constant (Ho and Salimans, arXiv 2207.12598; for masked diffusion LLaDA, 2502.09992, app. A.2).

    Both denoisers are asked at every step, and charged by whoever counts them. A token that the prompt rules out
    stays impossible; one that only its absence rules out keeps the probability the prompt gives it.
    """

    conditional: Denoiser
    unconditional: Denoiser
    scale: float

    def logits(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "n k"]:
        with_prompt = self.conditional.logits(z, t, where).log_softmax(-1)
        without = self.unconditional.logits(z, t, where).log_softmax(-1)
        step = torch.where(with_prompt.isinf() | without.isinf(), 0.0, with_prompt - without)
        return with_prompt + self.scale * step

    def select(self, rows: Int[Tensor, "r"]) -> "Guided":
        return Guided(self.conditional.select(rows), self.unconditional.select(rows), self.scale)


@dataclass(frozen=True)
class Ending:
    """How a sketch ends on its canvas: tokens, one end token, then pads.

    The data obeys three rules, which make pads free instead of teaching them as text:
      after a visible end or pad stands a pad; before a visible token or end stands neither pad nor end.
    They hold under absorbing corruption alone, where what is visible is certain; under uniform corruption a visible
    end may be noise, and pads are tokens like any other.

    parts: lengths of what stands on the canvas one after the other, such as sketch and answer, each of which ends by
    itself; empty: one part.
    """

    end_id: int
    pad_id: int
    mask_id: int
    parts: tuple[int, ...] = ()

    def is_over(self, z: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        """Positions after a visible end or pad of their part."""
        return self._each((z == self.end_id) | (z == self.pad_id), _after)

    def is_before_text(self, z: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        """Positions before a visible token or end of their part."""
        return self._each((z != self.pad_id) & (z != self.mask_id), lambda text: _after(text.flip(-1)).flip(-1))

    def _each(
        self, seen: Bool[Tensor, "b l"], rule: Callable[[Bool[Tensor, "b _"]], Bool[Tensor, "b _"]]
    ) -> Bool[Tensor, "b l"]:
        return torch.cat([rule(part) for part in seen.split(self.parts, dim=1)], dim=1) if self.parts else rule(seen)

    def read(self, z: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """What is read of a canvas: pads stand for all that was drawn after an end or pad."""
        return torch.where(self.is_over(z), self.pad_id, z)

    def close(self, z: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """Open positions after a visible end or pad become pads: their law is certain, so this costs no step."""
        return torch.where((z == self.mask_id) & self.is_over(z), self.pad_id, z)


def _after(seen: Bool[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
    """Positions after one that is seen."""
    return seen.cumsum(-1) > seen


# Where a position stands on its canvas: 0, anywhere; before a visible token or end; after a visible end or pad.
_BEFORE_TEXT, _OVER = 1, 2


@lru_cache(maxsize=16)
def _impossible(ending: Ending, k: int, device: torch.device) -> Bool[Tensor, "3 k"]:
    """Tokens that cannot stand there."""
    table = torch.zeros(3, k, dtype=torch.bool, device=device)
    table[_BEFORE_TEXT, [ending.pad_id, ending.end_id]] = True
    table[_OVER] = True
    table[_OVER, ending.pad_id] = False
    return table


@dataclass(frozen=True)
class Ended(Denoiser):
    """Enforces `Ending`: certain pads have probability 1 (and cost 0 in the bound), impossible ends 0."""

    inner: Denoiser
    ending: Ending

    def logits(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "n k"]:
        logits = self.inner.logits(z, t, where)
        place = torch.where(self.ending.is_over(z), _OVER, self.ending.is_before_text(z).long())
        is_impossible = _impossible(self.ending, logits.shape[-1], logits.device)
        return logits.masked_fill(is_impossible[pack(place, where, len(logits))], -torch.inf)

    def select(self, rows: Int[Tensor, "r"]) -> "Ended":
        return Ended(self.inner.select(rows), self.ending)
