"""A hybrid's time beside its chain's, on a machine with nothing else to do: `python experiments/timing.py [RUN...]`.

The chain is the run's own trunk, which writes sketch and answer token by token. All ways answer the same problems at
batch 1, one problem after the other, so that a machine that turns slower does so for all of them. Each RUN is a folder
of experiments/weights, or of runs/frontier/TASK/METHOD (default: all weights that ship). The rows go to
experiments/frontier/timing.json, and from there by `python experiments/summary.py` to experiments/frontier/README.md.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from measured import in_words
from tables import timing_table
from tqdm import tqdm

from hybrid.build import ConfigError
from hybrid.diffusion.policy import Confidence, Threshold
from hybrid.diffusion.remask import Edit
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.evaluate import Evaluate, answer, ways
from hybrid.experiment import Experiment, check_run, load_reasoner, read_experiment
from hybrid.feed import Gold
from hybrid.frontier import write_atomically
from hybrid.reasoner import Reasoner

HERE = Path(__file__).parent
STORED = HERE / "frontier" / "timing.json"
LABELS = ("policy", "threshold", "setting", "steps")
ROUNDS, WARM_UP = 3, 2  # of which the fastest counts, so that what else the machine does counts least; problems
# What is timed of a task's method: the ways that frontier/README.md tells of.
SHARED = Evaluate(split="valid", batch=1, controls=())
DRAFTED = dataclasses.replace(SHARED, answers=("verify",))
WAYS: dict[tuple[str, str], tuple[Evaluate, ...]] = {
    ("mult_3x3", "hybrid"): (dataclasses.replace(SHARED, steps=(25,), policies=(Threshold(0.7),), verify=(0, 25)),),
    ("mult_3x3", "hybrid_verified"): (dataclasses.replace(DRAFTED, steps=(2,), policies=(Confidence(),)),),
    ("mult_4x4", "hybrid"): (
        dataclasses.replace(SHARED, steps=(8,), policies=(Confidence(),)),
        dataclasses.replace(SHARED, steps=(2,), policies=(Confidence(),), verify=(47,)),
    ),
    ("mult_4x4", "hybrid_verified_mostly_gold"): (
        dataclasses.replace(DRAFTED, steps=(47,), policies=(Edit(0.7, 0.7),)),
        dataclasses.replace(DRAFTED, steps=(47,), policies=(Threshold(0.9),), verify=(47,)),
    ),
    ("mult_4x4", "hybrid_verified_short"): (dataclasses.replace(DRAFTED, steps=(30,), policies=(Threshold(0.97),)),),
    ("prontoqa", "hybrid_verified"): (
        dataclasses.replace(SHARED, steps=(1,), policies=(Confidence(),), answers=("decode",)),
        dataclasses.replace(DRAFTED, steps=(12,), policies=(Threshold(0.99),)),
    ),
    ("sudoku_4x4", "hybrid_verified"): (dataclasses.replace(DRAFTED, steps=(20,), policies=(Threshold(0.997),)),),
}


def chain_of(reasoner: Reasoner, experiment: Experiment) -> Reasoner:
    """The same trunk as a chain: its causal predictions, which the drafter's loss trains too, write the sketch."""
    model = dataclasses.replace(experiment.model, drafter=Autoregressive(), feed=Gold(), canvas_holds="sketch")
    chain = Reasoner(model, reasoner.tokenizer)
    chain.load_state_dict(reasoner.state_dict())
    return chain.eval()


def timed(folder: Path, examples: int) -> list[dict[str, Any]]:
    """A row for the chain (its `way` is empty), and one for each way of the run's method.

    Raises:
        ConfigError: no run, or one of a method whose ways are not known here.
    """
    experiment = read_experiment(folder)
    task, method = named(folder)
    if (asked := WAYS.get((task, method))) is None:
        known = ", ".join("-".join(key) for key in WAYS)
        raise ConfigError(f"no ways to time of {task}-{method}; there are {known}", str(folder))
    reasoner, _ = load_reasoner(folder, experiment)
    chain = chain_of(reasoner, experiment)
    listed = [(chain, way) for way in ways(chain, SHARED)]
    listed += [(reasoner, way) for settings in asked for way in ways(reasoner, settings)]
    problems = experiment.examples("valid")[:examples]
    seconds: list[list[float]] = [[] for _ in listed]
    right, forwards = [0] * len(listed), [0.0] * len(listed)
    for at in tqdm(range(-WARM_UP, len(problems)), desc=f"{task} {method}", unit=" problems"):
        problem = problems[max(at, 0)]
        for i, (own, way) in enumerate(listed):
            results = [answer(own, way, [problem], problems, experiment.seed)[0][0] for _ in range(ROUNDS)]
            if at >= 0:
                seconds[i].append(min(result.spent["seconds"] for result in results))
                forwards[i] += results[0].spent["sequential_forwards"]
                right[i] += experiment.task.score(problem, results[0].sketch, results[0].answer).answer_correct
    return [
        {
            "task": task,
            "run": method,
            "way": "" if own is chain else in_words(*(way.labels[name] for name in LABELS)),
            "accuracy": right[i] / len(problems),
            "sequential_forwards": forwards[i] / len(problems),
            "ms": 1000 * fmean(seconds[i]),
            "of_the_chains_forwards": forwards[i] / forwards[0],
            "of_the_chains_time": fmean(seconds[i]) / fmean(seconds[0]),
            "problems": len(problems),
        }
        for i, (own, way) in enumerate(listed)
    ]


def named(folder: Path) -> tuple[str, str]:
    """Task and method of experiments/weights/TASK-METHOD, or of a run TASK/METHOD/seed_N."""
    if folder.name.startswith("seed_"):
        return folder.parent.parent.name, folder.parent.name
    task, _, method = folder.name.partition("-")
    return task, method


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--examples", type=int, default=50, help="validation problems of each run (default: 50)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else []
    try:
        for folder in options.runs or sorted(path for path in (HERE / "weights").iterdir() if path.is_dir()):
            check_run(folder)
            new = timed(folder.resolve(), options.examples)
            rows = [row for row in rows if (row["task"], row["run"]) != named(folder.resolve())] + new
            rows.sort(key=lambda row: list(WAYS).index((row["task"], row["run"])))
            write_atomically(STORED, (json.dumps(rows, indent=1) + "\n").encode())
    except ConfigError as error:
        print(f"timing: {error}", file=sys.stderr)
        return 2
    print(timing_table(STORED))
    return 0


if __name__ == "__main__":
    sys.exit(main())
