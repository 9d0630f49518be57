"""The frontier as one HTML file that needs no network: chart, rows, answer × sketch, details."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from hybrid.frontier import FIELDS, Frontier, Row, write_atomically
from hybrid.metrics import TABLE, ignores, repairs
from hybrid.report_html import details, document, link
from hybrid.report_script import SCRIPT
from hybrid.report_series import TITLES, ordered, row_label, series, slower

SHARES = ("accuracy", "accuracy_low", "accuracy_high", "sketch_exact", "sketch_valid", "draft_accuracy")
AXES = {
    "sequential_forwards": "sequential forwards per example",
    "steps": "denoising steps allowed",
    "seconds_per_example": "ms per example",
    "positions": "positions per example",
    "flops": "FLOPs per example",
}
GUIDE = (
    "Each point is one way of answering the same questions: its height is the share of answers that "
    "are right, with a 95% interval; its place from left to right is what an answer cost. A drafter "
    "writes the reasoning sketch in parallel, so the hybrid's lines should rise far to the left of "
    "the chain, which writes its sketch one token at a time. The dashed lines are controls: the "
    "decoder given the gold sketch (a ceiling), another example's, or blank tokens. Where a shuffled "
    "sketch does as well as a drafted one, the decoder does not read its sketch."
)


def page(frontier: Frontier, path: str | Path) -> Path:
    """Write the page; where a trace's page lies beside it, it leads there."""
    beside = Path(path).with_name("trace.html")
    return write_atomically(path, html(frontier, beside.name if beside.is_file() else None).encode())


def html(frontier: Frontier, beside: str | None = None) -> str:
    """beside: file name of the page that plays traces, in the same folder."""
    rows = ordered(frontier.rows)
    examples = max((row.examples for row in rows), default=0)
    seed = f" · seed {frontier.seed}" if frontier.seed is not None else ""
    body = f"""<header>
<h1>{escape(frontier.task)}</h1>
<p class="under">{escape(frontier.split)} · {examples:,} examples{seed}</p>
<p class="guide">{escape(GUIDE)}</p>{link(beside, "Watch drafts being denoised")}
</header>
<section aria-label="Chart">
<div class="axes" role="group" aria-label="Cost on the horizontal axis">{_axis_buttons()}</div>
<div id="legend" class="legend" role="group" aria-label="Shown series"></div>
<div id="chart"></div>
<div id="tip" role="status" hidden></div>
<noscript><p>The chart needs JavaScript; the table below holds every figure.</p></noscript>
</section>
<section><h2>All rows</h2>
<p class="note">Press a heading to sort; rest on it to read what it means.</p>
{_slower(rows)}{_rows_table(rows)}</section>
{_answer_by_sketch(rows)}
<section><h2>Details</h2>
<dl>{_details(frontier)}</dl></section>"""
    data = {"frontier": frontier.plain(), "series": _chart(frontier)}
    return document(f"{frontier.task} · frontier", body, data, SCRIPT)


def _slower(rows: Sequence[Row]) -> str:
    return "".join(f'<p class="note">{escape(line[0].upper() + line[1:])}.</p>\n' for line in slower(rows))


def _chart(frontier: Frontier) -> dict[str, Any]:
    """What the script draws: per series its points, each with costs, accuracy and its tooltip."""
    lines = series(frontier)
    drawn = []
    for line in lines:
        points = [
            {
                "at": {name: point.mean(name) for name in AXES},
                "accuracy": point.mean("accuracy"),
                "low": point.low,
                "high": point.high,
                "tip": [_tip(row) for row in point.rows],
            }
            for point in line.points
        ]
        drawn.append({"label": line.label, "kind": line.kind, "points": points})
    return {"axes": AXES, "series": drawn}


def _tip(row: Row) -> list[list[str]]:
    low, high = 100 * row.accuracy_low, 100 * row.accuracy_high
    written = [_written("", tokens) or "–" for tokens in (row.sketch_tokens, row.answer_tokens)]
    tokens = None if row.sketch_tokens is None and row.answer_tokens is None else " + ".join(written)
    facts = {
        "answers right": f"{_percent(row.accuracy)}  [{low:.1f}–{high:.1f}]",
        "sketch exact": None if row.sketch_exact is None else _percent(row.sketch_exact),
        "steps": _written("steps", row.steps),
        "sequential forwards": _written("sequential_forwards", row.sequential_forwards),
        "tokens (sketch + answer)": tokens,
        "ms per example": _written("seconds_per_example", row.seconds_per_example),
        "positions": _written("positions", row.positions),
        "FLOPs": _written("flops", row.flops),
        "examples": f"{row.examples:,}",
        "seed": _written("seed", row.seed),
    }
    return [[name, value] for name, value in facts.items() if value]


