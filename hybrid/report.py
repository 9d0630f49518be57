"""A frontier as a terminal table, and as the four files of a report: JSON, CSV, PNG, HTML."""

import shutil
import textwrap
from pathlib import Path

from hybrid.frontier import Frontier, Row, write_csv, write_json
from hybrid.report_page import page
from hybrid.report_plot import plot
from hybrid.report_series import DRAFTED, clip, ordered, row_label, slower

__all__ = ["page", "plot", "table", "write"]

NARROWEST, WIDEST = 80, 120
HEADINGS = ("method", "policy", "steps", "", "accuracy %", "exact %", "seq fwd", "tokens", "ms/ex")
METHOD, POLICY, BAR = 0, 1, 3


def write(frontier: Frontier, folder: str | Path) -> list[Path]:
    """frontier.json, frontier.csv, frontier.png and frontier.html in `folder`, each replaced as a whole."""
    folder = Path(folder)
    return [
        write_json(frontier, folder / "frontier.json"),
        write_csv(frontier, folder / "frontier.csv"),
        plot(frontier, folder / "frontier.png"),
        page(frontier, folder / "frontier.html"),
    ]


def table(frontier: Frontier, width: int | None = None) -> str:
    """All rows, grouped by method, in lines of at most `width` columns (80 to 120; None: the terminal's)."""
    if width is None:
        width = shutil.get_terminal_size((100, 24)).columns
    width = min(max(width, NARROWEST), WIDEST)
    gap, decimals = (2, 1) if width >= 100 else (1, 0)
    rows = ordered(frontier.rows)
    cells = [_cells(row, rows, decimals) for row in rows]
    widths = _widths(cells, width - gap * (len(HEADINGS) - 1))
    said = f"{frontier.task} · {frontier.split} · {_examples(rows)}"
    said += f" · seed {frontier.seed}" if frontier.seed is not None else ""
    rule = "─" * (sum(widths) + gap * (len(widths) - 1))
    lines = [clip(_printable(said), width), rule, _line(HEADINGS, widths, gap), rule]
    for before, row, line in zip([None, *rows], rows, cells, strict=False):
        line[BAR] = _bar(row.accuracy, widths[BAR])
        if before and before.method == row.method:
            line[0] = ""
        elif before and {before.method, row.method} & set(DRAFTED):
            lines.append("")
        first, *rest = textwrap.wrap(line[POLICY], widths[POLICY]) or [""]
        lines.append(_line([*line[:POLICY], first, *line[POLICY + 1 :]], widths, gap))
        lines += [(" " * (widths[METHOD] + gap + 2) + more).rstrip() for more in rest]
    note = "[95% Wilson] · exact: sketch is gold · tokens: sketch+answer · means per example"
    return "\n".join([*lines, rule, *(clip(_printable(line), width) for line in (note, *slower(rows)))])


def _widths(cells: list[list[str]], total: int) -> list[int]:
    """As wide as the content; the bar takes what is left, and the policy is wrapped where too little is."""
    widths = [max(len(line[i]) for line in [list(HEADINGS), *cells]) for i in range(len(HEADINGS))]
    for column, least in ((BAR, 4), (METHOD, 11), (POLICY, 8), (METHOD, 6)):
        room = total - sum(widths) + widths[column]
        widths[column] = min(max(room, least), 20 if column == BAR else widths[column])
    return widths


def _cells(row: Row, rows: list[Row], decimals: int) -> list[str]:
    interval = f"[{100 * row.accuracy_low:.{decimals}f}–{100 * row.accuracy_high:.{decimals}f}]"
    wide = len("[99–100]") if decimals == 0 else len("[98.9–100.0]")
    exact, seconds = row.sketch_exact, row.seconds_per_example
    sketch, answer = ("–" if tokens is None else f"{tokens:.0f}" for tokens in (row.sketch_tokens, row.answer_tokens))
    cells = [
        row.method,
        row_label(row, rows),
        "–" if row.steps is None else str(row.steps),
        "",
        f"{100 * row.accuracy:.1f} {interval:>{wide}}",
        "–" if exact is None else f"{100 * exact:.1f}",
        "–" if row.sequential_forwards is None else f"{row.sequential_forwards:.1f}",
        f"{sketch}+{answer}",
        "–" if seconds is None else _milliseconds(1000 * seconds),
    ]
    return [_printable(cell) for cell in cells]


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _examples(rows: list[Row]) -> str:
    counts = sorted({row.examples for row in rows})
    if not counts:
        return "no rows"
    return f"{counts[0]} examples" if len(counts) == 1 else f"{counts[0]}–{counts[-1]} examples"


def _line(cells: tuple[str, ...] | list[str], widths: list[int], gap: int) -> str:
    fitted = [clip(cell, width) for cell, width in zip(cells, widths, strict=True)]
    left = (METHOD, POLICY, BAR)
    padded = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(fitted, widths, strict=True))]
    return (" " * gap).join(padded).rstrip()


def _printable(text: str) -> str:
    """No terminal escapes or line breaks from a file's names."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
