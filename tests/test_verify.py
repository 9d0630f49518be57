"""Answers that are drafted and verified: the decoder's own, whatever was drafted, in no more forwards than it takes."""

import dataclasses
import json
from dataclasses import dataclass, replace
from itertools import permutations, product
from pathlib import Path

import pytest
import torch
from toy import chi_squared_p, tiny_backbone, tiny_batch, tiny_reasoner, tiny_tokenizer

from hybrid.bridge import Latent
from hybrid.build import ConfigError, build
from hybrid.cli import main
from hybrid.diffusion import noise as streams
from hybrid.diffusion.bound import exact
from hybrid.diffusion.budget import Budget, Plan
from hybrid.diffusion.corruption import Uniform
from hybrid.diffusion.guidance import Ending, Predict
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Random, Threshold
from hybrid.drafters import Request
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.drafters.controls import GoldSketch
from hybrid.drafters.diffusion import Diffusion
from hybrid.evaluate import Evaluate, evaluate, ways
from hybrid.experiment import read_experiment, save_run, save_weights
from hybrid.feed import Drafted as OneStep
from hybrid.feed import Gold
from hybrid.nets.backbone import GPTNeoX
from hybrid.nets.decode import write
from hybrid.nets.layout import Segment
from hybrid.nets.network import Network, prompt_segment
from hybrid.nets.verify import proposed_length, verify
from hybrid.reasoner import Model, Reasoner
from hybrid.records import Example, Special, Spent
from hybrid.report import table
from hybrid.report_series import slower
from hybrid.tasks import Chain, collate
from hybrid.writing import Writing

ROOT = Path(__file__).parents[1]
SPECIAL = Special()
PAD, END, MASK = SPECIAL.pad, SPECIAL.end, SPECIAL.mask
CANVAS, ROOM = 5, 4
VOCABULARY = len(tiny_tokenizer())
DRAWN = Diffusion(policy=Random(), temperature=1.0)
PAIRINGS = pytest.mark.parametrize("pairing", ["shared", "separate"])
BACKBONES = {
    "qwen3": tiny_backbone(),
    "gpt_neox": GPTNeoX(width=16, layers=2, heads=2, initial_scale=0.4),
}


def network_of(name, seed=1):
    torch.manual_seed(seed)
    return Network(BACKBONES[name].build(VOCABULARY)).eval()


def written_by(network, prompts, most, proposed=None, **options):
    """What `write` or, given a proposal, `verify` answers to prompts, and what it spent."""
    start, spent = prompts.keep.sum(-1, keepdim=True), Spent.nothing(len(prompts))
    everyone = torch.ones_like(start, dtype=torch.bool)
    marker = Segment("answer", torch.full_like(start, SPECIAL.answer), everyone, start, True, ("prompt",))
    options = {"end_id": END, "pad_id": PAD, "banned": SPECIAL.never_written, "part": "decoder"} | options
    given = [network, [prompt_segment(prompts), marker], None] + ([] if proposed is None else [proposed])
    return (write if proposed is None else verify)(*given, most, spent=spent, **options), spent


def text(tokens):
    """Up to and with the end token."""
    tokens = [t for t in tokens if t != PAD]
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def proposals(rows, most, truth, kind):
    """`truth` as written, `most` wide."""
    make = torch.Generator().manual_seed(7)
    truth = torch.nn.functional.pad(truth, (0, most - truth.shape[1]), value=PAD)
    if kind == "perfect":
        return truth
    if kind == "random":  # every id there is, specials included
        return torch.randint(0, VOCABULARY, (rows, most), generator=make)
    if kind == "nothing":
        return torch.full((rows, most), PAD)
    if kind == "never right":
        return torch.where(truth == 7, 8, torch.full_like(truth, 7))
    wrong = torch.rand(rows, most, generator=make) < 0.3
    return torch.where(wrong, MASK if kind == "holes" else 5 + (truth + 3) % 9, truth)


KINDS = pytest.mark.parametrize("kind", ["perfect", "random", "nothing", "never right", "some wrong", "holes"])


