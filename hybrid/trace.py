"""A trace: every state of the canvas while a sketch was drafted, and what happened at each of its positions.

The file is one JSON object: `schema` ("hybrid-trace/1") and `traces`, one per prompt. A trace holds

    prompt, sketch, answer, complete     the call's text; complete: no holes left, and the answer ended
    allowed, spent                       what the call might spend and what it did spend, as in `Reasoned`
    setting                              how it was drafted: task, method, drafter (its whole config), seed
    special                              ids of the tokens that are not text: pad, end, mask
    vocabulary                           text of every token id that occurs in the states; keys are ids as text
    states                               in order, the canvas before the first step and then after every step

and a state, with one entry per position in each list, in the order of the canvas,

    step                                 denoising steps done
    tokens                               token ids
    confidence                           probability the token had when it was drawn; null where none was drawn
    happened                             one of `EVENTS`
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from hybrid.build import ConfigError, build, plain
from hybrid.diffusion.draft import State
from hybrid.frontier import write_atomically
from hybrid.records import Reasoned, Special
from hybrid.tasks.tokenizer import Tokenizer

SCHEMA = "hybrid-trace/1"
Event = Literal["open", "committed", "reopened", "edited", "closed", "held", "given"]
EVENTS: dict[Event, str] = {
    "open": "a hole that was one before",
    "committed": "a hole that became a token",
    "reopened": "a token that became a hole",
    "edited": "a token that became another token",
    "closed": "a hole that became a pad, after the sketch's end",
    "held": "a token that stayed as it was",
    "given": "a token that stood there before the first step",
}


def happened(
    before: Sequence[int] | None, now: Sequence[int], is_new: Sequence[bool], special: Special
) -> tuple[Event, ...]:
    """What happened at each position between two consecutive canvases, whatever policy decided it.

    before: None at the first state. There, and only there, `is_new` tells a drafter that writes its sketch at once
    (new tokens: committed) from tokens that no step drafted (given).
    """
    if before is None:
        before = [special.mask if new else token for token, new in zip(now, is_new, strict=True)]
        unchanged: Event = "given"
    else:
        unchanged = "held"

    def event(old: int, new: int) -> Event:
        if new == old:
            return "open" if new == special.mask else unchanged
        if new == special.mask:
            return "reopened"
        if old != special.mask:
            return "edited"
        return "closed" if new == special.pad else "committed"

    return tuple(event(old, new) for old, new in zip(before, now, strict=True))


@dataclass(frozen=True)
class Frame:
    """One row's canvas after `step` denoising steps; the three tuples have one entry per position."""

    step: int
    tokens: tuple[int, ...]
    confidence: tuple[float | None, ...]
    happened: tuple[Event, ...]

    def __post_init__(self) -> None:
        for name in ("confidence", "happened"):
            if len(getattr(self, name)) != len(self.tokens):
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {len(self.tokens)} tokens")
        for i, p in enumerate(self.confidence):
            if p is not None and not 0 <= p <= 1:
                raise ValueError(f"confidence[{i}]={p}: expected a probability, 0 to 1, or null")

    def count(self, event: Event) -> int:
        return self.happened.count(event)


def frame(state: State, row: int, before: Frame | None, special: Special) -> Frame:
    """Row `row` of a drafter's state; `before` is its last frame."""
    tokens = tuple(state.z[row].tolist())
    events = happened(None if before is None else before.tokens, tokens, state.is_new[row].tolist(), special)
    drawn = zip(tokens, state.confidence[row].tolist(), strict=True)
    # Six digits: enough for any reader, half the file. No draw has probability 0: that says "not drawn".
    confidence = tuple(float(f"{p:.6g}") if token != special.mask and p > 0 else None for token, p in drawn)
    return Frame(state.step, tokens, confidence, events)


def on_host(state: State) -> State:
    """The state where reading it waits for no device; three copies, for all rows at once."""
    return replace(state, z=state.z.cpu(), is_new=state.is_new.cpu(), confidence=state.confidence.cpu())


def frames(states: Sequence[State], row: int, special: Special) -> tuple[Frame, ...]:
    """Row `row` of every state."""
    seen: list[Frame] = []
    for state in states:
        seen.append(frame(state, row, seen[-1] if seen else None, special))
    return tuple(seen)


