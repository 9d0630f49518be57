"""One table and one picture of all that has been measured: `python experiments/summary.py`.

Reads the stored results, needs neither data nor weights, and writes summary.json, frontiers.png and the tables of the
READMEs here and in frontier, learning_speed, families and policies. Of every method's ways of drafting (policy,
threshold, steps) the one with the best accuracy on validation is taken, within each share of the chain's sequential
forwards; what is reported of it is the test.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import picture
from goals import goals
from measured import entries, measured, panels
from tables import (
    addition_table,
    corrupted_table,
    families_table,
    goals_table,
    learning_table,
    policies_table,
    put,
    steps_table,
    summary_table,
    timing_table,
)

from hybrid.build import ConfigError
from hybrid.frontier import write_atomically

HERE = Path(__file__).parent
LEARNING = HERE / "learning_speed"
POLICIES = HERE / "policies"


def main(results: Path = HERE / "frontier" / "results", out: Path = HERE, say: Callable[[str], None] = print) -> int:
    try:
        found = measured(results)
    except ConfigError as error:
        print(f"summary: {error}", file=sys.stderr)
        return 2
    steps = steps_table(found)
    say(steps)
    listed = entries(found)
    table = summary_table(listed)
    say(table)
    text = json.dumps([entry.plain() for entry in listed], indent=1) + "\n"
    write_atomically(out / "summary.json", text.encode())
    aims = goals_table(list(goals(found)))
    own = {"goals": aims, "steps": steps, "summary": table, "corrupted": corrupted_table(results)}
    put(out / "README.md", own | {"families": families_table(listed)})
    put(out / "frontier" / "README.md", {"timing": timing_table(HERE / "frontier" / "timing.json")})
    put(out / "families" / "README.md", {"addition": addition_table(HERE / "families" / "results")})
    variants = {task: learning_table(LEARNING / "results" / task) for task in ("quickstart", "countdown_3", "mult_3x3")}
    put(out / LEARNING.name / "README.md", variants)
    shipped = {file.parent.name: policies_table(file) for file in POLICIES.glob("results/*/frontier.json")}
    put(out / POLICIES.name / "README.md", shipped)
    picture.plot(panels(found), out / "frontiers.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
