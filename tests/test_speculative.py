"""Sketches that are drafted and verified: the network's own, token by token, whatever was drafted."""

import dataclasses
import re

import pytest
import torch
from toy import tiny_backbone, tiny_batch, tiny_reasoner

from hybrid.bridge import Latent
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.corruption import Uniform
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Random, Threshold
from hybrid.diffusion.sampling import Sampling
from hybrid.drafters import Request, finish
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.drafters.causal import verified
from hybrid.drafters.controls import GoldSketch
from hybrid.drafters.diffusion import Diffusion
from hybrid.evaluate import Evaluate, evaluate, ways
from hybrid.nets.backbone import GPTNeoX
from hybrid.records import Example, Special, Spent
from hybrid.report import table
from hybrid.sample import chosen
from hybrid.tasks import JsonLines
from hybrid.trace import Recorder

SPECIAL = Special()
CANVAS, ROWS = 6, 12
PLAIN = Diffusion(next_token=1.0)
DRAFTERS = {
    "whole": PLAIN,
    "blocks": dataclasses.replace(PLAIN, attention_block=2),
    "uniform": dataclasses.replace(PLAIN, corruption=Uniform(), times="continuous", policy=Random()),
    "by chance": dataclasses.replace(PLAIN, policy=Random()),
    "guided": dataclasses.replace(PLAIN, guidance=0.5),
}
BACKBONES = {"qwen3": tiny_backbone(), "gpt_neox": GPTNeoX(width=16, layers=2, heads=2, initial_scale=0.8)}
prompts = [f"{a}+{b}=" for a, b in zip(range(ROWS), range(7, 7 + 11 * ROWS, 11), strict=True)]


def reasoner_of(drafter, backbone="qwen3", **options):
    torch.manual_seed(3)
    return tiny_reasoner(3, canvas=CANVAS, backbone=BACKBONES[backbone], drafter=drafter, **options)


def text(tokens):
    return [t for t in tokens if t != SPECIAL.pad]


def said(results):
    return [(text(r.sketch_tokens), text(r.answer_tokens)) for r in results]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("pairing", ["shared", "separate"])
@pytest.mark.parametrize("name", DRAFTERS)
def test_a_verified_sketch_is_the_one_that_the_network_writes_token_by_token(name, pairing, backbone):
    """And so is its answer, in a ragged batch, at any number of steps; no forward settles nothing."""
    drafter = DRAFTERS[name]
    reasoner = reasoner_of(drafter, backbone, pairing=pairing)
    chain = reasoner.reason(prompts, drafter=Autoregressive())
    assert len({tuple(r.sketch_tokens) for r in chain}) > 1  # the prompts matter
    changed = 0
    for steps in (3, 6):
        plain = reasoner.reason(prompts, Budget(steps))
        found = reasoner.reason(prompts, Budget(steps), drafter=dataclasses.replace(drafter, verify=CANVAS))
        assert said(found) == said(chain)
        for draft, result, written in zip(plain, found, chain, strict=True):
            extra = result.spent["denoiser_forwards"] - draft.spent["denoiser_forwards"]
            length = written.spent["sketch_tokens"]
            assert 1 <= extra <= length == result.spent["sketch_tokens"]
            assert result.sketch_logp == pytest.approx(written.sketch_logp, abs=1e-4)
            changed += draft.sketch_tokens != result.sketch_tokens
    assert changed


@pytest.mark.parametrize("pairing", ["shared", "separate"])
def test_the_answer_is_that_of_the_verified_sketch(pairing):
    """As the decoder writes it when it is given that sketch and reads it afresh."""
    reasoner = reasoner_of(PLAIN, pairing=pairing)
    for forwards in (1, 2, CANVAS):
        found = reasoner.reason(prompts, Budget(4), drafter=dataclasses.replace(PLAIN, verify=forwards))
        given = torch.tensor([r.sketch_tokens for r in found])
        again = reasoner.reason(prompts, drafter=GoldSketch(), gold=given)
        assert [r.answer_tokens for r in again] == [r.answer_tokens for r in found]
        assert [r.answer_logp for r in again] == pytest.approx([r.answer_logp for r in found], abs=1e-4)


