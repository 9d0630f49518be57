"""What one call may spend on its sketch. A budget belongs to the call, never to a network or a checkpoint."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Budget:
    """Denoising steps in total over the canvas: one number for every row, or one per row. 0: no sketch.

    None: one step per position of the canvas, the most that any policy without reopening can use.

    Raises:
        ValueError: a negative or fractional number of steps.
    """

    steps: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for steps in self.steps if isinstance(self.steps, tuple) else (0 if self.steps is None else self.steps,):
            if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
                raise ValueError(f"steps={steps!r}: must be a whole number, 0 (no sketch) or more")

    @property
    def is_nothing(self) -> bool:
        """Whether no row may draft at all."""
        return not any(self.steps) if isinstance(self.steps, tuple) else self.steps == 0

    def rows(self, rows: int, canvas: int, device: torch.device | str = "cpu") -> Int[Tensor, "b"]:
        """Steps of each of `rows` rows."""
        if not isinstance(self.steps, tuple):
            return torch.full((rows,), canvas if self.steps is None else self.steps, device=device)
        if len(self.steps) != rows:
            raise ValueError(f"steps for {len(self.steps)} rows were given, but the batch has {rows}")
        return torch.tensor(self.steps, device=device)


def quota(n_open: Int[Tensor, "b"], steps_left: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
    """Positions to commit now so that `n_open` are spread evenly over `steps_left`, larger shares first.

    Taken step after step, quotas sum to what was open; a row without steps left gets 0.
    """
    share = -(-n_open // steps_left.clamp(min=1))
    return torch.where(steps_left > 0, share, 0)
