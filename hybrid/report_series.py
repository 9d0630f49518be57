"""A frontier's rows in the order and the lines that its table, plot and page share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hybrid.frontier import CONTROLS, FIELDS, METHODS, Frontier, Row

SETTINGS = ("pairing", "policy", "setting", "threshold", "block", "drafts", "batch", "answer", "answer_is")
TITLES = {
    "ar_drafter": "AR drafter",
    "gold": "gold sketch",
    "shuffled": "shuffled",
    "pause": "pause tokens",
}
# Named by their policy, after these words.
DRAFTED = {"hybrid": "", "speculative": "verified ", "diffusion": "diffusion ", "latent": "latent "}


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Baselines, other methods, then the hybrid by policy and steps, and the controls last."""
    return sorted(rows, key=_place)


def _place(row: Row) -> tuple[Any, ...]:
    known = {name: i for i, name in enumerate(METHODS)}
    other = known["hybrid"] - 0.5
    settings = [
        _rank(_value(row, name)) for name in ("pairing", "policy", "setting", "block", "drafts", "batch", "answer")
    ]
    settings.append((True, tuple(_value(row, name) for name in _own([row]))))
    last = [_rank(getattr(row, name)) for name in ("steps", "threshold", "sequential_forwards", "seed")]
    return known.get(row.method, other), row.method, *settings, *last


def line_of(row: Row) -> tuple[Any, ...]:
    """The method and all settings: what makes rows of several runs stand for one another."""
    return row.method, *((name, _value(row, name)) for name in (*SETTINGS, *_own([row])))


def _own(rows: Sequence[Row]) -> tuple[str, ...]:
    """Settings beyond those of `SETTINGS`: keys of one's own that hold text, such as what a sweep varied."""
    return tuple(sorted({key for row in rows for key, value in row.extra.items() if isinstance(value, str)}))


def _value(row: Row, name: str) -> Any:
    return getattr(row, name) if name in FIELDS else row.extra.get(name)


def _rank(value: float | str | None) -> tuple[bool, Any]:
    return value is not None, value


@dataclass(frozen=True)
class Point:
    """Rows alike in every setting (runs of several seeds) as one: means, and the union of the intervals."""

    rows: tuple[Row, ...]

    def mean(self, name: str) -> float | None:
        values = [getattr(row, name) for row in self.rows]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    @property
    def low(self) -> float:
        return min(row.accuracy_low for row in self.rows)

    @property
    def high(self) -> float:
        return max(row.accuracy_high for row in self.rows)


@dataclass(frozen=True)
class Series:
    """Points of one method under one setting, by rising steps and cost.

    kind: "line" for what drafts by diffusion, "level" for a control (a horizontal line), "point" for the rest.
    """

    label: str
    kind: Literal["line", "level", "point"]
    method: str
    points: tuple[Point, ...]


def series(frontier: Frontier, ignore: Sequence[str] = ()) -> list[Series]:
    """The lines to draw: one per method and setting; settings in `ignore` do not part rows.

    A sweep over thresholds is one line. Where thresholds and steps are both swept, each threshold is a line
    over its steps. A hybrid row at 0 steps that names no policy begins every line of its other settings.
    """
    methods: dict[str, list[Row]] = {}
    for row in ordered(frontier.rows):
        methods.setdefault(row.method, []).append(row)
    return [line for method, rows in methods.items() for line in _lines(method, rows, ignore)]


def _lines(method: str, rows: list[Row], ignore: Sequence[str]) -> list[Series]:
    apart = [name for name in (*SETTINGS, *_own(rows)) if name not in ignore]
    origins = [row for row in rows if method in DRAFTED and row.steps == 0 and row.policy is None]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row not in origins:
            groups.setdefault(_setting(row, apart, rows), []).append(row)
    begun = [[group for group in groups.values() if _begins(origin, group[0], apart)] for origin in origins]
    for origin, own in zip(origins, begun, strict=True):
        for group in own or [groups.setdefault(_setting(origin, apart, rows), [])]:
            group.append(origin)
    settings = [dict(zip(apart, setting, strict=True)) for setting in groups]
    varied = _told(settings, apart, unless_implied=("answer_is", "setting"))
    kind: Any = "line" if method in DRAFTED else "level" if method in CONTROLS else "point"
    return [
        Series(_label(method, setting, varied), kind, method, _points(group))
        for setting, group in zip(_shortened(settings), groups.values(), strict=True)
    ]


def _told(settings: Sequence[dict[str, Any]], names: Sequence[str], unless_implied: Sequence[str]) -> list[str]:
    """The names whose values differ; of `unless_implied`, each only where the others would not tell all apart."""
    left = [name for name in names if len({setting[name] for setting in settings}) > 1]
    for name in unless_implied:
        others = [other for other in left if other != name]
        if len({tuple(s[o] for o in others) for s in settings}) == len({tuple(s[o] for o in left) for s in settings}):
            left = others
    return left


