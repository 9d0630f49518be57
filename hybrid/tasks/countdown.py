"""Countdown: reach a target with the given numbers, each used once."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from hybrid.kinds import register
from hybrid.records import Example, Score
from hybrid.tasks.arithmetic import Unlawful, evaluate
from hybrid.tasks.json_rows import json_lines, text_of
from hybrid.tasks.procedural import Draws, Procedural
from hybrid.tasks.task import Task, example

EQUATION = re.compile(r"([0-9]{1,9})([-+*/])([0-9]{1,9})=([0-9]{1,9})")
LARGEST, LEAST_TARGET, MOST_TARGET = 99, 10, 100


@register(Task, "countdown")
@dataclass(frozen=True)
class Countdown(Procedural):
    """Prompt `86,28,13,31,96`: four numbers and, last, the target. Sketch `86+28=114,31-13=18,114-18=96`:
    equations whose results feed later ones. Answer `(86+28)-(31-13)`: one expression.

    Rules, for sketch and answer alike: each given number is used exactly once, as in the published data,
    arithmetic is on whole numbers and every division is exact; a written result is never negative. The
    target stands in the prompt and is never scored: an answer has to be built from all of the numbers.

    Files hold `{"input": prompt, "output": equations}` a line (Gandhi et al. 2024; Ye et al. 2024); the
    expression is composed from the equations. Made problems are not the published distribution, which draws
    numbers until a search reaches the target: here the target is uniform in 10..100 and is taken apart by
    random operations, `n - 1` times, until all numbers are in 1..99; the inverse of solving, with no search.

    numbers: how many are given in made problems.
    """

    answer_is: ClassVar[str] = "a rewriting of the sketch"
    source: ClassVar[str] = (
        "Files: github.com/DreamLM/Dream, eval/data/cd*_test.jsonl; train: "
        "github.com/kanishkg/stream-of-search, src/countdown_generate.py."
    )

    numbers: int = 3

    def __post_init__(self) -> None:
        if not 2 <= self.numbers <= 6:
            raise ValueError(f"numbers = {self.numbers}: must be 2 to 6")

    @property
    def prompt_form(self) -> tuple[str, str]:
        return rf"[0-9]+(,[0-9]+){{{self.numbers}}}", f"{self.numbers} numbers and, last, the target, commas between"

    def draw(self, draws: Draws) -> tuple[str, str, str]:
        target = draws.between(LEAST_TARGET, MOST_TARGET)
        while True:
            pool, steps = [target], []
            for _ in range(self.numbers - 1):
                whole = pool.pop(draws.below(len(pool)))
                left, operation, right = _taken_apart(whole, draws)
                pool += (left, right)
                steps.append(f"{left}{operation}{right}={whole}")
            if all(1 <= n <= LARGEST for n in pool):
                break
        given = [pool[i] for i in draws.order(len(pool))]
        equations = ",".join(steps[::-1])
        left_over = _left_over(given, equations)
        assert left_over is not None
        return ",".join(map(str, (*given, target))), equations, left_over[0][1]

    def read(self, path: Path) -> list[Example]:
        rows = []
        for place, row in json_lines(path):
            prompt, sketch = text_of(row, "input", place), text_of(row, "output", place)
            given, target = _problem(prompt)
            if len(given) < 2:
                raise ValueError(f"{place}: field 'input' must be two or more numbers and a target, not {prompt!r}")
            left_over = _left_over(given, sketch) or []
            if [value for value, _ in left_over] != [target]:
                raise ValueError(f"{place}: field 'output' does not reach {target} from {given}: {sketch!r}")
            rows.append(example(prompt, sketch, left_over[0][1]))
        return rows

    def score(self, example: Example, sketch: str, answer: str) -> Score:
        """sketch_valid: every equation is lawful; draft_correct: they also use up the numbers and end at
        the target."""
        given, target = _problem(example.prompt)
        left_over = _left_over(given, sketch.strip())
        return Score(
            answer_correct=reaches(given, target, answer),
            sketch_exact=sketch == example.sketch,
            sketch_valid=left_over is not None,
            draft_correct=[value for value, _ in left_over or []] == [target],
        )


def reaches(given: list[int], target: int, expression: str) -> bool:
    """Whether the expression uses each given number exactly once, lawfully, and equals the target."""
    try:
        value, used = evaluate(expression, whole=True)
    except Unlawful:
        return False
    return value == target and sorted(used) == sorted(given)


def _problem(prompt: str) -> tuple[list[int], int]:
    """Given numbers and target; no numbers where the prompt is malformed."""
    if re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})+", prompt) is None:
        return [], 0
    *given, target = map(int, prompt.split(","))
    return given, target


def _left_over(given: list[int], equations: str) -> list[tuple[int, str]] | None:
    """Numbers not yet used after the equations, each with the expression it stands for; None where an
    equation is unlawful."""
    pool = [(n, str(n)) for n in given]
    for equation in equations.split(","):
        match = EQUATION.fullmatch(equation)
        if match is None:
            return None
        left, operation, right, result = int(match[1]), match[2], int(match[3]), int(match[4])
        texts = []
        for operand in (left, right):
            at = next((i for i, (value, _) in enumerate(pool) if value == operand), None)
            if at is None:
                return None
            text = pool.pop(at)[1]
            texts.append(text if text.isdigit() else f"({text})")
        if operation == "/":
            is_true = right != 0 and left == result * right
        else:
            is_true = result == {"+": left + right, "-": left - right, "*": left * right}[operation]
        if not is_true:
            return None
        pool.append((result, operation.join(texts)))
    return pool


def _taken_apart(whole: int, draws: Draws) -> tuple[int, str, int]:
    """`left operation right` that equals `whole`, by a random operation that allows it."""
    operation = "+-*/"[draws.below(4)]
    if operation == "*":
        factors = _factors(whole)
        if factors:
            right = factors[draws.below(len(factors))]
            return whole // right, "*", right
        operation = "-"
    if operation == "+" and whole > 1:
        right = draws.between(1, min(whole - 1, LARGEST))
        return whole - right, "+", right
    if operation == "/":
        right = draws.between(2, LARGEST)
        return whole * right, "/", right
    right = draws.between(1, LARGEST)
    return whole + right, "-", right


@lru_cache(maxsize=65536)
def _factors(whole: int) -> list[int]:
    """Divisors in 2..99."""
    return [d for d in range(2, min(whole, LARGEST) + 1) if whole % d == 0]
