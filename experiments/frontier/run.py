"""Train and evaluate methods on tasks, one after another, in the order of value.

    python experiments/frontier/run.py                        everything, goes on where it was stopped
    python experiments/frontier/run.py mult_3x3 --methods hybrid chain --seeds 0 1 2
    python experiments/frontier/run.py countdown_3 --dry      what would run, and what has been run
    python experiments/frontier/run.py -- train.compile=true  further settings of every training

A training that was interrupted goes on from its checkpoint, and what has results is skipped. Results are data: per
run the frontier on validation and on test, latency at batch 1, and accuracy over training positions.
"""

import argparse
import csv
import dataclasses
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid.bridge import Latent
from hybrid.cli import main as hybrid
from hybrid.drafters.diffusion import Diffusion
from hybrid.experiment import read_experiment
from hybrid.frontier import read, write_atomically
from hybrid.merging import merge
from hybrid.model import Model
from hybrid.train.run import is_trained

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

# Two networks of width 90 have the parameters of one of width 128 (within 1.1 %).
HALVES = ("model.pairing=separate", "model.backbone.width=90", "model.backbone.heads=3")
# Twice the layers at the width that keeps the parameters.
DEEP = ("model.backbone.layers=8", "model.backbone.width=90", "model.backbone.heads=3")
# Partial products without running sums.
SHORT = "task.style=products"
SHORT_CANVAS = {"mult_3x3": 18, "mult_4x4": 30}
# Where drafts come out exact the decoder may learn from gold sketches.
MOSTLY_GOLD = "model.feed={kind: mixture, gold: 0.7, drafted: 0.1, partial: 0.05, corrupted: 0.05, none: 0.1}"
# The answer is drafted behind the sketch, and verified by the decoder in one forward.
VERIFIED = ("model.canvas_holds=sketch+answer", "evaluate.answers=[verify,canvas]")
# Without self-conditioning masks carry nothing. Methods that have not been run again since the recipe has it name it.
BARE = "model.drafter.self_condition=0"
METHODS: dict[str, tuple[str, ...]] = {
    "hybrid": (),
    "chain": ("model.drafter=autoregressive", "model.feed=gold"),
    "direct": ("model.drafter=none", "model.feed=none"),
    "hybrid_verified": VERIFIED,
    "hybrid_separate": (*HALVES, BARE),
    "ar_drafter": (*HALVES, "model.drafter=autoregressive", "model.feed=gold"),
    "hybrid_verified_mostly_gold": (*VERIFIED, MOSTLY_GOLD),
    "hybrid_bare": (BARE,),
    "hybrid_verified_bare": (*VERIFIED, BARE),
    "hybrid_self_conditioned": ("model.drafter.self_condition=0.5",),
    "hybrid_block_4": ("model.drafter.attention_block=4", BARE),
    "hybrid_block_8": ("model.drafter.attention_block=8", BARE),
    "hybrid_short": (SHORT, MOSTLY_GOLD, BARE),
    "hybrid_verified_short": (SHORT, MOSTLY_GOLD, *VERIFIED, BARE),
    "chain_short": (SHORT, "model.drafter=autoregressive", "model.feed=gold"),
    # The survey's families (arXiv 2503.23077).
    "internalised": ("model.drafter={kind: internalised, after: 1000, over: 6000}", "model.feed=gold"),
    "pause": ("model.drafter=pause", "model.feed=pause"),
    "hybrid_latent": ("model.bridge={kind: latent, text: false}", BARE),
    "hybrid_deep": DEEP,
    "chain_deep": (*DEEP, "model.drafter=autoregressive", "model.feed=gold"),
}
FIRST, REST = ("hybrid", "chain", "direct"), ("hybrid_separate", "ar_drafter")
BLOCKS, DEEPER = ("hybrid_block_4", "hybrid_block_8"), ("hybrid_deep", "chain_deep")
SHORTER, FAMILIES = ("hybrid_short", "hybrid_verified_short", "chain_short"), ("internalised", "pause", "hybrid_latent")
MAIN = ("mult_3x3", "mult_4x4", "countdown_3", "prontoqa")
EXTRA = ("countdown_4", "gsm8k_equations", "addition", "sudoku_4x4")
# (tasks, methods, seeds) by falling value.
PLAN: list[tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]]] = [
    (MAIN, (*FIRST, "hybrid_verified"), (0,)),
    (EXTRA, FIRST, (0,)),
    (("sudoku_4x4",), ("hybrid_verified",), (0,)),
    (MAIN, REST, (0,)),
    (("prontoqa",), ("hybrid_self_conditioned",), (0,)),
    (("mult_3x3",), BLOCKS, (0,)),
    (("mult_3x3", "mult_4x4"), SHORTER, (0,)),
    (("mult_4x4",), ("hybrid_verified_mostly_gold",), (0, 1, 2)),
    (("mult_3x3",), FAMILIES, (0,)),
    (("mult_3x3",), DEEPER, (0,)),
    (("sudoku_4x4",), ("hybrid_verified", "chain"), (1, 2)),
    (MAIN, (*FIRST, "hybrid_verified", *REST), (1, 2)),
    (("mult_3x3", "mult_4x4", "countdown_3"), ("hybrid_bare",), (0, 1, 2)),
    (("mult_3x3", "mult_4x4"), ("hybrid_verified_bare",), (0, 1, 2)),
    (("mult_4x4",), SHORTER, (1, 2)),
]
EVALUATIONS = {
    "valid": ["evaluate.split=valid", "--examples", "200"],
    "test": [],
    "latency": ["evaluate.split=valid", "--examples", "10", "--batch", "1", "--controls", ""],
}
# Where a policy ends by itself, it is asked at the whole canvas alone.
THRESHOLDS = ",".join(f"{{kind: threshold, threshold: {t}}}" for t in (0.7, 0.9, 0.97, 0.99, 0.997))
EDITS = ",".join(f"{{kind: edit, threshold: {t}, edit: {t}}}" for t in (0.5, 0.7, 0.9, 0.99))


