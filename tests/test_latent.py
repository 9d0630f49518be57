"""The latent bridge: hidden states in the place of text, at a forward that is charged."""

import dataclasses

import pytest
import torch
from toy import tiny_backbone, tiny_batch, tiny_reasoner

from hybrid.bridge import Latent, Tokens
from hybrid.diffusion.budget import Budget
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.drafters.controls import GoldSketch
from hybrid.evaluate import Evaluate, ways
from hybrid.feed import Gold, Nothing
from hybrid.reasoner import Model

SMALLER = {"pairing": "separate", "drafter_backbone": tiny_backbone(width=8)}


def latent(**options):
    bridge = Latent(**{k: options.pop(k) for k in ("text", "gradient", "frozen") if k in options})
    return tiny_reasoner(bridge=bridge, feed=options.pop("feed", Gold()), **options)


@pytest.mark.parametrize("pairing", [{}, SMALLER])
def test_beside_text_it_begins_as_the_token_bridge(pairing):
    """Zero states added to embeddings: the same losses and answers, and one more forward for each sketch."""
    batch = tiny_batch(4)
    one, two = tiny_reasoner(feed=Gold(), **pairing), latent(**pairing)
    two.networks.load_state_dict(one.networks.state_dict())
    costs, same = (r.losses(batch) for r in (one, two))
    assert torch.allclose(costs.answer, same.answer, atol=1e-5) and torch.equal(costs.sketch, same.sketch)
    assert same.positions - costs.positions == 4 * (batch.prompts.tokens.shape[1] + 7)
    for steps in (0, 2):
        ours, theirs = (r.reason(batch.prompts, Budget(steps)) for r in (one, two))
        assert [r.answer_tokens for r in ours] == [r.answer_tokens for r in theirs]
        for a, b in zip(ours, theirs, strict=True):
            more = steps > 0 and b.sketch_tokens != [0] * 6
            assert b.spent["denoiser_forwards"] - a.spent["denoiser_forwards"] == more
            assert b.spent["positions"] - a.spent["positions"] == 7 * more
            assert b.spent["sequential_forwards"] - a.spent["sequential_forwards"] == more


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("pairing", [{}, SMALLER])
def test_the_answers_gradient_reaches_the_drafter_where_it_may(gradient, pairing):
    reasoner, batch = latent(text=False, gradient=gradient, **pairing), tiny_batch(3)
    reasoner.losses(batch).answer.sum().backward()
    assert reasoner.bridge.project.weight.grad.abs().max() > 0
    if pairing:
        got = [p.grad for p in reasoner.networks.drafter.parameters()]
        assert any(g is not None and g.abs().max() > 0 for g in got) == gradient


@pytest.mark.parametrize("pairing", [{}, SMALLER])
def test_the_answer_reads_the_states_and_nothing_of_it_leaks_back(pairing):
    """Another canvas moves the answer's loss through states alone; the sketch's cost is as without a bridge."""
    reasoner, batch = latent(text=False, **pairing), tiny_batch(4)
    other = dataclasses.replace(batch, sketch=batch.sketch.roll(1, 0))
    before, after = (reasoner.losses(b).answer for b in (batch, other))
    assert ((before - after).abs() > 1e-6).all()
    plain = tiny_reasoner(bridge=Tokens(), feed=Gold(), **pairing)
    plain.networks.load_state_dict(reasoner.networks.state_dict())
    assert torch.allclose(plain.losses(batch).sketch, reasoner.losses(batch).sketch, atol=1e-5)


def test_training_and_answering_read_the_same_states():
    """The answer's loss by teacher forcing, against the probabilities of the same answer when it is written."""
    reasoner, batch = latent(text=False), tiny_batch(3)
    drafted = reasoner.reason(batch.prompts, drafter=GoldSketch(), gold=batch.sketch)
    answers = torch.tensor([r.answer_tokens + [0] * (4 - len(r.answer_tokens)) for r in drafted])
    fed = dataclasses.replace(batch, answer=answers, answer_keep=answers != 0)
    with torch.no_grad():
        segment, answer = reasoner._decoding(fed, batch.sketch)
        segment = reasoner.bridge(reasoner.networks, batch.prompts, segment)
        from hybrid.nets.network import prompt_segment

        hidden = reasoner.networks.decoder([prompt_segment(batch.prompts), segment, answer])["answer"]
        logits = reasoner.networks.decoder.logits(hidden)
        logits[..., list(reasoner.special.never_written)] = -torch.inf
    assert torch.equal(logits.argmax(-1)[fed.answer_keep], answers[fed.answer_keep])


def test_without_a_sketch_there_is_no_state():
    reasoner = latent()
    (result,) = reasoner.reason(["1+2="], Budget(0))
    assert result.spent["denoiser_forwards"] == 0
    assert torch.isfinite(reasoner.losses(tiny_batch(2), feed=Nothing()).answer).all()


def test_it_has_its_own_name_in_tables_and_can_be_frozen():
    reasoner = latent(frozen=True)
    assert not any(p.requires_grad for p in reasoner.bridge.parameters())
    methods = {way.method for way in ways(reasoner, Evaluate(steps=(0, 2)))}
    assert methods == {reasoner.config.bridge.title, "gold", "shuffled"}
    told = {way.method: way.labels.get("setting") for way in ways(reasoner, Evaluate(steps=(2,)))}
    assert told["gold"] == f"{reasoner.config.bridge.title} bridge"
    titles = [Latent(text=text, gradient=gradient).title for text in (False, True) for gradient in (False, True)]
    assert titles == ["latent", "latent, gradient", "latent and text", "latent and text, gradient"]
    with pytest.raises(ValueError, match="bridge: latent reads a canvas"):
        Model(drafter=Autoregressive(), pairing="separate", bridge=Latent(), feed=Gold())
    with pytest.raises(ValueError, match="bridge: latent with feed: none"):
        Model(bridge=Latent(), feed=Nothing())


def test_networks_in_half_precision_answer_over_states_too():
    """Their bridge is in single precision, and nobody casts outside training."""
    reasoner = tiny_reasoner(bridge=Latent())
    reasoner.networks.to(torch.bfloat16)
    assert all(r.answer_tokens for r in reasoner.reason(tiny_batch(3).prompts, Budget(3)))
