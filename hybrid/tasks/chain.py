"""Chains of modular operations: the shortest task whose sketch is worth having, with one difficulty knob."""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import gcd, lcm
from typing import ClassVar

from hybrid.kinds import register
from hybrid.records import Example, Score
from hybrid.tasks.procedural import Draws, Procedural
from hybrid.tasks.task import Task


@register(Task, "chain")
@dataclass(frozen=True)
class Chain(Procedural):
    """`7+3*2-5`, taken strictly from left to right modulo `modulus`; the sketch is the running states.

    With modulus 10, `7+3*7-5` has the states 0, 0, 5: sketch "005" as states, "7+3=0;0*7=0;0-5=5" as
    equations; answer "5". Operands are single digits and states are zero-padded to one width. Addends are 1
    to 9 and multipliers are coprime to the modulus (3, 7, 9 for modulus 10), so every operation is a
    bijection of the states: no step forgets the ones before it, the answer depends on all of the prompt,
    and guessing scores 1 in `modulus`.

    length: operations in a chain.
    least: of them, how many at least do something, each number from there to `length` equally likely; the others
        are idle (+0, -0, *1) and stand anywhere. A chain's difficulty varies, its width does not. Null: all do.
    operations: the ones drawn from, each equally likely. Where there is one only, prompts leave its sign out:
        with "+", `7325` has the states 0, 2, 7.
    format: "states" or "equations".
    chains: so many chains of additions stand side by side, each from 0; the answer is the sum of their ends. With 2
        and length 3, `732,514` has the states "702,560" and the answer 2. No chain waits for another: what is written
        token by token takes their lengths together, what is drafted in parallel takes one.
    """

    answer_is: ClassVar[str] = "the end of the sketch, or the sum of its ends"

    length: int = 8
    least: int | None = None
    modulus: int = 10
    operations: str = "+-*"
    format: str = "states"
    chains: int = 1

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length = {self.length}: must be at least 1")
        if self.least is not None and not 0 <= self.least <= self.length:
            raise ValueError(f"least = {self.least}: must be 0 to length = {self.length}, or null")
        if not 2 <= self.modulus <= 100:
            raise ValueError(f"modulus = {self.modulus}: must be 2 to 100")
        if not self.operations or set(self.operations) - set("+-*"):
            raise ValueError(f"operations = {self.operations!r}: must be one or more of + - *")
        if self.format not in ("states", "equations"):
            raise ValueError(f"format = {self.format!r}: must be states or equations")
        if self.chains < 1:
            raise ValueError(f"chains = {self.chains}: must be at least 1")
        if self.chains > 1 and (self.operations != "+" or self.modulus > 10 or self.format != "states"):
            raise ValueError(
                f"chains = {self.chains} with operations = {self.operations!r}, modulus = {self.modulus}, format = "
                f"{self.format!r}: several chains add digits, so + alone, a modulus of at most 10, and states"
            )
        if "*" in self.operations and not self.operands("*"):
            raise ValueError(f"modulus = {self.modulus}: no digit is a multiplier; leave * out of operations")

    def operands(self, operation: str) -> list[int]:
        """The digits drawn after `operation`."""
        digits = range(1, min(10, self.modulus))
        return [d for d in digits if operation != "*" or (d > 1 and gcd(d, self.modulus) == 1)]

    @cached_property
    def steps(self) -> list[str]:
        """`+1` to `*9`, each as often as makes the operations equally likely and the operands of one
        likewise."""
        digits = {operation: self.operands(operation) for operation in sorted(set(self.operations))}
        most = lcm(*(len(choices) for choices in digits.values()))
        return [f"{o}{d}" for o, choices in digits.items() for d in choices for _ in range(most // len(choices))]

    @cached_property
    def moves(self) -> dict[str, str]:
        """The law: `state step` to the next state, as written; `7+3` to `0`. The first state may lack its
        zeros."""
        width = len(str(self.modulus - 1))
        result = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
        return {
            written + step: f"{result[step[0]](state, int(step[1])) % self.modulus:0{width}d}"
            for state in range(self.modulus)
            for written in {f"{state:0{width}d}", str(state)}
            for step in {*self.steps, "+0", "-0", "*1"}
        }

    @property
    def prompt_form(self) -> tuple[str, str]:
        if self.chains > 1:
            one = f"[0-9]{{{self.length}}}"
            words = f"{self.chains} chains of {self.length} digits, commas between"
            return f"{one}(,{one}){{{self.chains - 1}}}", words
        if self._sign:
            return f"[0-9]{{{1 + self.length}}}", f"{1 + self.length} digits"
        signs = "".join(sorted(set(self.operations)))
        words = f"a digit and {self.length} operations, each one of {signs} and a digit"
        return f"[0-9]([{re.escape(signs)}][0-9]){{{self.length}}}", words

    def draw(self, draws: Draws) -> tuple[str, str, str]:
        if self.chains > 1:
            prompt = ",".join("".join(self._steps(draws, sign=1)) for _ in range(self.chains))
            return prompt, *self.work(prompt)
        steps = self._steps(draws, self._sign)
        prompt = str(draws.below(min(10, self.modulus))) + "".join(steps)
        return prompt, *self.work(prompt)

    def _steps(self, draws: Draws, sign: int) -> list[str]:
        """The steps of one chain as prompts write them, the first `sign` characters left out."""
        steps = draws.pick(self.steps, self.length)
        if self.least is not None:
            for i in draws.order(self.length)[draws.between(self.least, self.length) :]:
                steps[i] = steps[i][0] + ("1" if steps[i][0] == "*" else "0")
        return [step[sign:] for step in steps]

    @property
    def _sign(self) -> int:
        """Characters of a step that prompts leave out."""
        return 1 if len(self.operations) == 1 else 0

    def work(self, prompt: str) -> tuple[str, str]:
        """Sketch and answer of a prompt."""
        if self.chains > 1:
            sums = [list(accumulate(map(int, chain))) for chain in prompt.split(",")]
            states = ["".join(str(s % self.modulus) for s in chain) for chain in sums]
            return ",".join(states), str(sum(chain[-1] for chain in sums) % self.modulus)
        state, moves = prompt[0], self.moves
        width = 2 - self._sign
        steps = [self.operations[: self._sign] + prompt[i : i + width] for i in range(1, len(prompt), width)]
        if self.format == "states":
            sketch = [state := moves[state + step] for step in steps]
            return "".join(sketch), state
        sketch = [f"{state}{step}={(state := moves[state + step])}" for step in steps]
        return ";".join(sketch), state

    def score(self, example: Example, sketch: str, answer: str) -> Score:
        """The one right derivation is worked out from the prompt; gold is not looked at but for
        `sketch_exact`."""
        right_sketch, right = self.work(example.prompt)
        return Score(
            answer_correct=answer.strip() == right,
            sketch_exact=sketch == example.sketch,
            sketch_valid=sketch.strip() == right_sketch,
            draft_correct=None
            if self.chains > 1
            else len(sketch.strip()) == len(right_sketch) and sketch.strip().endswith(right),
        )