def replayed(y, x):
    """By hand: (forwards, accepted tokens) of a text y of which x was proposed."""
    at = forwards = accepted = 0
    while at < len(y):
        left = max(1, len(x) - at)
        run = 0
        while at + run < min(len(x), len(y)) and x[at + run] == y[at + run]:
            run += 1
        at, forwards, accepted = at + min(run + 1, left), forwards + 1, accepted + run
    return forwards, accepted


@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("name", BACKBONES)
@KINDS
def test_a_verified_text_is_the_decoded_one_whatever_was_proposed(kind, name, temperature):
    """Token by token, at every temperature, in ragged batches; in the forwards that a replay by hand takes."""
    prompts, most = tiny_batch(12).prompts, 7
    for seed in (1, 2):
        network = network_of(name, seed)
        draw = Writing("verify", temperature).draw(Noise(seed, prompts.keys), most)
        plain, cost = written_by(network, prompts, most, draw=draw)
        proposed = proposals(12, most, plain.tokens, kind)
        found, spent = written_by(network, prompts, most, proposed, draw=draw)
        assert torch.equal(found.tokens, plain.tokens) and torch.equal(found.keep, plain.keep)
        assert torch.allclose(found.confidence, plain.confidence, atol=1e-5)
        lengths = proposed_length(proposed[:, :most], end_id=END, banned=SPECIAL.never_written)
        for row in range(12):
            forwards, accepted = replayed(text(plain.tokens[row].tolist()), proposed[row, : lengths[row]].tolist())
            assert spent.decoder_forwards[row] == forwards <= cost.decoder_forwards[row]
            assert found.accepted[row] == accepted
        if kind == "perfect":
            assert (spent.decoder_forwards == 1).all() and torch.equal(found.accepted, plain.keep.sum(-1))
            sent = prompts.tokens.shape[1] + plain.keep.sum(-1)  # the last token need not be read
            assert torch.equal(spent.positions, sent.double())
        if kind in ("nothing", "never right"):
            assert torch.equal(spent.decoder_forwards, cost.decoder_forwards) and not found.accepted.any()


@KINDS
def test_a_row_alone_is_verified_as_in_the_batch(kind):
    network, prompts, most = network_of("qwen3"), tiny_batch(8).prompts, 6
    plain, _ = written_by(network, prompts, most)
    proposed = proposals(8, most, plain.tokens, kind)
    found, spent = written_by(network, prompts, most, proposed)
    for row in range(8):
        at = torch.tensor([row])
        alone, cost = written_by(network, prompts.select(at), most, proposed[at])
        assert text(alone.tokens[0].tolist()) == text(found.tokens[row].tolist())
        assert alone.accepted[0] == found.accepted[row]
        assert cost.decoder_forwards[0] == spent.decoder_forwards[row]


def test_what_is_proposed_ends_with_its_end_token_or_before_a_hole():
    given = torch.tensor([[7, END, 7, 7], [7, MASK, 7, END], [PAD, 7, 7, 7], [7, 8, 9, 6], [END, END, 7, MASK]])
    found = proposed_length(given[:, :3], end_id=END, banned=SPECIAL.never_written)
    assert found.tolist() == [2, 1, 0, 3, 1]


