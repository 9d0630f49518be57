"""The tables of the pages, as Markdown."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from goals import Goal
from measured import RATIOS, Entry, Measured, frontier_run, mean, rows_of

from hybrid.build import ConfigError
from hybrid.frontier import Row, read, write_atomically
from hybrid.report_series import ordered, row_label

NOT_RUN = "not run"
# Methods of the frontier by the survey's families (arXiv 2503.23077): what their sketch is.
FAMILIES = {
    "chain": ("none: token by token", "partial products and running sums"),
    "chain_short": ("explicit, compact", "partial products alone"),
    "direct": ("implicit", "none"),
    "pause": ("implicit: contemplation tokens", "blanks, as many as the chain's tokens"),
    "internalised": ("implicit: internalised step by step", "the chain's in training, ever less of it"),
    "hybrid_latent": ("implicit: latent embeddings", "drafted like the chain's, read as hidden states"),
    "hybrid": ("hybrid diffusion–autoregressive", "drafted like the chain's"),
    "hybrid_short": ("hybrid diffusion–autoregressive", "drafted like the short chain's"),
    "hybrid_verified": ("hybrid diffusion–autoregressive", "drafted like the chain's, and the answer with it"),
    "hybrid_verified_short": (
        "hybrid diffusion–autoregressive",
        "drafted like the short chain's, and the answer with it",
    ),
}
# Methods of experiments/families, on a task that needs no sketch.
ADDITION = {
    "long_chain": ("none: token by token", "chain of every intermediate state"),
    "chain": ("explicit, compact", "chain of a digit and a carry a line"),
    "short_chain": ("explicit, compact", "chain of the sum's digits, backwards"),
    "direct": ("implicit", "none"),
    "pause": ("implicit: contemplation tokens", "blanks as long as the chain's sketch"),
    "hybrid_latent": ("implicit: latent embeddings", "drafted like the chain's, read as hidden states"),
    "hybrid_long": ("hybrid diffusion–autoregressive", "drafted like the long chain's"),
    "hybrid": ("hybrid diffusion–autoregressive", "drafted like the chain's"),
    "hybrid_short": ("hybrid diffusion–autoregressive", "drafted like the short chain's"),
    "hybrid_verified": ("hybrid diffusion–autoregressive", "drafted like the chain's, and the answer with it"),
}
COSTS = ["sequential forwards", "tokens", "million operations", "ms at batch 1", "million training positions"]


def steps_table(found: dict[tuple[str, str], list[Measured]]) -> str:
    """How many denoising steps fit in each share of the chain's forwards.

    A hybrid spends its steps and one for each token of the answer; where the answer is drafted too and verified in one
    forward, its steps and one.
    """
    shares = [ratio for ratio in RATIOS.values() if ratio < 1]
    heads = ["task", "sketch", "answer", "chain's forwards", *(f"{share:g}" for share in shares)]
    heads += [f"{share:g}, answer verified" for share in shares]
    lines = []
    for task in dict.fromkeys(task for task, _ in found):
        rows = [row for run in found.get((task, "chain"), []) for row in run.valid.rows if row.method == "chain"]
        if not rows:
            lines.append([task, *[NOT_RUN] * (len(heads) - 1)])
            continue
        sketch, answer, chain = (mean(rows, n) or 0.0 for n in ("gold_length", "answer_tokens", "sequential_forwards"))
        allowed = [int(share * chain - own) for own in (answer, 1.0) for share in shares]
        numbers = [f"{x:.1f}" for x in (sketch, answer, chain)]
        lines.append([task, *numbers, *(str(n) if n > 0 else "–" for n in allowed)])
    return markdown(heads, lines)


def goals_table(listed: Sequence[Goal]) -> str:
    """Every goal, the best hybrid within its share of the forwards, and what it lacks."""
    heads = [
        "task", "forwards at most", "best hybrid on validation", "seeds", "accuracy %", "chain's (seeds)",
        "direct's", "of the chain's forwards", "of its time", "missed by",
    ]  # fmt: skip
    lines = []
    for goal in listed:
        chain, best = goal.chain.plain(), None if goal.best is None else goal.best.plain()
        direct, seconds = None if goal.direct is None else goal.direct.plain(), goal.seconds()
        line = [goal.task, f"{goal.share:g}", *["–"] * 3]
        forwards = None
        if goal.best is not None and best is not None:
            line[2:] = [goal.best.method, ", ".join(map(str, best["seeds"])), f"{100 * best['accuracy']:.1f}"]
            forwards = best["sequential_forwards"] / chain["sequential_forwards"]
        line.append(f"{100 * chain['accuracy']:.1f} ({', '.join(map(str, chain['seeds']))})")
        line.append("–" if direct is None else f"{100 * direct['accuracy']:.1f}")
        line += ["–" if share is None else f"{share:.2f}" for share in (forwards, seconds)]
        lines.append([*line, "; ".join(goal.missed()) or "**met**"])
    return markdown(heads, lines)


def summary_table(listed: Sequence[Entry]) -> str:
    heads = [
        "task", "method", "seeds", "accuracy %", "sequential forwards", "of the chain's", "tokens", "ms at batch 1",
        "million positions", "way, chosen on validation",
    ]  # fmt: skip
    lines: list[list[str]] = []
    for task in dict.fromkeys([*frontier_run.MAIN, *frontier_run.EXTRA, *(entry.task for entry in listed)]):
        own = [entry for entry in listed if entry.task == task]
        chain = next((e.plain()["sequential_forwards"] for e in own if e.method == "chain"), None)
        lines += [_line(entry, chain) for entry in own]
        planned = dict.fromkeys(run.method for run in frontier_run.planned([task], [], [0]))
        absent = [method for method in planned if method not in {entry.method for entry in own}]
        lines += [[task, method, NOT_RUN, *[""] * (len(heads) - 3)] for method in absent]
    return markdown(heads, lines)


def _line(entry: Entry, chain: float | None) -> list[str]:
    p = entry.plain()
    seconds, cost = p["seconds_per_example_b1"], p["sequential_forwards"]
    return [
        entry.task,
        entry.method,
        ", ".join(map(str, p["seeds"])),
        _accuracy(p),
        f"{cost:.1f}",
        "–" if chain is None else f"{cost / chain:.2f}",
        f"{p['tokens']:.1f}",
        "–" if seconds is None else f"{1000 * seconds:.1f}",
        f"{p['training_positions'] / 1e6:.1f}",
        entry.said(),
    ]


def learning_table(results: Path) -> str:
    """Variants of one task: their last run's steps, all positions, the bound on validation, accuracy by budget."""
    lines, heads = [], ["variant", "steps", "million positions", "sketch bound", "answer, gold sketch"]
    runs = {folder.name: read(folder / "frontier.json") for folder in results.glob("*") if folder.is_dir()}
    budgets = sorted({row.steps for run in runs.values() for row in run.rows if row.steps is not None})
    for name, run in runs.items():
        with open(results / name / "curve.csv", encoding="utf-8", newline="") as file:
            last = [row for row in csv.DictReader(file) if row.get("valid/bound")][-1]
        found = {row.steps: f"{100 * row.accuracy:.1f}" for row in run.rows if row.method == "hybrid"}
        costs = [f"{float(last[f'valid/{part}']):.3f}" for part in ("bound", "answer_gold")]
        line = [name, last["step"], f"{(run.rows[0].training_positions or 0.0) / 1e6:.1f}", *costs]
        lines.append([*line, *(found.get(budget, "–") for budget in budgets)])
    if not lines:
        return "**Not run.**"
    lines.sort(key=lambda line: (line[0] != "recipe", float(line[3])))
    return markdown([*heads, *(f"{budget} steps" for budget in budgets)], lines)