@dataclass(frozen=True)
class Run:
    """One method on one task under one seed."""

    task: str
    method: str
    seed: int

    @property
    def config(self) -> Path:
        return (HERE / f"{self.task}.yaml").relative_to(ROOT)

    @property
    def overrides(self) -> list[str]:
        own = METHODS[self.method]
        canvas = [f"model.canvas={SHORT_CANVAS[self.task]}"] if SHORT in own else []
        return [*own, *canvas, f"seed={self.seed}"]

    @property
    def folder(self) -> Path:
        return Path("runs", "frontier", self.task, self.method, f"seed_{self.seed}")

    @property
    def results(self) -> Path:
        return HERE / "results" / self.task / self.method / f"seed_{self.seed}"

    def missing(self) -> list[str]:
        """Evaluations that have no result yet."""
        return [name for name in EVALUATIONS if not (self.results / f"{name}.json").is_file()]

    def go(self, settings: Sequence[str]) -> None:
        """Train, then evaluate what is missing."""
        if not (missing := self.missing()):
            return
        wanted = read_experiment(ROOT / self.config, [*self.overrides, *settings])
        if not is_trained(ROOT / self.folder, wanted):
            _hybrid("train", str(self.config), *self.overrides, *settings, f"run={self.folder}")
        for name in missing:
            self._evaluate(name)
        write_atomically(self.results / "curve.csv", _validations(ROOT / self.folder / "logs" / "metrics.csv").encode())

    def _evaluate(self, name: str) -> None:
        """One evaluation, in all ways: merged into one result."""
        parts = evaluations(name, read_experiment(ROOT / self.folder).model)
        for part, options in parts.items():
            _hybrid("evaluate", str(self.folder), *options, "--out", str(self.folder / part))
        whole = merge([read(ROOT / self.folder / part / "frontier.json") for part in parts])
        config = read(ROOT / self.folder / name / "frontier.json").extra["config"]
        whole = dataclasses.replace(whole, extra=whole.extra | {"config": config})
        write_atomically(self.results / f"{name}.json", portable(whole.json()).encode())


