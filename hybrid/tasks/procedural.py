"""Made examples: a row is a function of (task, seed, split, index), drawn when it is asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import shake_128
from struct import Struct
from typing import ClassVar, overload

from hybrid.records import Example
from hybrid.tasks.task import NOTHING, SPLITS, Task, example

HELD_OUT = 2000
ATTEMPTS = 20_000
WORDS = Struct("<21Q")


class Draws:
    """Uniform integers out of a hash of an identity: the same on every machine and Python version."""

    def __init__(self, identity: str) -> None:
        self.words = _words(identity)

    def below(self, n: int) -> int:
        """Uniform in [0, n), for n up to 2**64; no value's chance is off by more than 2**-64."""
        return next(self.words) * n >> 64

    def digits(self, n: int) -> str:
        """A string of `n` uniform decimal digits."""
        if n > 18:
            return self.digits(18) + self.digits(n - 18)
        return str(10**n + self.below(10**n))[1:]

    def between(self, low: int, high: int) -> int:
        """Uniform in [low, high]."""
        return low + self.below(high - low + 1)

    def pick(self, choices: Sequence[str], n: int) -> list[str]:
        """`n` of `choices`, drawn with replacement."""
        words, size = self.words, len(choices)
        return [choices[next(words) * size >> 64] for _ in range(n)]

    def order(self, n: int) -> list[int]:
        """A uniform permutation of range(n)."""
        order = list(range(n))
        for i in range(n - 1, 0, -1):
            j = self.below(i + 1)
            order[i], order[j] = order[j], order[i]
        return order


def _words(identity: str) -> Iterator[int]:
    """64-bit words, endlessly: 21 to a block of the hash."""
    block = 0
    while True:
        yield from WORDS.unpack(shake_128(f"{identity}/{block}".encode()).digest(168))
        block += 1


@dataclass(frozen=True)
class Procedural(Task):
    """A task that makes its problems: a kind says how one is drawn.

    Splits never share a prompt: a prompt's key modulo 8 says which split owns it (6 valid, 7 test, the rest
    train), and a draw that another split owns, or that is excluded, is drawn again.
    """

    rows: ClassVar[dict[str, int]] = {"train": 2**31 - 1, "valid": HELD_OUT, "test": HELD_OUT}

    def draw(self, draws: Draws) -> tuple[str, str, str]:
        """One problem: prompt, sketch, answer."""
        raise NotImplementedError

    def generate(self, split: str, seed: int, exclude: frozenset[int] = NOTHING) -> "Drawn":
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: must be one of {', '.join(SPLITS)}")
        return Drawn(self, split, seed, exclude, self.rows[split])


class Made(Sequence[Example]):
    """Rows that are made when they are asked for, one by one."""

    def row(self, index: int) -> Example:
        """Row `index`, 0 and up."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.row(index % len(self))


@dataclass(frozen=True)
class Drawn(Made):
    """The rows of one split of a procedural task. The whole train split is too long to list: index or slice
    it."""

    task: Procedural
    split: str
    seed: int
    exclude: frozenset[int]
    length: int

    def __len__(self) -> int:
        return self.length

    def row(self, index: int) -> Example:
        for attempt in range(ATTEMPTS):
            row = example(*self.task.draw(Draws(f"{self.seed}/{self.split}/{index}/{attempt}")))
            if owner(row.key) == self.split and row.key not in self.exclude:
                return row
        raise ValueError(f"{self.task}: no prompt is left for split {self.split!r}; the task has too few problems")


def owner(key: int) -> str:
    """The split that holds the prompt with this key."""
    return {6: "valid", 7: "test"}.get(key % 8, "train")
