"""The reasoner against plain recomputation: losses, bound, budgets, independence of the batch."""

import math
from dataclasses import dataclass, replace
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from toy import tiny_batch, tiny_reasoner

from hybrid.diffusion import noise as streams
from hybrid.diffusion.bound import exact
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.corruption import Absorbing, Uniform
from hybrid.diffusion.guidance import Predict
from hybrid.diffusion.noise import Noise, low_discrepancy_times, uniform
from hybrid.diffusion.policy import Policy
from hybrid.drafters import Request
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.drafters.controls import GoldSketch, NoSketch
from hybrid.drafters.diffusion import Diffusion
from hybrid.feed import Drafted, Gold, Nothing, Partial
from hybrid.kinds import look_up, names
from hybrid.records import Special, Spent

SPECIAL = Special()
PAD, END, MASK, SKETCH, ANSWER = SPECIAL.pad, SPECIAL.end, SPECIAL.mask, SPECIAL.sketch, SPECIAL.answer
CANVAS = 6
PAIRINGS = pytest.mark.parametrize("pairing", ["shared", "separate"])
DRAWN = Diffusion(policy=look_up(Policy, "random")(), temperature=1.0)


def text(row, keep):
    return row[keep].tolist()


def nll_of(model, prefix, target):
    """-log p of `target` after `prefix`, by the transformers model itself, one plain causal row."""
    logits = model(torch.tensor([prefix + target[:-1]])).logits[0, len(prefix) - 1 :]
    return float(F.cross_entropy(logits, torch.tensor(target), reduction="sum"))


def read_as(sketch):
    """What a decoder reads of a canvas: marker, tokens up to and with the end; nothing of an empty canvas."""
    tokens = []
    for token in sketch.tolist():
        if token == PAD:
            break
        tokens.append(token)
        if token == END:
            break
    return [SKETCH, *tokens] if tokens else []


@PAIRINGS
@pytest.mark.parametrize("feed", [Gold(), Nothing(), Partial()], ids=lambda f: type(f).__name__)
def test_answer_cost_is_the_decoders_own(pairing, feed):
    """Row by row through the plain transformers model: no padding, no mask, no segments."""
    reasoner, batch = tiny_reasoner(pairing=pairing), tiny_batch(5)
    losses = reasoner.losses(batch, feed=feed)
    fed, _ = reasoner._fed(batch, Noise(0, batch.prompts.keys), feed)
    for row in range(5):
        prefix = [*text(batch.prompts.tokens[row], batch.prompts.keep[row]), *read_as(fed[row]), ANSWER]
        answer = text(batch.answer[row], batch.answer_keep[row])
        assert float(losses.answer[row]) == pytest.approx(
            nll_of(reasoner.networks.decoder.model, prefix, answer), rel=1e-4
        )
        assert int(losses.answer_count[row]) == len(answer) and answer[-1] == END


def test_chain_costs_are_those_of_one_plain_causal_row():
    reasoner, batch = tiny_reasoner(drafter=Autoregressive(), feed=Gold()), tiny_batch(5)
    losses = reasoner.losses(batch)
    for row in range(5):
        prompt = text(batch.prompts.tokens[row], batch.prompts.keep[row])
        sketch = read_as(batch.sketch[row])
        answer = text(batch.answer[row], batch.answer_keep[row])
        model = reasoner.networks.decoder.model
        assert float(losses.sketch[row]) == pytest.approx(nll_of(model, [*prompt, SKETCH], sketch[1:]), rel=1e-4)
        assert float(losses.answer[row]) == pytest.approx(nll_of(model, [*prompt, *sketch, ANSWER], answer), rel=1e-4)
        assert int(losses.sketch_count[row]) == len(sketch) - 1