def evaluations(name: str, model: Model) -> dict[str, list[str]]:
    """An evaluation in parts: budgets under the recipe's policies, what ends by itself, verified drafts."""
    parts = {name: EVALUATIONS[name]}
    if not isinstance(model.drafter, Diffusion):
        return parts
    plain = [*EVALUATIONS[name], "--controls", ""]
    whole = ["--steps", str(model.canvas), "--policies"]
    parts[f"{name}_thresholds"] = [*plain, *whole, THRESHOLDS]
    parts[f"{name}_edits"] = [*plain, *whole, EDITS]
    if isinstance(model.bridge, Latent):  # reads states over the draft itself
        return parts
    verified = [*plain, "--verify", str(model.canvas), *(["--answers", "verify"] * bool(model.answer_room))]
    least = model.drafter.least_steps(model.positions)  # one a block
    few = sorted({max(steps, least) for steps in (1, 2, 4)})
    parts[f"{name}_speculative"] = [*verified, *whole, THRESHOLDS]
    parts[f"{name}_speculative_steps"] = [*verified, "--steps", ",".join(map(str, few))]
    return parts


def portable(text: str) -> str:
    """Paths of data as whoever has it in ./data writes them: results name no folder of whoever made them."""
    folder = os.environ.get("HYBRID_DATA", "").rstrip("/")
    return text.replace(folder, "data") if folder else text


def planned(tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> Iterator[Run]:
    """The plan's runs; of some tasks, methods or seeds, in the order they are named, and first those of the plan."""
    listed = sorted((Run(t, m, s) for ts, ms, ss in PLAN for s in ss for t in ts for m in ms), key=lambda r: r.seed)
    for wanted, name in ((seeds, "seed"), (tasks, "task"), (methods, "method")):
        if wanted:
            listed = [run for value in wanted for run in listed if getattr(run, name) == value]
    yield from listed
    if tasks and methods:
        asked = [Run(t, m, s) for m in methods for t in tasks for s in seeds or (0,)]
        yield from (run for run in asked if run not in listed)


def _validations(curve: Path) -> str:
    """The rows of a learning curve that hold a validation, and their columns."""
    with open(curve, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("valid/positions")]
    names = ["step", *sorted(name for name in rows[0] if name.startswith("valid/"))]
    return "".join(",".join(line) + "\n" for line in [names, *([row[name] for name in names] for row in rows)])


def _hybrid(*words: str) -> None:
    """A command of ours, in this process: importing all that it needs takes longer than a short one."""
    print("$ hybrid " + shlex.join(words), flush=True)
    if status := hybrid([*words, "--no-progress"]):
        sys.exit(status)


def main() -> None:
    known = sorted(
        str(file.relative_to(HERE).with_suffix("")) for file in HERE.rglob("*.yaml") if file.stem != "recipe"
    )
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(known))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[])
    parser.add_argument("--dry", action="store_true", help="list the runs, and run nothing")
    os.chdir(ROOT)
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    options, settings = parser.parse_args(words[:at]), words[at + 1 :]
    if wrong := [task for task in options.tasks if task not in known]:
        parser.error(f"{wrong[0]}: no such task; known: {', '.join(known)}")
    short = [method for method in options.methods if SHORT in METHODS[method]]
    if short and (wrong := [task for task in options.tasks if task not in SHORT_CANVAS]):
        parser.error(f"{wrong[0]}: {short[0]} is for tasks with a shorter sketch: {', '.join(SHORT_CANVAS)}")
    for run in planned(options.tasks, options.methods, options.seeds):
        if options.dry:
            absent = run.missing()
            said = "not run" if len(absent) == len(EVALUATIONS) else f"lacks {', '.join(absent)}"
            print(run.task, run.method, f"seed {run.seed}:", said if absent else "has results")
        else:
            run.go(settings)


if __name__ == "__main__":
    main()
