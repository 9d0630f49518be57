"""Addition with or without a scratchpad, in the formats of the arithmetic-teaching data sets."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hybrid.kinds import register
from hybrid.records import Example, Score
from hybrid.tasks.procedural import Draws, Procedural
from hybrid.tasks.task import Task, example, read_lines

SUM = re.compile(r"\$?([0-9]{1,50})\+([0-9]{1,50})(?:=([0-9]*))?\$?")
CARRY_STEP = re.compile(r"A->([0-9]) , C->([01])")
STYLES = ("plain", "reverse", "simplified", "detailed")


@register(Task, "addition")
@dataclass(frozen=True)
class Addition(Procedural):
    """Prompt `859+645`, answer `1504`; the style is what the sketch writes (Lee et al. 2023, arXiv
    2307.03381):

    plain: nothing.
    reverse: the sum's digits, least significant first: `4051`.
    simplified: one line a digit, `A->4 , C->1`: the digit and the carry; the last line ends in a full stop.
    detailed: the whole algorithm, one line a step, without the files' <scratch> tags.

    Reads all of the data set's formats, whatever the style: `a+b=c`, `a+b=`, `$a+b=c$` with c reversed, and
    blocks of `Input:`, `a+b`, `Target:`, scratchpad, sum. What a row writes must be what its operands give.
    Sketches are worked out from the operands, so any file serves any style.

    digits: made operands are uniform in 0 .. 10**digits - 1.
    """

    answer_is: ClassVar[str] = "a rewriting of the sketch"
    source: ClassVar[str] = "Files: github.com/lee-ny/teaching_arithmetic, data/."

    digits: int = 3
    style: str = "reverse"

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 50:
            raise ValueError(f"digits = {self.digits}: must be 1 to 50")
        if self.style not in STYLES:
            raise ValueError(f"style = {self.style!r}: must be one of {', '.join(STYLES)}")

    @property
    def prompt_form(self) -> tuple[str, str]:
        return rf"[0-9]{{1,{self.digits}}}\+[0-9]{{1,{self.digits}}}", f"a+b, numbers of at most {self.digits} digits"

    def draw(self, draws: Draws) -> tuple[str, str, str]:
        return self.work(int(draws.digits(self.digits)), int(draws.digits(self.digits)))

    def work(self, a: int, b: int) -> tuple[str, str, str]:
        """Prompt, sketch and answer of two operands."""
        return f"{a}+{b}", written(a, b, self.style), str(a + b)

    def read(self, path: Path) -> list[Example]:
        rows = []
        for place, lines in _blocks(path):
            match = SUM.fullmatch(lines[0])
            if match is None:
                raise ValueError(f"{place}: not `a+b=c`: {lines[0]!r}")
            a, b = int(match[1]), int(match[2])
            right = str(a + b)
            reversed_too = (right, right[::-1]) if lines[0].startswith("$") else (right,)
            if len(lines) == 1 and match[3] and match[3] not in reversed_too:
                raise ValueError(f"{place}: sum is {match[3]}, but {a}+{b} gives {right}")
            if len(lines) > 1:
                _check_scratchpad(place, a, b, lines[1:])
            rows.append(example(*self.work(a, b)))
        return rows

    def score(self, example: Example, sketch: str, answer: str) -> Score:
        """All is worked out from the prompt. draft_correct: the digits that the sketch writes are the sum."""
        a, b = map(int, example.prompt.split("+"))
        digits = answer.replace(" ", "")
        right = digits.isascii() and digits.isdigit() and len(digits) <= 60 and int(digits) == a + b
        if self.style == "plain":
            return Score(right)
        return Score(
            answer_correct=right,
            sketch_exact=sketch == example.sketch,
            sketch_valid=sketch.strip() == written(a, b, self.style),
            draft_correct=_sum_of_sketch(sketch, self.style) == str(a + b),
        )


def written(a: int, b: int, style: str) -> str:
    """The sketch of `a+b` in a style."""
    if style == "plain":
        return ""
    if style == "reverse":
        return str(a + b)[::-1]
    left, right, done, carry, lines = str(a), str(b), "", 0, []
    if style == "detailed":
        lines = [f"[{','.join(digits)}] has {len(digits)} digits." for digits in (left, right)]
    while left or right:
        x, y = left[-1:] or "0", right[-1:] or "0"
        total = int(x) + int(y) + carry
        head = f"{_listed(left)} + {_listed(right)} , A={_listed(done)} , C={carry} , {x}+{y}+{carry}={total} , "
        carry = total // 10
        lines.append((head if style == "detailed" else "") + f"A->{total % 10} , C->{carry}")
        left, right, done = left[:-1], right[:-1], f"{total % 10}{done}"
    if style == "detailed":
        return "\n".join((*lines, f"[] + [] , A={_listed(done)} C={carry} , END"))
    return "\n".join(lines) + "."


def _listed(digits: str) -> str:
    return f"[{','.join(digits)}]"


def _sum_of_sketch(sketch: str, style: str) -> str:
    if style == "reverse":
        return sketch.strip()[::-1]
    steps = CARRY_STEP.findall(sketch)
    digits = "".join(digit for digit, _ in reversed(steps))
    return "1" + digits if steps and steps[-1][1] == "1" else digits


def _blocks(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(place, [sum]) for one-line rows, (place, [operands, scratchpad lines ..., answer]) for blocks."""
    block: list[str] = []
    start = ""
    for place, line in read_lines(path):
        line = line.strip()
        if line == "Input:":
            if block:
                yield start, _parts(start, block)
            start, block = place, [line]
        elif block:
            block.append(line)
        else:
            yield place, [line]
    if block:
        yield start, _parts(start, block)


def _parts(place: str, block: list[str]) -> list[str]:
    if len(block) < 4 or block[2] != "Target:":
        raise ValueError(f"{place}: not a block of Input:, a+b, Target:, scratchpad, sum")
    return [block[1], *block[3:]]


def _check_scratchpad(place: str, a: int, b: int, lines: list[str]) -> None:
    style = "detailed" if lines[0] == "<scratch>" else "simplified"
    right = written(a, b, style).split("\n")
    if style == "detailed":
        right = ["<scratch>", *right, "</scratch>"]
    for found, expected in zip(lines, [*right, str(a + b)], strict=False):
        if found != expected and found.replace(" ", "") != expected:
            raise ValueError(f"{place}: scratchpad of {a}+{b} writes {found!r} where {expected!r} should stand")
    if len(lines) != len(right) + 1:
        raise ValueError(f"{place}: scratchpad of {a}+{b} has {len(lines)} lines, not {len(right) + 1}")