@PAIRINGS
@pytest.mark.parametrize("times", ["counts", "continuous"])
@pytest.mark.parametrize("copies", [1, 2])
def test_sketch_cost_is_recomputed_from_the_denoiser(pairing, times, copies):
    """Corrupt as documented, predict one row at a time over a remembered prompt, weigh and sum by hand."""
    drafter = Diffusion(times=times, copies=copies)
    reasoner, batch = tiny_reasoner(pairing=pairing, drafter=drafter, canvas=CANVAS), tiny_batch(5)
    noise = Noise(3, batch.prompts.keys)
    losses = reasoner.losses(batch, noise)
    t = low_discrepancy_times(uniform(3, 0, streams.TIME), torch.arange(5), 5)
    for row in range(5):
        x, total = batch.sketch[row], 0.0
        for copy in range(copies):
            at = float(t[row]) - copy / copies
            at = at if at > 0 else at + 1
            u = noise.uniform(streams.CORRUPT, copy, CANVAS)[row]
            if times == "counts":
                n = min(max(int(-(-at * CANVAS // 1)), 1), CANVAS)
                hidden, weight = u.argsort().argsort() < n, CANVAS / n
            else:
                hidden, weight = u >= 1 - at, 1 / at
            z = torch.where(hidden, MASK, x)[None]
            denoise, _ = bound_to(reasoner, batch, torch.tensor([row]))
            logp = denoise(z, torch.tensor([at])).log_softmax(-1)[0]
            total += weight * float(-logp[torch.arange(CANVAS), x][hidden].sum())
        assert float(losses.sketch[row]) == pytest.approx(total / copies, rel=1e-4, abs=1e-4)
        assert int(losses.sketch_count[row]) == int((x != PAD).sum())


def bound_to(reasoner, batch, rows):
    prompts = batch.prompts.select(rows)
    request = Request(prompts, batch.sketch.shape[1], SPECIAL)
    return reasoner.config.drafter.bind(reasoner.networks.drafter, request, Spent.nothing(len(rows)))


@dataclass(frozen=True)
class Scripted(Noise):
    """Corrupts by given numbers."""

    u: object = None

    def uniform(self, stream, step=0, positions=1):
        return self.u if stream == streams.CORRUPT else super().uniform(stream, step, positions)


def test_the_honest_bound_is_the_enumerated_one():
    """Every count and every order on a canvas of three, averaged: the bound of this network, exactly."""
    reasoner = tiny_reasoner(canvas=3)
    one = tiny_batch(2, canvas=3)
    orders = torch.tensor(list(permutations(range(3)))).double() / 3
    rows = torch.full((18,), 1)
    batch = type(one)(one.prompts.select(rows), one.sketch[rows], one.answer[rows], one.answer_keep[rows])
    t = (torch.arange(18) // 6 + 0.5).double() / 3
    losses = reasoner.losses(batch, Scripted(0, batch.prompts.keys, u=orders.repeat(3, 1)), t, feed=Gold())
    denoise, _ = bound_to(reasoner, one, torch.tensor([1]))
    alike = Predict(lambda z, t: denoise.select(torch.zeros(len(z), dtype=torch.long))(z, t))
    assert float(losses.sketch.mean()) == pytest.approx(float(exact(alike, one.sketch[1], MASK)), rel=1e-5)


def test_train_weight_is_an_exponent_on_the_weight():
    batch = tiny_batch(4)
    t = torch.tensor([0.1, 0.4, 0.6, 1.0], dtype=torch.float64)
    bound = tiny_reasoner().losses(batch, t=t).sketch
    n = (t * CANVAS).ceil()
    for power in (0.0, 0.5):
        found = tiny_reasoner(drafter=Diffusion(train_weight=power)).losses(batch, t=t).sketch
        assert torch.allclose(found.double(), bound.double() * (CANVAS / n) ** (power - 1), rtol=1e-5)


@pytest.mark.parametrize(("times", "first"), [("counts", 0.0), ("continuous", 0.99)])
def test_focal_weighs_a_token_by_how_far_it_is_from_certain(times, first):
    """The first token of each row alone is masked, so that its cost is known from the bound."""
    batch, t = tiny_batch(4), torch.full((4,), 1 / CANVAS, dtype=torch.float64)
    noise = Scripted(0, batch.prompts.keys, u=torch.tensor([first, *[0.5] * (CANVAS - 1)]).double().expand(4, -1))
    bound = tiny_reasoner(drafter=Diffusion(times=times)).losses(batch, noise, t).sketch
    found = tiny_reasoner(drafter=Diffusion(times=times, focal=2)).losses(batch, noise, t).sketch
    p = (-bound / CANVAS).exp()  # the weight of one of CANVAS tokens, and 1 / t
    assert (bound > 0).all() and torch.allclose(found, bound * (1 - p) ** 2, rtol=1e-4)


def test_next_token_cost_is_that_of_a_plain_causal_row_beside_the_bound():
    reasoner, batch = tiny_reasoner(), tiny_batch(5)
    bound = reasoner.losses(batch).sketch
    both = reasoner.losses(batch, drafter=Diffusion(next_token=0.5)).sketch
    for row in range(5):
        prefix = [*text(batch.prompts.tokens[row], batch.prompts.keep[row]), SKETCH]
        nll = nll_of(reasoner.networks.drafter.model, prefix, read_as(batch.sketch[row])[1:])
        assert float(both[row]) == pytest.approx(float(bound[row]) + 0.5 * nll, rel=1e-4)


def test_the_honest_cost_is_the_bound_whatever_was_trained_on():
    reasoner, batch = tiny_reasoner(), tiny_batch(5)
    trained_on = Diffusion(train_weight=0.3, focal=2, next_token=0.7)
    bound, other = reasoner.losses(batch).sketch, reasoner.losses(batch, drafter=trained_on).sketch
    assert not torch.allclose(bound, other)
    assert torch.allclose(bound, reasoner.losses(batch, drafter=trained_on.honest()).sketch, rtol=1e-5)


@PAIRINGS
def test_sketch_cost_depends_on_neither_answer_nor_feed(pairing):
    """What the drafter is charged for must not pass through the decoder's segments, nor the reverse."""
    reasoner, batch = tiny_reasoner(pairing=pairing), tiny_batch(5)
    first = reasoner.losses(batch, feed=Gold())
    other_feed = reasoner.losses(batch, feed=Nothing())
    other_answer = reasoner.losses(replace(batch, answer=torch.where(batch.answer >= 5, 9, batch.answer)), feed=Gold())
    assert torch.allclose(first.sketch, other_feed.sketch, rtol=1e-5)
    assert torch.allclose(first.sketch, other_answer.sketch, rtol=1e-5)
    clean = [reasoner.losses(batch, drafter=Diffusion(copies=n, next_token=0.0), feed=Gold()).answer for n in (1, 2)]
    assert torch.allclose(first.answer, clean[0], rtol=1e-5) and torch.allclose(first.answer, clean[1], rtol=1e-5)
    other_times = reasoner.losses(batch, t=torch.ones(5, dtype=torch.float64), feed=Gold())
    assert torch.allclose(first.answer, other_times.answer, rtol=1e-5)


def test_costs_of_a_row_are_those_in_any_batch():
    """Given its times and key. The default times are stratified over the batch, so they are passed here."""
    reasoner, batch = tiny_reasoner(), tiny_batch(6)
    t = torch.linspace(0.1, 1, 6, dtype=torch.float64)
    whole = reasoner.losses(batch, t=t)
    for rows in (torch.tensor([4]), torch.tensor([3, 0])):
        prompts = batch.prompts.select(rows)
        part = type(batch)(prompts, batch.sketch[rows], batch.answer[rows], batch.answer_keep[rows])
        alone = reasoner.losses(part, Noise(0, prompts.keys), t[rows])
        assert torch.allclose(alone.sketch, whole.sketch[rows], rtol=1e-4)
        assert torch.allclose(alone.answer, whole.answer[rows], rtol=1e-4)


def test_the_training_loss_is_two_token_means():
    reasoner, batch = tiny_reasoner(sketch_weight=2.0, answer_weight=0.5), tiny_batch(5)
    losses = reasoner.losses(batch)
    expected = (
        2 * losses.sketch.sum() / losses.sketch_count.sum() + 0.5 * losses.answer.sum() / losses.answer_count.sum()
    )
    assert torch.allclose(reasoner.loss(losses), expected)
    assert int(losses.sketch_count.sum()) == int((batch.sketch != PAD).sum())  # not the masked count


def test_positions_of_a_step_are_counted():
    batch = tiny_batch(5)
    q, a = batch.prompts.tokens.shape[1], batch.answer.shape[1]
    row = q + (CANVAS + 1) + (CANVAS + 1) + a
    assert tiny_reasoner().losses(batch, feed=Gold()).positions == 5 * row
    assert tiny_reasoner(pairing="separate").losses(batch, feed=Gold()).positions == 5 * (row + q)


def same(results, others):
    return [(r.sketch_tokens, r.answer_tokens) for r in results] == [(r.sketch_tokens, r.answer_tokens) for r in others]


def pick(results, order):
    return [results[int(i)] for i in order]


def trimmed(results):
    """Answers without the pads that a longer neighbour adds."""
    return [replace(r, answer_tokens=[t for t in r.answer_tokens if t != PAD]) for r in results]


@PAIRINGS
@pytest.mark.parametrize("drafter", [None, DRAWN, NoSketch()], ids=["greedy", "drawn", "none"])
def test_results_are_the_same_for_batch_1_and_16_in_any_order(pairing, drafter):
    reasoner, prompts = tiny_reasoner(pairing=pairing), tiny_batch(16).prompts
    whole = trimmed(reasoner.reason(prompts, Budget(3), drafter=drafter, seed=5))
    for row in range(16):
        alone = reasoner.reason(prompts.select(torch.tensor([row])), Budget(3), drafter=drafter, seed=5)
        assert same(trimmed(alone), [whole[row]])
        for name in ("sequential_forwards", "sketch_tokens", "answer_tokens"):
            assert alone[0].spent[name] == whole[row].spent[name]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert same(
        trimmed(reasoner.reason(prompts.select(order), Budget(3), drafter=drafter, seed=5)),
        pick(whole, order),
    )


def test_the_seed_decides_draws():
    reasoner, prompts = tiny_reasoner(), tiny_batch(8).prompts
    runs = [reasoner.reason(prompts, Budget(3), drafter=DRAWN, seed=seed) for seed in (0, 0, 1)]
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


@PAIRINGS
def test_budget_0_is_the_none_control(pairing):
    reasoner, prompts = tiny_reasoner(pairing=pairing), tiny_batch(6).prompts
    nothing = reasoner.reason(prompts, Budget(0))
    control = reasoner.reason(prompts, drafter=NoSketch())
    assert same(nothing, control) and all(r.sketch == "" for r in nothing)
    for r, c in zip(nothing, control, strict=True):
        assert {k: v for k, v in r.spent.items() if k != "seconds"} == {
            k: v for k, v in c.spent.items() if k != "seconds"
        }


@PAIRINGS
def test_each_row_may_have_a_budget_of_its_own(pairing):
    reasoner, prompts = tiny_reasoner(pairing=pairing), tiny_batch(4).prompts
    steps = (0, 3, 1, 6)
    together = trimmed(reasoner.reason(prompts, Budget(steps)))
    for row, n in enumerate(steps):
        alone = trimmed(reasoner.reason(prompts.select(torch.tensor([row])), Budget(n)))
        assert same(alone, [together[row]])
        assert together[row].allowed["steps"] == n
        assert together[row].spent["denoiser_forwards"] == alone[0].spent["denoiser_forwards"] <= n


def test_a_shared_network_answers_as_two_copies_of_it_would():
    """The decoder that starts from the drafter's memory of the prompt, and the one that reads it anew."""
    shared, separate = tiny_reasoner(), tiny_reasoner(pairing="separate")
    separate.networks.decoder.load_state_dict(shared.networks.decoder.state_dict())
    separate.networks.drafter.load_state_dict(shared.networks.decoder.state_dict())
    prompts = tiny_batch(8).prompts
    for budget in (Budget(0), Budget(2), Budget()):
        assert same(shared.reason(prompts, budget), separate.reason(prompts, budget))


def generated(model, prefix, max_tokens):
    out = model.generate(
        input_ids=torch.tensor([prefix]), attention_mask=torch.ones(1, len(prefix), dtype=torch.long),
        max_new_tokens=max_tokens, do_sample=False, eos_token_id=END, pad_token_id=PAD,
        suppress_tokens=list(SPECIAL.never_written),
    )  # fmt: skip
    return out[0, len(prefix) :].tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_chain_is_generate_twice(seed):
    """Prompt, marker, sketch; then the answer's marker and the answer: by transformers, one row at a time."""
    reasoner = tiny_reasoner(seed, drafter=Autoregressive(), feed=Gold())
    prompts, model = tiny_batch(6).prompts, reasoner.networks.decoder.model
    for row, result in enumerate(reasoner.reason(prompts)):
        prefix = [*text(prompts.tokens[row], prompts.keep[row]), SKETCH]
        sketch = generated(model, prefix, CANVAS)
        assert [t for t in result.sketch_tokens if t != PAD] == sketch
        answer = generated(model, [*prefix, *sketch, ANSWER], reasoner.config.max_answer)
        assert [t for t in result.answer_tokens if t != PAD] == answer


@PAIRINGS
def test_the_answer_is_generate_after_the_sketch(pairing):
    """Diffusion drafts, cut short drafts included, and gold ones."""
    reasoner, batch = tiny_reasoner(pairing=pairing), tiny_batch(6)
    runs = [
        reasoner.reason(batch.prompts, Budget(2)),
        reasoner.reason(batch.prompts, Budget(4), drafter=DRAWN),
        reasoner.reason(batch.prompts, drafter=GoldSketch(), gold=batch.sketch),
        reasoner.reason(batch.prompts, Budget(0)),
    ]
    for results in runs:
        for row, result in enumerate(results):
            prompt = text(batch.prompts.tokens[row], batch.prompts.keep[row])
            prefix = [*prompt, *read_as(torch.tensor(result.sketch_tokens)), ANSWER]
            expected = generated(reasoner.networks.decoder.model, prefix, reasoner.config.max_answer)
            assert [t for t in result.answer_tokens if t != PAD] == expected


def logs_of(model, prefix, tokens):
    """Log-probability of each token after those before it, among what may be written, by the plain causal model."""
    logits = model(torch.tensor([[*prefix, *tokens[:-1]]])).logits[0, len(prefix) - 1 :]
    logits[:, list(SPECIAL.never_written)] = -torch.inf
    return logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]


@pytest.mark.parametrize("seed", [0, 1, 11])
def test_likelihoods_are_of_the_tokens_written_in_any_batch(seed):
    """Of the answer all of them, of the sketch the mean, ends included and pads excluded."""
    reasoner = tiny_reasoner(seed, drafter=Autoregressive(), feed=Gold())
    prompts, model = tiny_batch(5).prompts, reasoner.networks.decoder.model
    together, lengths = reasoner.reason(prompts), set()
    for row, result in enumerate(together):
        prefix = [*text(prompts.tokens[row], prompts.keep[row]), SKETCH]
        sketch, answer = ([t for t in tokens if t != PAD] for tokens in (result.sketch_tokens, result.answer_tokens))
        own = logs_of(model, prefix, sketch).mean(), logs_of(model, [*prefix, *sketch, ANSWER], answer).sum()
        (alone,) = reasoner.reason(prompts.select(torch.tensor([row])))
        for r in (result, alone):
            assert (r.sketch_logp, r.answer_logp) == pytest.approx([float(p) for p in own], abs=1e-4)
        lengths.add(len(sketch))
    assert len(lengths) > 1  # some sketches end before their canvas


def test_a_draft_s_text_and_likelihood_end_with_its_sketch():
    """What was drawn beyond an end or pad in the same step is on the canvas, is not read, and no part of the sketch."""
    beyond = 0
    for seed in range(8):
        reasoner, states = tiny_reasoner(seed, canvas=12), []
        results = reasoner.reason(tiny_batch(5).prompts, Budget(2), drafter=DRAWN, seed=seed, watch=states.append)
        for row, result in enumerate(results):
            tokens = result.sketch_tokens
            n = next((i for i, token in enumerate(tokens, 1) if token in (END, PAD)), len(tokens))
            drawn = [math.log(p) for p in states[-1].confidence[row, :n].tolist() if p > 0]
            assert result.sketch_logp == pytest.approx(sum(drawn) / len(drawn), abs=1e-5)
            assert result.sketch == reasoner.tokenizer.decode(tokens[:n])
            assert len(read_as(torch.tensor(tokens))) - 1 in (-1, n - (tokens[n - 1] == PAD))
            beyond += any(t != PAD for t in tokens[n:])
    assert beyond


def test_prompts_are_not_altered_and_watching_shows_every_state():
    reasoner, prompts = tiny_reasoner(), tiny_batch(5).prompts
    before, states = prompts.tokens.clone(), []
    results = reasoner.reason(prompts, Budget(3), watch=states.append)
    assert torch.equal(prompts.tokens, before)
    assert [s.step for s in states] == list(range(len(states))) and 2 <= len(states) <= 4
    assert states[-1].z.tolist() == [r.sketch_tokens for r in results]


def test_a_result_says_whether_it_is_complete():
    reasoner, batch = tiny_reasoner(), tiny_batch(5)
    holes = torch.where(batch.sketch == END, MASK, batch.sketch)
    for result in reasoner.reason(batch.prompts, drafter=GoldSketch(), gold=holes):
        assert not result.complete
    for result in reasoner.reason(batch.prompts, drafter=GoldSketch(), gold=batch.sketch):
        assert result.complete == (END in result.answer_tokens)


@pytest.mark.parametrize("prompts", [[], [""], ["1+2=", ""], ["a"]])
def test_prompts_that_cannot_be_read_are_refused(prompts):
    with pytest.raises(ValueError):
        tiny_reasoner().reason(prompts)


def test_budgets_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match="at most 6 steps"):
        tiny_reasoner().reason(["1+2="], Budget(7))


def test_a_drafted_feed_trains_on_its_own_draft_and_pays_for_it():
    reasoner, batch = tiny_reasoner(), tiny_batch(5)
    noise = Noise(0, batch.prompts.keys)
    plain, drafted = reasoner.losses(batch, noise, feed=Gold()), reasoner.losses(batch, noise, feed=Drafted())
    assert drafted.positions > plain.positions
    fed = reasoner.config.drafter.one_step(reasoner.networks.drafter, batch, torch.arange(5), noise, SPECIAL)
    model = reasoner.networks.decoder.model
    for row in range(5):
        prefix = [*text(batch.prompts.tokens[row], batch.prompts.keep[row]), *read_as(fed[row]), ANSWER]
        answer = text(batch.answer[row], batch.answer_keep[row])
        assert float(drafted.answer[row]) == pytest.approx(nll_of(model, prefix, answer), rel=1e-4)


def test_names_of_policies_are_at_hand():
    """A call may name any registered policy, under a corruption that it makes sense for."""
    reasoner, prompts = tiny_reasoner(), tiny_batch(3).prompts
    for name in names(Policy):
        policy = look_up(Policy, name)()
        corruption = Uniform() if policy.refusal(Absorbing()) else Absorbing()
        drafter = Diffusion(corruption=corruption, times="continuous", policy=policy, temperature=1.0)
        results = reasoner.reason(prompts, Budget(2), drafter=drafter)
        assert all(MASK not in r.sketch_tokens for r in results)
