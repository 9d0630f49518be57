"""Self-conditioning: masks carry what was predicted there, and nothing else does; the bound stays one of the canvas."""

import dataclasses

import pytest
import torch
from checkpoints import save
from toy import tiny_batch, tiny_reasoner

from hybrid.build import ConfigError, build
from hybrid.diffusion import noise as streams
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.corruption import Uniform
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Confidence, Threshold
from hybrid.diffusion.remask import Remask
from hybrid.drafters import Request
from hybrid.drafters.diffusion import Diffusion
from hybrid.drafters.self_condition import mean_embedding
from hybrid.feed import Gold
from hybrid.nets.network import Network
from hybrid.nets.pretrained import Pretrained
from hybrid.reasoner import Model
from hybrid.records import Special, Spent

ROWS, CANVAS, MASK = 5, 6, Special().mask
ALWAYS = Diffusion(self_condition=1.0)
KINDS = [
    {},
    {"shift": False},
    {"attention_block": 4},
    {"attention_block": 1, "shift": False},
    {"copies": 2, "next_token": 1.0},
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: ",".join(kind) or "plain")


def embedded(network, tokens):
    return network.model.get_input_embeddings()(tokens)


def read_as(network, segment):
    """The vectors of a segment's first layer."""
    return network._read([segment])["inputs_embeds"]


def seen_by(network, monkeypatch):
    """The segments of every forward of a network, as it was given them."""
    seen, inner = [], Network.forward

    def forward(self, segments, memory=None):
        if self is network:
            seen.append(list(segments))
        return inner(self, segments, memory)

    monkeypatch.setattr(Network, "forward", forward)
    return seen


@every_kind
def test_training_reads_at_masks_what_a_first_forward_over_the_same_canvas_says(kind, monkeypatch):
    """Both forwards by hand: the same segments, without vectors and then with."""
    reasoner, batch = tiny_reasoner(), tiny_batch(ROWS)
    network, drafter = reasoner.networks.drafter, dataclasses.replace(ALWAYS, **kind)
    seen = seen_by(network, monkeypatch)
    t, noise = torch.linspace(0.3, 1.0, ROWS), Noise(0, batch.prompts.keys)
    reasoner.losses(batch, noise, t, drafter=drafter, feed=Gold())
    first, second = seen
    canvas = drafter._canvas(CANVAS, Special())
    alone = {s.name: s for s in first}
    canvases = [s for s in second if s.name.startswith("canvas")]
    assert len(canvases) == drafter.copies and "clean" not in alone and "answer" not in alone
    hidden = network(first)
    for segment in canvases:
        assert alone[segment.name].added is None and torch.equal(alone[segment.name].tokens, segment.tokens)
        where = torch.zeros(ROWS, CANVAS, dtype=torch.bool)
        slot = segment.positions - batch.prompts.keep.sum(-1, keepdim=True)  # of token i: i + 1
        masked = ((segment.tokens == MASK) & segment.keep).nonzero()
        where[masked[:, 0], slot[masked[:, 0], masked[:, 1]] - 1] = True
        assert where.any()
        logits = torch.zeros(ROWS, CANVAS, network.config.vocab_size)
        logits[where] = canvas.logits(network, hidden[segment.name], where)
        expected = embedded(network, segment.tokens)
        table = network.model.get_input_embeddings().weight
        for row, column in masked.tolist():
            law = logits[row, slot[row, column] - 1].softmax(-1)
            expected[row, column] += sum(p * vector for p, vector in zip(law, table, strict=True))
        kept = segment.keep
        torch.testing.assert_close(read_as(network, segment)[kept], expected[kept], atol=1e-5, rtol=1e-4)


def test_the_first_forward_has_no_gradient_and_its_positions_are_counted(monkeypatch):
    reasoner, batch = tiny_reasoner(), tiny_batch(ROWS)
    carried = []

    def kept(*args):
        carried.append(mean_embedding(*args))
        return carried[-1]

    monkeypatch.setattr("hybrid.drafters.self_condition.mean_embedding", kept)
    t = torch.full((ROWS,), 0.7)
    plain = reasoner.losses(batch, t=t, drafter=Diffusion(), feed=Gold())
    assert not carried
    both = reasoner.losses(batch, t=t, drafter=ALWAYS, feed=Gold())
    assert carried and not any(means.requires_grad for means in carried) and both.sketch.requires_grad
    width = batch.prompts.tokens.shape[1] + CANVAS + 1
    assert both.positions == plain.positions + ROWS * width
    assert not torch.allclose(plain.sketch, both.sketch) and torch.equal(plain.answer, both.answer)


