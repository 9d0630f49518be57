"""Grade-school maths in words, with its calculator equations or its text as the sketch."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hybrid.kinds import register
from hybrid.records import Example, Score
from hybrid.tasks.arithmetic import holds, number
from hybrid.tasks.json_rows import json_lines, text_of
from hybrid.tasks.task import Task, example, read_lines, read_text

EQUATION = re.compile(r"<<(.*?)>>")
NUMBER = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?|-?\.[0-9]+")


@register(Task, "gsm8k")
@dataclass(frozen=True)
class Gsm8k(Task):
    """Reads GSM8K (`{"question": ..., "answer": "... <<16-3-4=9>>9 ... #### 18"}` a line) and GSM8K-Aug
    (`question||<<16-3-4=9>> <<9*2=18>> #### 18` a line). Blanks in a question are made single, so the same
    question has the same key in both. About 95 % of answers are the value of the last equation.

    form: "equations" has the sketch `16-3-4=9;9*2=18`; "text" has the worked solution in words. Rows whose
        solution lacks the form's sketch are left out, with a warning that counts them.
    """

    answer_is: ClassVar[str] = "mostly the end of the sketch"
    source: ClassVar[str] = (
        "Files: github.com/openai/grade-school-math, grade_school_math/data/{train,test}.jsonl "
        "(Hub: openai/gsm8k), or github.com/da03/Internalize_CoT_Step_by_Step, data/gsm8k/."
    )

    form: str = "equations"

    def __post_init__(self) -> None:
        if self.form not in ("equations", "text"):
            raise ValueError(f"form = {self.form!r}: must be equations or text")

    def read(self, path: Path) -> list[Example]:
        rows, without = [], 0
        for place, question, worked in _solutions(path):
            steps, hashes, written = worked.rpartition("####")
            answer = written.strip().replace(",", "")
            if not hashes or number(answer) is None:
                raise ValueError(f"{place}: field 'answer' must end in `#### number`, not {worked[-40:]!r}")
            if not question.strip():
                raise ValueError(f"{place}: field 'question' is empty")
            if self.form == "equations":
                sketch = ";".join(EQUATION.findall(steps)).replace(" ", "")
            else:
                sketch = EQUATION.sub("", steps).strip()
            if not sketch:
                without += 1
                continue
            rows.append(example(" ".join(question.split()), sketch, answer))
        if without:
            warnings.warn(f"{path}: left out {without} of {without + len(rows)} rows without {self.form}", stacklevel=2)
        return rows

    def score(self, example: Example, sketch: str, answer: str) -> Score:
        """Answers are compared as numbers. sketch_valid: every equation holds, at the decimals it is
        written with (no such question in text form). draft_correct: the last equation, or the last number
        of a text, is the answer."""
        gold, given = number(example.answer), number(answer)
        equations = sketch.strip().split(";")
        if self.form == "equations":
            last = equations[-1].rpartition("=")[2]
        else:
            last = ([""] + NUMBER.findall(sketch))[-1]
        return Score(
            answer_correct=given is not None and given == gold,
            sketch_exact=sketch == example.sketch,
            sketch_valid=all(map(holds, equations)) if self.form == "equations" else None,
            draft_correct=number(last) == gold,
        )


def _solutions(path: Path) -> list[tuple[str, str, str]]:
    """(place, question, worked solution) of either format."""
    if read_text(path).lstrip().startswith("{"):
        rows = json_lines(path)
        return [(place, text_of(row, "question", place), text_of(row, "answer", place)) for place, row in rows]
    found = []
    for place, line in read_lines(path):
        question, bars, worked = line.partition("||")
        if not bars:
            raise ValueError(f"{place}: neither JSON nor `question||<<equations>> #### number`")
        found.append((place, question, worked))
    return found
