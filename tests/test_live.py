"""The canvas in the terminal: every state is shown, marks read without colour, and the draft is not held up."""

import io
import re
import time

import pytest
from toy import tiny_reasoner

from hybrid import live
from hybrid.diffusion.budget import Budget
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.feed import Gold
from hybrid.live import Live, columns, fit, reason
from hybrid.tasks.tokenizer import BytePair
from hybrid.trace import EVENTS, Recorder, read

PROMPTS = ["1+2=", "12+3=", "7="]
COLOUR, UP = re.compile(r"\x1b\[[\d;]*m"), re.compile(r"\x1b\[(\d+)A\x1b\[J")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    """A terminal of 100 columns and 24 lines that knows colour and cursor."""
    for name, value in {"COLUMNS": "100", "LINES": "24", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return monkeypatch


def shown(out, prompts=PROMPTS, reasoner=None, budget=Budget(4), **options):  # noqa: B008  (frozen)
    reasoner = reasoner or tiny_reasoner()
    options = {"live": True, "delay": 0.0} | options
    results = reason(reasoner, prompts, budget, out=out, task="sums", drafter=reasoner.config.drafter, **options)
    return out.getvalue(), results


def test_without_a_terminal_each_state_is_one_line_without_codes():
    text, results = shown(io.StringIO())
    assert "\x1b" not in text and "\r" not in text
    lines = text.splitlines()[2:]
    assert [line.split()[0] for line in lines] == [n for n in "123" for _ in range(6)], "steps 0 to 4, and the final"
    for at, result in enumerate(results):
        own = lines[6 * at : 6 * at + 6]
        assert [line[4:11].strip() for line in own] == [*(f"step {i}" for i in range(5)), "final"]
        assert own[0].count(" ░ ") == 6 and "6 masked" in own[0] and "░" not in own[-1]
        assert result.answer in own[-1] and [c for c in own[-1] if c == "│"] == ["│"] * 6
        assert sum(line.count("[") for line in own) + own[-1].count("·") == 6, "each position is committed or closed"


def test_marks_tell_every_event_without_colour():
    assert set(live.MARKS) == {*EVENTS, "final"}
    alike = {"open", "closed", "held"}  # their tokens tell them apart: a hole, a pad, text
    marks = [live.MARKS[name][:2] for name in live.MARKS if name not in alike]
    assert len(set(marks)) == len(marks) and live.MARKS["held"][:2] not in marks
    assert {live.MARKS[name][:2] for name in alike} == {(" ", " ")}
    colours = [live.MARKS[name][2] for name in ("committed", "reopened", "edited", "final", "held", "open")]
    assert len(set(colours)) == len(colours)


def test_a_terminal_is_redrawn_in_place():
    """Each redraw goes up by exactly the lines that were drawn, and the picture ends with the final canvas."""
    text, results = shown(Terminal())
    legend, _, pictures = text.partition("\n\n")
    parts = UP.split(pictures)
    drawn, ups = parts[::2], [int(n) for n in parts[1::2]]
    assert ups == [part.count("\n") for part in drawn[:-1]] and len(drawn) == 6
    plain = COLOUR.sub("", drawn[-1])
    assert plain != drawn[-1] and "\x1b" not in plain and "\x1b" in legend
    for prompt, result in zip(PROMPTS, results, strict=True):
        assert prompt in plain and f"final: answer {result.answer}" in plain


def test_no_color_and_dumb_terminals_are_respected(terminal):
    terminal.setenv("NO_COLOR", "1")
    text, _ = shown(Terminal())
    assert UP.search(text) and not COLOUR.search(text)
    terminal.setenv("NO_COLOR", "")  # empty says nothing, says the convention
    assert COLOUR.search(shown(Terminal())[0])
    terminal.setenv("TERM", "dumb")
    assert "\x1b" not in shown(Terminal())[0]


def test_prompts_that_do_not_fit_the_screen_come_one_after_another(terminal):
    terminal.setenv("LINES", "9")  # two blocks of four lines
    text, results = shown(Terminal())
    assert max(int(n) for n in UP.findall(text)) == 8
    alone = shown(io.StringIO())[1]
    tokens = [[(r.sketch_tokens, r.answer_tokens) for r in found] for found in (results, alone)]
    assert (
        tokens[0]
        == tokens[1]
        == [(r.sketch_tokens, r.answer_tokens) for r in tiny_reasoner().reason(PROMPTS, Budget(4))]
    )


def test_a_wide_canvas_is_wrapped_to_the_screen(terminal):
    terminal.setenv("COLUMNS", "40")
    text, _ = shown(Terminal(), ["1+2=" * 20], tiny_reasoner(canvas=30), Budget(2))
    assert max(columns(COLOUR.sub("", line)) for part in UP.split(text)[2::2] for line in part.splitlines()) <= 40


def test_a_canvas_taller_than_the_screen_is_shown_line_by_line(terminal):
    terminal.setenv("LINES", "4")
    text, _ = shown(Terminal())
    assert not UP.search(text) and COLOUR.search(text) and len(text.splitlines()) == 2 + 3 * 6


def test_positions_keep_their_columns_whatever_the_tokens_length():
    tokenizer = BytePair(300).train(["the theme of these threads"] * 4)
    view = Live(["x"], tokenizer, io.StringIO())
    cells = [view._cell(token, mark) for token in range(len(tokenizer)) for mark in live.MARKS]
    assert {columns(cell) for cell in cells} == {view.width + 2} and view.width <= live.WIDEST_CELL
    assert fit("日本語", 4) == "日… " and fit("ab", 4) == "ab  " and columns(fit("abcdef", 4)) == 4


def test_an_autoregressive_draft_is_shown_as_the_one_state_it_is():
    text, _ = shown(io.StringIO(), PROMPTS[:1], tiny_reasoner(drafter=Autoregressive(), feed=Gold()))
    assert [line[4:11].strip() for line in text.splitlines()[2:]] == ["step 0", "final"]


def test_a_delay_holds_up_the_show_and_not_the_draft():
    reasoner = tiny_reasoner()
    with Live(PROMPTS, reasoner.tokenizer, io.StringIO(), delay=0.05) as view:
        began = time.perf_counter()
        reasoner.reason(PROMPTS, Budget(6), watch=view.watch)
        drafted = time.perf_counter() - began
    assert time.perf_counter() - began >= 7 * 0.05 and drafted < 7 * 0.05


def test_an_interrupt_ends_the_show_at_once():
    reasoner = tiny_reasoner()
    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        with Live(PROMPTS, reasoner.tokenizer, io.StringIO(), delay=30.0) as view:
            reasoner.reason(PROMPTS, Budget(6), watch=view.watch)
            raise KeyboardInterrupt
    assert time.perf_counter() - began < 10


def test_a_closed_pipe_reaches_the_caller():
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    reasoner = tiny_reasoner()
    with pytest.raises(BrokenPipeError):
        with Live(PROMPTS, reasoner.tokenizer, Closed()) as view:
            reasoner.reason(PROMPTS, Budget(2), watch=view.watch)


def test_escapes_in_a_prompt_do_not_reach_the_terminal():
    tokenizer = BytePair(261).train(["\x1b[2J"])
    out = Terminal()
    with Live(["\x1b[2Jboo"], tokenizer, out, in_place=True) as view:
        reasoner = tiny_reasoner()
        reasoner.reason(["1"], Budget(1), watch=view.watch)
    assert "\x1b[2J" not in out.getvalue() and "□[2Jboo" in out.getvalue()


def test_live_and_trace_together_and_apart_write_the_same_states(tmp_path):
    reasoner = tiny_reasoner()
    out = io.StringIO()
    _, both = shown(out, reasoner=reasoner, trace=str(tmp_path / "both.json"))
    silent = io.StringIO()
    shown(silent, reasoner=reasoner, trace=str(tmp_path / "one.json"), live=False, delay=None)
    assert silent.getvalue() == ""
    kept = [[(t.prompt, [s.happened for s in t.states]) for t in read(tmp_path / f"{n}.json")] for n in ("both", "one")]
    assert kept[0] == kept[1] and [prompt for prompt, _ in kept[0]] == PROMPTS
    setting = read(tmp_path / "one.json")[0].setting
    assert setting["task"] == "sums" and setting["drafter"]["policy"] == {"kind": "confidence"}


def test_nothing_is_watched_where_nothing_is_asked_for(monkeypatch):
    monkeypatch.setattr(Recorder, "watch", None)
    assert shown(io.StringIO(), live=False, delay=None)[0] == ""


@pytest.mark.parametrize(("options", "says"), [
    ({"live": False, "delay": 1.0}, "delay=1.0: is for --live"),
    ({"delay": -1.0}, "delay=-1.0: expected seconds"),
    ({"delay": float("nan")}, "delay=nan: expected seconds"),
])  # fmt: skip
def test_a_delay_that_makes_no_sense_is_refused(options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        shown(io.StringIO(), **options)


def test_bad_prompts_are_refused_before_any_is_shown():
    out = io.StringIO()
    with pytest.raises(ValueError, match="unknown character 'x'"):
        shown(out, ["1+2=", "x"])
    assert out.getvalue() == ""
