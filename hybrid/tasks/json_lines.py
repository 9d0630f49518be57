"""Any JSON-lines file whose rows have a prompt, a sketch and an answer."""

from dataclasses import dataclass
from pathlib import Path

from hybrid.kinds import register
from hybrid.records import Example, Score
from hybrid.tasks.json_rows import json_lines, text_of
from hybrid.tasks.task import Task, example


@register(Task, "json_lines")
@dataclass(frozen=True)
class JsonLines(Task):
    """Rows of text fields; an answer is right when it equals the gold one but for blanks at its ends.

    prompt_field, sketch_field, answer_field: what the file calls the three parts.
    """

    prompt_field: str = "prompt"
    sketch_field: str = "sketch"
    answer_field: str = "answer"

    def read(self, path: Path) -> list[Example]:
        fields = (self.prompt_field, self.sketch_field, self.answer_field)
        rows = []
        for place, row in json_lines(path):
            prompt, sketch, answer = (text_of(row, field, place) for field in fields)
            if not prompt or not answer.strip():
                empty = self.answer_field if prompt else self.prompt_field
                raise ValueError(f"{place}: field {empty!r} is empty")
            rows.append(example(prompt, sketch, answer))
        return rows

    def score(self, example: Example, sketch: str, answer: str) -> Score:
        return Score(answer.strip() == example.answer.strip(), sketch_exact=sketch.strip() == example.sketch.strip())
