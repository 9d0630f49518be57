"""The canvas in the terminal while it is denoised: in place on a terminal, elsewhere one line per state."""

import os
import shutil
import unicodedata
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any, TextIO

from hybrid.build import plain
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.draft import State
from hybrid.reasoner import Reasoner
from hybrid.records import Reasoned
from hybrid.tasks.collate import prompts as encode
from hybrid.tasks.tokenizer import Tokenizer
from hybrid.trace import Frame, Recorder, frame, glyph, on_host, piece, visible, write

WIDEST_CELL = 8
DELAY, LONGEST_DELAY = 0.25, 60.0  # seconds a state is shown: on a terminal, and at most
RESET = "\x1b[0m"
# What stands left and right of a token says what happened to it; the colour says it again.
MARKS = {
    "open": (" ", " ", "\x1b[2m"),
    "committed": ("[", "]", "\x1b[1;32m"),
    "reopened": ("(", ")", "\x1b[1;35m"),
    "edited": ("<", ">", "\x1b[1;33m"),
    "closed": (" ", " ", "\x1b[2m"),
    "held": (" ", " ", ""),
    "given": ("'", "'", "\x1b[36m"),
    "final": ("│", " ", "\x1b[1;34m"),
}
LEGEND = (
    ("open", "░", "masked"), ("committed", "7", "committed now"), ("reopened", "░", "reopened"),
    ("edited", "7", "edited"), ("held", "7", "kept"), ("held", "■", "end"), ("closed", "·", "pad"),
    ("final", "7", "final"),
)  # fmt: skip


def columns(text: str) -> int:
    """Terminal columns of a text: wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def fit(text: str, width: int) -> str:
    """Cut or padded to exactly `width` columns."""
    if columns(text) > width:
        while columns(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - columns(text))


class Live(Recorder):
    """Shows the states of one call, and keeps them; a context manager around it.

    The draft is never held up: a thread of its own draws, and shows each state for at least `delay` seconds.
    first: number of the first prompt.
    in_place: redraws a block of lines on a terminal; otherwise every row of every state is a line of its own.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        tokenizer: Tokenizer,
        out: TextIO,
        *,
        delay: float = 0.0,
        in_place: bool = False,
        is_coloured: bool = False,
        first: int = 1,
    ) -> None:
        super().__init__()
        self.prompts, self.tokenizer, self.out, self.delay = prompts, tokenizer, out, delay
        self.in_place, self.is_coloured, self.first = in_place, is_coloured, first
        self.width = cell_width(tokenizer)
        self.seen: list[Frame | None] = [None] * len(prompts)
        self.drawn = 0
        self.stopped = Event()  # cuts the last state's delay short
        self.pool = ThreadPoolExecutor(max_workers=1)
        self.shown: list[Future[None]] = []

    def watch(self, state: State) -> None:
        super().watch(state := on_host(state))
        now = [frame(state, row, before, self.tokenizer.special) for row, before in enumerate(self.seen)]
        self.seen = list(now)
        self.shown.append(self.pool.submit(self._show, now))

    def finish(self, results: Sequence[Reasoned]) -> None:
        """Show what the decoder has read, and what it answered."""
        self.shown.append(self.pool.submit(self._show, list(self.seen), results))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            for future in self.shown if kind is None else ():
                future.result()  # raises what drawing raised, such as a closed pipe
        finally:
            self.stopped.set()
            self.pool.shutdown(cancel_futures=True)

    def _show(self, now: Sequence[Frame | None], results: Sequence[Reasoned] | None = None) -> None:
        rows = [(i, seen, results[i] if results else None) for i, seen in enumerate(now) if seen is not None]
        if self.in_place:
            lines = [line for row in rows for line in self._block(*row)]
            up = f"\x1b[{self.drawn}A\x1b[J" if self.drawn else ""
            self.out.write(up + "\n".join(lines) + "\n")
            self.drawn = len(lines)
        else:
            for i, seen, result in rows:
                said = self._said(seen, result)
                self.out.write(f"{self.first + i:<3} {said[0]:8} {''.join(self._cells(seen, result))}  {said[1]}\n")
        self.out.flush()
        self.stopped.wait(0.0 if results else self.delay)

    def _block(self, i: int, seen: Frame, result: Reasoned | None) -> list[str]:
        """A row's lines on a terminal: its prompt, its canvas, what happened."""
        room = terminal_width()
        cells, per_line = self._cells(seen, result), cells_per_line(self.width)
        said = self._said(seen, result)
        lines = ["".join(cells[at : at + per_line]) for at in range(0, len(cells), per_line)]
        head, foot = f"{self.first + i}  {visible(self.prompts[i])}", f"    {said[0]}: {said[1]}"
        return [fit(head, room).rstrip(), *(f"    {line}" for line in lines), fit(foot, room).rstrip(), ""]

    def _cells(self, seen: Frame, result: Reasoned | None) -> list[str]:
        if result is None:
            return [self._cell(token, event) for token, event in zip(seen.tokens, seen.happened, strict=True)]
        return [self._cell(token, "final") for token in result.sketch_tokens]

    def _cell(self, token: int, mark: str) -> str:
        text = glyph(token, piece(self.tokenizer, token), self.tokenizer.special)
        return marked(fit(text, self.width), mark, self.is_coloured)

    def _said(self, seen: Frame, result: Reasoned | None) -> tuple[str, str]:
        if result is not None:
            return "final", f"answer {visible(result.answer)}{'' if result.complete else '  (incomplete)'}"
        counts = [(n, event) for event in ("committed", "reopened", "edited", "closed") if (n := seen.count(event))]
        drawn = [p for p, event in zip(seen.confidence, seen.happened, strict=True) if event == "committed" and p]
        parts = [f"{n} {event}" for n, event in counts] + [f"{seen.tokens.count(self.tokenizer.special.mask)} masked"]
        return f"step {seen.step}", ", ".join(parts) + (f"; least confidence {min(drawn):.2f}" if drawn else "")