def by_hand(own, draft, forwards):
    """A draft verified in so many forwards; `own(text)`: the network's next token after a text."""
    text, left = [], list(draft)
    while forwards and len(text) < CANVAS and SPECIAL.end not in text:
        forwards -= 1
        asked = max(1, len(left))
        while asked:
            token, asked = own(text), asked - 1
            text.append(token)
            is_right = bool(left) and left.pop(0) == token
            if not is_right or token == SPECIAL.end:
                break
    return text if SPECIAL.end in text else text + left


@pytest.mark.parametrize("forwards", [1, 2, 3])
def test_so_many_forwards_settle_what_they_can_and_the_rest_stands_as_drafted(forwards):
    reasoner = reasoner_of(PLAIN)
    network, tokenizer = reasoner.networks.drafter, reasoner.tokenizer
    drafts = reasoner.reason(prompts, Budget(2))
    found = reasoner.reason(prompts, Budget(2), drafter=dataclasses.replace(PLAIN, verify=forwards))
    kinds = set()
    for prompt, draft, result in zip(prompts, drafts, found, strict=True):

        def own(text, prompt=prompt):
            ids = torch.tensor([[*tokenizer.encode(prompt), SPECIAL.sketch, *text]])
            with torch.no_grad():
                logits = network.model(ids).logits[0, -1]
            logits[list(SPECIAL.never_written)] = -torch.inf
            return int(logits.argmax())

        proposed = text(draft.sketch_tokens)
        wanted = by_hand(own, proposed, forwards)
        assert text(result.sketch_tokens) == wanted
        assert result.spent["denoiser_forwards"] <= draft.spent["denoiser_forwards"] + forwards
        kinds.add(wanted == by_hand(own, proposed, CANVAS))
    assert False in kinds  # so few were not enough for all


def test_at_a_temperature_a_sketch_does_not_depend_on_what_was_drafted():
    """Its draws are keyed by the example and the number of the token, so that its law is the network's."""
    drafter = dataclasses.replace(PLAIN, temperature=1.2, verify=CANVAS)
    reasoner = reasoner_of(drafter)
    found = [
        said(reasoner.reason(prompts, Budget(steps), drafter=dataclasses.replace(drafter, policy=policy), seed=5))
        for policy in (PLAIN.policy, Random(), Threshold())
        for steps in (1, 6)
        if policy != Threshold() or steps == 6
    ]
    assert all(one == found[0] for one in found)
    other = said(reasoner.reason(prompts, Budget(6), seed=6))
    greedy = said(reasoner.reason(prompts, Budget(6), drafter=dataclasses.replace(PLAIN, verify=CANVAS)))
    assert found[0] != other and found[0] != greedy
    several = reasoner.reason(prompts, Budget(6), drafts=4)
    assert any(len({tuple(d.sketch_tokens) for d in r.drafts}) > 1 for r in several)


def test_a_drawn_sketchs_first_token_has_the_networks_law():
    """4,000 draws of one prompt, top-k at work: within 4 standard deviations of the enumerated law."""
    drafter, rows = dataclasses.replace(PLAIN, temperature=1.3, top_k=4, verify=1), 4000
    reasoner = reasoner_of(drafter)
    one = tiny_batch(1).prompts
    many = dataclasses.replace(one.select(torch.zeros(rows, dtype=torch.long)), keys=torch.arange(rows))
    found = torch.tensor([r.sketch_tokens[0] for r in reasoner.reason(many, Budget(1))])
    ids = torch.cat([one.tokens, torch.tensor([[SPECIAL.sketch]])], dim=1)
    with torch.no_grad():
        logits = reasoner.networks.drafter.model(ids).logits[0, -1].double()
    logits[list(SPECIAL.never_written)] = -torch.inf
    p = Sampling(1.3, top_k=4).narrowed(logits / 1.3).softmax(-1)
    share = torch.bincount(found, minlength=len(p)) / rows
    assert (p > 0).sum() == 4 and ((share - p).abs() <= 4 * (p * (1 - p) / rows).sqrt()).all()


