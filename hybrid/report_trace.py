"""Traces as one HTML file that needs no network: a player of the canvas, every state at once, what was spent."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from hybrid.frontier import write_atomically
from hybrid.report_html import details, document, link
from hybrid.report_player import PLAYER, PLAYER_STYLE
from hybrid.trace import EVENTS, Trace, content

NAME = "trace.html"
GUIDE = (
    "The drafter starts from a canvas of masked positions and fills them in a few denoising steps, several at a time; "
    "the decoder then reads the finished sketch and writes the answer. The number in a cell, and the height of its "
    "shade, is the probability in percent that the token had when it was drawn. A drafter that writes its sketch token "
    "by token shows one state, the finished one."
)
SIGNS = {"committed": "<sup>+</sup>", "reopened": "<sup>↺</sup>", "edited": "<del>2</del>"}
HEADINGS = ("prompt", "sketch", "answer", "drafted by", "steps", "sequential forwards", "tokens", "ms")


def write(traces: Sequence[Trace], folder: str | Path, has_frontier: bool = False) -> Path:
    """trace.html in `folder`, replaced as a whole.

    It leads to the frontier's page where that lies in the folder, or will (`has_frontier`).
    """
    beside = Path(folder) / "frontier.html"
    leads = has_frontier or beside.is_file()
    return write_atomically(Path(folder) / NAME, html(traces, beside.name if leads else None).encode())


def html(traces: Sequence[Trace], beside: str | None = None) -> str:
    """beside: file name of the frontier's page, in the same folder.

    Raises:
        ValueError: no traces.
    """
    if not traces:
        raise ValueError("traces=[]: a page needs at least one trace to play")
    tasks = list(dict.fromkeys(str(trace.setting.get("task", "a draft")) for trace in traces))
    title = ", ".join(tasks)
    count = f"{len(traces)} draft{'s' * (len(traces) > 1)}"
    body = f"""<header>
<h1>{escape(title)}</h1>
<p class="under">{count}, state by state</p>
<p class="guide">{escape(GUIDE)}</p>{link(beside, "Accuracy against what was spent: the frontier")}
</header>
<section id="player" aria-label="Player">
<div class="player">
<div class="part"><span>prompt</span><b id="prompt" class="text"></b></div>
<div id="canvas" role="group" aria-label="Canvas"></div>
<p id="said" role="status"></p>
<div class="keys"><div class="axes" role="group" aria-label="Playback">{_buttons()}</div>
<input id="at" type="range" min="0" value="0" aria-label="State"><output id="place" for="at"></output>
<div class="axes" role="group" aria-label="Speed">{_speeds()}</div></div>
<div class="part"><span>sketch</span><b id="sketch" class="text"></b></div>
<div class="part"><span>answer</span><b id="answer" class="text"></b></div>
</div>
<div class="legend" aria-label="What the cells mean">{_legend()}</div>
<p class="note">Space plays and pauses, ← and → step, Home and End jump, n and p choose the draft.</p>
<noscript><p>The player needs JavaScript; the table below holds every draft's result.</p></noscript>
</section>
<section><h2>All states</h2>
<p class="note">One line per state; the shade is the probability of the token when drawn. Press a step to go there.</p>
<p id="many" class="note" hidden>Too many to show at once: the player shows them one by one.</p>
<div class="scroll" tabindex="0" role="region" aria-label="All states"><table id="states" class="text"></table></div>
</section>
<section><h2>All drafts</h2>
<p class="note">Press a prompt to play its draft.</p>
{_table(traces)}</section>
<section><h2>Details</h2>
{"".join(_details(trace) for trace in traces)}</section>"""
    data = {"trace": content(traces), "glyphs": [_glyphs(trace) for trace in traces]}
    return document(f"{title} · drafts", body, data, PLAYER, PLAYER_STYLE)


def _glyphs(trace: Trace) -> dict[str, str]:
    return {token: trace.glyph(int(token)) for token in trace.vocabulary}


def _buttons() -> str:
    keys = {"first": ("«", "first state"), "back": ("‹", "state before"), "play": ("play", "play or pause")}
    keys |= {"on": ("›", "next state"), "last": ("»", "last state")}
    return "".join(
        f'<button type="button" id="{name}" title="{text}"{_name(name, text)}>{sign}</button>'
        for name, (sign, text) in keys.items()
    )


def _name(key: str, text: str) -> str:
    return "" if key == "play" else f' aria-label="{text}"'  # the play button's own text says which it does


def _speeds() -> str:
    paces = {"slow": 1200, "normal": 500, "fast": 120}
    return "".join(
        f'<button type="button" data-pace="{ms}" aria-pressed="{str(name == "normal").lower()}" '
        f'title="{ms} ms per state">{name}</button>'
        for name, ms in paces.items()
    )


def _legend() -> str:
    names = {"open": "masked", "committed": "just committed", "held": "kept", "closed": "after the end"}
    cells = "".join(
        f'<span title="{escape(text)}"><span class="cell {event}"><b>{"·" if event == "closed" else "7"}</b>'
        f"{SIGNS.get(event, '')}</span>{names.get(event, event)}</span>"
        for event, text in EVENTS.items()
    )
    return cells + '<span class="final" title="what the decoder reads"><span class="cell"><b>7</b></span>final</span>'


def _table(traces: Sequence[Trace]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in HEADINGS)
    body = "\n".join(
        f'<tr><td><button type="button" class="text" data-trace="{i}" aria-pressed="false">{escape(trace.prompt)}'
        f"</button></td>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(trace))}</tr>"
        for i, trace in enumerate(traces)
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="All drafts"><table id="rows">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cells(trace: Trace) -> list[str]:
    spent, allowed = trace.spent, trace.allowed
    written = [f"{spent[name]:.0f}" if name in spent else "–" for name in ("sketch_tokens", "answer_tokens")]
    return [
        trace.sketch or "(none)",
        trace.answer + ("" if trace.complete else " (incomplete)"),
        drafted_by(trace),
        f"{trace.states[-1].step} of {allowed['steps']}" if "steps" in allowed else str(trace.states[-1].step),
        f"{spent['sequential_forwards']:.0f}" if "sequential_forwards" in spent else "–",
        " + ".join(written),
        f"{1000 * spent['seconds']:.1f}" if "seconds" in spent else "–",
    ]


def drafted_by(trace: Trace) -> str:
    """The drafter in a few words: its kind, or its policy and that policy's settings."""
    drafter = trace.setting.get("drafter")
    if not isinstance(drafter, dict):
        return str(trace.setting.get("method", "–"))
    policy = drafter.get("policy")
    if not isinstance(policy, dict):
        return str(drafter.get("kind", "–"))
    own = [f"{name} {value}" for name, value in policy.items() if name != "kind"]
    return " · ".join([str(policy.get("kind", "–")), *own])


def _details(trace: Trace) -> str:
    facts = {"allowed": trace.allowed, "spent": trace.spent, **trace.setting}
    return f'<details><summary class="text">{escape(trace.prompt)}</summary><dl>{details(facts)}</dl></details>'
