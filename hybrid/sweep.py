"""Sweeps: every combination of some settings, trained and evaluated as jobs, and one frontier of all.

submitit runs the jobs, on this machine or under Slurm. A job is two commands of ours, which go on where they were
interrupted, so a sweep that is started again does what is left of it.
"""

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hybrid.build import ConfigError, plain
from hybrid.config import values_of
from hybrid.experiment import read_experiment
from hybrid.frontier import FIELDS, Frontier, read
from hybrid.launch import die_with_parent
from hybrid.merging import merge

JOBS = "jobs"  # what the engine writes


@dataclass(frozen=True)
class Point:
    """One combination. swept: the keys that differ between points, as written. Called in its job's process."""

    config: str
    overrides: tuple[str, ...]
    swept: tuple[tuple[str, str], ...]
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def settings(self) -> list[str]:
        """All overrides. The folder is quoted: as YAML, `my runs #2` would be `my runs`."""
        return [*self.overrides, f"run={json.dumps(str(self.folder), ensure_ascii=False)}"]

    def __call__(self) -> str:
        """Train and evaluate. "" where both went well, else the last line that the command that failed said."""
        train = ["train", self.config, *self.settings, "--no-progress"]
        for line in (train, ["evaluate", str(self.folder), "--no-progress"]):
            command = [sys.executable, "-P", "-m", "hybrid.cli", *line]
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent, check=False)
            print(done.stderr, file=sys.stderr)
            if done.returncode:
                said = done.stderr.strip().splitlines()
                return said[-1].removeprefix("hybrid: ") if said else f"{line[0]} ended with status {done.returncode}"
        return ""

    def checkpoint(self) -> Any:
        """What the engine does when a job is pre-empted: submit the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def is_done(self) -> bool:
        """Whether this very config, defaults included, has been trained and evaluated in the folder."""
        try:
            found = json.loads((self.folder / "frontier.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        wanted = plain(read_experiment(self.config, self.settings))
        return bool(found.get("config") == wanted)

    def frontier(self) -> Frontier:
        """Its rows, with the swept values as columns of their own."""
        found, values = read(self.folder / "frontier.json"), {k: v for k, v in self.swept if k not in FIELDS}
        return replace(found, rows=[replace(row, extra={**row.extra, **values}) for row in found.rows])


def points(config: str, axes: Sequence[str], out: Path) -> list[Point]:
    """Every combination of `key=a,b,c` texts, each checked as a config before any is run.

    Raises:
        ConfigError: a malformed text, a key given twice, or a combination that is no valid config.
    """
    choices: dict[str, list[str]] = {}
    for text in axes:
        key, equals, values = text.partition("=")
        if not equals or not key or key in choices or key == "run":
            raise ConfigError(
                f"{text!r}: expected key=a,b,c with each key once, and not run, which a sweep sets itself"
            )
        choices[key] = values_of(key, values)
    several = [key for key, values in choices.items() if len(values) > 1]
    found, tells = [], set()
    for chosen in itertools.product(*choices.values()):
        pairs = dict(zip(choices, chosen, strict=True))
        name = ",".join(f"{key}={pairs[key]}" for key in several) or "only"
        folder = out / re.sub(r"[^\w.=,+-]+", "_", name)
        overrides = tuple(f"{key}={value}" for key, value in pairs.items())
        experiment = read_experiment(config, overrides)
        tells.add((experiment.title, experiment.evaluate.split))
        found.append(Point(config, overrides, tuple((key, pairs[key]) for key in several), folder))
    if len({point.folder for point in found}) < len(found):
        raise ConfigError("two points of the sweep have the same name: give each value once")
    if len(tells) > 1:
        (task, split), (other, its) = sorted(tells)[:2]
        raise ConfigError(
            f"points of {task} ({split}) and of {other} ({its}) have no frontier in common: sweep one task and one "
            "evaluate.split at a time"
        )
    return found


def parameters(text: str) -> dict[str, Any]:
    """`key=value,...` for the engine, whole numbers as such."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise ConfigError(f"--slurm {text!r}: expected key=value,... but {wrong[0]!r} has no value")
    return {key: int(value) if value.isdigit() else value for key, _, value in pairs}


def sweep(
    listed: Sequence[Point],
    out: Path,
    *,
    jobs: int = 1,
    slurm: dict[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Frontier, list[str]]:
    """Run what is left of the points, at most `jobs` at a time, and merge the frontiers of all that can be finished.
    Returns them, and the names of those that failed.

    slurm: run under Slurm with these parameters of the engine; None: on this machine.

    Raises:
        ConfigError: the engine is not installed, or no point could be finished.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: must be 1 or more")
    left = [point for point in listed if not point.is_done()]
    say(f"{len(listed)} points, {len(listed) - len(left)} done before")
    failed = _run(left, out, jobs, slurm, say) if left else {}
    for name, why in failed.items():
        say(f"failed: {name}: {why}")
    whole = [point.frontier() for point in listed if point.name not in failed]
    if not whole:
        raise ConfigError(
            f"none of the {len(listed)} points could be finished; the first said: {next(iter(failed.values()))}"
        )
    return merge(whole), list(failed)


def _run(
    left: Sequence[Point], out: Path, jobs: int, slurm: dict[str, Any] | None, say: Callable[[str], None]
) -> dict[str, str]:
    """Names of points that failed, and why."""
    try:
        import submitit
    except ImportError:
        raise ConfigError("sweeps need submitit: pip install 'hybrid-reasoning[sweep]'") from None
    engine = submitit.AutoExecutor(folder=out / JOBS, cluster="local" if slurm is None else "slurm")
    engine.update_parameters(**{"timeout_min": 60 * 24 * 30, **(slurm or {})})
    waiting, failed = list(left), dict[str, str]()
    running: dict[Point, Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                point = waiting.pop(0)
                say(f"started: {point.name}")
                running[point] = engine.submit(point)
            time.sleep(0.5)
            for point in [point for point, job in running.items() if job.done()]:
                job = running.pop(point)
                error = job.exception()
                why = str(error).strip().splitlines()[-1] if error is not None else job.result()
                if why:
                    failed[point.name] = why
                else:
                    say(f"done: {point.name}")
    finally:
        for job in running.values():  # the sweep itself was interrupted
            job.cancel()
    return failed
