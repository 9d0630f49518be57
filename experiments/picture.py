"""The picture of all frontiers: accuracy against sequential forwards, and against training positions, task by task."""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.frontier import write_atomically
from hybrid.report_plot import COLOURS, GRID, INK, MARKERS, MUTED, STYLE

LABELS = {
    "hybrid": "hybrid, shared trunk", "hybrid_verified": "hybrid, answer verified",
    "hybrid_separate": "hybrid, two networks", "chain": "chain", "direct": "direct", "ar_drafter": "AR drafter",
    "hybrid_block_4": "blocks of 4", "hybrid_block_8": "blocks of 8",
}  # fmt: skip
# The same method otherwise: as it, in other lines.
ENDS = {
    "": ("", "-"), "_deep": ("deeper", "--"), "_short": ("products alone", ":"),
    "_bare": ("without self-conditioning", "-."), "_self_conditioned": ("self-conditioned", (0, (8, 2))),
    "_mostly_gold": ("more gold sketches", (0, (4, 1, 1, 1, 1, 1))),
}  # fmt: skip
KINDS = {"": "", "sketch verified": "X"}  # what becomes of its drafts, and another marker for it
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
        for above, below in pairs[len(panels) :]:
            above.set_visible(False)
            below.set_visible(False)
        for (above, below), panel in zip(pairs, panels, strict=False):
            _costs(above, panel)
            for method, curves in panel.growth.items():
                _growth(below, method, curves)
            _frame(above, panel.task, "sequential forwards")
            _frame(below, "", "million training positions")
        for row, axes in enumerate(grid[:, 0]):
            axes.set_ylabel("answers right, validation" if row % 2 else "answers right, test")
        legend = _legend({method for panel in panels for method in panel.costs})
        figure.legend(handles=legend, loc="outside upper left", ncols=7, frameon=False)
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None})
    return write_atomically(path, content.getvalue())


def _costs(axes: Any, panel: Panel) -> None:
    """Draw lines and controls."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    for method, points in panel.costs.items():
        colour, marker, dashes = _look(method)
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, [100 * y for y in ys], color=colour, linestyle=dashes, marker=marker, markeredgecolor="white")
    low, high = axes.get_xlim()
    axes.set_xlim(low, max(high, 2.1 * low))  # an octave at least, which has a tick
    near: list[str] = []  # controls whose lines lie too close for a label each
    levels = sorted(panel.controls.items(), key=lambda pair: pair[1])
    heights_above = [height for _, height in levels[1:]] + [float("inf")] * bool(levels)
    for (control, height), above in zip(levels, heights_above, strict=True):
        axes.axhline(100 * height, color=MUTED, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
        near.append(control)
        if above >= height + 0.06:
            where = dict(xy=(0.99, 100 * height), xycoords=("axes fraction", "data"), ha="right", va="bottom")
            axes.annotate(", ".join(near), **where, fontsize=7.5, color=MUTED)
            near = []


def _growth(axes: Any, method: str, curves: Sequence[Sequence[tuple[float, float]]]) -> None:
    """The mean over seeds where all have been validated, in a band from the worst to the best."""
    at = np.linspace(max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves), 40)
    of_each = 100 * np.stack([np.interp(at, *zip(*curve, strict=True)) for curve in curves])
    colour, _, dashes = _look(method)
    axes.plot(at / 1e6, of_each.mean(0), color=colour, linestyle=dashes, linewidth=1.4)
    axes.fill_between(at / 1e6, of_each.min(0), of_each.max(0), color=colour, alpha=0.12, linewidth=0)


def _parts(method: str) -> tuple[str, str, str]:
    """The method, its end, and what its drafts undergo."""
    method, _, kind = method.partition(", ")
    return next((method.removesuffix(end), end, kind) for end in reversed(ENDS) if method.endswith(end))


def _look(method: str) -> tuple[str, str, Any]:
    """Colour, marker, dashes."""
    plain, end, kind = _parts(method)
    colour, marker = LOOKS[plain]
    return colour, KINDS[kind] or marker, ENDS[end][1]


def _legend(methods: Collection[str]) -> list[Any]:
    """What the colours, the dashes and the other marker mean, as far as they occur."""
    from matplotlib.lines import Line2D

    names, ends, kinds = map(set, zip(*map(_parts, methods), strict=True))
    whose = [
        Line2D([], [], color=colour, marker=marker, markeredgecolor="white", label=LABELS[name])
        for name, (colour, marker) in LOOKS.items()
        if name in names
    ]
    ways = [Line2D([], [], color=MUTED, linestyle=dashes, label=said) for said, dashes in map(ENDS.get, ends) if said]
    marked = [Line2D([], [], color=MUTED, marker=KINDS[k], linestyle="", label=k) for k in kinds if k]
    return [*whose, *sorted(ways, key=Line2D.get_label), *marked]


def _frame(axes: Any, title: str, label: str) -> None:
    axes.set_title(title, fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(label)
    axes.set_ylim(-3, 106)
    axes.set_yticks(range(0, 101, 20), [f"{y}%" for y in range(0, 101, 20)])
    axes.grid(color=GRID, linewidth=0.8)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
