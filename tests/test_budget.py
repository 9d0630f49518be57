"""Budgets in every unit: what they come to, that they hold, and that the answer's share is reserved first."""

from dataclasses import replace

import pytest
import torch
from toy import tiny_batch, tiny_reasoner

from hybrid.bridge import Latent
from hybrid.choose import chosen
from hybrid.diffusion.budget import Budget, Plan
from hybrid.diffusion.deadline import Deadline
from hybrid.diffusion.policy import Random, Threshold
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.drafters.diffusion import Diffusion
from hybrid.evaluate import Evaluate, evaluate
from hybrid.feed import Gold
from hybrid.metrics import Tally
from hybrid.nets.network import Network
from hybrid.pace import Trial, calibrate
from hybrid.records import Example, Special
from hybrid.tasks import Chain, collate

CANVAS, MAX_ANSWER = 6, 4
SPECIAL = Special()
DRAWN = Diffusion(policy=Random(), temperature=1.0)


@pytest.mark.parametrize(
    "budget, steps, tokens",
    [
        (Budget(), 24, 24),
        (Budget(5), 5, 24),
        (Budget(0), 0, 0),
        (Budget(tokens=7), 7, 7),
        (Budget(steps=9, tokens=7), 7, 7),
        (Budget(steps=30, tokens=7), 30, 7),  # for a policy that reopens; others refuse it
        (Budget(steps=30, tokens=0), 0, 0),
        (Budget(tokens=99), 24, 24),
        (Budget(forwards=17), 7, 24),
        (Budget(forwards=10), 0, 0),
        (Budget(forwards=17, steps=3), 3, 24),
        (Budget(effort="none"), 0, 0),
        (Budget(effort="low"), 3, 24),
        (Budget(effort="medium"), 8, 24),
        (Budget(effort="high"), 24, 24),
        (Budget(steps=5, effort="medium"), 5, 24),
        (Budget(steps=9, effort="medium"), 8, 24),
    ],
)
def test_all_limits_hold_together(budget, steps, tokens):
    plan = Plan.of(budget, 2, 24, answer=10)
    assert plan == Plan((steps, steps), (tokens, tokens))


def test_limits_per_row_and_forwards_that_buy_two_a_step_or_tokens():
    plan = Plan.of(Budget(steps=(4, 0, 9), forwards=(12, 12, 30)), 3, 24, answer=10, per_step=2)
    assert plan.steps == (1, 0, 9)
    assert Plan.of(Budget(forwards=14), 1, 24, answer=10, counts="tokens") == Plan((4,), (4,))
    assert Plan.of(Budget(forwards=12), 1, 24, answer=10, least=3).steps == (0,)  # too few to draft at all
    assert [Plan.of(Budget(forwards=n), 1, 24, answer=10, besides=8).steps for n in (10, 18, 19)] == [(0,), (0,), (1,)]
    assert [Plan.of(Budget(effort=e), 1, 25).steps for e in ("low", "medium")] == [(4,), (9,)]  # shares rounded up
    assert Plan.of(Budget(effort="medium"), 1, 20, more=4) == Plan((8,), (20,))  # of the whole canvas, answer and all
    with pytest.raises(ValueError, match="tokens for 2 rows"):
        Plan.of(Budget(tokens=(1, 2)), 3, 24)
    with pytest.raises(ValueError, match="forwards=9: the answer alone may take 10"):
        Plan.of(Budget(forwards=9), 1, 24, answer=10)


@pytest.mark.parametrize(
    "limits",
    [
        {"ms": 0}, {"ms": -1.0}, {"ms": float("inf")}, {"tokens": -1}, {"forwards": 1.5}, {"effort": "huge"},
        {"steps": 10**20},
    ],
)  # fmt: skip
def test_limits_that_are_none_are_refused(unchecked, limits):
    (name,) = limits
    with pytest.raises(ValueError, match=f"{name}="):
        Budget(**limits)


@pytest.mark.parametrize("policy", [Random(), Threshold(0.3)])
@pytest.mark.parametrize("tokens", [1, 3, 5])
def test_a_sketch_has_no_more_tokens_than_allowed(policy, tokens):
    drafter = replace(DRAWN, policy=policy)
    for result in tiny_reasoner().reason(tiny_batch(8).prompts, Budget(tokens=tokens), drafter=drafter):
        written = [t for t in result.sketch_tokens if t != SPECIAL.pad]
        assert len(written) <= tokens and SPECIAL.mask not in written
        assert result.allowed["tokens"] == tokens and result.spent["denoiser_forwards"] <= tokens + 1


