"""Every registered drafter keeps the contract, and all are charged by one account."""

from dataclasses import fields

import pytest
import torch
from toy import tiny_batch, tiny_reasoner

from hybrid.diffusion.budget import Budget
from hybrid.diffusion.noise import Noise
from hybrid.drafters import Drafter, Request, finish
from hybrid.drafters.controls import NoSketch, Pause, ShuffledSketch
from hybrid.drafters.diffusion import Diffusion
from hybrid.feed import Gold
from hybrid.kinds import look_up, names
from hybrid.records import Special, Spent

SPECIAL = Special()
CANVAS = 6
DRAFTERS = {name: look_up(Drafter, name)() for name in names(Drafter)}
every_drafter = pytest.mark.parametrize("drafter", DRAFTERS.values(), ids=list(DRAFTERS))
ROWS = 6


def reasoner_with(drafter, **options):
    return tiny_reasoner(drafter=drafter, feed=Gold(), canvas=CANVAS, **options)


def drafted(drafter, batch, other=None, budget=Budget(3), seed=0):  # noqa: B008  (frozen)
    reasoner = reasoner_with(drafter)
    request = Request(batch.prompts, CANVAS, SPECIAL, batch.sketch, batch.sketch.flip(0) if other is None else other)
    spent, states = Spent.nothing(len(batch)), []
    result = finish(
        drafter.draft(reasoner.networks.drafter, request, budget, Noise(seed, batch.prompts.keys), spent),
        states.append,
    )
    return result, states, spent


def rows_of(batch, rows):
    prompts = batch.prompts.select(rows)
    return type(batch)(prompts, batch.sketch[rows], batch.answer[rows], batch.answer_keep[rows])


@every_drafter
def test_a_draft_is_a_canvas_of_text(drafter):
    result, states, _ = drafted(drafter, tiny_batch(ROWS))
    assert result.sketch.shape == (ROWS, CANVAS) and len(states) >= 1
    assert torch.equal(states[-1].z, result.sketch)
    allowed = {SPECIAL.mask} if isinstance(drafter, Pause) else set()
    assert not set(result.sketch.flatten().tolist()) & (set(SPECIAL.never_drafted) - allowed)
    if result.confidence is not None:
        assert ((result.confidence >= 0) & (result.confidence <= 1)).all()


@every_drafter
def test_a_row_alone_is_drafted_as_in_the_batch(drafter):
    batch = tiny_batch(ROWS)
    result, _, spent = drafted(drafter, batch)
    for row in range(ROWS):
        at = torch.tensor([row])
        alone, _, cost = drafted(drafter, rows_of(batch, at), other=batch.sketch.flip(0)[at])
        assert torch.equal(alone.sketch[0], result.sketch[row])
        if result.confidence is not None:
            torch.testing.assert_close(alone.confidence[0], result.confidence[row], atol=1e-4, rtol=0)
        for name in ("denoiser_forwards", "decoder_forwards", "sequential_forwards"):
            assert float(getattr(cost, name)[0]) == float(getattr(spent, name)[row])


@every_drafter
def test_drafting_edits_nothing_it_was_given(drafter):
    batch = tiny_batch(ROWS)
    before = [x.clone() for x in (batch.prompts.tokens, batch.prompts.keep, batch.sketch)]
    drafted(drafter, batch)
    assert all(
        torch.equal(a, b) for a, b in zip(before, (batch.prompts.tokens, batch.prompts.keep, batch.sketch), strict=True)
    )


@every_drafter
def test_learning_drafters_have_a_cost_and_the_others_none(drafter):
    batch = tiny_batch(ROWS)
    reasoner = reasoner_with(drafter)
    assert (reasoner.networks.drafter is not None) == drafter.learns
    losses = reasoner.losses(batch)
    tokens = (batch.sketch != SPECIAL.pad).sum(-1)
    assert torch.equal(losses.sketch_count, tokens if drafter.learns else 0 * tokens)
    assert (losses.sketch > 0).all() == drafter.learns
    assert losses.sketch.shape == losses.answer.shape == (ROWS,)


@every_drafter
def test_drafting_networks_are_charged_and_controls_are_free(drafter):
    _, _, spent = drafted(drafter, tiny_batch(ROWS))
    for f in fields(Spent):
        if f.name in ("denoiser_forwards", "sequential_forwards", "positions", "flops"):
            assert (getattr(spent, f.name) > 0).all() == drafter.learns
    assert (spent.decoder_forwards == 0).all()


def test_diffusion_charges_its_steps_the_first_of_which_reads_the_prompt():
    batch = tiny_batch(ROWS)
    q = batch.prompts.tokens.shape[1]
    for steps in range(1, CANVAS + 1):
        _, states, spent = drafted(DRAFTERS["diffusion"], batch, budget=Budget(steps))
        taken = torch.zeros(ROWS)
        for before in states[:-1]:
            taken += (before.z == SPECIAL.mask).any(-1).float()
        assert torch.equal(spent.denoiser_forwards, taken.double())
        assert torch.equal(spent.positions, q + (CANVAS + 1) * taken.double())  # the canvas and its marker
        assert (taken <= steps).all()


def test_the_chain_charges_one_forward_per_token():
    """End token included; the first forward holds the prompt."""
    result, _, spent = drafted(DRAFTERS["autoregressive"], tiny_batch(ROWS))
    tokens = (result.sketch != SPECIAL.pad).sum(-1)
    assert torch.equal(spent.sequential_forwards, tokens.double())
    memory = result.memory
    assert result.holds_sketch and torch.equal(memory.next_position, tiny_batch(ROWS).prompts.keep.sum(-1) + tokens)


