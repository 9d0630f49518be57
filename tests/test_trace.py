"""What happened at a position follows from two canvases; a trace holds all of them and survives its file."""

import json
from dataclasses import replace
from itertools import product

import pytest
import torch
from toy import tiny_reasoner

from hybrid.diffusion.budget import Budget
from hybrid.diffusion.draft import State
from hybrid.diffusion.policy import LeftToRight, Random, Threshold
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.drafters.diffusion import Diffusion
from hybrid.feed import Gold
from hybrid.records import Special
from hybrid.tasks.tokenizer import BytePair
from hybrid.trace import EVENTS, Frame, Recorder, frames, glyph, happened, is_trace, piece, read, write

SPECIAL = Special()
PAD, END, HOLE, A, B = SPECIAL.pad, SPECIAL.end, SPECIAL.mask, 5, 6
NEVER = (False,) * 25
PROMPTS = ["1+2=", "12+3=", "7=", "123+45="]


def traced(reasoner, prompts=PROMPTS, budget=Budget(4), **call):  # noqa: B008  (frozen)
    recorder = Recorder()
    results = reasoner.reason(prompts, budget, watch=recorder.watch, **call)
    return recorder.traces(prompts, results, reasoner.tokenizer, {"seed": 0}), results


def test_every_pair_of_canvases_has_its_event():
    """All 25 pairs of tokens, against the words of `EVENTS`."""
    pairs = list(product((PAD, END, HOLE, A, B), repeat=2))
    events = happened(*zip(*pairs, strict=True), NEVER, SPECIAL)
    assert set(events) == set(EVENTS) - {"given"}
    for (old, new), event in zip(pairs, events, strict=True):
        was_hole, is_hole = old == HOLE, new == HOLE
        assert (event == "open") == (was_hole and is_hole)
        assert (event == "reopened") == (is_hole and not was_hole)
        assert (event in ("committed", "closed")) == (was_hole and not is_hole)
        assert (event == "closed") == (was_hole and new == PAD)
        assert (event == "held") == (old == new and not is_hole)
        assert (event == "edited") == (old != new and not was_hole and not is_hole)


def test_a_drafted_canvas_reopened_and_edited_by_hand():
    canvases = [
        (HOLE, HOLE, HOLE, HOLE),
        (A, HOLE, END, PAD),
        (B, HOLE, END, PAD),
        (HOLE, B, END, PAD),
        (A, B, END, PAD),
    ]
    told = [happened(old, new, NEVER[:4], SPECIAL) for old, new in zip([None, *canvases], canvases, strict=False)]
    assert told == [
        ("open", "open", "open", "open"),
        ("committed", "open", "committed", "closed"),
        ("edited", "open", "held", "held"),
        ("reopened", "committed", "held", "held"),
        ("committed", "held", "held", "held"),
    ]


def test_at_the_first_state_only_new_tokens_were_committed():
    canvas = (A, A, HOLE, PAD, PAD)
    told = happened(None, canvas, (True, False, False, True, False), SPECIAL)
    assert told == ("committed", "given", "open", "closed", "given")


def test_a_hole_has_no_confidence_and_neither_has_a_token_that_nobody_drew():
    z = torch.tensor([[A, HOLE, PAD, B]])
    is_new = torch.tensor([[True, False, False, True]])
    state = State(1, z, is_new, torch.tensor([[0.25, 0.5, 0.0, 1.0000001]]), torch.zeros_like(is_new))
    (only,) = frames([state], 0, SPECIAL)
    assert only.confidence == (0.25, None, None, 1.0)


@pytest.mark.parametrize("policy", [LeftToRight(), Random(), Threshold(0.3)])
def test_the_states_of_a_call_lead_to_its_sketch(policy):
    """Where nothing is reopened, each position is filled once, by the step that says so, and stays."""
    reasoner = tiny_reasoner(drafter=Diffusion(policy=policy))
    traces, results = traced(reasoner)
    for trace, result in zip(traces, results, strict=True):
        assert trace.states[-1].tokens == tuple(result.sketch_tokens) and trace.states[0].tokens == (HOLE,) * 6
        assert [state.step for state in trace.states] == list(range(len(trace.states)))
        assert len(trace.states) == 1 + result.spent["denoiser_forwards"]  # the blank canvas, then one a step
        for events in zip(*(state.happened for state in trace.states), strict=True):
            filled = [i for i, event in enumerate(events) if event in ("committed", "closed")]
            assert len(filled) == 1 and set(events[: filled[0]]) == {"open"}
            assert set(events[filled[0] + 1 :]) <= {"held"}
        for state in trace.states:
            drawn = [p is not None for p in state.confidence]
            assert all(drawn[i] for i, event in enumerate(state.happened) if event == "committed")
            assert not any(drawn[i] for i, token in enumerate(state.tokens) if token == HOLE)
        assert (trace.prompt, trace.sketch, trace.answer) == (trace.prompt, result.sketch, result.answer)
        assert trace.allowed == {"steps": 4, "tokens": 6, "max_answer": 4} and trace.spent == result.spent


def test_a_row_alone_has_the_trace_it_has_in_a_batch():
    """Also where others go on after it: what a finished row sits through is no state of its own."""
    reasoner = tiny_reasoner(2, drafter=Diffusion(policy=Threshold(0.4)))
    together, _ = traced(reasoner, budget=Budget(6))
    assert len({len(trace.states) for trace in together}) > 1, "all rows took as many steps: this tests nothing"
    for prompt, trace in zip(PROMPTS, together, strict=True):
        ((alone,), _) = traced(reasoner, [prompt], Budget(6))
        assert [(s.tokens, s.happened) for s in alone.states] == [(s.tokens, s.happened) for s in trace.states]


