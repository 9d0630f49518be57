"""frontier.json: quality against what was spent, one row per way of answering a task's split.

The file is one object: `schema` (1), `task`, `model` (an object of anything), `seed`, `split`, `rows`. Every
key of `FIELDS` stands in every row, `null` where it does not apply; keys of one's own may follow and survive
reading and writing. `FIELDS` says what each key means, for the docs, the page and the reader alike.
"""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from hybrid.metrics import TABLE, Tally

SCHEMA = 1
HEAD = ("schema", "task", "model", "seed", "split", "rows")
CONTROLS = ("gold", "shuffled", "pause")
METHODS = ("direct", "chain", "ar_drafter", "diffusion", "hybrid", "speculative", *CONTROLS)

FIELDS: dict[str, str] = {
    "method": "Who wrote the sketch: hybrid (the diffusion drafter; 0 steps: no sketch), direct (no sketch), "
    "chain (the decoder writes it, token by token), ar_drafter (an autoregressive drafter does), diffusion "
    "(the answer is on the drafter's canvas too, and no decoder is asked), speculative (the hybrid, its sketch "
    "verified by the drafter's causal predictions), or a control: gold (the right sketch), shuffled (another "
    "example's), pause (blanks). Others are allowed, such as the kind of a drafter of one's own.",
    "pairing": "Drafter and decoder: separate networks, or one shared trunk.",
    "policy": "Which positions one denoising step commits or reopens.",
    "threshold": "Confidence at which the policy commits a position.",
    "block": "Attention block of the drafter in canvas positions; null: the whole canvas, or no diffusion drafter.",
    "drafts": "Sketches drafted per example.",
    "steps": "Denoising steps allowed over the whole canvas; 0: no sketch.",
    "batch": "Examples answered together.",
    "accuracy": "Share of examples whose answer is right, 0 to 1.",
    "accuracy_low": "Lower end of the 95% Wilson interval of the accuracy.",
    "accuracy_high": "Upper end of the 95% Wilson interval of the accuracy.",
    "sketch_exact": "Share of sketches equal to the gold sketch, 0 to 1.",
    "examples": "Examples answered.",
    "parameters": "Parameters of all networks that took part.",
    "training_positions": "Token positions the networks were trained on.",
    "denoiser_forwards": "Calls of the denoiser, mean per example.",
    "decoder_forwards": "Calls of the decoder, mean per example.",
    "sequential_forwards": "Dependent network calls, one after another, prefill included; mean per example.",
    "positions": "Token positions sent through a network, mean per example.",
    "flops": "Floating-point operations of those positions, mean per example.",
    "sketch_tokens": "Sketch tokens written, end token included; mean per example.",
    "answer_tokens": "Answer tokens written, end token included; mean per example.",
    "seconds_per_example": "Wall-clock seconds of the calls over their examples: the inverse of throughput "
    "at this batch, and a latency only at batch 1.",
    "sketch_valid": "Share of sketches that are a correct derivation by the rules, gold or not, 0 to 1.",
    "draft_accuracy": "Share of examples that the sketch alone, without the decoder, solves, 0 to 1.",
    "drafted_length": "Tokens of the drafted sketch, end token included; mean per example.",
    "gold_length": "Tokens of the gold sketch, end token included; mean per example.",
    "length_error": "Absolute difference of drafted and gold length in tokens, mean per example.",
    "table": "Examples by answer right or wrong × sketch right or wrong (valid, or else exact).",
    "answer_is": "What the answer adds to the sketch by the task's rules, or how it was chosen among several drafts.",
    "pass_at_k": "Share of examples that at least one of several drafts answers right, 0 to 1.",
    "distinct": "Right answers that differ among an example's drafts, mean per example.",
    "setting": "What else the policy was told, such as a rate, a bound or a factor; temperature: of the sketch's "
    "draws, where they were not greedy; verify: forwards that verified the draft at most.",
    "answer": "How answers were made: decode (token by token), verify (proposed on the canvas, checked by the decoder "
    "in one forward, corrected where it would have written otherwise) or canvas (read off it). Without a draft, and "
    "for controls, they are always decoded.",
    "accepted_tokens": "Answer tokens that the canvas proposed and the decoder confirmed, mean per example.",
    "draft_seconds": "The share of seconds_per_example in which sketches were drafted.",
    "answer_seconds": "The share of seconds_per_example in which answers were decoded, verified or read off.",
    "seed": "Seed of the run the row belongs to.",
}
REQUIRED = tuple(FIELDS)[: tuple(FIELDS).index("seconds_per_example") + 1]


