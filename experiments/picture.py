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
LOOKS = dict(zip(LABELS, zip((*COLOURS, INK, MUTED), (*MARKERS, "*"), strict=True), strict=True))


@dataclass(frozen=True)
class Panel:
    """One task. costs: (sequential forwards, accuracy) by method; growth: per seed (positions, accuracy); controls."""

    task: str
    costs: Mapping[str, Sequence[tuple[float, float]]]
    growth: Mapping[str, Sequence[Sequence[tuple[float, float]]]]
    controls: Mapping[str, float]


def plot(panels: Sequence[Panel], path: Path) -> Path:
    """A PNG, a column per task."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(3.3 * max(2, len(panels)), 6.4), dpi=110, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(2, max(1, len(panels)), squeeze=False, sharey="row")
        named: dict[str, Any] = {}
        for (above, below), panel in zip(grid.T, panels, strict=False):
            named |= _costs(above, panel)
            for method, curves in panel.growth.items():
                for curve in curves:
                    xs, ys = zip(*curve, strict=True)
                    below.plot([x / 1e6 for x in xs], [100 * y for y in ys], color=LOOKS[method][0], linewidth=1.4)
            _frame(above, panel.task, "sequential forwards")
            _frame(below, "", "million training positions")
        grid[0][0].set_ylabel("answers right, test")
        grid[1][0].set_ylabel("answers right, validation")
        legend = [(named[label], label) for label in LABELS.values() if label in named]
        figure.legend(*zip(*legend, strict=True), loc="outside upper left", ncols=len(LABELS), frameon=False)
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None})
    return write_atomically(path, content.getvalue())


def _costs(axes: Any, panel: Panel) -> dict[str, Any]:
    """Draw lines and controls; what the legend names."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    named = {}
    for method, points in panel.costs.items():
        colour, marker = LOOKS[method]
        xs, ys = zip(*points, strict=True)
        (line,) = axes.plot(xs, [100 * y for y in ys], color=colour, marker=marker, markeredgecolor="white")
        named[LABELS[method]] = line
    for height in dict.fromkeys(panel.controls.values()):
        name = ", ".join(control for control, level in panel.controls.items() if level == height)
        axes.axhline(100 * height, color=MUTED, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
        where = dict(xy=(0.99, 100 * height), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        axes.annotate(name, **where, fontsize=7.5, color=MUTED)
    return named


def _frame(axes: Any, title: str, label: str) -> None:
    axes.set_title(title, fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(label)
    axes.set_ylim(-3, 106)
    axes.set_yticks(range(0, 101, 20), [f"{y}%" for y in range(0, 101, 20)])
    axes.grid(color=GRID, linewidth=0.8)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