def test_an_autoregressive_draft_is_one_state():
    traces, results = traced(tiny_reasoner(drafter=Autoregressive(), feed=Gold()))
    for trace, result in zip(traces, results, strict=True):
        (only,) = trace.states
        assert only.tokens == tuple(result.sketch_tokens)
        assert only.count("committed") == result.spent["sketch_tokens"] and set(only.happened) <= {
            "committed",
            "closed",
        }


def test_no_sketch_is_one_state_of_pads():
    ((trace, *_), _) = traced(tiny_reasoner(), budget=Budget(0))
    assert [state.tokens for state in trace.states] == [(PAD,) * 6] and trace.sketch == ""


def test_canvases_and_prompts_must_be_as_many():
    reasoner = tiny_reasoner()
    recorder = Recorder()
    results = reasoner.reason(PROMPTS, Budget(2), watch=recorder.watch)
    with pytest.raises(ValueError, match="4 canvases for 3 prompts"):
        recorder.traces(PROMPTS[:3], results[:3], reasoner.tokenizer)


def test_tokens_of_several_characters_stay_one_position_each():
    text = "the theme of these threads, the end"
    tokenizer = BytePair(300).train([text] * 4)
    ids = tokenizer.encode(text)
    pieces = [piece(tokenizer, token) for token in ids]
    assert max(map(len, pieces)) > 1 and "".join(pieces) == text
    assert all(len(glyph(i, p, SPECIAL)) == len(p) for i, p in zip(ids, pieces, strict=True))
    bytes_of = tokenizer.encode("日")
    assert len(bytes_of) == 3 and all(glyph(i, piece(tokenizer, i), SPECIAL) for i in bytes_of)
    assert [glyph(i, piece(tokenizer, i), SPECIAL) for i in (PAD, END, HOLE)] == ["·", "■", "░"]
    assert glyph(9, " a\n\t\x1b[", SPECIAL) == "␣a↵⇥□["


@pytest.fixture(scope="module")
def traces():
    return traced(tiny_reasoner())[0]


def test_a_file_gives_back_its_traces(traces, tmp_path):
    odd = replace(traces[0], prompt='{"step": 1} "\n<b>', setting={"task": "sums", "drafter": {"policy": None}})
    path = write([*traces, odd], tmp_path / "new" / "trace.json")
    assert read(path) == [*traces, odd] and is_trace(path)
    assert path.read_text().count('\n{"step": ') == sum(len(trace.states) for trace in [*traces, odd])
    assert json.loads(path.read_text())["schema"] == "hybrid-trace/1"


def broken(traces, change):
    data = json.loads(json.dumps({"schema": "hybrid-trace/1", "traces": [plain_of(traces[0])]}))
    change(data)
    return json.dumps(data)


def plain_of(trace):
    from hybrid.trace import content

    return content([trace])["traces"][0]


BAD = {
    "schema='hybrid-trace/2'": lambda d: d.update(schema="hybrid-trace/2"),
    "traces[0].states[1].tokens[2]: expected int, got 'x'": lambda d: d["traces"][0]["states"][1]["tokens"].__setitem__(
        2, "x"
    ),
    "happened has 5 entries for 6 tokens": lambda d: d["traces"][0]["states"][1]["happened"].pop(),
    "traces[0].states[0].happened[0]: expected one of 'open'": lambda d: d["traces"][0]["states"][0][
        "happened"
    ].__setitem__(0, "melted"),
    "confidence[0]=1.5: expected a probability": lambda d: d["traces"][0]["states"][0]["confidence"].__setitem__(
        0, 1.5
    ),
    "confidence[0]=nan": lambda d: d["traces"][0]["states"][0]["confidence"].__setitem__(0, float("nan")),
    "id 2 has no text": lambda d: d["traces"][0]["vocabulary"].pop("2"),
    "mask is missing": lambda d: d["traces"][0]["special"].pop("mask"),
    "at least one state": lambda d: d["traces"][0].update(states=[]),
    "comes after step 4": lambda d: d["traces"][0]["states"].reverse(),
    "states[1] has 7 positions, states[0] has 6": lambda d: [
        d["traces"][0]["states"][1][name].append(item)
        for name, item in (("tokens", 2), ("confidence", None), ("happened", "open"))
    ],
    "missing required key traces[0].prompt": lambda d: d["traces"][0].pop("prompt"),
    "unknown key traces[0].promptt": lambda d: d["traces"][0].update(promptt=1),
}


@pytest.mark.parametrize(("says", "change"), BAD.items(), ids=list(BAD))
def test_a_broken_file_is_refused_in_one_line_by_name(traces, tmp_path, says, change):
    path = tmp_path / "trace.json"
    path.write_text(broken(traces, change))
    with pytest.raises(ValueError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ") and says in str(error.value) and "\n" not in str(error.value)


def test_a_file_cut_short_and_one_of_another_kind_are_refused(traces, tmp_path):
    path = write(traces, tmp_path / "trace.json")
    path.write_text(path.read_text()[:-30])
    assert is_trace(path)
    with pytest.raises(ValueError, match="expected the JSON of a trace, whole"):
        read(path)
    for text in ("[]", "{}", "7"):
        path.write_text(text)
        assert not is_trace(path)
        with pytest.raises(ValueError, match="expected 'hybrid-trace/1'"):
            read(path)


def test_a_frame_has_one_entry_per_position():
    with pytest.raises(ValueError, match="confidence has 1 entries for 2 tokens"):
        Frame(0, (A, B), (None,), ("open", "open"))