@dataclass(frozen=True)
class Row:
    """One way of answering, and what it cost. The fields are `FIELDS`; `extra` holds keys of one's own."""

    method: str
    pairing: str | None = None
    policy: str | None = None
    threshold: float | None = None
    block: int | None = None
    drafts: int | None = None
    steps: int | None = None
    batch: int | None = None
    accuracy: float = field(kw_only=True)
    accuracy_low: float = field(kw_only=True)
    accuracy_high: float = field(kw_only=True)
    sketch_exact: float | None = None
    examples: int = field(kw_only=True)
    parameters: float | None = None
    training_positions: float | None = None
    denoiser_forwards: float | None = None
    decoder_forwards: float | None = None
    sequential_forwards: float | None = None
    positions: float | None = None
    flops: float | None = None
    sketch_tokens: float | None = None
    answer_tokens: float | None = None
    seconds_per_example: float | None = None
    sketch_valid: float | None = None
    draft_accuracy: float | None = None
    drafted_length: float | None = None
    gold_length: float | None = None
    length_error: float | None = None
    table: Mapping[str, int] | None = None
    answer_is: str | None = None
    pass_at_k: float | None = None
    distinct: float | None = None
    setting: str | None = None
    answer: str | None = None
    accepted_tokens: float | None = None
    draft_seconds: float | None = None
    answer_seconds: float | None = None
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        for name, allowed in _TYPES.items():
            _check(name, getattr(self, name), allowed)
        if self.table is not None and (
            set(self.table) != set(TABLE) or any(type(n) is not int or n < 0 for n in self.table.values())
        ):
            raise ValueError(f"table={dict(self.table)!r}: expected a count for each of {', '.join(TABLE)}")
        if taken := sorted(set(self.extra) & set(FIELDS)):
            raise ValueError(f"extra names a field of the row: {', '.join(taken)}")

    @classmethod
    def counted(cls, tally: Tally, method: str, **settings: Any) -> "Row":
        """The row of a tally: its shares and means per example, beside the settings it was counted under."""
        if not tally.examples:
            raise ValueError(f"tally of method={method!r} counts no examples: a row needs at least one")
        low, high = tally.interval()
        spent = tally.spent
        spent["seconds_per_example"] = spent.pop("seconds")
        judged = ("sketch_exact", "sketch_valid", "draft_accuracy", "table")
        counted = dict(accuracy=tally.accuracy, accuracy_low=low, accuracy_high=high, examples=tally.examples)
        said = {name: getattr(tally, name) for name in judged}
        return cls(method, **{**counted, **spent, **tally.lengths, **tally.drafts, **said, **settings})

    def plain(self) -> dict[str, Any]:
        """Every key of `FIELDS` in its order, then the extra ones."""
        row = {name: getattr(self, name) for name in FIELDS}
        row["table"] = None if self.table is None else {name: self.table[name] for name in TABLE}
        return {**row, **self.extra}


_TYPES = {name: hint for name, hint in get_type_hints(Row).items() if name not in ("extra", "table")}
_SHARES = ("accuracy", "accuracy_low", "accuracy_high", "sketch_exact", "sketch_valid", "draft_accuracy", "pass_at_k")
_SAID = {str: "text", int: "a whole number", float: "a number", type(None): "null"}