@pytest.mark.parametrize("kind", ["likeliest", "unlikely", "another's"])
def test_sampled_answers_have_the_decoders_law_whatever_was_proposed(kind):
    """Against the enumerated law of texts of two tokens, 4,000 of them by their own draws; cells of fewer than 5
    expected are counted together. False alarms: 1 in 10,000 for each kind."""
    network, rows, temperature = network_of("qwen3"), 4000, 1.5
    one = tiny_batch(1).prompts
    prompts = dataclasses.replace(one.select(torch.zeros(rows, dtype=torch.long)), keys=torch.arange(rows))
    marker = torch.tensor([[SPECIAL.answer]])

    def law(tokens):
        ids = torch.cat([one.tokens, marker, torch.tensor([tokens], dtype=torch.long).view(1, -1)], dim=1)
        logits = network.model(ids).logits[0, -1].double()
        logits[list(SPECIAL.never_written)] = -torch.inf
        return (logits / temperature).softmax(-1)

    with torch.no_grad():
        first = law([])
        after = [torch.eye(VOCABULARY)[PAD] if a == END else law([a]) for a in range(VOCABULARY)]
        joint = first[:, None] * torch.stack(after)
        order = first.argsort(descending=True)
        choice = {"likeliest": order[0], "unlikely": order[9], "another's": order[2]}[kind]
        second = law([int(choice)]).argmax() if kind == "likeliest" else torch.tensor(9)
    proposed = torch.stack([choice, second]).expand(rows, 2)
    draw = Writing("verify", temperature).draw(Noise(0, prompts.keys), 2)
    found, _ = written_by(network, prompts, 2, proposed, draw=draw)
    tokens = torch.nn.functional.pad(found.tokens, (0, 2 - found.tokens.shape[1]), value=PAD)
    counts = torch.bincount(tokens[:, 0] * VOCABULARY + tokens[:, 1], minlength=VOCABULARY**2).double()
    expected = joint.flatten()
    common = expected * rows >= 5
    assert chi_squared_p(*(torch.cat([x[common], x[~common].sum()[None]]) for x in (counts, expected))) > 1e-4
    is_second = (tokens[:, 0] != END) & (choice != END)
    accepted = (tokens[:, 0] == choice).long() + (is_second & (tokens[:, 1] == second)).long()
    assert torch.equal(found.accepted, accepted) and 0 < int(accepted.sum()) < rows


def test_ranks_whose_rows_have_ended_keep_the_others_company():
    """Until all are done they make forwards, of nothing; the text is the same."""
    network, prompts = network_of("qwen3"), tiny_batch(3).prompts
    plain, _ = written_by(network, prompts, 5)
    calls, rounds = [], iter([False] * 9 + [True] * 9)
    network.register_forward_pre_hook(lambda module, args: calls.append(len(args[0][0].tokens)))
    found, spent = written_by(network, prompts, 5, plain.tokens, agree=lambda done: next(rounds))
    assert torch.equal(found.tokens, plain.tokens) and calls[:10] == [3, *[0] * 8, 0][: len(calls)]
    assert sum(n > 0 for n in calls) == int(spent.decoder_forwards.max()) and len(calls) >= 9


# ---- the whole call


@dataclass(frozen=True)
class Proposing(Diffusion):
    """Drafts as ever, and says of the answers what it is told to say."""

    says: object = None

    def draft(self, network, request, budget, noise, spent):
        drafted = yield from super().draft(network, request, budget, noise, spent)
        return replace(drafted, answer=self.says)


def with_room(seed=0, **options):
    options = {"canvas": CANVAS, "max_answer": ROOM, "canvas_holds": "sketch+answer"} | options
    return tiny_reasoner(seed, **options)


def same(a, b):
    return [(x.sketch, text(x.answer_tokens)) for x in a] == [(x.sketch, text(x.answer_tokens)) for x in b]