def policies_table(file: Path) -> str:
    """One line per way of drafting: answers right, and sketches written exactly, by steps."""
    rows = [row for row in ordered(read(file).rows) if row.steps]
    budgets = sorted({row.steps or 0 for row in rows})
    ways: dict[str, dict[int, Row]] = {}
    for row in rows:
        name = row_label(row, rows) + ", answer read off the canvas" * (row.method == "diffusion")
        ways.setdefault(name, {})[row.steps or 0] = row
    lines = []
    for name, by in ways.items():
        told = {n: f"{100 * row.accuracy:.1f} ({100 * (row.sketch_exact or 0):.1f})" for n, row in by.items()}
        lines.append([name, *(told.get(n, "–") for n in budgets), f"{by[max(by)].sequential_forwards:.1f}"])
    return markdown(["way", *(f"{n} steps" if n > 1 else "1 step" for n in budgets), "forwards in the last"], lines)


def families_table(listed: Sequence[Entry]) -> str:
    """One line per method of 3×3 multiplication, in its best way."""
    found = {entry.method: entry for entry in listed if entry.task == "mult_3x3"}
    lines = []
    for name, (family, sketch) in FAMILIES.items():
        if (entry := found.get(name)) is None:
            lines.append([family, name, sketch, NOT_RUN, *[""] * (len(COSTS) + 1)])
            continue
        p = entry.plain()
        flops = mean(rows_of([run.test for run in entry.runs], entry.way), "flops") or 0.0
        seconds = p["seconds_per_example_b1"]
        costs = [p["sequential_forwards"], p["tokens"], flops / 1e6]
        told = [f"{cost:.1f}" for cost in costs] + ["–" if seconds is None else f"{1e3 * seconds:.1f}"]
        told.append(f"{p['training_positions'] / 1e6:.1f}")
        lines.append([family, name, sketch, ", ".join(map(str, p["seeds"])), _accuracy(p), *told])
    return markdown(["family", "method", "the sketch", "seeds", "accuracy %", *COSTS], lines)


