"""What of the sketch the decoder uses: `python experiments/frontier/corrupted.py TASK [METHOD] [--seed 0]`.

The gold sketch with some of its values replaced (digits by other digits), against as many tokens of its structure
(operators, brackets, separators by one another). The decoder that answers is the trained run's own; the result lies
beside the run's others, as corrupted.json.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hybrid.build import plain
from hybrid.diffusion import noise as streams
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import commit_top
from hybrid.drafters.controls import GoldSketch
from hybrid.evaluate import spent_of
from hybrid.experiment import load_reasoner, read_experiment
from hybrid.frontier import Frontier, Row, write_atomically
from hybrid.metrics import Tally
from hybrid.reasoner import Reasoner
from hybrid.tasks import collate

sys.path.append(str(Path(__file__).parent))
from run import ROOT, Run, portable  # noqa: E402

COUNTS, BATCH = (1, 2, 4, 8), 50


def classes(reasoner: Reasoner, sketches: Int[Tensor, "b l"]) -> dict[str, Int[Tensor, "n"]]:
    """The tokens of each class that occur in sketches."""
    special, names = reasoner.special, reasoner.tokenizer.names
    used = [int(token) for token in sketches.unique() if int(token) not in special.reserved]
    digits = [token for token in used if names[token].isdigit()]
    return {"values": torch.tensor(digits), "structure": torch.tensor([t for t in used if t not in digits])}


def corrupted(sketches: Int[Tensor, "b l"], tokens: Int[Tensor, "n"], count: int, noise: Noise) -> Int[Tensor, "b l"]:
    """`count` tokens of each row that are of this class, fewer where it has fewer, each replaced by another of it."""
    length = sketches.shape[1]
    is_class = torch.isin(sketches, tokens)
    quota = torch.full((len(sketches),), count)
    is_hit = commit_top(noise.uniform(streams.CHOOSE, 0, length), is_class, quota)
    place = torch.searchsorted(tokens, sketches.clamp(max=int(tokens[-1])))
    further = 1 + (noise.uniform(streams.CHOOSE, 1, length) * (len(tokens) - 1)).long()
    return torch.where(is_hit, tokens[(place + further) % len(tokens)], sketches)


def measure(reasoner: Reasoner, experiment: Any, examples: Sequence[Any], positions: float) -> list[Row]:
    rows = []
    batches = [collate(examples[i : i + BATCH], reasoner.tokenizer, reasoner.config.canvas)
               for i in range(0, len(examples), BATCH)]  # fmt: skip
    for name, tokens in classes(reasoner, torch.cat([batch.sketch for batch in batches])).items():
        if len(tokens) < 2:
            sys.exit(f"{experiment.title}: {len(tokens)} different {name} in its sketches (values are digits)")
        for count in COUNTS:
            tally = Tally()
            for i, batch in enumerate(batches):
                gold = corrupted(batch.sketch, tokens, count, Noise(experiment.seed, batch.prompts.keys))
                results = reasoner.reason(batch.prompts, Budget(), drafter=GoldSketch(), gold=gold)
                part = examples[i * BATCH : i * BATCH + len(results)]
                scores = [experiment.task.score(e, r.sketch, r.answer) for e, r in zip(part, results, strict=True)]
                tally.add(scores, spent_of(results))
            settings = dict(batch=BATCH, training_positions=positions, seed=experiment.seed)
            rows.append(Row.counted(tally, f"gold, {name} corrupted", setting=f"{count} tokens", **settings))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("method", nargs="?", default="hybrid")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run = Run(options.task, options.method, options.seed)
    experiment = read_experiment(ROOT / run.folder)
    reasoner, trained = load_reasoner(ROOT / run.folder, experiment)
    rows = measure(
        reasoner, experiment, experiment.examples("test")[: experiment.evaluate.examples], float(trained["positions"])
    )
    config = plain(dataclasses.replace(experiment, run=None))
    frontier = Frontier(experiment.title, "test", rows, config["model"], experiment.seed, {"config": config})
    write_atomically(run.results / "corrupted.json", portable(frontier.json()).encode())
    for row in rows:
        print(f"{row.method:28} {row.setting:10} {100 * row.accuracy:5.1f} %")


if __name__ == "__main__":
    main()
