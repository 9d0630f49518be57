"""What is stored of the runs, and what is said of it: read, checked, chosen on validation, reported on test."""

import csv
import importlib.util
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from picture import Panel

from hybrid.build import ConfigError, build, plain
from hybrid.config import FREE_TO_CHANGE, differences
from hybrid.experiment import Experiment, read_experiment
from hybrid.frontier import CONTROLS, Frontier, Row, read
from hybrid.metrics import wilson

HERE = Path(__file__).parent
APART = ("diffusion", "speculative", *CONTROLS)  # rows of a hybrid's results that are no plain hybrid's
# What is told of a method, and which rows that leaves out.
KINDS = {"": APART, ", sketch verified": ("diffusion", "hybrid", *CONTROLS)}
RATIOS = {"": float("inf"), " at 1/2": 1 / 2, " at 1/4": 1 / 4, " at 1/8": 1 / 8}


def _module(name: str, path: Path) -> Any:
    """A module by its file: experiments are no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


frontier_run = _module("frontier_run", HERE / "frontier" / "run.py")


@dataclass(frozen=True)
class Measured:
    """What is stored of one run. latency: None where it is not measured."""

    seed: int
    valid: Frontier
    test: Frontier
    latency: Frontier | None
    curve: Path


Way = tuple[Any, ...]


def way_of(row: Row) -> Way:
    """What tells a run's rows apart."""
    drafted = (row.drafts, row.answer) if row.policy else (None, None)
    return row.method, row.policy, row.threshold, row.setting, *drafted, row.steps


def measured(results: Path) -> dict[tuple[str, str], list[Measured]]:
    """The runs that have results, by task and method, tasks in the order of the plan.

    Raises:
        ConfigError: a file of another schema, or of another config than the experiment's own.
    """
    found: dict[tuple[str, str], list[Measured]] = {}
    for folder in sorted(results.rglob("seed_*")):
        task, method = folder.parents[1].relative_to(results).as_posix(), folder.parent.name
        seed = int(folder.name.removeprefix("seed_"))
        run = frontier_run.Run(task, method, seed)
        files = {name: folder / f"{name}.json" for name in frontier_run.EVALUATIONS}
        kept = {name: checked(file, run) if file.is_file() else None for name, file in files.items()}
        if kept["valid"] and kept["test"]:
            found.setdefault((task, method), []).append(Measured(seed, **kept, curve=folder / "curve.csv"))
    known = (*frontier_run.MAIN, *frontier_run.EXTRA)
    return dict(sorted(found.items(), key=lambda item: known.index(item[0][0]) if item[0][0] in known else len(known)))


def checked(file: Path, run: Any) -> Frontier:
    """A result, which must come from the run's config. Settings that are newer than it stand at their defaults."""
    try:
        frontier = read(file)
    except ValueError as error:
        raise ConfigError(error) from None
    if (config := frontier.extra.get("config")) is None:
        raise ConfigError("a result without the config that it came from; evaluate the run again", str(file))
    try:
        kept = plain(build(Experiment, config))
    except ConfigError as error:
        raise ConfigError(f"its config is none of today's: {error}", str(file)) from None
    wanted = plain(read_experiment(frontier_run.ROOT / run.config, run.overrides))
    found = differences(kept, json.loads(frontier_run.portable(json.dumps(wanted))))
    if other := {key: values for key, values in found.items() if not key.startswith(FREE_TO_CHANGE)}:
        said = "; ".join(f"{key}: {old} there, {new} in {run.config}" for key, (old, new) in list(other.items())[:3])
        raise ConfigError(f"result of another config ({said}); evaluate the run again", str(file))
    return frontier


def kinds_of(method: str, runs: Sequence[Measured]) -> dict[str, tuple[str, ...]]:
    """What is told of a method, of verified drafts only where there are some."""
    has_verified = method.startswith("hybrid") and any(row.method == "speculative" for row in runs[0].valid.rows)
    return KINDS if has_verified else {"": APART}


def mean(rows: Iterable[Row], name: str) -> float | None:
    values = [getattr(row, name) for row in rows]
    return None if not values or None in values else fmean(values)


def rows_of(frontiers: Sequence[Frontier], way: Way) -> list[Row]:
    """The row of that way in each, or none where some lack it."""
    found = [next((row for row in frontier.rows if way_of(row) == way), None) for frontier in frontiers]
    return [row for row in found if row is not None] if None not in found else []


def chosen(
    runs: Sequence[Measured], limit: float, figure: str = "accuracy", apart: tuple[str, ...] = APART
) -> Way | None:
    """The way that is best on validation, mean over seeds, in at most `limit` forwards; of equals the cheapest.

    apart: rows of these methods are not asked.
    """
    best: tuple[float, float] | None = None
    taken = None
    for way in dict.fromkeys(way_of(row) for row in runs[0].valid.rows if row.method not in apart):
        rows = rows_of([run.valid for run in runs], way)
        quality, cost = mean(rows, figure), mean(rows, "sequential_forwards")
        is_tested = bool(rows_of([run.test for run in runs], way))
        if quality is None or cost is None or cost > limit or not is_tested:
            continue
        if best is None or (quality, -cost) > best:
            best, taken = (quality, -cost), way
    return taken