def test_a_row_without_a_sketch_costs_what_it_costs_alone():
    reasoner, prompts = tiny_reasoner(), tiny_batch(4).prompts
    mixed = reasoner.reason(prompts, Budget((3, 0, 2, 0)), drafter=DRAWN)
    for row, steps in enumerate((3, 0, 2, 0)):
        (alone,) = reasoner.reason(prompts.select(torch.tensor([row])), Budget(steps), drafter=DRAWN)
        assert (mixed[row].sketch, mixed[row].answer) == (alone.sketch, alone.answer)
        assert {**mixed[row].spent, "seconds": 0} == {**alone.spent, "seconds": 0}


@pytest.mark.parametrize("forwards", [5, 6, 9])
def test_forwards_in_all_are_never_exceeded(forwards):
    for guidance in (0.0, 0.5):
        for result in tiny_reasoner().reason(
            tiny_batch(6).prompts, Budget(forwards=forwards), drafter=replace(DRAWN, guidance=guidance)
        ):
            assert result.spent["denoiser_forwards"] + result.spent["decoder_forwards"] <= forwards
            assert result.allowed["forwards"] == forwards and result.answer_tokens


@pytest.mark.parametrize("text", [True, False])
def test_forwards_pay_for_a_bridge_of_hidden_states(text):
    reasoner = tiny_reasoner(bridge=Latent(text=text))
    for forwards in (4, 5, 6, 9):  # 4 for the answer, 1 for the states
        for result in reasoner.reason(tiny_batch(5).prompts, Budget(forwards=forwards)):
            assert result.spent["denoiser_forwards"] + result.spent["decoder_forwards"] <= forwards
            assert result.allowed["steps"] == max(0, forwards - 5)


@pytest.mark.parametrize("limit", ["forwards", "tokens"])
def test_limits_of_each_row_cost_an_autoregressive_drafter_what_they_cost_alone(limit):
    reasoner, prompts = tiny_reasoner(drafter=Autoregressive(), feed=Gold()), ["1+2=", "12+3=", "123+45=", "5+5="]
    limits = (5, 10, 7, 10) if limit == "forwards" else (1, 6, 3, 6)
    together = reasoner.reason(prompts, Budget(**{limit: limits}))
    for prompt, n, result in zip(prompts, limits, together, strict=True):
        (alone,) = reasoner.reason([prompt], Budget(**{limit: n}))
        assert (alone.sketch, alone.answer) == (result.sketch, result.answer)
        for name in ("denoiser_forwards", "decoder_forwards", "sketch_tokens"):
            assert alone.spent[name] == result.spent[name], name


def test_forwards_buy_an_autoregressive_drafter_tokens():
    reasoner = tiny_reasoner(drafter=Autoregressive(), feed=Gold())
    for result in reasoner.reason(tiny_batch(6).prompts, Budget(forwards=6)):
        assert result.spent["denoiser_forwards"] + result.spent["decoder_forwards"] <= 6
        assert sum(t != SPECIAL.pad for t in result.sketch_tokens) <= 2


# ---- deadlines, by a clock that only network calls move


class Clock:
    """Seconds that pass in network calls alone: `step` in each call, and `late[i]` more in the i-th."""

    def __init__(self, reasoner, seconds, late=()):
        self.now, self.calls, self.late = 0.0, 0, dict(late)
        self.seconds = seconds
        for n in _networks(reasoner):
            n.model.base_model.forward = self._wrap(n.model.base_model.forward)

    def _wrap(self, forward):
        def timed(*args, **options):
            self.now += self.seconds + self.late.get(self.calls, 0.0)
            self.calls += 1
            return forward(*args, **options)

        return timed

    def __call__(self):
        return self.now


def _networks(reasoner):
    return [reasoner.networks.decoder] + ([] if reasoner.networks.is_shared else [reasoner.networks.drafter])


@pytest.mark.parametrize("pairing", ["shared", "separate"])
@pytest.mark.parametrize("ms", [20, 45, 55, 70, 200])
def test_a_deadline_is_kept_and_the_answer_is_always_there(pairing, ms):
    """A call costs 10 ms. A late step overruns the deadline by one forward at most."""
    reasoner, prompts = tiny_reasoner(pairing=pairing), tiny_batch(3).prompts
    for late in ({}, {40: 0.01}, {41: 0.02}):
        clock = Clock(reasoner, 0.01, late)
        reasoner.answering.timings.clear()
        reasoner.reason(prompts, Budget(ms=1000), drafter=DRAWN, clock=clock)  # times the machine
        clock.calls = 38
        began = clock()
        results = reasoner.reason(prompts, Budget(ms=ms), drafter=DRAWN, clock=clock)
        taken = 1e3 * (clock() - began)
        assert all(r.answer_tokens for r in results)
        slowest = 10 + 1e3 * max(late.values(), default=0.0)
        assert taken <= max(ms, 40) + slowest + 1e-6
        steps = results[0].allowed["steps"]
        if ms <= 45:
            assert steps == 0 and "answered without" in results[0].allowed["note"]
        elif ms == 200:
            assert steps == CANVAS
        else:
            assert 1 <= steps < CANVAS
        for n in _networks(reasoner):
            del n.model.base_model.forward


