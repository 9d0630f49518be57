"""What one call may spend on its sketch. A budget belongs to the call, never to a network or a checkpoint."""

import dataclasses
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, SupportsIndex, get_args

import torch
from jaxtyping import Int
from torch import Tensor

PerRow = int | Sequence[int] | None
Effort = Literal["none", "low", "medium", "high"]
Unit = Literal["steps", "tokens"]  # what a drafter's forwards and time buy
MANY = 2**31 - 1  # what a limit can be: more than any canvas has use for
# Steps of an effort, as a share of the canvas.
SHARES: dict[str, float] = {"none": 0.0, "low": 1 / 8, "medium": 1 / 3, "high": 1.0}


@dataclass(frozen=True)
class Budget:
    """What a call may spend, in whatever unit the caller thinks in. All limits that are given hold together.

    A limit is one number for every row, or one per row. Without any, steps are those of the whole canvas.

    steps: denoising steps in total over the canvas; 0: no sketch.
    tokens: sketch tokens, end token included; 0: no sketch.
    forwards: network calls of the row in all, for prompt, sketch and answer (the number of function evaluations).
        The answer's are reserved first.
    ms: milliseconds of the whole call. Drafting stops when one more step (one more token, where a drafter writes
        them one by one) would eat into what the answer needs.
    effort: none, low, medium or high: 0, an eighth, a third or all of the canvas in steps.

    Raises:
        ValueError: a limit that is negative, fractional, unknown or beyond 2**31 - 1.
    """

    steps: PerRow = None
    tokens: PerRow = None
    forwards: PerRow = None
    ms: float | None = None
    effort: Effort | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "tokens", "forwards"):
            given = getattr(self, name)
            each = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
            for limit in () if given is None else each:
                if not _is_limit(limit):
                    what = "no answer" if name == "forwards" else "no sketch"
                    raise ValueError(
                        f"{name}={limit!r}: must be a whole number, 0 ({what}) or more and at most {MANY}, or one for "
                        "each row"
                    )
            if given is not None:
                counts = tuple(operator.index(limit) for limit in each)
                object.__setattr__(self, name, counts if isinstance(given, Sequence) else counts[0])
        if self.ms is not None and not (isinstance(self.ms, int | float) and 0 < self.ms < math.inf):
            raise ValueError(f"ms={self.ms!r}: must be a finite number above 0, milliseconds of the whole call")
        if self.effort is not None and self.effort not in SHARES:
            raise ValueError(f"effort={self.effort!r}: must be one of {', '.join(get_args(Effort))}")

    @property
    def is_nothing(self) -> bool:
        """Whether no row may draft at all."""
        shares = None if self.effort is None else SHARES[self.effort]
        limits = (self.steps, self.tokens, shares)
        return any(not any(n) if isinstance(n, tuple) else n == 0 for n in limits)

    def explicit(self) -> dict[str, object]:
        """The limits that were given, beside the steps and tokens that they came to."""
        given = {"forwards": self.forwards, "ms": self.ms, "effort": self.effort}
        return {name: limit for name, limit in given.items() if limit is not None}

    def rows(self, rows: int, canvas: int, device: torch.device | str = "cpu") -> Int[Tensor, "b"]:
        """Steps of each of `rows` rows, as far as steps, tokens and effort say."""
        plan = Plan.of(dataclasses.replace(self, forwards=None), rows, canvas)
        return torch.tensor(plan.steps, dtype=torch.int64, device=device)


@dataclass(frozen=True)
class Plan:
    """A budget made explicit: steps and sketch tokens of each row. 0 steps: no sketch."""

    steps: tuple[int, ...]
    tokens: tuple[int, ...]

    @classmethod
    def of(
        cls, budget: Budget, rows: int, canvas: int, *, more: int = 0, answer: int = 0, besides: int = 0,
        per_step: int = 1, least: int = 1, counts: Unit = "steps",
    ) -> "Plan":  # fmt: skip
        """The plan for `rows` rows on a canvas with `canvas` positions for the sketch, and `more` for the answer.

        answer: forwards that the answer may take. besides: those that a sketch takes besides its steps'. per_step:
        forwards of one step, or of one token where that is what forwards buy. least: steps below which the drafter
        cannot draft; where forwards leave fewer, there is no sketch.

        Raises:
            ValueError: limits for another number of rows, or fewer forwards than the answer may take.
        """
        whole = canvas + more
        share = None if budget.effort is None else math.ceil(SHARES[budget.effort] * whole)
        limits = (_each(name, getattr(budget, name), rows) for name in ("steps", "tokens", "forwards"))
        steps, tokens = [], []
        for given, room, forwards in zip(*limits, strict=True):
            n = min((limit for limit in (given, share) if limit is not None), default=whole)
            room = canvas if room is None else min(room, canvas)
            if forwards is not None:
                if forwards < answer:
                    raise ValueError(f"forwards={forwards}: the answer alone may take {answer}, reserved first")
                left = (forwards - answer - besides) // per_step
                left = left if left >= least else 0
                n, room = (min(n, left), room) if counts == "steps" else (n, min(room, left))
            # A shortened canvas has no use for more steps than its positions, or for any where it has no sketch.
            steps.append(0 if room == 0 else min(n, room + more) if n <= whole else n)
            tokens.append(room if n else 0)
        return cls(tuple(steps), tuple(tokens))

    def select(self, rows: Sequence[int]) -> "Plan":
        return Plan(tuple(self.steps[r] for r in rows), tuple(self.tokens[r] for r in rows))

    def at_most(self, limit: int, counts: Unit = "steps") -> "Plan":
        """The same plan with fewer steps, or fewer tokens; without either, there is no sketch."""
        if counts == "steps":
            return Plan(tuple(min(n, limit) for n in self.steps), self.tokens)
        return Plan(tuple(n if limit else 0 for n in self.steps), tuple(min(n, limit) for n in self.tokens))


def _is_limit(given: object) -> bool:
    return isinstance(given, SupportsIndex) and not isinstance(given, bool) and 0 <= operator.index(given) <= MANY


def _each(name: str, given: PerRow, rows: int) -> list[int | None]:
    if given is None or isinstance(given, int):
        return [given] * rows
    if len(given) != rows:
        raise ValueError(f"{name} for {len(given)} rows were given, but the batch has {rows}")
    return list(given)


def quota(n_open: Int[Tensor, "b"], steps_left: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
    """Positions to commit now so that `n_open` are spread evenly over `steps_left`, larger shares first.

    Taken step after step, quotas sum to what was open; a row without steps left gets 0.
    """
    share = -(-n_open // steps_left.clamp(min=1))
    return torch.where(steps_left > 0, share, 0)