def _shortened(settings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, where a policy was told several things, with those alone in which its rows differ."""
    told = [(setting.get("policy"), tuple((setting.get("setting") or "").split(", "))) for setting in settings]
    ways: dict[Any, set[tuple[str, ...]]] = {}
    for policy, parts in told:
        ways.setdefault(policy, set()).add(parts)
    shared = {policy: set.intersection(*map(set, several)) for policy, several in ways.items() if len(several) > 1}
    left = [", ".join(part for part in parts if part not in shared.get(policy, ())) for policy, parts in told]
    return [{**setting, "setting": said or None} for setting, said in zip(settings, left, strict=True)]


def _setting(row: Row, apart: Sequence[str], rows: Sequence[Row]) -> tuple[Any, ...]:
    setting = {name: _value(row, name) for name in apart}
    if "threshold" in setting and (swept := _swept(row, rows)):
        setting["threshold"] = None
        told = {(r.threshold, r.setting) for r in swept}
        if len(told) == len({t for t, _ in told}) == len({s for _, s in told}):  # told as the threshold was
            setting["setting"] = None
    return tuple(setting.values())


def _swept(row: Row, rows: Sequence[Row]) -> list[Row]:
    """The rows of the row's policy where each threshold has one number of steps; none elsewhere."""
    same = ("policy", "pairing", "block", "drafts", "answer", *_own(rows))
    alike = [r for r in rows if r.steps and all(_value(r, name) == _value(row, name) for name in same)]
    thresholds = {r.threshold for r in alike}
    return alike if 1 < len(thresholds) == len({(r.threshold, r.steps) for r in alike}) else []


def _begins(origin: Row, row: Row, apart: Sequence[str]) -> bool:
    return all(_value(origin, name) in (None, _value(row, name)) for name in apart)


def _label(method: str, setting: dict[str, Any], varied: Sequence[str]) -> str:
    drafted = DRAFTED.get(method)
    name = TITLES.get(method, method) if drafted is None else drafted + (setting.get("policy") or "no sketch")
    if "threshold" in varied and setting["threshold"] is not None:
        name += f" {setting['threshold']:g}"
    written = {"block": "block {}", "drafts": "{} drafts", "batch": "batch {}"}
    named = ("threshold",) if drafted is None else ("threshold", "policy")
    told = [name for name in varied if name not in named and setting[name] not in (None, "null")]
    shown = [name for name in told if (name, setting[name]) != ("drafts", 1)]  # who has more says so
    written |= {key: f"{key.rpartition('.')[2]} {{}}" for key in shown if key not in SETTINGS}
    return " · ".join([name, *(written.get(key, "{}").format(setting[key]) for key in shown)])


def _points(rows: Sequence[Row]) -> tuple[Point, ...]:
    """In the order of the budget, which need not be that of the cost: a bad draft takes long to verify."""
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.steps, row.threshold), []).append(row)
    points = [Point(tuple(cell)) for cell in cells.values()]
    return tuple(sorted(points, key=lambda p: tuple(_rank(p.mean(x)) for x in ("steps", "sequential_forwards"))))


def row_label(row: Row, rows: Sequence[Row]) -> str:
    """The row's policy with those settings, and the seed, that differ among the rows of its method."""
    alike = [r for r in rows if r.method == row.method]
    names = (*SETTINGS, *_own(alike))
    settings = [{name: _value(r, name) for name in names} for r in (row, *alike)]
    varied = ["threshold", *(n for n in _told(settings, names, unless_implied=("answer_is",)) if n != "threshold")]
    setting = _shortened(settings)[0]
    method = "hybrid" if row.method in DRAFTED else ""
    seed = [f"seed {row.seed}"] if len({r.seed for r in alike}) > 1 and row.seed is not None else []
    label = _label(method, setting, varied).removeprefix(" · ").strip()
    return " · ".join(part for part in (label, *seed) if part)


def slower(rows: Sequence[Row]) -> list[str]:
    """Where verified answers took longer than decoded ones of the same setting and seed, and how long either took."""
    names = [name for name in (*SETTINGS, *_own(rows)) if name != "answer"]
    made: dict[tuple[Any, ...], dict[str | None, Row]] = {}
    for row in rows:
        alike = (row.method, row.steps, row.seed, *(_value(row, name) for name in names))
        made.setdefault(alike, {})[row.answer] = row
    found = []
    for by in made.values():
        verified, decoded = (by[how].answer_seconds if how in by else None for how in ("verify", "decode"))
        if verified is not None and decoded is not None and verified > decoded:
            row = by["verify"]
            setting = ", ".join(part for part in (row_label(row, rows), f"{row.steps} steps") if part)
            found.append(
                f"verifying took longer than decoding at {setting}: {1e3 * verified:.3g} against "
                f"{1e3 * decoded:.3g} ms an answer"
            )
    return found


def clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
