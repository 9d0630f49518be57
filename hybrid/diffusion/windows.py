"""Semi-autoregressive windows: a canvas drafted from left to right in stretches, under one budget of steps."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Which window each position lies in, and by which step each row must be done with each window.

    Steps are the total over the canvas. A width that does not divide it leaves a shorter last window, which is
    harmless: the budget is spread by open positions, not by windows, so no mask is stranded.
    """

    of: Int[Tensor, "l"]
    due: Int[Tensor, "b w"]

    @classmethod
    def plan(cls, is_open: Bool[Tensor, "b l"], steps: Int[Tensor, "b"], width: int | None) -> "Windows":
        """Each window with open positions gets one step, and the rest goes to where the most are open, earlier
        windows first; no window gets more steps than open positions unless the whole canvas does."""
        rows, length = is_open.shape
        width = length if width is None else width
        of = torch.arange(length, device=is_open.device) // width
        n = torch.zeros(rows, int(-(-length // width)), dtype=torch.int64, device=is_open.device)
        n = n.index_add(1, of, is_open.long())
        beyond = (n - 1).clamp(min=0)
        beyond = torch.where(beyond.any(-1, keepdim=True), beyond, n)  # single positions share alike
        spare, total = steps - (n > 0).sum(-1), beyond.sum(-1).clamp(min=1)
        share = -(-(spare[:, None] * beyond.cumsum(-1)) // total[:, None])
        return cls(of, (n > 0).cumsum(-1) + share)

    def select(self, rows: Int[Tensor, "r"]) -> "Windows":
        return Windows(self.of, self.due[rows])

    def hurried(self, step: int, left: int) -> "Windows":
        """The rest of the plan, after `step` steps, pressed evenly into at most `left` more; each window that is due
        later keeps at least one as long as they last."""
        rest = (self.due - step).clamp(min=0)
        most = rest[:, -1:].clamp(min=1)
        return Windows(self.of, torch.where(most > left, step + -(-(rest * left) // most), self.due))

    def holds(self, window: Int[Tensor, "b"]) -> Bool[Tensor, "b l"]:
        """Positions of one window of each row."""
        return self.of == window[:, None]

    def due_of(self, window: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """The step by which that window must be done."""
        return self.due.gather(1, window[:, None])[:, 0]

    def leftmost(self, is_open: Bool[Tensor, "b l"]) -> Int[Tensor, "b"]:
        """The first window with an open position; the last one where none is open."""
        last = self.due.shape[1] - 1
        return torch.where(is_open, self.of, last).amin(-1)


def check_windows(
    steps: Int[Tensor, "b"], is_open: Bool[Tensor, "b l"], width: int | None, name: str = "decode_window"
) -> None:
    """Refuse fewer steps than windows. `name`: of the setting that makes them; a model's blocks are windows too.

    Raises:
        ValueError: naming both, and how many steps it takes.
    """
    if width is None:
        return
    if width < 1:
        raise ValueError(f"{name}={width}: must be 1 or more positions, or null for the whole canvas")
    chunks = is_open.split(width, dim=1)
    needed = torch.stack([chunk.any(-1) for chunk in chunks]).sum(0)
    short = ((steps > 0) & (steps < needed)).nonzero()[:, 0]
    if len(short):
        row = int(short[0])
        parts, or_else = ("windows", ", or a wider window") if name == "decode_window" else ("blocks", "")
        raise ValueError(
            f"steps={int(steps[row])} with {name}={width}: the {int(needed[row])} {parts} that are to be drafted take "
            f"at least one step each; give {int(needed[row])} steps or more{or_else}"
        )