def test_whose_turn_it_is_depends_on_the_example_and_the_step_alone():
    reasoner, batch = tiny_reasoner(), tiny_batch(ROWS)
    t, half = torch.linspace(0.3, 1.0, ROWS), Diffusion(self_condition=0.5)

    def costs(drafter, rows, step=0):
        some = dataclasses.replace(
            batch, prompts=batch.prompts.select(rows), sketch=batch.sketch[rows], answer=batch.answer[rows],
            answer_keep=batch.answer_keep[rows],
        )  # fmt: skip
        noise = Noise(0, some.prompts.keys, step)
        return reasoner.losses(some, noise, t[rows], drafter=drafter, feed=Gold()).sketch

    everyone, found = torch.arange(ROWS), set()
    for step in range(4):
        never, always, mixed = (costs(d, everyone, step) for d in (Diffusion(), ALWAYS, half))
        turn = Noise(0, batch.prompts.keys, step).uniform(streams.CARRY)[:, 0] < 0.5
        torch.testing.assert_close(mixed, torch.where(turn, always, never))
        found |= set(turn.tolist())
        for row in range(ROWS):
            torch.testing.assert_close(costs(half, torch.tensor([row]), step)[0], mixed[row], atol=1e-4, rtol=1e-4)
    assert found == {True, False}


def test_validation_reads_as_a_draft_does_after_its_first_step():
    assert Diffusion(self_condition=0.5).honest().self_condition == 1.0
    assert Diffusion().honest().self_condition == 0.0


@pytest.mark.parametrize(
    "kind", [{}, {"shift": False}, {"attention_block": 3}, {"guidance": 1.0}, {"decode_window": 2}], ids=str
)
def test_a_draft_carries_what_its_last_step_predicted(kind, monkeypatch):
    """By hand, step by step: at all masks of the block, in the decode window or not, the mean embedding that the step
    before predicted; elsewhere tokens."""
    reasoner, prompts = tiny_reasoner(), tiny_batch(1).prompts
    network = reasoner.networks.drafter
    drafter = dataclasses.replace(ALWAYS, policy=Confidence(), **kind)
    seen, read = seen_by(network, monkeypatch), []
    inner = type(drafter._canvas(CANVAS, Special())).logits_of_block

    def logits_of_block(self, network, hidden, where, block):
        logits = inner(self, network, hidden, where, block)
        read.append((where.clone(), logits.clone()))
        return logits

    monkeypatch.setattr("hybrid.drafters.canvas.Canvas.logits_of_block", logits_of_block)
    reasoner.reason(prompts, Budget(CANVAS), drafter=drafter)
    stride = 2 if "guidance" in kind else 1  # with the prompt, and without
    views = [next(s for s in segments if s.name == "canvas") for segments in seen if segments[-1].name == "canvas"]
    assert len(views) == len(read) > 2 * stride
    start = prompts.keep.sum(-1, keepdim=True)
    assert all(view.added is None for view in views[:stride])
    for i in range(stride, len(views)):
        view, (where, logits) = views[i], read[i - stride]
        hints = torch.zeros(1, CANVAS + 1, network.config.hidden_size)
        hints[:, 1:][where] = mean_embedding(network, logits)
        slot = (view.positions - start)[..., None].expand(-1, -1, hints.shape[-1])
        own = hints.gather(1, slot) * (view.tokens == MASK)[..., None]
        assert "attention_block" in kind or own[view.tokens == MASK].abs().sum(-1).gt(0).all()
        torch.testing.assert_close(read_as(network, view), embedded(network, view.tokens) + own)


def test_what_is_returned_to_noise_carries_what_was_predicted_before_it_was_committed(monkeypatch):
    """Three forwards over one canvas: all masks, then none of the first three asked or masked, then masked again."""
    reasoner, prompts = tiny_reasoner(), tiny_batch(2).prompts
    network, special = reasoner.networks.drafter, Special()
    denoise, _ = ALWAYS.bind(network, Request(prompts, CANVAS, special), Spent.nothing(2))
    z, t = torch.full((2, CANVAS), MASK), torch.ones(2)
    denoise.logits(z, t, z == MASK)
    committed = z.clone()
    committed[:, :3] = special.end + 5
    denoise.logits(committed, t, committed == MASK)
    seen = seen_by(network, monkeypatch)
    denoise.logits(z, t, z == MASK)
    (view,) = [s for s in seen[0] if s.name == "canvas"]
    hint = view.added[:, 1:4]
    assert hint.abs().sum(-1).gt(0).all()
    again, _ = ALWAYS.bind(network, Request(prompts, CANVAS, special), Spent.nothing(2))
    again.logits(z, t, z == MASK)
    again.logits(z, t, z == MASK)
    (alike,) = [s for s in seen[2] if s.name == "canvas"]
    torch.testing.assert_close(hint, alike.added[:, 1:4])