def _check(name: str, value: object, allowed: Any) -> None:
    """Raise where `value` is of none of the types of the annotation `allowed`, negative or not finite."""
    kinds = get_args(allowed) or (allowed,)
    fits = isinstance(value, (*kinds, int) if float in kinds else kinds) and not isinstance(value, bool)
    said = " or ".join(_SAID[kind] for kind in kinds) + (", from 0 to 1" if name in _SHARES else "")
    if fits and isinstance(value, int | float) and name != "seed":
        fits = math.isfinite(value) and value >= 0 and (name not in _SHARES or value <= 1)
        said += "" if name in _SHARES else ", finite and not negative"
    if not fits:
        raise ValueError(f"{name}={value!r}: expected {said}")


@dataclass(frozen=True)
class Frontier:
    """One task's split. `model` describes the networks freely; `extra` holds keys of one's own."""

    task: str
    split: str
    rows: Sequence[Row]
    model: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def plain(self) -> dict[str, Any]:
        """The content of frontier.json."""
        head = dict(schema=SCHEMA, task=self.task, model=dict(self.model), seed=self.seed, split=self.split)
        return {**head, "rows": [row.plain() for row in self.rows], **self.extra}

    def json(self) -> str:
        return json.dumps(self.plain(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def csv(self) -> str:
        """One line per row, after the task and the split; the table's four counts take a column each."""
        rows = [_flat({"task": self.task, "split": self.split, **row.plain()}) for row in self.rows]
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names or ["task", "split", *FIELDS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    table = row.pop("table") or dict.fromkeys(TABLE)
    nested = {name: json.dumps(value) for name, value in row.items() if isinstance(value, dict | list)}
    return {**row, **nested, **table}


def read(path: str | Path) -> Frontier:
    """The frontier in a JSON file; a one-line `ValueError` says which file, which key, what was expected."""
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:
        raise ValueError(f"{path}: expected the JSON of a frontier: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected an object, with the keys {', '.join(HEAD)}")
    if data.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema={data.get('schema')!r}: expected {SCHEMA}")
    said = dict(task="text", model="an object", seed="a whole number or null", split="text", rows="a list")
    fits = dict(task=(str,), model=(dict,), seed=(int, type(None)), split=(str,), rows=(list,))
    for name, kinds in fits.items():
        if name not in data:
            raise ValueError(f"{path}: {name} is missing: expected {said[name]}")
        if type(data[name]) not in kinds:
            raise ValueError(f"{path}: {name}={data[name]!r:.60}: expected {said[name]}")
    rows = [_row(row, f"{path}: rows[{i}]") for i, row in enumerate(data["rows"])]
    extra = {name: value for name, value in data.items() if name not in HEAD}
    return Frontier(data["task"], data["split"], rows, data["model"], data["seed"], extra)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _row(data: object, where: str) -> Row:
    if not isinstance(data, dict):
        raise ValueError(f"{where}={data!r:.60}: expected an object")
    for name in REQUIRED:
        if name not in data:
            raise ValueError(f"{where}.{name} is missing: expected {FIELDS[name]}")
    table = data.get("table")
    if table is not None and not isinstance(table, dict):
        raise ValueError(f"{where}.table={table!r:.60}: expected an object or null")
    known = {f.name: data[f.name] for f in fields(Row) if f.name in data and f.name != "extra"}
    try:
        return Row(**known, extra={name: value for name, value in data.items() if name not in FIELDS})
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None


def write_json(frontier: Frontier, path: str | Path) -> Path:
    return write_atomically(path, frontier.json().encode())


def write_csv(frontier: Frontier, path: str | Path) -> Path:
    return write_atomically(path, frontier.csv().encode())


def write_atomically(path: str | Path, content: bytes) -> Path:
    """Write beside `path` and rename: a reader sees the old file or the new one, never half of one. A device or a pipe,
    such as /dev/null, is written as it is, never replaced.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path