@dataclass(frozen=True)
class Trace:
    """One prompt's draft, state by state; the module's docstring says what each field holds.

    Raises:
        ValueError: no states, canvases of several lengths, steps that fall, or a token that has no text.
    """

    prompt: str
    sketch: str
    answer: str
    complete: bool
    allowed: Mapping[str, Any]
    spent: Mapping[str, float]
    special: Mapping[str, int]
    vocabulary: Mapping[str, str]
    states: tuple[Frame, ...]
    setting: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.states:
            raise ValueError("states=[]: a trace has at least one state")
        if lacks := sorted(set(GLYPHS) - set(self.special)):
            raise ValueError(f"special={dict(self.special)!r}: {lacks[0]} is missing")
        for i, state in enumerate(self.states):
            if len(state.tokens) != self.canvas:
                raise ValueError(f"states[{i}] has {len(state.tokens)} positions, states[0] has {self.canvas}")
            if i and state.step < self.states[i - 1].step:
                raise ValueError(f"states[{i}].step={state.step} comes after step {self.states[i - 1].step}")
            for token in state.tokens:
                if str(token) not in self.vocabulary:
                    raise ValueError(f"states[{i}].tokens: id {token} has no text in vocabulary")

    @property
    def canvas(self) -> int:
        """Positions."""
        return len(self.states[0].tokens)

    def glyph(self, token: int) -> str:
        """A token as a reader sees it in its cell."""
        return glyph(token, self.vocabulary[str(token)], Special(**{name: self.special[name] for name in GLYPHS}))


GLYPHS = {"pad": "·", "end": "■", "mask": "░"}
_SHOWN = {" ": "␣", "\n": "↵", "\r": "↵", "\t": "⇥"}


def glyph(token: int, text: str, special: Special) -> str:
    """One token in a cell of its own: white space is visible, and what cannot be printed is a box."""
    for name, sign in GLYPHS.items():
        if token == getattr(special, name):
            return sign
    return visible(text) or "□"


def visible(text: str) -> str:
    return "".join(_SHOWN.get(c, c if c.isprintable() else "□") for c in text)


def piece(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token on its own, so that a token of several characters still is one position."""
    special = tokenizer.special
    return tokenizer.names[token] if token in (special.pad, special.end, special.mask) else tokenizer.decode([token])


class Recorder:
    """Keeps every state of one call: hand `watch` to `Reasoner.reason`, then ask for the traces.

    A context manager, so that one which also shows the states may end with the call.
    """

    def __init__(self) -> None:
        self.states: list[State] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        pass

    def watch(self, state: State) -> None:
        self.states.append(state)  # as it is: the draft waits for no copy

    def finish(self, results: Sequence[Reasoned]) -> None:
        """Told what came of the call."""

    def traces(
        self,
        prompts: Sequence[str],
        results: Sequence[Reasoned],
        tokenizer: Tokenizer,
        setting: Mapping[str, Any] | None = None,
    ) -> list[Trace]:
        """One trace per prompt, in order.

        A row that was finished stays in the batch's states: of those in which nothing happened to it, a trace
        keeps no more than the forwards that were counted for it.
        """
        rows = len(self.states[0].z) if self.states else 0
        if not rows == len(prompts) == len(results):
            raise ValueError(f"a trace of {rows} canvases for {len(prompts)} prompts: expected one canvas each")
        special, states, traces = tokenizer.special, [on_host(state) for state in self.states], []
        for row, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
            seen = frames(states, row, special)
            last = max((i for i in range(1, len(seen)) if seen[i].tokens != seen[i - 1].tokens), default=0)
            seen = seen[: max(last + 1, int(result.spent["denoiser_forwards"]))]
            ids = sorted({token for state in seen for token in state.tokens})
            traces.append(
                Trace(
                    prompt, result.sketch, result.answer, result.complete, result.allowed, result.spent,
                    special={name: getattr(special, name) for name in GLYPHS},
                    vocabulary={str(token): piece(tokenizer, token) for token in ids},
                    states=seen, setting=setting or {},
                )
            )  # fmt: skip
        return traces


@dataclass(frozen=True)
class File:
    """A trace file as it is read."""

    schema: Literal["hybrid-trace/1"]
    traces: tuple[Trace, ...]


def content(traces: Sequence[Trace]) -> dict[str, Any]:
    """What a trace file holds."""
    return {"schema": SCHEMA, "traces": [plain(trace) for trace in traces]}


def write(traces: Sequence[Trace], path: str | Path) -> Path:
    """Write the file, replaced as a whole, with one state a line."""
    text = json.dumps(content(traces), ensure_ascii=False, allow_nan=False)
    # Inside a JSON string the quotes would be escaped, so this matches states and nothing else.
    return write_atomically(path, (text.replace('{"step": ', '\n{"step": ') + "\n").encode())


def is_trace(path: str | Path) -> bool:
    """Whether a file says that it is a trace, of any version, whole or cut short."""
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        return "hybrid-trace/" in file.read(200)


def read(path: str | Path) -> list[Trace]:
    """The traces of a file.

    Raises:
        ValueError: one line naming the file, the key, its value and what is expected.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected the JSON of a trace, whole: {error}") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else data
        raise ValueError(f"{path}: schema={found!r:.60}: expected {SCHEMA!r}")
    try:
        return list(build(File, data).traces)
    except ConfigError as error:
        raise ValueError(f"{path}: {error}") from None
