"""The picture of all frontiers: accuracy against sequential forwards, and against training positions, task by task."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.frontier import write_atomically
from hybrid.report_plot import COLOURS, GRID, INK, MARKERS, MUTED, STYLE

LABELS = {
    "hybrid": "hybrid, shared trunk", "hybrid_verified": "hybrid, answer verified",
    "hybrid_separate": "hybrid, two networks", "chain": "chain", "direct": "direct", "ar_drafter": "AR drafter",
    "hybrid_block_4": "blocks of 4", "hybrid_block_8": "blocks of 8",
}  # fmt: skip
# The same method otherwise: as it, in other lines.
ENDS = {"": ("", "-"), "_longer": (", trained longer", ":"), "_deep": (", deep", "--")}
LOOKS = dict(zip(LABELS, zip((*COLOURS, INK, MUTED), (*MARKERS, "*"), strict=True), strict=True))
COLUMNS = 4


@dataclass(frozen=True)
class Panel:
    """One task. costs: (sequential forwards, accuracy) by method; growth: per seed (positions, accuracy); controls."""

    task: str
    costs: Mapping[str, Sequence[tuple[float, float]]]
    growth: Mapping[str, Sequence[Sequence[tuple[float, float]]]]
    controls: Mapping[str, float]


def plot(panels: Sequence[Panel], path: Path) -> Path:
    """A PNG; per task one panel above another, a few tasks side by side."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        columns = min(COLUMNS, max(2, len(panels)))
        bands = max(1, -(-len(panels) // columns))
        figure = Figure(figsize=(3.3 * columns, 6.4 * bands), dpi=110, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(2 * bands, columns, squeeze=False, sharey=True)
        pairs = [pair for band in range(bands) for pair in grid[2 * band : 2 * band + 2].T]
        named: dict[str, Any] = {}
        for above, below in pairs[len(panels) :]:
            above.set_visible(False)
            below.set_visible(False)
        for (above, below), panel in zip(pairs, panels, strict=False):
            named |= _costs(above, panel)
            for method, curves in panel.growth.items():
                for curve in curves:
                    xs, ys = zip(*curve, strict=True)
                    colour, _, dashes = _look(method)
                    below.plot([x / 1e6 for x in xs], [100 * y for y in ys], dashes, color=colour, linewidth=1.4)
            _frame(above, panel.task, "sequential forwards")
            _frame(below, "", "million training positions")
        for row, axes in enumerate(grid[:, 0]):
            axes.set_ylabel("answers right, validation" if row % 2 else "answers right, test")
        legend = [(named[label], label) for label in sorted(named, key=[*map(_label, _methods())].index)]
        figure.legend(*zip(*legend, strict=True), loc="outside upper left", ncols=6, frameon=False)
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None})
    return write_atomically(path, content.getvalue())


def _costs(axes: Any, panel: Panel) -> dict[str, Any]:
    """Draw lines and controls; what the legend names."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    named = {}
    for method, points in panel.costs.items():
        colour, marker, dashes = _look(method)
        xs, ys = zip(*points, strict=True)
        (line,) = axes.plot(xs, [100 * y for y in ys], dashes, color=colour, marker=marker, markeredgecolor="white")
        named[_label(method)] = line
    low, high = axes.get_xlim()
    axes.set_xlim(low, max(high, 2.1 * low))  # an octave at least, which has a tick
    near: list[str] = []  # controls whose lines lie too close for a label each
    levels = sorted(panel.controls.items(), key=lambda pair: pair[1])
    for (control, height), (_, above) in zip(levels, [*levels[1:], ("", float("inf"))], strict=True):
        axes.axhline(100 * height, color=MUTED, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
        near.append(control)
        if above >= height + 0.06:
            where = dict(xy=(0.99, 100 * height), xycoords=("axes fraction", "data"), ha="right", va="bottom")
            axes.annotate(", ".join(near), **where, fontsize=7.5, color=MUTED)
            near = []
    return named


def _parts(method: str) -> tuple[str, str]:
    """The method, and its end."""
    return next((method.removesuffix(end), end) for end in reversed(ENDS) if method.endswith(end))


def _look(method: str) -> tuple[str, str, str]:
    """Colour, marker, dashes."""
    plain, end = _parts(method)
    return *LOOKS[plain], ENDS[end][1]


def _label(method: str) -> str:
    plain, end = _parts(method)
    return LABELS[plain] + ENDS[end][0]


def _methods() -> list[str]:
    """All there may be, in the order of a legend."""
    return [name + end for name in LABELS for end in ENDS]


def _frame(axes: Any, title: str, label: str) -> None:
    axes.set_title(title, fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(label)
    axes.set_ylim(-3, 106)
    axes.set_yticks(range(0, 101, 20), [f"{y}%" for y in range(0, 101, 20)])
    axes.grid(color=GRID, linewidth=0.8)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
