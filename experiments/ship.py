"""Put trained weights into the repository: `python experiments/ship.py TASK METHOD [--seed 0]`.

experiments/weights/TASK-METHOD becomes a run folder that `hybrid sample`, `hybrid evaluate` and `load_run` take as it
is: weights in bfloat16, the tokenizer, the config, and origin.json, which says where they come from and what they
scored. Its config names no data files, so `hybrid evaluate` uses problems that the task makes, which training never
saw; `data.test=FILE` names another file. For the figures to be those of the shipped weights, they are measured here,
after rounding.
"""

import argparse
import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

from measured import frontier_run
from safetensors.torch import load_file, save_file

from hybrid.build import plain
from hybrid.config import dump
from hybrid.evaluate import evaluate
from hybrid.experiment import CONFIG, TOKENIZER, TRAINED, WEIGHTS, load_reasoner, read_experiment
from hybrid.frontier import Frontier, write_atomically
from hybrid.tasks import Data

HERE = Path(__file__).parent
EXAMPLES = 500


def ship(source: Path, folder: Path, origin: dict[str, Any]) -> None:
    """Round, copy, measure on the experiment's own test and on made problems, and record."""
    experiment = read_experiment(source)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (TOKENIZER, TRAINED):
        write_atomically(folder / name, (source / name).read_bytes())
    save_file({k: v.bfloat16() for k, v in load_file(source / WEIGHTS).items()}, folder / WEIGHTS)
    without = dataclasses.replace(experiment, data=Data(), run=None)
    write_atomically(folder / CONFIG, dump(plain(without)).encode())

    reasoner, trained = load_reasoner(folder, without)
    settings = dataclasses.replace(experiment.evaluate, examples=EXAMPLES)
    figures = {}
    for name, one in {"files": experiment, "made": without}.items():
        if name == "files" and experiment.data.test is None:
            continue
        rows = one.examples("test")
        found = evaluate(reasoner, one.task, rows, settings, name=one.title, seed=one.seed, progress=False)
        figures[name] = _figures(found) | {"data": (one.data.test or "made by the task, data_seed 0")}
    record = origin | {"trained": trained, "figures": figures}
    write_atomically(folder / "origin.json", (json.dumps(record, indent=1) + "\n").encode())
    print(json.dumps(record, indent=1))


def _figures(frontier: Frontier) -> dict[str, Any]:
    names = ("method", "policy", "threshold", "setting", "steps", "accuracy", "sequential_forwards", "examples")
    rows = [{name: getattr(row, name) for name in names if getattr(row, name) is not None} for row in frontier.rows]
    return {"split": frontier.split, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("method")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run = frontier_run.Run(options.task, options.method, options.seed)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True).stdout
    origin = {"config": str(run.config), "overrides": run.overrides, "commit": commit.strip()}
    ship(frontier_run.ROOT / run.folder, HERE / "weights" / f"{options.task}-{options.method}", origin)


if __name__ == "__main__":
    main()