def test_rows_with_less_room_are_cut_as_those_of_a_chain():
    reasoner = reasoner_of(dataclasses.replace(PLAIN, verify=CANVAS))
    tokens = tuple(1 + row % CANVAS for row in range(ROWS))
    found = reasoner.reason(prompts, Budget(tokens=tokens))
    for row, (prompt, n) in enumerate(zip(prompts, tokens, strict=True)):
        (alone,) = reasoner.reason([prompt], Budget(tokens=n), drafter=Autoregressive())
        assert said([alone]) == said([found[row]])
        assert found[row].spent["sketch_tokens"] <= n


@pytest.mark.parametrize("forwards", range(4, 12))
def test_a_budget_of_forwards_reserves_those_that_verify(forwards):
    reasoner = reasoner_of(dataclasses.replace(PLAIN, verify=1))  # and 4 for the answer
    for result in reasoner.reason(prompts, Budget(forwards=forwards)):
        assert result.spent["denoiser_forwards"] + result.spent["decoder_forwards"] <= forwards
        assert result.allowed["steps"] == max(0, min(forwards - 5, CANVAS))
    with pytest.raises(ValueError, match="forwards=3: the answer alone may take 4"):
        reasoner.reason(prompts, Budget(forwards=3))


def test_a_deadline_is_planned_from_calls_that_verify_as_much():
    reasoner = reasoner_of(PLAIN)
    for verify in (0, CANVAS, 0, CANVAS):
        reasoner.reason(prompts, Budget(ms=1e6), drafter=dataclasses.replace(PLAIN, verify=verify))
    assert len(reasoner.answering.timings) == 2


def test_without_steps_nothing_is_verified():
    reasoner = reasoner_of(dataclasses.replace(PLAIN, verify=CANVAS))
    found = reasoner.reason(prompts, Budget(0))
    assert said(found) == said(reasoner_of(PLAIN).reason(prompts, Budget(0)))
    assert not any(r.spent["denoiser_forwards"] for r in found)


def test_answers_on_the_canvas_are_verified_behind_the_verified_sketch():
    room = {"canvas_holds": "sketch+answer"}
    reasoner = reasoner_of(dataclasses.replace(PLAIN, verify=CANVAS), **room)
    chain = reasoner.reason(prompts, drafter=Autoregressive(), answer="decode")
    for how in ("verify", "decode"):
        assert said(reasoner.reason(prompts, Budget(4), answer=how)) == said(chain)
    plain = reasoner_of(PLAIN, **room).reason(prompts, Budget(4), answer="canvas")
    found = reasoner.reason(prompts, Budget(4), answer="canvas")
    assert [r.answer_tokens for r in found] == [r.answer_tokens for r in plain]


def test_a_draft_is_verified_by_ranks_together():
    """One whose rows are done keeps the others company, for so many forwards as all may take."""
    reasoner = reasoner_of(PLAIN)
    request, spent = Request(tiny_batch(4).prompts, CANVAS, SPECIAL), Spent.nothing(4)
    noise = Noise(0, request.prompts.keys)
    draft = finish(PLAIN.draft(reasoner.networks.drafter, request, Budget(6), noise, spent))
    calls = []
    reasoner.networks.drafter.register_forward_pre_hook(lambda module, args: calls.append(len(args[0][0].tokens)))
    company = dataclasses.replace(request, agree=lambda done: False)
    draft = dataclasses.replace(draft, memory=None)
    found = verified(reasoner.networks.drafter, company, draft, 9, Sampling(), noise, Spent.nothing(4))
    alone = finish(Autoregressive().draft(reasoner.networks.drafter, request, Budget(), noise, spent))
    assert torch.equal(found.sketch, alone.sketch) and len(calls) >= 9 and calls[8] == 0


