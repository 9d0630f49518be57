"""Put trained weights into the repository: `python experiments/ship.py TASK METHOD [--seed 0]`.

experiments/weights/TASK-METHOD becomes a run folder that `hybrid sample`, `hybrid evaluate` and `load_run` take as it
is: weights, tokenizer, config, and origin.json, which says where they come from and what they scored: on the
experiment's own test, as its stored results say, and on problems that the task makes and training never saw, as
measured here. The config names no data files, so `hybrid evaluate` uses those; `data.test=FILE` names another file.
"""

import argparse
import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

from measured import frontier_run

from hybrid.build import plain
from hybrid.config import dump
from hybrid.diffusion.policy import Policy, Threshold
from hybrid.evaluate import evaluate
from hybrid.experiment import CONFIG, TOKENIZER, TRAINED, WEIGHTS, load_reasoner, read_experiment
from hybrid.frontier import Frontier, read, write_atomically
from hybrid.tasks import Data

HERE = Path(__file__).parent
EXAMPLES = 100
POLICIES: tuple[Policy, ...] = (Threshold(0.9),)


def ship(source: Path, folder: Path, tested: Frontier, origin: dict[str, Any]) -> None:
    """Copy, measure on made problems, and record."""
    experiment = read_experiment(source)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, TOKENIZER, TRAINED):
        write_atomically(folder / name, (source / name).read_bytes())
    without = dataclasses.replace(experiment, data=Data(), run=None)
    write_atomically(folder / CONFIG, dump(plain(without)).encode())

    reasoner, trained = load_reasoner(folder, without)
    canvas = without.model.canvas
    settings = dataclasses.replace(
        without.evaluate,
        examples=EXAMPLES,
        policies=POLICIES,
        steps=(canvas // 4, canvas),
        controls=(),
        verify=(0, canvas),
    )
    made = evaluate(
        reasoner,
        without.task,
        without.examples("test"),
        settings,
        name=without.title,
        seed=without.seed,
        progress=False,
    )
    figures = {"files": _figures(tested) | {"data": experiment.data.test}, "made": _figures(made)}
    record = origin | {"trained": trained, "figures": figures}
    write_atomically(folder / "origin.json", (json.dumps(record, indent=1) + "\n").encode())
    print(json.dumps(record["figures"]["made"], indent=1))


def _figures(frontier: Frontier) -> dict[str, Any]:
    way = ("method", "policy", "threshold", "setting", "answer", "steps")
    names = (*way, "accuracy", "sequential_forwards", "examples")
    rows = [{name: getattr(row, name) for name in names if getattr(row, name) is not None} for row in frontier.rows]
    return {"split": frontier.split, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", default="HEAD", help="of the training")
    options = parser.parse_args()
    run = frontier_run.Run(options.task, options.method, options.seed)
    asked = ["git", "rev-parse", options.commit]
    commit = subprocess.run(asked, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    origin = {"config": str(run.config), "overrides": run.overrides, "commit": commit}
    tested = read(run.results / "test.json")
    ship(frontier_run.ROOT / run.folder, HERE / "weights" / f"{options.task}-{options.method}", tested, origin)


if __name__ == "__main__":
    main()