@pytest.mark.parametrize("ms", [20, 45, 55, 70, 200])
def test_a_deadline_ends_a_chain_too(ms):
    """What is written token by token ends in time, the answer's own time kept free, and says where it was cut."""
    for seed in range(3):
        reasoner, prompts = tiny_reasoner(seed, drafter=Autoregressive(), feed=Gold()), tiny_batch(3).prompts
        whole = [sum(t != SPECIAL.pad for t in r.sketch_tokens) for r in reasoner.reason(prompts)]
        clock = Clock(reasoner, 0.01)
        reasoner.reason(prompts, Budget(ms=1000), clock=clock)  # times the machine
        began = clock()
        results = reasoner.reason(prompts, Budget(ms=ms), clock=clock)
        assert 1e3 * (clock() - began) <= max(ms, 40) + 10 + 1e-6
        tokens = [sum(t != SPECIAL.pad for t in r.sketch_tokens) for r in results]
        assert all(r.answer_tokens for r in results)
        if ms <= 45:
            assert not any(tokens) and "answered without" in results[0].allowed["note"]
        else:
            room = CANVAS if ms == 200 else results[0].allowed["tokens"]
            assert tokens == [min(n, room) for n in whole] and (ms == 200 or 1 <= room < CANVAS)


def test_a_chain_that_slows_down_stops_writing(monkeypatch):
    """Calls that take longer than when they were timed: one over, and no more."""
    now, seconds, inner = 0.0, 0.01, Network.remember

    def remember(self, segments, memory=None):
        nonlocal now
        now += seconds
        return inner(self, segments, memory)

    monkeypatch.setattr(Network, "remember", remember)
    reasoner, prompts = tiny_reasoner(drafter=Autoregressive(), feed=Gold(), canvas=16), tiny_batch(5, 16).prompts
    reasoner.reason(prompts, Budget(ms=10000), clock=lambda: now)  # times the machine
    for ms in (150, 200, 300):
        seconds, began, answer = 0.02, now, 0.01 * MAX_ANSWER  # the answer's time is kept at the old rate
        reasoner.reason(prompts, Budget(ms=ms), clock=lambda: now)
        assert 1e3 * (now - began) <= ms + 20 + 1e3 * answer + 1e-6


@pytest.mark.parametrize("ms", [150, 200, 250, 300])
def test_a_deadline_keeps_the_time_of_verifying(ms, monkeypatch):
    """Calls take 10 ms, and over a canvas 20, which the calibration did not see: one call over, and no more."""
    now, late, inner = 0.0, 0.0, Network.forward

    def forward(self, segments, memory=None):
        nonlocal now
        now += 0.01 + late * any(s.name == "canvas" for s in segments)
        return inner(self, segments, memory)

    monkeypatch.setattr(Network, "forward", forward)
    verifies, prompts = replace(DRAWN, next_token=1.0, verify=8), tiny_batch(5, 16).prompts
    for seed in range(3):
        reasoner, late = tiny_reasoner(seed, canvas=16, drafter=verifies), 0.0
        reasoner.reason(prompts, Budget(ms=10000), clock=lambda: now)  # times the machine
        late, began = 0.01, now
        reasoner.reason(prompts, Budget(ms=ms), clock=lambda: now)
        assert 1e3 * (now - began) <= ms + 20 + 1e-6


def test_seconds_are_the_call_s_by_its_rows():
    """Rows that draft and rows that do not share one call, and its time in equal parts."""
    reasoner, prompts = tiny_reasoner(), tiny_batch(3).prompts
    clock = Clock(reasoner, 0.01)
    results = reasoner.reason(prompts, Budget((2, 0, 2)), clock=clock)
    assert sum(r.spent["seconds"] for r in results) == pytest.approx(clock()) == 0.01 * clock.calls
    assert len({r.spent["seconds"] for r in results}) == 1
    told = [sum(r.timing[part] for r in results) for part in ("draft", "answer")]
    assert told[0] == pytest.approx(0.02) and sum(told) == pytest.approx(clock())


def test_a_deadline_counts_down_by_the_slowest_step():
    times = iter([0.0, 1.0, 4.0, 5.0, 9.5, 11.0])
    deadline = Deadline(10.0, 1.0, lambda: next(times))
    assert [deadline.steps_left() for _ in range(6)] == [10, 9, 2, 1, 0, 0]


def test_a_calibration_finds_what_a_call_is_made_of():
    timing = calibrate(lambda steps: Trial(0.5 + 0.25 * steps, 0.3, 3), 8, 1, 10)
    assert (timing.before, timing.step, timing.answer) == pytest.approx((0.5, 0.25, 1.0))
    timing = calibrate(lambda steps: Trial(0.5, 0.3, 3), 1, 1, 10)
    assert (timing.before, timing.step) == pytest.approx((0.0, 0.5))


