"""What drafting shows of itself, and what it remembers of each row from step to step."""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.diffusion.guidance import Denoiser
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.stop import Memory
from hybrid.diffusion.windows import Windows


@dataclass(frozen=True)
class State:
    """The canvas after `step` denoising steps, all rows of the batch.

    is_new: positions that this step gave a token. is_reopened: those it returned to noise. confidence: the
    probability each committed token had when drawn, 0 where there is none.
    """

    step: int
    z: Int[Tensor, "b l"]
    is_new: Bool[Tensor, "b l"]
    confidence: Float[Tensor, "b l"]
    is_reopened: Bool[Tensor, "b l"]

    @classmethod
    def first(cls, z: Int[Tensor, "b l"]) -> "State":
        nowhere = torch.zeros_like(z, dtype=torch.bool)
        return cls(0, z, nowhere, torch.zeros(z.shape, device=z.device), nowhere)

    def after(
        self,
        rows: Int[Tensor, "r"],
        z: Int[Tensor, "r l"],
        is_new: Bool[Tensor, "r l"],
        confidence: Float[Tensor, "r l"],
        is_reopened: Bool[Tensor, "r l"],
    ) -> "State":
        """The next state, in which only some rows have moved."""
        nowhere = torch.zeros_like(self.is_new)
        befores = (self.z, nowhere, self.confidence, nowhere)
        parts = (z, is_new, confidence, is_reopened)
        return State(self.step + 1, *(old.index_copy(0, rows, new) for old, new in zip(befores, parts, strict=True)))

    def edited(self, first: Int[Tensor, "b m"], confidence: Float[Tensor, "b m"]) -> "State":
        """The same step's, with other tokens on the first positions of the canvas."""
        m = first.shape[1]
        z, sure = torch.cat([first, self.z[:, m:]], dim=1), torch.cat([confidence, self.confidence[:, m:]], dim=1)
        return State(self.step, z, z != self.z, sure, torch.zeros_like(self.is_reopened))


@dataclass(frozen=True)
class Rows:
    """Rows that still draft, and where each stands.

    index: its place in the batch. z: its canvas as committed, and `shown`: with what follows from that. is_free: what
    may be altered.
    is_decided: committed for good, which a corruption without a mask does not show. certainty: the probability each
    committed token had when drawn. t: the time of its window. window: the one at work, begun at step `began`.
    """

    denoise: Denoiser
    noise: Noise
    windows: Windows
    index: Int[Tensor, "r"]
    z: Int[Tensor, "r l"]
    shown: Int[Tensor, "r l"]
    is_free: Bool[Tensor, "r l"]
    is_decided: Bool[Tensor, "r l"]
    certainty: Float[Tensor, "r l"]
    t: Float[Tensor, "r"]
    window: Int[Tensor, "r"]
    began: Int[Tensor, "r"]
    memory: Memory

    def __len__(self) -> int:
        return len(self.index)

    def select(self, rows: Int[Tensor, "s"]) -> "Rows":
        bound = self.denoise.select(rows), self.noise.select(rows), self.windows.select(rows)
        kept = {f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)[3:-1]}
        return Rows(*bound, **kept, memory=tuple(part[rows] for part in self.memory))

    @property
    def is_mine(self) -> Bool[Tensor, "r l"]:
        """What may be altered in the window at work."""
        return self.is_free & self.windows.holds(self.window)
