"""What `hybrid check-data` says of an experiment's data before anything is trained on it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

from hybrid.experiment import Experiment
from hybrid.records import Example
from hybrid.tasks import Tokenizer
from hybrid.tasks.task import SPLITS

MADE_ROWS = 2000


@dataclass
class Report:
    """Lines to print, and the faults that training would stop at or that spoil an evaluation."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def check_data(experiment: Experiment, samples: int = 2) -> Report:
    """Lengths against canvas, answer and prompt limits; tokens covered; prompts shared by splits; rows as the model
    sees them. Of made data, the first 2,000 rows of a split are looked at.
    """
    report, tokenizer = Report(), experiment.make_tokenizer()
    model = experiment.model
    room = _positions(experiment, tokenizer)
    limits = {"prompt": None if room is None else room - model.canvas - model.max_answer - 2}
    limits |= {"sketch": model.canvas, "answer": model.max_answer}
    keys: dict[str, set[int]] = {}
    for name in SPLITS:
        try:
            every = experiment.examples(name)
        except (ValueError, OSError) as error:
            report.faults.append(f"{name}: {error}")
            continue
        rows = [every[i] for i in range(min(len(every), MADE_ROWS if len(every) >= 2**30 else len(every)))]
        keys[name] = {row.key for row in rows}
        first = f"the first {len(rows):,}" if len(rows) < len(every) else f"{len(rows):,}"
        report.lines.append(f"{name}: {first} rows, {len(keys[name]):,} different prompts")
        _lengths(name, rows, tokenizer, limits, report)
        _conflicts(name, rows, report)
        if name == "train":
            report.lines += [_seen(row, tokenizer) for row in rows[:samples]]
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if shared := len(keys.get(one, set()) & keys.get(other, set())):
            report.faults.append(f"{one} and {other} share {shared:,} prompts: {other} then measures memory")
    return report


def _positions(experiment: Experiment, tokenizer: Tokenizer) -> int | None:
    """Positions of the smaller network, a checkpoint's read from its config.json alone."""
    found = []
    model = experiment.model
    for backbone, vocabulary in ((model.backbone, len(tokenizer.reader)), (model.drafter_backbone, len(tokenizer))):
        if backbone is not None:
            kept = backbone.architecture(vocabulary)
            if kept is None:
                found.append(backbone.network(vocabulary).room)
            else:
                found.append((kept.get("text_config") or kept).get("max_position_embeddings"))
    return min((n for n in found if n is not None), default=None)


def _lengths(
    name: str, rows: Sequence[Example], tokenizer: Tokenizer, limits: dict[str, int | None], report: Report
) -> None:
    """Tokens of each part, end token included, and which tokens of the vocabulary occur."""
    counts: dict[str, list[int]] = {part: [] for part in limits}
    reader, used = tokenizer.reader, set[tuple[bool, int]]()
    unknown: list[str] = []
    for row in rows:
        try:
            prompts = [own.encode_prompt(row.prompt) for own in (tokenizer, reader)]
            sketch = [*tokenizer.encode(row.sketch), tokenizer.special.end]
            answer = [*reader.encode(row.answer), reader.special.end]
        except ValueError as error:
            unknown.append(str(error))
            continue
        for part, ids in (("prompt", max(prompts, key=len)), ("sketch", sketch), ("answer", answer)):
            counts[part].append(len(ids))
        used |= {(True, i) for i in (*prompts[0], *sketch)}
        used |= {(reader is tokenizer, i) for i in (*prompts[1], *answer)}
    if unknown:
        report.faults.append(f"{name}: {len(unknown):,} rows cannot be written: {unknown[0]}")
    for part, limit in limits.items():
        lengths = sorted(counts[part]) or [0]
        middle, most = lengths[(len(lengths) - 1) // 2], lengths[-1]
        rare = lengths[ceil(0.99 * len(lengths)) - 1]
        room = "" if limit is None else f"; room for {limit}"
        report.lines.append(f"  {part:<8}tokens: {middle} in the middle, {rare} at 99 %, {most} at most{room}")
        if limit is not None and most > limit:
            over = sum(n > limit for n in lengths)
            key = {"sketch": "model.canvas", "answer": "model.max_answer"}.get(part, "the network's positions")
            plural = "sketches" if part == "sketch" else f"{part}s"
            said = f"{over:,} of {len(lengths):,} {plural} need more than {key} = {limit}: {most} tokens"
            report.faults.append(f"{name}: {said}")
    size = len(tokenizer) + (0 if reader is tokenizer else len(reader))
    report.lines.append(f"  vocabulary: {len(used):,} of {size:,} tokens occur")


def _conflicts(name: str, rows: Sequence[Example], report: Report) -> None:
    answers: dict[int, set[str]] = {}
    for row in rows:
        answers.setdefault(row.key, set()).add(row.answer)
    if torn := sum(len(found) > 1 for found in answers.values()):
        report.lines.append(f"  {torn:,} prompts occur with different answers")


def _seen(row: Example, tokenizer: Tokenizer) -> str:
    """The row as the networks read it, token by token: in the drafter's vocabulary and, where it is another, in the
    decoder's, which alone has the answer.
    """
    told = []
    for own in dict.fromkeys((tokenizer, tokenizer.reader)):

        def pieces(ids: list[int], own: Tokenizer = own) -> str:
            return " ".join(repr(own.decode([i]))[1:-1] or own.names[i] for i in ids)

        end, *opens = (own.names[i] for i in (own.special.end, own.special.sketch, own.special.answer))
        texts = [row.sketch, row.answer] if own is tokenizer.reader else [row.sketch]
        parts = [f"{name} {pieces(own.encode(text))} {end}" for name, text in zip(opens, texts, strict=False)]
        told.append(f"  sample: {' | '.join([pieces(own.encode_prompt(row.prompt)), *parts])}")
    return "\n".join(told)