ARRANGEMENTS = {
    "plain": {},
    "separate": {"pairing": "separate"},
    "blocks": {"drafter": Diffusion(attention_block=2)},
    "blocks of one": {"drafter": Diffusion(attention_block=1)},
    "latent": {"bridge": Latent(text=False), "feed": Gold()},
    "uniform": {"drafter": Diffusion(corruption=Uniform(), times="continuous")},
    "guided": {"drafter": Diffusion(guidance=0.7)},
    "windows": {"drafter": Diffusion(decode_window=CANVAS)},
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_a_call_answers_the_same_verified_or_decoded(name):
    """Sketches too, since the draft is the same; in no more forwards, and with a share of each row's own."""
    reasoner, prompts = with_room(**ARRANGEMENTS[name]), tiny_batch(6).prompts
    least = reasoner.config.drafter.least_steps(CANVAS + ROOM)
    for steps, draws in ((max(least, 2), {}), (max(least, 3), {"answer_temperature": 1.0, "seed": 3})):
        verified, decoded = (reasoner.reason(prompts, Budget(steps), answer=how, **draws) for how in (None, "decode"))
        assert same(verified, decoded)
        for v, d in zip(verified, decoded, strict=True):
            assert (v.answer_by, d.answer_by) == ("verify", "decode") and d.spent["accepted_tokens"] == 0
            assert v.spent["denoiser_forwards"] == d.spent["denoiser_forwards"]
            assert 1 <= v.spent["decoder_forwards"] <= d.spent["decoder_forwards"] == d.spent["answer_tokens"]
            assert v.answer_logp == pytest.approx(d.answer_logp, abs=1e-4) and v.complete == d.complete
            assert 0 <= v.spent["accepted_tokens"] <= v.spent["answer_tokens"]
            assert MASK not in v.sketch_tokens and len(v.sketch_tokens) == CANVAS


@PAIRINGS
@pytest.mark.parametrize("steps", [1, 6])
def test_a_perfect_proposal_takes_the_steps_and_one_forward(pairing, steps):
    """By the calls of the networks themselves, prompt, sketch and answer included."""
    reasoner, batch = with_room(pairing=pairing), tiny_batch(4)
    decoded = reasoner.reason(batch.prompts, Budget(steps), answer="decode")
    calls = []
    for network in {reasoner.networks.decoder, reasoner.networks.drafter}:
        network.register_forward_pre_hook(lambda module, args: calls.append(module))
    for row, result in enumerate(decoded):
        calls.clear()
        says = torch.tensor([result.answer_tokens + [PAD] * (ROOM - len(result.answer_tokens))])
        (found,) = reasoner.reason(
            batch.prompts.select(torch.tensor([row])), Budget(steps), drafter=Proposing(says=says)
        )
        assert same([found], [result]) and found.spent["decoder_forwards"] == 1
        assert found.spent["sequential_forwards"] == found.spent["denoiser_forwards"] + 1 == len(calls) <= steps + 1
        assert found.spent["accepted_tokens"] == found.spent["answer_tokens"]


def test_every_forward_of_a_verified_call_is_counted():
    reasoner, prompts, calls = with_room(), tiny_batch(1).prompts, []
    reasoner.networks.decoder.register_forward_pre_hook(lambda module, args: calls.append(args[0]))
    for seed in range(5):
        calls.clear()
        (found,) = reasoner.reason(prompts, Budget(4), drafter=DRAWN, seed=seed, answer_temperature=2.0)
        sent = sum(int(s.keep.sum()) for segments in calls for s in segments)
        assert found.spent["sequential_forwards"] == len(calls)
        blank = sum(int((~s.keep).sum()) for segments in calls for s in segments if s.name == "sketch")
        assert found.spent["positions"] == sent + blank


def test_each_row_keeps_its_budget_and_its_answer():
    """Rows without a draft are decoded; the rest as alone; sketch tokens bound the sketch and not the answer."""
    reasoner, prompts = with_room(), tiny_batch(4).prompts
    together = reasoner.reason(prompts, Budget((3, 0, 9, 1)), drafter=DRAWN)
    assert [r.answer_by for r in together] == ["verify", "decode", "verify", "verify"]
    for row, steps in enumerate((3, 0, 9, 1)):
        (alone,) = reasoner.reason(prompts.select(torch.tensor([row])), Budget(steps), drafter=DRAWN)
        assert same([alone], [together[row]])
        for name in ("denoiser_forwards", "decoder_forwards", "accepted_tokens"):
            assert alone.spent[name] == together[row].spent[name]
    for result in reasoner.reason(prompts, Budget(tokens=2), drafter=DRAWN, answer="canvas"):
        assert sum(t != PAD for t in result.sketch_tokens) <= 2 and result.allowed["steps"] == 2 + ROOM
        assert MASK not in result.answer_tokens


def test_several_drafts_are_each_verified():
    reasoner, prompts = with_room(), tiny_batch(3).prompts
    runs = [reasoner.reason(prompts, Budget(4), drafter=DRAWN, drafts=4, answer=how) for how in ("verify", "decode")]
    for v, d in zip(*runs, strict=True):
        assert same(v.drafts, d.drafts) and v.answer == d.answer
        assert v.timing["draft"] == pytest.approx(sum(x.timing["draft"] for x in v.drafts))
    (drawn,) = reasoner.reason(["1+2="], Budget(2), drafts=4, answer_temperature=2.0)  # greedy drafts, answers drawn
    assert len({d.answer for d in drawn.drafts}) > 1


# ---- the answer read off the canvas


@PAIRINGS
def test_pure_diffusion_asks_no_decoder(pairing):
    reasoner, prompts, states = with_room(pairing=pairing), tiny_batch(5).prompts, []
    results = reasoner.reason(prompts, Budget(5), drafter=DRAWN, answer="canvas", watch=states.append)
    for row, result in enumerate(results):
        canvas = states[-1].z[row].tolist()
        assert canvas[:CANVAS] == result.sketch_tokens and text(canvas[CANVAS:]) == text(result.answer_tokens)
        assert result.spent["decoder_forwards"] == 0 and result.answer_by == "canvas"
        assert result.spent["sequential_forwards"] == result.spent["denoiser_forwards"] <= 5
        assert result.complete == (END in result.answer_tokens)
        probs = states[-1].confidence[row, CANVAS:][: len(text(canvas[CANVAS:]))]
        assert result.answer_logp == pytest.approx(float(probs.log().sum()), rel=1e-4)


def test_forwards_are_reserved_for_those_who_may_need_them():
    """A verified answer may take as many as a decoded one, and one that is read off takes none."""
    reasoner, prompts = with_room(), tiny_batch(6).prompts
    for forwards in (ROOM + 1, ROOM + 3):
        for how, steps in (("decode", forwards - ROOM), ("verify", forwards - ROOM), ("canvas", forwards)):
            for result in reasoner.reason(prompts, Budget(forwards=forwards), drafter=DRAWN, answer=how):
                assert result.allowed["steps"] == steps and result.spent["sequential_forwards"] <= forwards
    budgets = Budget(), Budget(tokens=0), Budget(tokens=2), Budget(effort="high"), Budget(steps=20, tokens=2)
    assert [Plan.of(budget, 1, 5, more=4).steps[0] for budget in budgets] == [9, 0, 6, 9, 20]


def test_a_deadline_leaves_time_for_verifying_and_none_for_reading_off():
    """By a clock that network calls move, 10 ms each."""
    reasoner, prompts, now = with_room(), tiny_batch(2).prompts, [0.0]
    network = reasoner.networks.decoder
    network.register_forward_pre_hook(lambda *_: now.__setitem__(0, now[0] + 0.01))
    for how, steps in (("verify", 2), ("decode", 2), ("canvas", 6)):
        reasoner.reason(prompts, Budget(ms=1000), drafter=DRAWN, answer=how, clock=lambda: now[0])
        began = now[0]
        results = reasoner.reason(prompts, Budget(ms=65), drafter=DRAWN, answer=how, clock=lambda: now[0])
        assert [r.allowed["steps"] for r in results] == [steps, steps] and now[0] - began <= 0.0751
        short, _ = reasoner.reason(prompts, Budget(ms=1), drafter=DRAWN, answer=how, clock=lambda: now[0])
        assert short.answer_by == ("canvas" if how == "canvas" else "decode")


# ---- what is learnt


def batch_of_both():
    examples = [Example(0, "1+2=", "1", "3"), Example(1, "5+5=", "", "7"), Example(2, "4=", "5", "")]
    return collate(examples, tiny_tokenizer(), 2)


@dataclass(frozen=True)
class Scripted(Noise):
    """Corrupts by given numbers."""

    u: object = None

    def uniform(self, stream, step=0, positions=1):
        return self.u if stream == streams.CORRUPT else super().uniform(stream, step, positions)


@pytest.mark.parametrize("width", [None, 1, 3])
@pytest.mark.parametrize("row", [0, 1, 2])
@torch.no_grad()
def test_the_bound_over_sketch_and_answer_is_the_enumerated_one(row, width):
    """All counts and all orders on two positions each, block by block where there are blocks, one of which holds the
    end of the sketch and the beginning of the answer: each block's exact bound given the clean ones before it."""
    length, width_of = 4, width or 4
    reasoner = with_room(canvas=2, max_answer=2, drafter=Diffusion(attention_block=width))
    one = batch_of_both()
    orders = torch.tensor(list(permutations(range(length)))).double() / length
    times = 6 * 2  # divides by the size of every block, so that each count is met alike
    rows = torch.full((len(orders) * times,), row)
    batch = type(one)(one.prompts.select(rows), one.sketch[rows], one.answer[rows], one.answer_keep[rows])
    t = (torch.arange(times) + 0.5).double().repeat_interleave(len(orders)) / times
    losses = reasoner.losses(batch, Scripted(0, batch.prompts.keys, u=orders.repeat(times, 1)), t, feed=Gold())
    x = replace(one, answer_room=2).canvas(PAD)[row]
    request = Request(one.prompts.select(torch.tensor([row])), 2, SPECIAL, answer_room=2)
    denoise, _ = reasoner.config.drafter.bind(reasoner.networks.drafter, request, Spent.nothing(1))
    expected = 0.0
    for block in range(-(-length // width_of)):
        own = torch.arange(length) // width_of == block

        def within(z, t, own=own):
            whole = torch.where(torch.arange(length) < own.nonzero()[0, 0], x, MASK).repeat(len(z), 1)
            whole[:, own] = z
            where = own.expand(len(z), -1)
            return denoise.select(torch.zeros(len(z), dtype=torch.long)).logits(whole, t, where).unflatten(0, z.shape)

        expected += float(exact(Predict(within), x[own], MASK))
    assert float(losses.sketch.mean()) == pytest.approx(expected, rel=1e-5)
    assert (losses.sketch_count == (x != PAD).sum()).all()


def test_each_part_of_a_canvas_ends_by_itself():
    """Every canvas of two positions for each part, against the rules for the parts alone."""
    alone, both = Ending(END, PAD, MASK), Ending(END, PAD, MASK, (2, 2))
    z = torch.tensor(list(product([PAD, END, MASK, 7], repeat=4)))
    for rule in ("is_over", "is_before_text", "close"):
        parts = [getattr(alone, rule)(part) for part in z.split(2, dim=1)]
        assert torch.equal(getattr(both, rule)(z), torch.cat(parts, dim=1))


def test_a_drafter_of_both_learns_both_and_its_answers_loss_is_the_decoders():
    reasoner, batch = with_room(), tiny_batch(5, CANVAS + 1)
    batch = replace(batch, sketch=batch.sketch[:, :CANVAS])
    losses, alone = reasoner.losses(batch, feed=Gold()), tiny_reasoner(canvas=CANVAS).losses(batch, feed=Gold())
    assert torch.equal(losses.sketch_count, alone.sketch_count + batch.answer_keep.sum(-1))
    assert torch.allclose(losses.answer, alone.answer, rtol=1e-5) and (losses.sketch > alone.sketch).any()
    other = replace(batch, answer=torch.where(batch.answer >= 5, 9, batch.answer))
    assert not torch.allclose(reasoner.losses(other, feed=Gold()).sketch, losses.sketch)
    fed = reasoner.losses(batch, feed=OneStep())
    assert fed.positions == losses.positions + 5 * (batch.prompts.tokens.shape[1] + CANVAS + ROOM + 1)
    drafter, network, noise = reasoner.config.drafter, reasoner.networks.drafter, Noise(0, batch.prompts.keys)
    room = replace(batch, answer_room=ROOM)
    for rows in (torch.arange(5), torch.arange(0)):
        assert drafter.one_step(network, room, rows, noise, SPECIAL).shape == (len(rows), CANVAS)


# ---- what is refused, and what is said


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (dict(answer="guess"), "answer='guess': must be one of decode, verify, canvas"),
        (dict(answer="verify", drafter=GoldSketch()), "GoldSketch drafts no answer; take decode"),
        (dict(answer="canvas", budget=Budget((2, 0))), "leaves row 1 no step"),
        (dict(answer="canvas", answer_temperature=1.0), "answer_temperature=1.0 with answer='canvas'"),
        (dict(answer_temperature=-1.0), "temperature=-1"),
    ],
)
def test_answers_that_cannot_be_made_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        with_room().reason(["1+2=", "2="], **call)


def test_models_that_cannot_are_refused():
    for how in ("verify", "canvas"):
        with pytest.raises(ValueError, match=f"answer='{how}': this model's canvas holds the sketch alone"):
            tiny_reasoner().reason(["1+2="], answer=how)
    with pytest.raises(ValueError, match="canvas_holds='sketch\\+answer': Autoregressive drafts no answer"):
        Model(drafter=Autoregressive(), feed=Gold(), canvas_holds="sketch+answer")
    with pytest.raises(ValueError, match="answers of 3 tokens: the canvas has room for 2"):
        with_room(max_answer=2).losses(replace(tiny_batch(2, CANVAS)))
    with pytest.raises(ConfigError, match="answers"):
        build(Evaluate, {"answers": ["guess"]}, "evaluate")


def test_an_evaluation_has_a_row_for_each_way_of_answering():
    reasoner, task = with_room(), Chain(length=2, operations="+")
    examples = [Example(i, p, "12", a) for i, (p, a) in enumerate([("123", "6"), ("111", "3"), ("205", "7")])]
    settings = Evaluate(steps=(0, 4), policies=(Threshold(0.4),), answers=("decode", "verify", "canvas"), batch=2)
    frontier = evaluate(reasoner, task, examples, settings, name="toy", progress=False)
    found = {(row.method, row.steps, row.answer): row for row in frontier.rows}
    assert [(row.method, row.answer) for row in frontier.rows][-2:] == [("gold", "decode"), ("shuffled", "decode")]
    bare, decoded, verified, read = (
        found[key]
        for key in (
            ("hybrid", 0, "decode"), ("hybrid", 4, "decode"), ("hybrid", 4, "verify"), ("diffusion", 4, "canvas")
        )
    )  # fmt: skip
    results = reasoner.reason([e.prompt for e in examples], Budget(4), drafter=Diffusion(policy=Threshold(0.4)))
    assert verified.accepted_tokens == pytest.approx(sum(r.spent["accepted_tokens"] for r in results) / 3)
    assert decoded.accepted_tokens is read.accepted_tokens is bare.accepted_tokens is None
    assert verified.accuracy == decoded.accuracy and verified.sketch_tokens == decoded.sketch_tokens
    assert read.decoder_forwards == 0 < verified.decoder_forwards <= decoded.decoder_forwards
    for row in frontier.rows:
        assert 0 < row.answer_seconds < row.seconds_per_example and 0 < row.draft_seconds < row.seconds_per_example
    assert ways(reasoner, Evaluate(controls=()))[-1].how == "verify"
    # What a report says of verifying depends on how long it took.
    late, soon = (replace(verified, answer_seconds=n * decoded.answer_seconds) for n in (2, 0.5))
    rows = [bare, decoded, late, read]
    (line,) = slower(rows)
    assert "verifying took longer than decoding" in line and "4 steps" in line
    assert line in table(replace(frontier, rows=rows), 120) and slower([decoded, soon, read]) == []


def test_the_command_line_says_how_answers_are_made(tmp_path, capsys):
    """On an untrained run of the shipped config, shrunken."""
    small = ["model.backbone.width=16", "model.backbone.layers=1"]
    experiment = read_experiment(ROOT / "configs" / "quickstart" / "verified.yaml", small)
    tokenizer = experiment.make_tokenizer()
    save_run(tmp_path, experiment, tokenizer)
    save_weights(tmp_path, Reasoner(experiment.model, tokenizer).state_dict(), {"steps": 0, "positions": 0})

    def said(*arguments, status=0):
        assert main([arguments[0], str(tmp_path), *arguments[1:]]) == status
        return capsys.readouterr()

    sample = ("sample", "--prompt", "73250100,41000213", "--steps", "2")
    (line,) = said(*sample, "--answer", "canvas", "--json").out.splitlines()
    result = json.loads(line)
    assert result["answer_by"] == "canvas" and result["spent"]["decoder_forwards"] == 0
    assert " accepted), " in said(*sample).out and " accepted" not in said(*sample, "--answer", "decode").out
    assert "answer='guess': must be one of decode" in said(*sample, "--answer", "guess", status=2).err
    drawn = [said(*sample, "--answer", how, "--answer-temperature", "3", "--json").out for how in ("decode", "verify")]
    assert len({json.loads(line)["answer"] for line in drawn}) == 1
    said(
        "evaluate", "--answers", "verify,canvas", "--steps", "0,2", "--policies", "confidence", "--controls", "",
        "--examples", "4", "--no-progress",
    )  # fmt: skip
    rows = json.loads((tmp_path / "frontier.json").read_text())["rows"]
    made = [("hybrid", "decode", 0), ("hybrid", "verify", 2), ("diffusion", "canvas", 2)]
    assert [(row["method"], row["answer"], row["steps"]) for row in rows] == made
