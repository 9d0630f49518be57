"""A deadline: how many steps still fit into the time that is left."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Deadline:
    """Counts down while drafting.

    ends: the time of `clock`, in seconds, at which drafting must be over, the answer's time kept free. step: seconds
    that a step takes, from a calibration; a slower one seen later counts at once, so that the deadline is overrun by
    one forward at most.
    """

    ends: float
    step: float
    clock: Callable[[], float]
    _last: float | None = field(default=None, init=False)

    def steps_left(self) -> int:
        """Steps that can be taken from now on; asked once before each."""
        now = self.clock()
        if self._last is not None:
            self.step = max(self.step, now - self._last)
        self._last = now
        return int((self.ends - now) / self.step) if now < self.ends else 0
