"""How long the parts of a call take on this machine, found by calling."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of one batch: before the first step, per step, and for the longest answer."""

    before: float
    step: float
    answer: float


@dataclass(frozen=True)
class Trial:
    """One call by the clock: seconds of its draft and of its answer, and the decoder's forwards in that."""

    draft: float
    answer: float
    decoder_forwards: float


def calibrate(call: Callable[[int], Trial], most: int, least: int, longest_answer: int) -> Timing:
    """Time `call(steps)` at `most` and at `least` steps, after one call that warms up. Where they are the same number,
    what comes before the first step is counted to the steps."""
    call(least)
    few, many = call(least), call(most)
    step = (many.draft - few.draft) / (most - least) if most > least else many.draft / most
    step = max(step, 0.1 * many.draft / most)  # two timings can come out the wrong way round
    answer = max(t.answer / max(t.decoder_forwards, 1.0) for t in (few, many)) * longest_answer
    return Timing(max(0.0, many.draft - most * step), step, answer)
