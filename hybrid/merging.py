"""Frontiers of several runs as one."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from hybrid.config import ABSENT, FREE_TO_CHANGE, differences
from hybrid.frontier import Frontier
from hybrid.report_series import line_of


def merge(frontiers: Iterable[Frontier]) -> Frontier:
    """One frontier of several runs on the same task and split.

    Every row keeps the seed of its run. `seed` is null where the runs differ; differing models are listed
    under `runs`, and of the extra keys those stay on which all runs agree. Runs of different configs whose rows would
    stand for one another, as if of several seeds, get a key of the config that tells them apart as a key of their rows.

    Raises:
        ValueError: no frontier, or frontiers of several tasks or splits.
    """
    runs = list(frontiers)
    if not runs:
        raise ValueError("merge: expected at least one frontier")
    first = runs[0]
    for name in ("task", "split"):
        if len(found := list(dict.fromkeys(getattr(run, name) for run in runs))) > 1:
            raise ValueError(f"merge: {name} differs: {', '.join(map(repr, found))}; expected one {name}")
    models: list[Mapping[str, Any]] = []
    for run in runs:
        if run.model not in models:
            models.append(run.model)
    rows = [
        replace(row, seed=run.seed if row.seed is None else row.seed, extra={**row.extra, **told})
        for run, told in zip(runs, told_apart(runs), strict=True)
        for row in run.rows
    ]
    return replace(
        first,
        rows=rows,
        model=first.model if len(models) == 1 else {"runs": [dict(model) for model in models]},
        seed=first.seed if len({run.seed for run in runs}) == 1 else None,
        extra={k: v for k, v in first.extra.items() if all(k in r.extra and r.extra[k] == v for r in runs)},
    )


def told_apart(runs: Sequence[Frontier]) -> list[dict[str, str]]:
    """Of each run, the keys of its config and their values that tell it from the runs whose rows are on its lines.

    As few keys as may be: first those that tell the most pairs of runs apart, of equals what stands first in the
    config. The seed is none of them: runs of several seeds share their lines.
    """
    lines = [{line_of(row) for row in run.rows} for run in runs]
    pairs = {
        (i, j): found
        for i, j in combinations(range(len(runs)), 2)
        if lines[i] & lines[j] and (found := _differences(runs[i], runs[j]))
    }
    told: list[dict[str, str]] = [{} for _ in runs]
    left = dict(pairs)
    while left:
        keys = [key for found in left.values() for key in found]
        key = max(dict.fromkeys(keys), key=keys.count)
        left = {pair: found for pair, found in left.items() if key not in found}
        for i in {i for pair, found in pairs.items() if key in found for i in pair}:
            told[i][key] = _said(runs[i], key)
    return [{k: v for k, v in own.items() if not any(k.startswith(f"{whole}.") for whole in own)} for own in told]


def _differences(a: Frontier, b: Frontier) -> list[str]:
    """Keys at which the configs of two runs differ in what was computed; those that one of them lacks are newer, or go
    with another kind.
    """
    one, other = (config if isinstance(config := run.extra.get("config"), Mapping) else {} for run in (a, b))
    found = differences(one, other)
    left = {key for key, values in found.items() if ABSENT not in values} - {"seed"}
    return [key for key in found if key in left and not key.startswith(FREE_TO_CHANGE)]


def _said(run: Frontier, key: str) -> str:
    value: Any = run.extra["config"]
    for part in key.split("."):
        value = value[part]
    if isinstance(value, Mapping) and "kind" in value:
        return ", ".join([str(value["kind"]), *(f"{name} {told}" for name, told in value.items() if name != "kind")])
    return value if isinstance(value, str) else json.dumps(value)
