"""Long multiplication with its partial products, in the format of the implicit chain-of-thought data sets."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hybrid.kinds import register
from hybrid.records import Example, Score
from hybrid.tasks.procedural import Draws, Procedural
from hybrid.tasks.task import Task, example, read_lines

LINE = re.compile(r"([0-9][0-9 ]*) \* ([0-9][0-9 ]*)\|\|([-0-9+() ]+) #### ([0-9 ]+)")


@register(Task, "multiplication")
@dataclass(frozen=True)
class Multiplication(Procedural):
    """`5 6 3 2 * 7 4 3 4`: digits least significant first, so 2365 * 4347.

    Partial product i (from 0) of an n-digit a is zero-padded to n+1+i digits; after each but the first and
    the last stands the running sum in parentheses; the answer is the product, padded to the digits of both
    operands:

        5 5 5 6 1 + 0 0 6 4 9 0 ( 5 5 1 1 1 1 ) + 0 0 5 9 0 7 0 ( 5 5 6 0 2 8 0 ) + 0 0 0 0 6 4 9 0
        #### 5 5 6 0 8 2 0 1

    Files hold one `a * b||sketch #### product` a line (Deng et al., implicit chain of thought).

    digits_a, digits_b: digits of the made operands, without leading zeros.
    style: "partial" as above; "products" leaves out the running sums, so that no part of the sketch needs
        another.
    order: "backward" writes the sketch from its last character to its first, so that sums stand before what they are
        sums of, and a number's carries come after the digits that need them.
    spaces: keep the format's spaces between digits.
    """

    source: ClassVar[str] = "Files: github.com/da03/Internalize_CoT_Step_by_Step, data/<n>_by_<n>_mult/."

    digits_a: int = 2
    digits_b: int = 2
    style: str = "partial"
    order: str = "forward"
    spaces: bool = False

    def __post_init__(self) -> None:
        for name in ("digits_a", "digits_b"):
            if not 1 <= getattr(self, name) <= 50:
                raise ValueError(f"{name} = {getattr(self, name)}: must be 1 to 50")
        if self.style not in ("partial", "products"):
            raise ValueError(f"style = {self.style!r}: must be partial or products")
        if self.order not in ("forward", "backward"):
            raise ValueError(f"order = {self.order!r}: must be forward or backward")

    @property
    def prompt_form(self) -> tuple[str, str]:
        blank = " " if self.spaces else ""
        a, b = (blank.join(["[0-9]"] * n) for n in (self.digits_a, self.digits_b))
        words = f"{self.digits_a} digits * {self.digits_b} digits, least significant first"
        return rf"{a}{blank}\*{blank}{b}", words + (", blanks between all characters" if self.spaces else "")

    def draw(self, draws: Draws) -> tuple[str, str, str]:
        a, b = (draws.digits(n - 1) + str(draws.between(1, 9)) for n in (self.digits_a, self.digits_b))
        return self.work(a, b)

    def work(self, a: str, b: str) -> tuple[str, str, str]:
        """Prompt, sketch and answer for two operands written least significant digit first."""
        multiplicand, total, parts = int(a[::-1]), 0, []
        for i, digit in enumerate(b):
            width = len(a) + 1 + i
            product = multiplicand * int(digit) * 10**i
            total += product
            parts.append(f"{product:0{width}d}"[::-1])
            if self.style == "partial" and 0 < i < len(b) - 1:
                parts[-1] += f"({f'{total:0{width}d}'[::-1]})"
        prompt, sketch, answer = f"{a}*{b}", "+".join(parts), f"{total:0{len(a) + len(b)}d}"[::-1]
        sketch = sketch[::-1] if self.order == "backward" else sketch
        return (" ".join(prompt), " ".join(sketch), " ".join(answer)) if self.spaces else (prompt, sketch, answer)

    def read(self, path: Path) -> list[Example]:
        rows = []
        for place, line in read_lines(path):
            match = LINE.fullmatch(line.strip())
            if match is None:
                raise ValueError(f"{place}: not `a * b||partial products #### product` with one-digit tokens")
            a, b, sketch, answer = (text.replace(" ", "") for text in match.groups())
            row = self.work(a, b)
            gold = Multiplication(style="partial").work(a, b)
            for field, written, right in (("sketch", sketch, gold[1]), ("product", answer, gold[2])):
                if written != right:
                    raise ValueError(f"{place}: {field} is {written}, but {a}*{b} gives {right}")
            rows.append(example(*row))
        return rows

    def score(self, example: Example, sketch: str, answer: str) -> Score:
        """The product is worked out from the prompt. The sketch stops one addition short of it, so a draft
        alone solves nothing; it is valid when every partial product and running sum is right."""
        a, b = example.prompt.replace(" ", "").split("*")
        digits = answer.replace(" ", "")
        is_number = digits.isascii() and digits.isdigit() and len(digits) <= len(a) + len(b)
        return Score(
            answer_correct=is_number and int(digits[::-1]) == int(a[::-1]) * int(b[::-1]),
            sketch_exact=sketch == example.sketch,
            sketch_valid=sketch.replace(" ", "") == self.work(a, b)[1].replace(" ", ""),
        )
