"""One's own data: rows of JSON lines, CSV, parquet or a data set of the Hub, mapped to prompt, sketch and answer."""

import csv
import io
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from hybrid.kinds import register
from hybrid.records import Example, Score
from hybrid.tasks.arithmetic import number
from hybrid.tasks.json_rows import json_lines, json_list
from hybrid.tasks.math_answers import same_answer
from hybrid.tasks.task import Task, example, read_text

FIELD = re.compile(r"[^.\[\]]+(\[[^.\[\]]+\])*")
ROLES = ("system", "user", "assistant")


@register(Task, "rows")
@dataclass(frozen=True)
class Rows(Task):
    """Rows of named fields. Files by their ending: .jsonl, .json (one list), .csv, .tsv, .parquet; all but the last
    also as .gz. `data.train: hub:NAME:SPLIT` or `hub:NAME:CONFIG:SPLIT` reads a data set of the Hub, or a folder.

    prompt, sketch, answer: templates over the row's fields, such as "{question}" or "{context}\\n{question}".
    messages: a field of chat turns ({role, content}), whose last turn of each role becomes the fields system, user
        and assistant; null: rows are plain.
    divider: the sketch's text holds the answer, too, behind the last such text (GSM8K's "####"); null: it does not.
    check: an answer is right when it equals the gold one as text, as a number, or by mathematical meaning.
    """

    source: ClassVar[str] = "Files: .jsonl, .json, .csv, .tsv or .parquet; or hub:NAME:SPLIT."

    prompt: str = "{prompt}"
    sketch: str = "{sketch}"
    answer: str = "{answer}"
    messages: str | None = None
    divider: str | None = None
    check: Literal["text", "number", "math"] = "text"

    def __post_init__(self) -> None:
        for name in ("prompt", "sketch", "answer"):
            template = getattr(self, name)
            try:
                named = [part[1] for part in string.Formatter().parse(template) if part[1] is not None]
            except ValueError as error:
                raise ValueError(f"{name}={template!r}: no template ({error}); a brace is {{{{ or }}}}") from None
            if wrong := [field for field in named if not FIELD.fullmatch(field)]:
                raise ValueError(f"{name}={template!r}: {{{wrong[0]}}} is neither {{field}} nor {{field[key]}}")
        if self.divider == "":
            raise ValueError("divider='': must be some text, or null")

    def read(self, path: Path) -> list[Example]:
        return self._examples(_rows(path), str(path))

    def read_set(self, name: str) -> list[Example]:
        """The examples of a data set of the Hub, by `NAME:SPLIT` or `NAME:CONFIG:SPLIT`."""
        parts = name.split(":")
        if len(parts) not in (2, 3) or not all(parts):
            raise ValueError(f"hub:{name}: expected hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT")
        try:
            from datasets import load_dataset
        except ImportError:
            raise ValueError(f"hub:{name} needs the package datasets: pip install 'hybrid-reasoning[data]'") from None
        try:
            rows = load_dataset(*parts[:-1], split=parts[-1])
        except Exception as error:  # the library raises many kinds, network faults among them
            raise ValueError(f"hub:{name} cannot be loaded ({str(error).partition(chr(10))[0]})") from None
        return self._examples(((f"hub:{name}, row {i}", dict(row)) for i, row in enumerate(rows)), f"hub:{name}")

    def _examples(self, rows: Iterator[tuple[str, dict[str, Any]]], where: str) -> list[Example]:
        found = []
        for place, row in rows:
            fields = self._with_turns(row, place)
            prompt, sketch = (_filled(getattr(self, name), fields, name, place) for name in ("prompt", "sketch"))
            if self.divider is None:
                answer = _filled(self.answer, fields, "answer", place)
            else:
                sketch, between, answer = sketch.rpartition(self.divider)
                if not between:
                    raise ValueError(f"{place}: the sketch has no {self.divider!r}, behind which the answer stands")
                sketch = sketch.rstrip()
            if not prompt.strip() or not answer.strip():
                raise ValueError(f"{place}: the {'answer' if prompt.strip() else 'prompt'} is empty")
            if self.check == "number" and number(answer) is None:
                raise ValueError(f"{place}: answer {answer.strip()!r} is no number, as task.check=number needs")
            found.append(example(prompt, sketch, answer.strip()))
        return found

    def _with_turns(self, row: dict[str, Any], place: str) -> dict[str, Any]:
        """The row's fields, and the last turn of each role where it holds a chat."""
        if self.messages is None:
            return row
        turns = row.get(self.messages)
        if not isinstance(turns, list) or not all(isinstance(t, dict) and {"role", "content"} <= set(t) for t in turns):
            raise ValueError(f"{place}: field {self.messages!r} must be a list of turns with role and content")
        return row | dict.fromkeys(ROLES, "") | {turn["role"]: turn["content"] for turn in turns}

    def score(self, example: Example, sketch: str, answer: str) -> Score:
        gold, given = example.answer.strip(), answer.strip()
        if self.check == "number":
            right = number(given) is not None and number(given) == number(gold)
        elif self.check == "math":
            right = same_answer(gold, given)
        else:
            right = given == gold
        return Score(right, sketch_exact=sketch.strip() == example.sketch.strip())


class _Texts(string.Formatter):
    """Fills templates with text and numbers, and with nothing that Python would only describe."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        found = super().get_field(field_name, args, kwargs)
        if found[0] is None or isinstance(found[0], list | tuple | dict):
            what = "null" if found[0] is None else f"no text but {found[0]!r:.60}"
            raise TypeError(f"field {field_name} is {what}; expected text or a number")
        return found


def _filled(template: str, row: dict[str, Any], name: str, place: str) -> str:
    try:
        return _Texts().vformat(template, (), row)
    except TypeError as error:
        raise ValueError(f"{place}: task.{name}={template!r}: {error}") from None
    except (KeyError, AttributeError, IndexError, ValueError) as error:
        has = ", ".join(sorted(row)) or "none"
        raise ValueError(f"{place}: task.{name}={template!r}: no field {error}; the row has {has}") from None


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of a file, by its ending.

    Raises:
        ValueError: an ending that is not known, or rows that cannot be read.
    """
    ending = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if ending == "jsonl":
        yield from json_lines(path)
    elif ending == "json":
        yield from json_list(path)
    elif ending in ("csv", "tsv"):
        csv.field_size_limit(2**31 - 1)  # a long sketch is more than the library's 128 kB
        table = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter="," if ending == "csv" else "\t")
        try:
            for row in table:
                place = f"{path}, line {table.line_num}"
                if None in row or None in row.values():
                    columns = len(table.fieldnames or ())
                    raise ValueError(f"{place}: expected {columns} columns, as the first line names")
                yield place, dict(row)
        except csv.Error as error:
            raise ValueError(f"{path}, line {table.line_num}: {error}") from None
    elif ending == "parquet":
        try:
            from pyarrow import ArrowInvalid
            from pyarrow.parquet import read_table
        except ImportError:
            raise ValueError(f"{path} needs the package pyarrow: pip install 'hybrid-reasoning[data]'") from None
        try:
            rows = read_table(path).to_pylist()
        except (ArrowInvalid, OSError) as error:
            raise ValueError(f"{path}: no parquet file ({str(error).partition(chr(10))[0]})") from None
        yield from ((f"{path}, row {i}", row) for i, row in enumerate(rows))
    else:
        raise ValueError(f"{path}: its ending must be .jsonl, .json, .csv, .tsv (each also .gz) or .parquet")