def test_given_sketches_are_the_right_ones():
    batch = tiny_batch(ROWS)
    other = batch.sketch.roll(1, 0)
    assert (drafted(DRAFTERS["none"], batch)[0].sketch == SPECIAL.pad).all()
    assert torch.equal(drafted(DRAFTERS["gold"], batch)[0].sketch, batch.sketch)
    assert torch.equal(drafted(DRAFTERS["shuffled"], batch, other=other)[0].sketch, other)
    pause = drafted(DRAFTERS["pause"], batch)[0].sketch
    assert torch.equal(pause == SPECIAL.mask, batch.sketch >= 5)
    assert torch.equal(pause[batch.sketch < 5], batch.sketch[batch.sketch < 5])


def test_an_answer_over_blanks_is_complete_when_it_has_ended():
    """They are no holes that a draft left."""
    reasoner, batch = tiny_reasoner(), tiny_batch(ROWS)
    results = reasoner.reason(batch.prompts, Budget(1), drafter=DRAFTERS["pause"], gold=batch.sketch)
    assert any(SPECIAL.mask in r.sketch_tokens for r in results)
    assert [r.complete for r in results] == [SPECIAL.end in r.answer_tokens for r in results]


@pytest.mark.parametrize("name", ["gold", "shuffled", "pause"])
def test_controls_that_need_other_sketches_say_so(name):
    with pytest.raises(ValueError, match=f"'{name}' needs"):
        reasoner_with(NoSketch()).reason(["1+2="], drafter=DRAFTERS[name])


def test_shift_reads_each_prediction_one_position_earlier():
    """On a blank canvas no rule depends on the position, so the two readings are the same numbers, moved."""
    batch, reasoner = tiny_batch(ROWS), reasoner_with(Diffusion())
    blank = torch.full((ROWS, CANVAS), SPECIAL.mask)
    logits = {}
    for shift in (False, True):
        request = Request(batch.prompts, CANVAS, SPECIAL)
        denoise, _ = Diffusion(shift=shift).bind(reasoner.networks.drafter, request, Spent.nothing(ROWS))
        logits[shift] = denoise(blank, torch.ones(ROWS))
        assert logits[shift].shape[1] == CANVAS
    assert torch.equal(logits[True][:, 1:], logits[False][:, :-1])
    assert not torch.allclose(logits[True][:, 0], logits[True][:, 1])


def spent_of(results, name):
    return [r.spent[name] for r in results]


def answer_lengths(results):
    """Tokens written, end included."""
    return [sum(token != SPECIAL.pad for token in r.answer_tokens) for r in results]


@pytest.mark.parametrize("pairing", ["shared", "separate"])
@pytest.mark.parametrize("steps", [1, 3, 6])
def test_hybrid_is_charged_its_steps_and_its_answer(pairing, steps):
    results = reasoner_with(Diffusion(), pairing=pairing).reason(tiny_batch(ROWS).prompts, Budget(steps))
    answers = answer_lengths(results)
    # An end token that closes its canvas may save steps.
    steps_taken = spent_of(results, "denoiser_forwards")
    assert max(steps_taken) <= steps and all(n >= 1 for n in steps_taken)
    assert spent_of(results, "sequential_forwards") == [s + a for s, a in zip(steps_taken, answers, strict=True)]
    assert spent_of(results, "decoder_forwards") == spent_of(results, "answer_tokens") == answers


def test_chain_is_charged_its_sketch_and_its_answer():
    results = reasoner_with(DRAFTERS["autoregressive"]).reason(tiny_batch(ROWS).prompts)
    sketches = [sum(token != SPECIAL.pad for token in r.sketch_tokens) for r in results]
    assert spent_of(results, "sketch_tokens") == sketches
    expected = [s + a for s, a in zip(sketches, answer_lengths(results), strict=True)]
    assert spent_of(results, "sequential_forwards") == expected


def test_direct_is_charged_its_answer():
    results = reasoner_with(NoSketch()).reason(tiny_batch(ROWS).prompts)
    assert spent_of(results, "sequential_forwards") == spent_of(results, "answer_tokens") == answer_lengths(results)
    assert spent_of(results, "sketch_tokens") == spent_of(results, "denoiser_forwards") == [0.0] * ROWS


def test_shuffled_sketches_reach_the_decoder():
    """The answer after another's sketch is the answer after that sketch given as gold."""
    batch, reasoner = tiny_batch(ROWS), reasoner_with(Diffusion())
    other = batch.sketch.roll(1, 0)
    shuffled = reasoner.reason(batch.prompts, drafter=ShuffledSketch(), gold=batch.sketch, other=other)
    given = reasoner.reason(batch.prompts, drafter=DRAFTERS["gold"], gold=other)
    assert [r.answer_tokens for r in shuffled] == [r.answer_tokens for r in given]
    plain = reasoner.reason(batch.prompts, drafter=DRAFTERS["gold"], gold=batch.sketch)
    assert [r.answer_tokens for r in shuffled] != [r.answer_tokens for r in plain]


def test_arrangements_that_differ_have_names_that_differ():
    from hybrid.feed import Gold
    from hybrid.model import Model

    named = [Model(drafter=look_up(Drafter, kind)(), feed=Gold()).method for kind in names(Drafter)]
    assert len(set(named)) == len(named) and {"direct", "chain", "hybrid", "pause, in training too"} <= set(named)
