#!/usr/bin/env python
"""Kill training again and again, resume it with the same command, and compare the end with an unbroken run's.

Each kill is a SIGKILL at a step drawn evenly from the whole run: half of them at a random moment of that step (its
forward, backward, logging, validation), half inside the next checkpoint write (half written, before the flush, before
and between the renames, after them). After some kills the newest checkpoint is cut short too, as by a torn disk. In the
end the weights, optimiser, average of weights, learning-rate schedule, positions and learning curve must equal those of
a run that nobody touched, bit by bit.

exit status: 0 where all is equal; 1 where not, with the first difference; 2 where an attempt ended in another way.
"""

import argparse
import csv
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

WRITES = ("half written", "not flushed", "before the renames", "between the renames", "after the renames")
PLACES = ("any moment", *WRITES)
CONFIG = """\
task: {{kind: chain, length: 4}}
model: {{canvas: 5, max_answer: 2, backbone: {{kind: qwen3, width: 16, layers: 1, heads: 2}}}}
train: {{steps: {steps}, batch_size: 8, accumulate: 2, warmup: 5, ema: 0.9, precision: 32-true, validate_every: 7,
  validate_examples: 8, checkpoint_every: 3, log_every: 2}}
"""
MOMENT = 0.04  # seconds: one or two of these steps, a validation included
PRELOADED = ["hybrid.cli", "hybrid.train.run", "hybrid.tasks.chain", "transformers.models.qwen3.modeling_qwen3"]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def attempt(command: list[str], step: int | None, place: str, delay: float) -> None:
    """In a process of its own: run the command, and die at or after `step`, at that place."""
    import torch

    from hybrid.cli import main
    from hybrid.train.module import HybridReasoner

    torch.set_num_threads(1)
    if step is not None:
        armed = threading.Event()
        inner = HybridReasoner.training_step

        def training_step(self: Any, part: Any, batch_idx: int) -> Any:
            if self.global_step >= step and not armed.is_set():
                armed.set()
                if place == "any moment":
                    threading.Timer(delay, die).start()
            return inner(self, part, batch_idx)

        HybridReasoner.training_step = training_step  # type: ignore[method-assign]
        if place != "any moment":
            die_in_writes(armed, place)
    sys.exit(main(command))


def die_in_writes(armed: threading.Event, place: str) -> None:
    """Have the next write of a checkpoint end in death at a place."""
    import torch

    save, flush, rename = torch.save, os.fsync, os.replace

    def saving(value: Any, file: Any, *args: Any, **options: Any) -> None:
        save(value, file, *args, **options)
        if armed.is_set() and place == "half written":
            file.truncate(file.tell() // 2)
            file.flush()
            die()

    def flushing(handle: int) -> None:
        if armed.is_set() and place == "not flushed" and os.readlink(f"/proc/self/fd/{handle}").endswith(".ckpt.new"):
            die()
        flush(handle)

    def renaming(old: Any, new: Any) -> None:
        is_second = str(old).endswith(".ckpt.new")
        if armed.is_set() and place == "between the renames" and is_second:
            die()
        if armed.is_set() and place == "before the renames" and str(new).endswith("before.ckpt"):
            die()
        rename(old, new)
        if armed.is_set() and place == "after the renames" and is_second:
            die()

    torch.save, os.fsync, os.replace = saving, flushing, renaming  # type: ignore[assignment]


def left_by(folder: Path) -> dict[str, Any]:
    """All that a finished run leaves that another must equal, by dotted path."""
    import torch

    kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    curve = list(csv.reader((folder / "logs" / "metrics.csv").open(newline="")))
    flat: dict[str, Any] = {"model.safetensors": (folder / "model.safetensors").read_bytes(), "metrics.csv": curve}
    todo = [(key, kept[key]) for key in kept if key not in ("loops", "callbacks")]
    while todo:
        path, value = todo.pop()
        if isinstance(value, dict):
            todo += [(f"{path}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            todo += [(f"{path}[{i}]", item) for i, item in enumerate(value)]
        else:
            flat[path] = value.numpy().tobytes() if isinstance(value, torch.Tensor) else value
    return flat


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how often to kill (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of when and where (default: 0)")
    options = parser.parse_args(arguments)
    if options.kills < 1:
        parser.error(f"--kills {options.kills}: must be 1 or more")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    draw, steps, began = random.Random(options.seed), max(20, 3 * options.kills), time.monotonic()

    def run(folder: Path, step: int | None = None, place: str = "", delay: float = 0.0) -> int | None:
        command = ["train", str(folder.parent / "config.yaml"), f"run={folder}", "--no-progress"]
        process = context.Process(target=attempt, args=(command, step, place, delay))
        process.start()
        process.join(300)
        if process.is_alive():
            process.kill()
            process.join()
            return None
        return process.exitcode

    with tempfile.TemporaryDirectory(prefix="interrupt-") as place_for_all:
        home = Path(place_for_all)
        (home / "config.yaml").write_text(CONFIG.format(steps=steps))
        if (status := run(home / "unbroken")) != 0:
            print(f"the unbroken run ended with {status}", file=sys.stderr)
            return 2
        broken, where, cut = home / "broken", Counter[str](), 0
        for kill in range(options.kills):
            at = int((kill + draw.random()) * (steps - 4) / options.kills)
            place = draw.choice(WRITES) if kill % 2 else PLACES[0]
            if (status := run(broken, at, place, draw.uniform(0, MOMENT))) != -signal.SIGKILL:
                print(f"kill {kill} at step {at}, {place}: the attempt ended with {status}", file=sys.stderr)
                return 2
            where[place] += 1
            last = broken / "checkpoints" / "last.ckpt"
            if kill % 10 == 9 and last.exists() and last.with_name("before.ckpt").exists():
                os.truncate(last, last.stat().st_size // 2)
                cut += 1
            if (kill + 1) % 10 == 0:
                print(f"[{time.monotonic() - began:4.0f} s] {kill + 1} kills, at step {at} of {steps}", flush=True)
        if (status := run(broken)) != 0:
            print(f"the last attempt ended with {status}", file=sys.stderr)
            return 2
        expected, found = left_by(home / "unbroken"), left_by(broken)
    print("killed at: " + ", ".join(f"{place} {where[place]}" for place in PLACES) + f"; newest cut short {cut}")
    different = [path for path in sorted(expected.keys() | found.keys()) if expected.get(path) != found.get(path)]
    if different:
        print(f"DIFFERENT from the unbroken run: {', '.join(different[:5])} ({len(different)} of {len(expected)})")
        for curve, other in ((expected, found), (found, expected)):
            for row in [row for row in curve["metrics.csv"] if row not in other["metrics.csv"]][:3]:
                print(f"{'unbroken' if curve is expected else 'broken'} has the row {','.join(row)}")
        return 1
    print(f"equal to the unbroken run in all {len(expected)} values after {options.kills} kills in {steps} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
