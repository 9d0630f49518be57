"""Randomness as a function of identity: (seed, example key, stream, step, position) -> uniform number.

No generator state: the same example draws the same numbers on any rank, in any batch, resumed or not.
The generator is counter-based: SplitMix64's finaliser (Steele, Lea and Flood 2014) over a running hash,
in wrapping int64 arithmetic, which every device computes alike.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Streams keep uses apart, so that adding a draw to one never shifts another.
TIME, CORRUPT, DRAW, CHOOSE, FEED, SHUFFLE, REMASK, ANSWER, RENOISE, CLOCK, VERIFY, CARRY = range(12)

_GOLDEN = 0x9E3779B97F4A7C15
_MIX1, _MIX2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(x: int) -> int:
    """A 64-bit pattern as Python's value of the equal int64."""
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x


def _shift(x: Int[Tensor, "..."], bits: int) -> Int[Tensor, "..."]:
    """Logical right shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    x = (x ^ _shift(x, 30)) * _signed(_MIX1)
    x = (x ^ _shift(x, 27)) * _signed(_MIX2)
    return x ^ _shift(x, 31)


def _absorb(state: Int[Tensor, "..."], word: Int[Tensor, "..."] | int) -> Int[Tensor, "..."]:
    """Hash one more word into the state."""
    return _mix((state ^ (word if isinstance(word, Tensor) else _signed(word))) + _signed(_GOLDEN))


@dataclass(frozen=True)
class Noise:
    """Uniform numbers for a batch of examples.

    seed: of the run. keys: identities of the examples, int64 (b,). epoch: separates repeated visits to an
    example, as in training; sampling leaves it 0.
    """

    seed: int
    keys: Int[Tensor, "b"]
    epoch: int = 0

    def uniform(self, stream: int, step: int = 0, positions: int = 1) -> Float[Tensor, "b {positions}"]:
        """Float64 in [0, 1), one per row and position, from the words (seed, epoch, key, stream, step, position)."""
        state = torch.zeros_like(self.keys)
        for word in (self.seed, self.epoch, self.keys, stream, step):
            state = _absorb(state, word)
        at = torch.arange(positions, device=self.keys.device)
        return _shift(_absorb(state[:, None], at[None, :]), 11).double() * 2.0**-53

    def copies(self, copy: Int[Tensor, "b"]) -> "Noise":
        """The noise of further copies of the rows, each drawing its own; copy 0 is the row itself."""
        return Noise(self.seed, torch.where(copy == 0, self.keys, _absorb(self.keys, copy)), self.epoch)

    def select(self, rows: Int[Tensor, "r"]) -> "Noise":
        """The noise of some of the rows."""
        return Noise(self.seed, self.keys[rows], self.epoch)


def uniform(seed: int, *words: int) -> float:
    """One number shared by all examples, in [0, 1), from the seed and the words."""
    state = torch.zeros(1, dtype=torch.int64)
    for word in (seed, *words):
        state = _absorb(state, word)
    return float(_shift(state, 11).double() * 2.0**-53)


def low_discrepancy_times(offset: float, slots: Int[Tensor, "b"], total: int) -> Float[Tensor, "b"]:
    """t = (offset + slot / total) mod 1, moved into (0, 1]: one offset for the whole global batch.

    Each t alone is uniform, and together they cover [0, 1] evenly, which lowers the variance of the bound
    (MDLM, arXiv 2406.07524, app. C.3). `slots` are places in the global batch of `total` examples.
    """
    t = (offset + slots.double() / total) % 1.0
    return 1.0 - t


def sample(logits: Float[Tensor, "... k"], u: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Categories drawn by inverse CDF in float64, one uniform number each; exact in the tail.

    A category of zero probability is never drawn, whatever u in [0, 1).
    """
    cdf = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)
    return (cdf <= u[..., None] * cdf[..., -1:]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)