def _axis_buttons() -> str:
    short = dict(
        sequential_forwards="sequential forwards",
        steps="steps",
        seconds_per_example="ms",
        positions="positions",
    )
    return "".join(
        f'<button type="button" data-axis="{name}" aria-pressed="{str(not i).lower()}" '
        f'title="{escape(FIELDS[name])}">{short.get(name, "FLOPs")}</button>'
        for i, name in enumerate(AXES)
    )


def _heading(name: str) -> str:
    return "ms per example" if name == "seconds_per_example" else name.replace("_", " ")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _written(name: str, value: Any) -> str:
    """A cell's text, in the units the headings name."""
    if value is None:
        return ""
    if isinstance(value, str | bool):
        return str(value)
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False)
    if name in SHARES:
        return _percent(value)
    if name == "seconds_per_example":
        return f"{1000 * value:.3g}" if value < 1 else f"{1000 * value:,.0f}"
    if name == "seed":
        return str(value)
    for scale, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"


def _rows_table(rows: Sequence[Row]) -> str:
    plain = [row.plain() for row in rows]
    every = dict.fromkeys(name for row in plain for name in row)
    names = [name for name in every if name != "table" and any(row.get(name) is not None for row in plain)]
    columns = [(name, _alignment(row.get(name) for row in plain)) for name in names]
    head = "".join(
        f'<th scope="col" aria-sort="none"{side}>'
        f'<button type="button" title="{escape(FIELDS.get(name, name))}"'
        f">{escape(_heading(name))}</button></th>"
        for name, side in columns
    )
    lines = ("".join(_cell(name, row.get(name), side) for name, side in columns) for row in plain)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="All rows"><table id="rows">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _alignment(values: Iterable[Any]) -> str:
    return ' class="number"' if all(_is_number(value) for value in values if value is not None) else ""


def _cell(name: str, value: Any, side: str) -> str:
    if _is_number(value):
        return f'<td{side} data-value="{value!r}">{escape(_written(name, value))}</td>'
    return f"<td{side}>{escape(_written(name, value)) or '<span class=none>–</span>'}</td>"


def _answer_by_sketch(rows: Sequence[Row]) -> str:
    judged = [row for row in rows if row.table is not None and row.method == "hybrid"]
    if not judged:
        return ""
    note = (
        "Examples by whether the answer and the sketch are right. Repairs: of the wrong sketches, the share "
        "still answered right. Ignores: of the right sketches, the share answered wrong."
    )
    cards = "\n".join(_card(row, rows) for row in judged)
    head = f'<h2>Answer × sketch</h2><p class="note">{note}</p>'
    return f'<section>{head}<div class="cards">{cards}</div></section>'


def _card(row: Row, rows: Sequence[Row]) -> str:
    counts = dict(row.table or {})
    total = sum(counts.values()) or 1
    cells = {
        name: f'<td class="heat{min(4, -(-5 * counts[name] // total) - 1) if counts[name] else 0}" '
        f'title="{_percent(counts[name] / total)}">{counts[name]:,}</td>'
        for name in TABLE
    }
    share = {"repairs": repairs(counts), "ignores": ignores(counts)}
    said = " · ".join(f"{name} {'–' if value is None else _percent(value)}" for name, value in share.items())
    caption = [row_label(row, rows) or TITLES.get(row.method, row.method)]
    caption += [] if row.steps is None else [f"{row.steps} step{'s' * (row.steps != 1)}"]
    head = "<tr><td></td><th scope=col>sketch right</th><th scope=col>sketch wrong</th></tr>"
    right = f"<tr><th scope=row>answer right</th>{cells[TABLE[0]]}{cells[TABLE[1]]}</tr>"
    wrong = f"<tr><th scope=row>answer wrong</th>{cells[TABLE[2]]}{cells[TABLE[3]]}</tr>"
    return (
        f'<table class="card"><caption>{escape(" · ".join(caption))}</caption><thead>{head}</thead>'
        f"<tbody>{right}{wrong}</tbody><tfoot><tr><td colspan=3>{said}</td></tr></tfoot></table>"
    )


def _details(frontier: Frontier) -> str:
    head = {"task": frontier.task, "split": frontier.split, "seed": frontier.seed, "schema": 1}
    return details({**head, "model": frontier.model, **frontier.extra})