@dataclass(frozen=True)
class Entry:
    """A line of the summary. way: as words; share: of the chain's sequential forwards."""

    task: str
    method: str
    runs: Sequence[Measured]
    way: Way
    figure: str = "accuracy"
    share: float | None = None

    def plain(self) -> dict[str, Any]:
        tests = rows_of([run.test for run in self.runs], self.way)
        measured = [run.latency for run in self.runs if run.latency is not None]
        timed = rows_of(measured, self.way) if len(measured) == len(self.runs) else []
        n = sum(row.examples for row in tests)
        right = sum(getattr(row, self.figure) * row.examples for row in tests)
        low, high = wilson(right, n)
        is_draft = self.figure == "draft_accuracy"
        tokens = [mean(tests, name) or 0.0 for name in ("sketch_tokens", "answer_tokens")]
        return {
            "task": self.task,
            "method": self.method,
            "seeds": [run.seed for run in self.runs],
            "accuracy": right / n,
            "accuracy_low": low,
            "accuracy_high": high,
            "sequential_forwards": mean(tests, "denoiser_forwards" if is_draft else "sequential_forwards"),
            "tokens": tokens[0] if is_draft else sum(tokens),
            "seconds_per_example_b1": None if is_draft else mean(timed, "seconds_per_example"),
            "parameters": mean(tests, "parameters"),
            "training_positions": mean(tests, "training_positions"),
        }

    def said(self) -> str:
        """The way in words."""
        _, policy, threshold, setting, _, _, steps = self.way
        return in_words(policy, threshold, setting, steps)


def in_words(policy: str | None, threshold: float | None, setting: str | None, steps: int | None) -> str:
    """A way of drafting, as tables tell of it."""
    if steps == 0:
        return "no sketch"
    parts = [policy, None if threshold is None else f"{threshold:g}", setting]
    return " ".join(str(p) for p in parts if p) + ("" if steps is None else f" in {steps} steps")


def entries(found: dict[tuple[str, str], list[Measured]]) -> list[Entry]:
    """All lines: per task each method, the hybrids within shares of the chain's forwards, and the controls."""
    listed = []
    for task in dict.fromkeys(task for task, _ in found):
        chain = chain_forwards(found, task)
        for method in frontier_run.METHODS:
            runs = found.get((task, method), [])
            if not runs:
                continue
            is_hybrid = method.startswith("hybrid")
            for kind, apart in kinds_of(method, runs).items():
                ways: list[Way] = []
                for name, ratio in RATIOS.items():
                    limit = float("inf") if ratio == float("inf") else ratio * (chain or 0.0)
                    way = chosen(runs, limit, apart=apart)
                    if way is not None and way not in ways:  # the best of all is often the best within a share, too
                        listed.append(Entry(task, method + kind + name, runs, way, share=ratio))
                        ways.append(way)
            is_verified = method.startswith("hybrid_verified")
            if is_verified and (way := chosen(runs, float("inf"), apart=("hybrid", "speculative", *CONTROLS))):
                listed.append(Entry(task, method.replace("hybrid_verified", "diffusion"), runs, way))
            if is_hybrid and (way := chosen(runs, float("inf"), "draft_accuracy")) is not None:
                listed.append(Entry(task, f"{method}, draft alone", runs, way, "draft_accuracy"))
        if runs := found.get((task, "hybrid"), []):
            ways = dict.fromkeys(way_of(row) for row in runs[0].test.rows if row.method in CONTROLS)
            listed += [Entry(task, f"control: {way[0]}", runs, way) for way in ways]
    return listed


def chain_forwards(found: dict[tuple[str, str], list[Measured]], task: str, method: str = "chain") -> float | None:
    """On validation, mean over seeds; None where the chain was not run."""
    rows = [row for run in found.get((task, method), []) for row in run.valid.rows if row.method == "chain"]
    return mean(rows, "sequential_forwards")


def panels(found: dict[tuple[str, str], list[Measured]]) -> list[Any]:
    """What the picture shows of each task: of every method the best way within every budget, chosen on validation. The
    survey's families have a table instead."""
    shown = []
    for task in dict.fromkeys(task for task, _ in found):
        costs, growth = {}, {}
        for method in frontier_run.METHODS:
            if method in frontier_run.FAMILIES or not (runs := found.get((task, method))):
                continue
            for kind, apart in kinds_of(method, runs).items():
                limits = {row.sequential_forwards for run in runs for row in run.valid.rows if row.method not in apart}
                ways = dict.fromkeys(chosen(runs, limit, apart=apart) for limit in sorted(limits))
                if tests := [rows_of([run.test for run in runs], way) for way in ways if way is not None]:
                    costs[method + kind] = sorted((mean(t, "sequential_forwards"), mean(t, "accuracy")) for t in tests)
            growth[method] = [_growth(run.curve) for run in runs if run.curve.is_file()]
        hybrid = found.get((task, "hybrid"), [])
        named = dict.fromkeys(row.method for run in hybrid for row in run.test.rows if row.method in CONTROLS)
        levels = {n: mean([r for run in hybrid for r in run.test.rows if r.method == n], "accuracy") for n in named}
        shown.append(Panel(task, costs, growth, levels))
    return shown


def _growth(curve: Path) -> list[tuple[float, float]]:
    """(positions, accuracy at the whole budget) of every validation."""
    with open(curve, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    budgets = {name.removeprefix("valid/accuracy").strip("_"): name for name in rows[0] if "/accuracy" in name}
    name = budgets[max(budgets, key=lambda budget: int(budget or 0))]
    return [(float(row["valid/positions"]), float(row[name])) for row in rows]