def test_mean_embeddings_are_what_the_prediction_expects():
    network = tiny_reasoner().networks.drafter
    logits = torch.randn(3, network.config.vocab_size)
    sure = torch.full_like(logits, -torch.inf)
    sure[:, 7] = 0.0
    assert torch.equal(mean_embedding(network, sure), embedded(network, torch.full((3,), 7)))
    expected = logits.softmax(-1) @ network.model.get_input_embeddings().weight
    torch.testing.assert_close(mean_embedding(network, logits), expected)


POLICIES = [Confidence(), Threshold(0.3), Remask("cap", 0.4)]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("kind", [{}, {"attention_block": 2}, {"decode_window": 3}], ids=str)
def test_a_row_alone_is_drafted_as_in_the_batch_for_as_many_forwards_as_without(policy, kind):
    """Rows leave, and some steps ask a few of them alone: each finds its own predictions."""
    reasoner, prompts = tiny_reasoner(), tiny_batch(8).prompts
    drafter = dataclasses.replace(ALWAYS, policy=policy, temperature=1.0, **kind)
    budget = Budget((3, 6, 4, 5, 6, 3, 5, 4))
    together = reasoner.reason(prompts, budget, drafter=drafter)
    for row, steps in enumerate(budget.steps):
        (alone,) = reasoner.reason(prompts.select(torch.tensor([row])), Budget(steps), drafter=drafter)
        assert alone.sketch_tokens == together[row].sketch_tokens
        for name in ("denoiser_forwards", "sequential_forwards"):
            assert alone.spent[name] == together[row].spent[name]
    without = reasoner.reason(prompts, budget, drafter=dataclasses.replace(drafter, self_condition=0.0))
    assert any(a.sketch_logp != pytest.approx(b.sketch_logp) for a, b in zip(without, together, strict=True))


def test_what_is_carried_is_paid_for_in_operations_alone():
    reasoner, prompts = tiny_reasoner(), tiny_batch(8).prompts
    config = reasoner.networks.drafter.config
    without, with_it = (reasoner.reason(prompts, Budget(1), drafter=d)[0].spent for d in (Diffusion(), ALWAYS))
    more = 2.0 * (CANVAS + 1) * config.vocab_size * config.hidden_size
    assert with_it["flops"] == pytest.approx(without["flops"] + more)
    assert all(with_it[name] == without[name] for name in ("positions", "denoiser_forwards", "sequential_forwards"))


def test_two_calls_have_nothing_to_do_with_one_another():
    reasoner, prompts = tiny_reasoner(), tiny_batch(3).prompts
    one, two = (reasoner.reason(prompts, Budget(3), drafter=ALWAYS) for _ in range(2))
    assert [r.sketch_tokens for r in one] == [r.sketch_tokens for r in two]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"self_condition": -0.1}, "self_condition=-0.1: must be between 0"),
        ({"self_condition": 1.5}, "self_condition=1.5: must be between 0"),
        ({"self_condition": 0.5, "attention_block": 1}, "self_condition=0.5 with attention_block=1"),
        ({"self_condition": 0.5, "corruption": Uniform(), "times": "continuous"}, "self_condition=0.5: is about the"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Diffusion(**options)


def test_a_network_that_reads_tokens_alone_is_refused(tmp_path):
    folder = save(tmp_path, "diffusion_gemma")
    drafter = Diffusion(self_condition=0.5, shift=False)
    with pytest.raises(ValueError, match=r"self_condition=0.5: DiffusionGemma\w* reads tokens alone"):
        tiny_reasoner(backbone=Pretrained(folder), drafter=drafter)


def test_a_config_says_it():
    model = build(Model, {"drafter": {"kind": "diffusion", "self_condition": 0.5}})
    assert model.drafter.self_condition == 0.5
    with pytest.raises(ConfigError, match="drafter: self_condition=2"):
        build(Model, {"drafter": {"kind": "diffusion", "self_condition": 2}})
