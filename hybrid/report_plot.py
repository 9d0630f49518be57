"""The frontier as one picture: accuracy against sequential forwards."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybrid.frontier import Frontier, write_atomically
from hybrid.report_series import Series, clip, series

# Okabe and Ito's palette, which keeps apart under the common forms of colour blindness; markers say it twice.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")  # one more than colours: together they come round after 42 lines
INK, MUTED, GRID = "#1b1f24", "#59636e", "#e4e7eb"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#9aa4ae",
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.parse_math": False,
}


def plot(frontier: Frontier, path: str | Path) -> Path:
    """A PNG of 1,600 by 1,000 pixels, higher where the legend is long. Bands and bars are 95% Wilson intervals (their
    union over seeds)."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = series(frontier, ignore=("batch",))
    with rc_context(STYLE):
        lines = [line for line in drawn if line.kind == "line"]
        columns = 3 if all(len(line.label) <= 26 for line in lines) else 2
        named = -(-len(lines) // columns)
        height = 5 + 0.2 * max(0, named - 4)  # inches, as all that is divided by it
        figure = Figure(figsize=(8, height), dpi=200, facecolor="white")
        FigureCanvasAgg(figure)
        bottom, top = 0.575 / height, 1 - (0.5 + 0.2 * named) / height
        axes = figure.add_axes((0.095, bottom, 0.72, top - bottom))
        costs = _frame(axes, drawn)
        for i, line in enumerate(lines):
            _line(axes, line, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        _levels(axes, [line for line in drawn if line.kind == "level"])
        _baselines(axes, [line for line in drawn if line.kind == "point"])
        figure.text(0.028, 1 - 0.225 / height, _title(frontier), fontsize=13, fontweight="bold", va="center")
        if lines:
            axes.legend(
                loc="lower left",
                bbox_to_anchor=(-0.012, 1.0),
                ncols=min(len(lines), columns),
                frameon=False,
                fontsize=9.5,
                handlelength=2.2,
                columnspacing=1.6,
                borderaxespad=0.3,
            )
        if not costs:
            axes.text(0.5, 0.5, "no row counts sequential forwards", transform=axes.transAxes, ha="center")
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None})
    return write_atomically(path, content.getvalue())


def _title(frontier: Frontier) -> str:
    examples = max((row.examples for row in frontier.rows), default=0)
    title = f"{frontier.task} · {frontier.split} · {examples:,} examples"
    return title if len(title) <= 72 else title[:71] + "…"


def _costs(lines: Sequence[Series]) -> list[float]:
    """The sequential forwards that a log axis can show."""
    costs = [p.mean("sequential_forwards") for line in lines if line.kind != "level" for p in line.points]
    return [cost for cost in costs if cost]


def _frame(axes: Any, lines: Sequence[Series]) -> list[float]:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    costs = _costs(lines)
    axes.set_xscale("log", base=2)
    low, high = (min(costs), max(costs)) if costs else (1.0, 2.0)
    axes.set_xlim(low / 2**0.45, high * 2**0.45)
    axes.set_ylim(-3, 108)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=14))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(0, 101, 20), [f"{y}%" for y in range(0, 101, 20)])
    axes.set_xlabel("sequential forwards per example (log scale)", labelpad=6)
    axes.set_ylabel("answers right", labelpad=4)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return costs


def _line(axes: Any, line: Series, colour: str, marker: str) -> None:
    shown = [(p.mean("sequential_forwards"), p) for p in line.points]
    xs = [x for x, _ in shown if x]
    points = [p for x, p in shown if x]
    axes.fill_between(
        xs,
        [100 * p.low for p in points],
        [100 * p.high for p in points],
        color=colour,
        alpha=0.16,
        linewidth=0,
    )
    axes.plot(
        xs,
        [100 * (p.mean("accuracy") or 0) for p in points],
        color=colour,
        marker=marker,
        linewidth=2,
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.9,
        label=clip(line.label, 46),
        zorder=4,
    )


def _levels(axes: Any, lines: Sequence[Series]) -> None:
    """Controls as dashed lines, named in the right margin, spread so that no two names touch. A control that is at one
    height under several settings is one line.
    """
    at_height: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for line in lines:
        height = 100 * sum(p.mean("accuracy") or 0 for p in line.points) / len(line.points)
        name = line.label.partition(" · ")[0]
        at_height.setdefault((name, f"{height:.1f}%"), []).append((height, line.label))
    drawn = sorted(
        (same[0][0], f"{clip(same[0][1] if len(same) == 1 else name, 19)} {said}")
        for (name, said), same in at_height.items()
    )
    for (height, label), at in zip(drawn, spread([h for h, _ in drawn], gap=5.0, low=0.0, high=102.0), strict=True):
        axes.axhline(height, color=MUTED, linewidth=1.1, linestyle=(0, (5, 3)), zorder=2)
        axes.annotate(
            label,
            xy=(1.0, height),
            xytext=(1.025, at),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            fontsize=9 if len(label) <= 20 else 7,  # as the margin is wide
            color=MUTED,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#b6bec7", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0},
        )


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Rising heights moved apart to at least `gap`, within `low` and `high` where there is room for all."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, low if not moved else moved[-1] + gap))
    ceiling = high
    for i in range(len(moved) - 1, -1, -1):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved


def _baselines(axes: Any, lines: Sequence[Series]) -> None:
    named: list[tuple[str, float, float]] = []
    for i, line in enumerate(lines):
        shown = [(x, p) for p in line.points if (x := p.mean("sequential_forwards"))]
        if not shown:
            continue
        ys = [100 * (p.mean("accuracy") or 0) for _, p in shown]
        # Means of several seeds lie within the union of their intervals, so no bar is negative.
        below = [max(y - 100 * p.low, 0) for y, (_, p) in zip(ys, shown, strict=True)]
        above = [max(100 * p.high - y, 0) for y, (_, p) in zip(ys, shown, strict=True)]
        axes.errorbar(
            [x for x, _ in shown],
            ys,
            yerr=[below, above],
            color=INK,
            ecolor=MUTED,
            elinewidth=1.2,
            capsize=2.5,
            linestyle=":" if len(shown) > 1 else "",
            linewidth=1.2,
            marker=MARKERS[i % len(MARKERS)],
            markersize=6.5,
            zorder=5,
            markerfacecolor="white",
            markeredgewidth=1.5,
        )
        named.append((clip(line.label, 30), shown[-1][0], ys[-1]))
    _name_points(axes, named)


def _name_points(axes: Any, named: Sequence[tuple[str, float, float]]) -> None:
    """A label and a leader for each (label, x, y), at the first place round it that hits nothing drawn."""
    from matplotlib.text import Text

    figure = axes.figure
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    spots = [axes.transData.transform((x, y)) for _, x, y in named]
    taken = [spot for curve in axes.lines for spot in _trace(axes, curve)]
    boxes: list[Any] = []
    for i, (label, x, y) in enumerate(named):
        tried = []
        for order, (dx, dy, ha, va) in enumerate(_places()):
            text = axes.annotate(
                label,
                (x, y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=9.5,
                color=INK,
                zorder=6,
                arrowprops={
                    "arrowstyle": "-",
                    "color": "#9aa4ae",
                    "linewidth": 0.9,
                    "shrinkA": 1,
                    "shrinkB": 5,
                },
            )
            text.update_positions(figure.canvas.get_renderer())
            box = Text.get_window_extent(text).padded(figure.dpi / 40)  # without the leader
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            far = [_distance(box, spot) for spot in spots]
            cost = 1000 * (not inside) + sum(100 for other in boxes if box.overlaps(other))
            cost += sum(box.contains(*spot) for spot in taken) + 3 * (far[i] > min(far))
            tried.append((cost, order, text, box))
            if cost == 0:
                break
        best = min(tried, key=lambda t: t[:2])
        for _, _, text, _ in tried:
            if text is not best[2]:
                text.remove()
        boxes.append(best[3])


def _distance(box: Any, spot: Any) -> float:
    dx = max(box.x0 - spot[0], 0, spot[0] - box.x1)
    dy = max(box.y0 - spot[1], 0, spot[1] - box.y1)
    return float(dx * dx + dy * dy) ** 0.5


def _places() -> list[tuple[float, float, str, str]]:
    """Offsets in points and alignments, nearest first."""
    near: list[tuple[float, float, str, str]] = []
    for r in (8, 16, 26, 38, 52):
        d = 0.75 * r
        near += [(r, 0, "left", "center"), (-r, 0, "right", "center"), (0, r, "center", "bottom")]
        near += [(0, -r, "center", "top"), (d, d, "left", "bottom"), (-d, d, "right", "bottom")]
        near += [(d, -d, "left", "top"), (-d, -d, "right", "top")]
    return near


def _trace(axes: Any, curve: Any) -> list[tuple[float, float]]:
    """Spots along a drawn curve in pixels, close enough that no label slips between them."""
    shown = curve.get_transform().transform(curve.get_xydata())
    spots = [(float(x), float(y)) for x, y in shown]
    for (x0, y0), (x1, y1) in zip(shown, shown[1:], strict=False):
        steps = int(max(abs(x1 - x0), abs(y1 - y0)) // 6) + 1
        spots += [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(1, steps)]
    return spots