def addition_table(results: Path) -> str:
    """One line per method, in its one way: drafts commit at a threshold of 0.9."""
    lines = []
    for name, (family, sketch) in ADDITION.items():
        if not (file := results / name / "frontier.json").is_file():
            lines.append([family, name, sketch, NOT_RUN, *[""] * len(COSTS)])
            continue
        (row,) = read(file).rows
        costs = [row.sequential_forwards, row.sketch_tokens + row.answer_tokens, row.flops / 1e6]
        costs += [1e3 * row.seconds_per_example, (row.training_positions or 0.0) / 1e6]
        lines.append([family, name, sketch, _accuracy(vars(row)), *(f"{cost:.1f}" for cost in costs)])
    return markdown(["family", "method", "the sketch", "accuracy %", *COSTS], lines)


def _accuracy(told: Mapping[str, Any]) -> str:
    """In percent, with its interval."""
    share, low, high = (100 * told[name] for name in ("accuracy", "accuracy_low", "accuracy_high"))
    return f"{share:.1f} [{low:.1f}, {high:.1f}]"


def corrupted_table(results: Path) -> str:
    """Accuracy of the decoder on gold sketches of which some tokens are wrong, by what they are."""
    heads, lines = ["task", "corrupted"], []
    runs = {folder: read(folder / "corrupted.json") for folder in sorted(results.glob("*/hybrid/seed_0"))
            if (folder / "corrupted.json").is_file()}  # fmt: skip
    counts = list(dict.fromkeys(row.setting or "" for run in runs.values() for row in run.rows))
    for run in runs.values():
        for name in dict.fromkeys(row.method for row in run.rows):
            found = {row.setting: f"{100 * row.accuracy:.1f}" for row in run.rows if row.method == name}
            what = name.removeprefix("gold, ").removesuffix(" corrupted")
            lines.append([run.task, what, *(found.get(count, "–") for count in counts)])
    return markdown([*heads, *counts], lines) if lines else "**Not run.**"


def timing_table(file: Path) -> str:
    """Ways of drafting beside the chain that the same trunk writes (experiments/timing.py)."""
    if not file.is_file():
        return "**Not run.**"
    heads = ["task", "run", "way", "answers right, %", "forwards", "ms", "of the chain's forwards", "of its time"]
    lines = []
    for row in json.loads(file.read_text(encoding="utf-8")):
        costs = [f"{100 * row['accuracy']:.0f}", f"{row['sequential_forwards']:.1f}", f"{row['ms']:.1f}"]
        shares = [f"{row[name]:.2f}" if row["way"] else "" for name in ("of_the_chains_forwards", "of_the_chains_time")]
        lines.append([row["task"], row["run"], row["way"] or "chain", *costs, *shares])
    return markdown(heads, lines)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def put(file: Path, tables: dict[str, str]) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- end name -->`."""
    text = file.read_text(encoding="utf-8")
    for name, table in tables.items():
        head, opened, rest = text.partition(f"<!-- {name} -->")
        _, closed, tail = rest.partition(f"<!-- end {name} -->")
        if not opened or not closed:
            raise ConfigError(f"no place for the table {name}: <!-- {name} --> ... <!-- end {name} -->", str(file))
        text = f"{head}{opened}\n{table}\n{closed}{tail}"
    write_atomically(file, text.encode())