# ---- several drafts


def test_the_first_draft_is_the_only_draft_and_others_differ():
    reasoner, prompts = tiny_reasoner(), tiny_batch(4).prompts
    one = reasoner.reason(prompts, Budget(3), drafter=DRAWN)
    many = reasoner.reason(prompts, Budget(3), drafter=DRAWN, drafts=5)
    for single, several in zip(one, many, strict=True):
        assert len(several.drafts) == 5 and single.drafts == ()
        first = several.drafts[0]
        assert (first.sketch, first.answer) == (single.sketch, single.answer)
        assert several.spent["denoiser_forwards"] == sum(d.spent["denoiser_forwards"] for d in several.drafts)
        assert several.spent["sequential_forwards"] == max(d.spent["sequential_forwards"] for d in several.drafts)
    assert len({d.sketch for d in many[0].drafts}) > 1
    apart = reasoner.reason(prompts.select(torch.tensor([2])), Budget(3), drafter=DRAWN, drafts=5)
    assert [d.sketch for d in apart[0].drafts] == [d.sketch for d in many[2].drafts]


def test_choices():
    reasoner = tiny_reasoner()
    (base,) = reasoner.reason(["1+2="], Budget(1))
    spent = {"sequential_forwards": 2.0, "positions": 5.0}

    def of(answer, likely, sure):
        return replace(base, answer=answer, answer_logp=likely, sketch_logp=sure, spent=spent)

    drafts = [of("7", -1.0, -3.0), of("8", -0.5, -2.0), of("7", -2.0, -4.0), of("9", -0.7, -0.1)]
    assert chosen(drafts, "vote").answer == "7" and chosen(drafts, "vote").answer_logp == -1.0
    assert chosen(drafts, "likelihood").answer == "8" and chosen(drafts, "confidence").answer == "9"
    assert chosen(drafts, "vote").spent == {"sequential_forwards": 2.0, "positions": 20.0}


@pytest.mark.parametrize("drafts", [0, -1, True])
def test_no_drafts_are_refused(drafts):
    with pytest.raises(ValueError, match="drafts="):
        tiny_reasoner().reason(["1"], drafter=DRAWN, drafts=drafts)


def test_drafts_that_come_out_alike_are_refused(unchecked):
    with pytest.raises(ValueError, match="one and the same"):
        tiny_reasoner().reason(["1"], drafts=2)
    with pytest.raises(ValueError, match="one of vote"):
        tiny_reasoner().reason(["1"], drafter=DRAWN, drafts=2, choose="luck")


def test_an_evaluation_of_several_drafts_says_how_many_were_right():
    """Against the drafts themselves, recomputed one call at a time."""
    reasoner, task = tiny_reasoner(), Chain(length=2, operations="+")
    examples = [Example(i, p, "12", a) for i, (p, a) in enumerate([("123", "6"), ("111", "3"), ("205", "7")])]
    settings = Evaluate(steps=(0, 3), policies=(Random(),), controls=(), temperature=2.0, drafts=4, batch=2)
    bare, row = evaluate(reasoner, task, examples, settings, name="toy", progress=False).rows
    assert bare.drafts == 1 and bare.pass_at_k is None
    passed = distinct = 0
    for e in examples:
        batch = collate([e], reasoner.tokenizer, CANVAS)
        drafter = replace(DRAWN, temperature=2.0)
        (result,) = reasoner.reason(batch.prompts, Budget(3), drafter=drafter, drafts=4)
        right = [d.answer for d in result.drafts if task.score(e, d.sketch, d.answer).answer_correct]
        passed, distinct = passed + bool(right), distinct + len(set(right))
    assert (row.drafts, row.answer_is) == (4, "vote")
    assert (row.pass_at_k, row.distinct) == pytest.approx((passed / 3, distinct / 3))
    assert row.denoiser_forwards > bare.denoiser_forwards
    assert row.drafted_length <= CANVAS < row.sketch_tokens  # of the sketch that was chosen; of all four


def test_answers_that_are_drawn_are_as_many_without_a_sketch():
    reasoner = tiny_reasoner(drafter=replace(DRAWN, temperature=1.0))
    results = reasoner.reason(tiny_batch(3).prompts, Budget((0, 2, 0)), drafts=3, answer_temperature=1.0)
    assert [len(r.drafts) for r in results] == [3, 3, 3]


def test_right_drafts_are_counted_once_however_often_they_come():
    tally = Tally()
    tally.add_drafts([[True, False, True, True], [False] * 4], [["7", "8", "7", "07"], ["1"] * 4])
    assert tally.drafts == {"pass_at_k": 0.5, "distinct": 1.0}