def marked(text: str, mark: str, is_coloured: bool) -> str:
    left, right, colour = MARKS[mark]
    return f"{colour}{left}{text}{right}{RESET}" if is_coloured and colour else f"{left}{text}{right}"


def cell_width(tokenizer: Tokenizer) -> int:
    """Columns for one token, the same for every state, so that a position keeps its place."""
    text = (name for token, name in tokenizer.names.items() if token > max(tokenizer.special.never_drafted))
    return min(max(map(columns, text), default=1), WIDEST_CELL)


def terminal_width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def cells_per_line(width: int) -> int:
    return max((terminal_width() - 4) // (width + 2), 1)


def legend(is_coloured: bool) -> str:
    return " ".join(f"{marked(sign, mark, is_coloured)} {text}" for mark, sign, text in LEGEND)


def reason(
    reasoner: Reasoner,
    prompts: Sequence[str],
    budget: Budget,
    *,
    out: TextIO,
    task: str,
    live: bool = False,
    delay: float | None = None,
    trace: str | None = None,
    **call: Any,
) -> list[Reasoned]:
    """`reasoner.reason(prompts, budget, **call)`, seen: live on `out`, written to the file `trace`, or neither.

    On a terminal, as many prompts as its height holds are drafted together; elsewhere, and where not even one fits,
    one after another. What is drafted does not depend on that.

    delay: seconds per state; None: enough to follow on a terminal, else 0.

    Raises:
        ValueError: a delay without `live`, or one that is no time.
    """
    if delay is not None and not live:
        raise ValueError(f"delay={delay}: is for --live, which was not asked for")
    if delay is not None and not 0 <= delay <= LONGEST_DELAY:
        raise ValueError(f"delay={delay}: expected seconds, from 0 to {LONGEST_DELAY}")
    if not live and trace is None:
        return reasoner.reason(prompts, budget, **call)
    encode(prompts, reasoner.tokenizer)  # refuse all before showing some
    screen = shutil.get_terminal_size((100, 24))
    height = 3 + -(-reasoner.config.positions // cells_per_line(cell_width(reasoner.tokenizer)))  # of one prompt
    is_terminal = out.isatty() and os.environ.get("TERM") != "dumb"
    style: dict[str, Any] = dict(in_place=is_terminal and height < screen.lines)
    style["is_coloured"] = is_terminal and not os.environ.get("NO_COLOR")
    style["delay"] = (DELAY if is_terminal else 0.0) if delay is None else delay
    size = len(prompts)
    if live:
        print(legend(style["is_coloured"]) + "\n", file=out)
        size = (screen.lines - 1) // height if style["in_place"] else 1
    setting = {"task": task, "method": reasoner.config.method}
    setting |= {name: plain(call[name]) for name in ("drafter", "seed") if name in call}
    results, traces = [], []
    for at in range(0, len(prompts), size):
        some = prompts[at : at + size]
        view = Live(some, reasoner.tokenizer, out, first=at + 1, **style) if live else Recorder()
        with view:
            found = reasoner.reason(some, budget, watch=view.watch, **call)
            view.finish(found)
        results += found
        traces += view.traces(some, found, reasoner.tokenizer, setting) if trace else []
    if trace:
        write(traces, trace)
    return results