def test_training_and_its_figures_know_nothing_of_verifying():
    drafter = dataclasses.replace(PLAIN, verify=CANVAS)
    batch, noise = tiny_batch(8), Noise(0, torch.arange(8))
    a, b = (reasoner_of(d).losses(batch, noise) for d in (PLAIN, drafter))
    assert torch.equal(a.sketch, b.sketch) and torch.equal(a.answer, b.answer) and a.positions == b.positions
    assert drafter.honest() == PLAIN.honest()


def test_the_trace_shows_what_was_edited():
    reasoner = reasoner_of(dataclasses.replace(PLAIN, verify=CANVAS))
    recorder = Recorder()
    results = reasoner.reason(prompts, Budget(2), watch=recorder.watch)
    traces = recorder.traces(prompts, results, reasoner.tokenizer)
    edited = 0
    for trace, result in zip(traces, results, strict=True):
        assert list(trace.states[-1].tokens) == result.sketch_tokens
        edited += trace.states[-1].count("edited")
        assert trace.states[-1].step == 2
    assert edited


def test_rows_of_the_frontier_tell_verified_drafts_apart():
    task, reasoner = JsonLines(), reasoner_of(PLAIN)
    examples = [Example(i, prompt, "12", "3") for i, prompt in enumerate(prompts)]
    settings = Evaluate(steps=(0, 2), controls=("gold",), verify=(0, 1, 3), batch=4)
    frontier = evaluate(reasoner, task, examples, settings, name="toy", progress=False)
    assert [(r.method, r.steps, r.setting) for r in frontier.rows] == [
        ("hybrid", 0, None), ("hybrid", 2, None), ("speculative", 2, "verify 1"), ("speculative", 2, "verify 3"),
        ("gold", None, None),
    ]  # fmt: skip
    shown = table(frontier, width=120)
    assert re.search(r"speculative +confidence · verify 1 .*\n +confidence · verify 3 ", shown)
    drawn = dataclasses.replace(settings, steps=(2,), verify=(0, 1), temperature=0.5, controls=())
    told = [way.labels["setting"] for way in ways(reasoner, drawn)]
    assert told == ["temperature 0.5", "temperature 0.5, verify 1"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"verify": -1, "next_token": 1.0}, "verify=-1: must be 0"),
        ({"verify": 2}, "train with next_token above 0"),
    ],
)
def test_what_cannot_be_verified_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Diffusion(**options)


def test_hidden_states_and_other_drafters_are_refused():
    drafter = dataclasses.replace(PLAIN, verify=2)
    with pytest.raises(ValueError, match="verify=2: bridge: latent reads the states"):
        reasoner_of(drafter, bridge=Latent(), pairing="separate")
    latent = reasoner_of(PLAIN, bridge=Latent(), pairing="separate")
    with pytest.raises(ValueError, match="verify=2: bridge: latent"):
        latent.reason(prompts, drafter=drafter)
    assert chosen(reasoner_of(PLAIN).config, verify=2) == drafter
    chain = reasoner_of(Autoregressive(), pairing="separate")
    with pytest.raises(ValueError, match="verify is for diffusion drafters; this reasoner is `ar_drafter`"):
        chosen(chain.config, verify=2)


def test_the_pipeline_and_the_harness_take_it_too(capsys):
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance

    from hybrid.harness import HybridLM
    from hybrid.hub.pipeline import HybridReasoningPipeline

    reasoner, seen = reasoner_of(PLAIN), []
    chain = reasoner.reason(prompts, drafter=Autoregressive())
    pipeline = HybridReasoningPipeline.of(reasoner)
    found = pipeline(prompts, 2, verify=CANVAS, callback_on_step_end=lambda of, step, time, told: seen.append(step))
    assert said(found.results) == said(chain) and "| 2/2 " in capsys.readouterr().err and seen == [0, 1, 1]
    asked = [Instance("generate_until", {}, (p, {"steps": 2, "verify": CANVAS}), i) for i, p in enumerate(prompts)]
    assert HybridLM(reasoner, join="{sketch}").generate_until(asked) == [r.sketch for r in chain]
