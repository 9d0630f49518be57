"""Block diffusion: who sees whom, the bound from autoregressive to plain diffusion, drafting over an exact cache."""

import dataclasses
from dataclasses import dataclass
from itertools import permutations, product

import pytest
import torch
import torch.nn.functional as F
from toy import Joint, tiny_batch, tiny_reasoner

from hybrid.diffusion import noise as streams
from hybrid.diffusion.blocks import Blocks
from hybrid.diffusion.bound import corrupt_by_counts, exact
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.corruption import Alphabet, Uniform
from hybrid.diffusion.guidance import Denoiser, Predict
from hybrid.diffusion.noise import Noise, low_discrepancy_times, uniform
from hybrid.diffusion.policy import Ancestral, LeftToRight, Random, Threshold
from hybrid.diffusion.remask import Edit, Remask
from hybrid.drafters import Request, finish
from hybrid.drafters.canvas import Canvas
from hybrid.drafters.diffusion import Diffusion
from hybrid.feed import Gold
from hybrid.nets.layout import Segment, attention, running
from hybrid.nets.network import prompt_segment
from hybrid.records import Special, Spent

SPECIAL = Special()
PAD, END, MASK, SKETCH = SPECIAL.pad, SPECIAL.end, SPECIAL.mask, SPECIAL.sketch
CANVAS = 6
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
WIDTHS = pytest.mark.parametrize("width", [1, 2, 4, 6])  # 4 does not divide the canvas
SHIFTS = pytest.mark.parametrize("shift", [True, False])


def bound_to(reasoner, prompts, drafter):
    request = Request(prompts, CANVAS, SPECIAL)
    return drafter.bind(reasoner.networks.drafter, request, Spent.nothing(len(prompts)))


# ---- the two streams


def test_the_two_streams_written_out():
    """Blocks of 2 slots in the past, views of 3; each sees itself, the past before it, and the prompt."""

    def segment(name, n, is_causal, **options):
        keep = torch.ones(1, n, dtype=torch.bool)
        return Segment(name, keep.long(), keep, running(keep), is_causal, **options)

    past = segment("past", 3, True, sees=("prompt",), block=2)
    noisy = segment("noisy", 6, False, sees=("prompt",), block=3, before=("past",))
    assert attention([segment("prompt", 2, True), past, noisy])[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1],
        [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1],
        [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1],
    ]


def streams_of(width, shift, x, z, start):
    canvas = Canvas(Blocks(CANVAS, width), shift, SPECIAL)
    return canvas, [*canvas.past(x, start), canvas.noisy(z, x, start, "canvas")]


@SHIFTS
@WIDTHS
def test_gradients_reach_what_a_token_may_be_predicted_from_and_nothing_else(width, shift):
    """By the embeddings of every slot: those of the prompt, of the clean slots before the block's leader, and of the
    block's own view. So every token before the block is seen once, clean, and of the block what is noisy."""
    reasoner, batch = tiny_reasoner(), tiny_batch(1)
    network, start = reasoner.networks.drafter, batch.prompts.keep.sum(-1)
    canvas, both = streams_of(width, shift, batch.sketch, torch.full_like(batch.sketch, MASK), start)
    segments, embedded = [prompt_segment(batch.prompts), *both], []
    hook = network.model.get_input_embeddings().register_forward_hook(
        lambda module, args, out: embedded.append(out.detach().requires_grad_()) or embedded[-1]
    )
    logits = canvas.logits(network, network(segments)["canvas"], torch.ones(1, CANVAS, dtype=torch.bool))
    hook.remove()
    slots = [
        (s.name, column, int(p), bool(k))
        for s in segments
        for column, (p, k) in enumerate(zip(s.positions[0], s.keep[0], strict=True))
    ]
    for token in range(CANVAS):
        (gradient,) = torch.autograd.grad(logits[token].pow(2).sum(), embedded[0], retain_graph=True)
        first = int(start) + token // width * width  # where the block's leader stands
        moved = (gradient[0].abs().amax(-1) > 0).tolist()
        for (name, column, position, is_slot), reached in zip(slots, moved, strict=True):
            if name == "prompt":
                expected = True
            elif canvas.is_causal:
                expected = position <= first
            else:
                expected = position < first if name == "past" else column // (width + 1) == token // width
            # A shorter last block leaves slots of its view free.
            assert reached == (expected and is_slot), (token, name, column)


@SHIFTS
@WIDTHS
def test_changing_a_token_changes_predictions_of_later_blocks_alone(width, shift):
    """Every token in turn, under masks: its own clean value reaches neither its own block nor any before it."""
    reasoner, batch = tiny_reasoner(), tiny_batch(3)
    network, start, x = reasoner.networks.drafter, batch.prompts.keep.sum(-1), batch.sketch
    everywhere = torch.ones_like(x, dtype=torch.bool)

    def predictions(x):
        canvas, both = streams_of(width, shift, x, torch.full_like(x, MASK), start)
        hidden = network([prompt_segment(batch.prompts), *both])["canvas"]
        return canvas.logits(network, hidden, everywhere).unflatten(0, x.shape)

    before = predictions(x)
    for token in range(CANVAS):
        other = x.clone()
        other[:, token] = 5 + (x[:, token] + 1) % 10
        moved = (predictions(other) - before).detach().abs().amax(-1) > 0
        later = torch.arange(CANVAS) // width > token // width
        assert torch.equal(moved, later.expand_as(moved))


# ---- the bound


def test_blocks_know_what_stands_before_them():
    blocks = Blocks(5, 2)
    x, z = torch.arange(10).view(2, 5), torch.arange(10).view(2, 5) + 50
    known = blocks.known(blocks.rows(x), blocks.rows(z), 99)
    assert known[:3].tolist() == [[50, 51, 99, 99, 99], [0, 1, 52, 53, 99], [0, 1, 2, 3, 54]]
    assert torch.equal(blocks.joined(known), z) and blocks.is_own(2, x.device).sum(-1).tolist() == [2, 2, 1] * 2
    assert blocks.summed(torch.arange(6).float()).tolist() == [3, 12]


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_bound_of_an_oracle_is_minus_log_p_for_every_width(width):
    """All counts and all orders within each block, at their weights: the chain rule over blocks, exactly."""
    joint = Joint.random(2, 3)
    blocks, orders = Blocks(3, width), torch.tensor(list(permutations(range(3)))).double() / 3
    for x, p in zip(joint.canvases[::3], joint.probs[::3], strict=True):
        total = torch.zeros((), dtype=torch.float64)
        rows = blocks.rows(x.expand(6, -1))
        own = blocks.is_own(6, x.device)
        for count in range(1, 7):  # 6 divides by every block's size, so each count is met alike
            t = torch.full((len(rows),), (count - 0.5) / 6, dtype=torch.float64)
            z, weight = corrupt_by_counts(rows, t, blocks.rows(orders), joint.mask, own)
            known = blocks.known(rows, z, joint.mask)
            nll = -joint(known, t).gather(-1, rows[..., None])[..., 0]
            total += blocks.summed(weight * torch.where(own & (z == joint.mask), nll, 0.0).sum(-1)).mean() / 6
        assert float(total) == pytest.approx(-float(p.log()), rel=1e-9)


@pytest.mark.parametrize("times", ["counts", "continuous", "uniform"])
@SHIFTS
@WIDTHS
def test_the_cost_is_recomputed_by_the_drafting_denoiser_block_by_block(width, shift, times):
    """What training reads from two streams in one row, drafting reads from clean blocks in memory: the same numbers."""
    other = {"corruption": Uniform(), "times": "continuous"} if times == "uniform" else {"times": times}
    drafter = Diffusion(attention_block=width, shift=shift, copies=2, **other)
    reasoner, batch = tiny_reasoner(drafter=drafter), tiny_batch(4)
    noise, blocks = Noise(3, batch.prompts.keys), Blocks(CANVAS, width)
    found = reasoner.losses(batch, noise).sketch
    t = low_discrepancy_times(uniform(3, 0, streams.TIME), torch.arange(4), 4)
    total, alphabet = torch.zeros(4), Alphabet(MASK, len(reasoner.tokenizer), SPECIAL.never_drafted)
    denoise, _ = bound_to(reasoner, batch.prompts, drafter)
    for copy in range(2):
        u, memory = noise.uniform(streams.CORRUPT, copy, CANVAS), denoise.select(torch.arange(4))
        for block in range(blocks.count):
            own = torch.arange(CANVAS) // width == block
            at = t - (copy + block / blocks.count) / 2
            at = torch.where(at > 0, at, at + 1)
            z = batch.sketch.clone()
            if times == "counts":
                n = (at * int(own.sum())).ceil().clamp(min=1)
                rank = u[:, own].argsort(-1).argsort(-1)
                z[:, own] = torch.where(rank < n[:, None], MASK, z[:, own])
                weight = int(own.sum()) / n
            elif times == "continuous":
                z[:, own] = torch.where(u[:, own] >= 1 - at[:, None], MASK, z[:, own])
                weight = 1 / at
            else:
                z[:, own] = Uniform().corrupt(z, 1 - at, u, alphabet)[:, own]
            z[:, torch.arange(CANVAS) // width > block] = MASK
            where = own.expand(4, -1) if times == "uniform" else (z == MASK) & own
            rows = where.any(-1).nonzero()[:, 0]
            if not len(rows):
                continue
            logits = memory.select(rows).logits(z[rows], at[rows], where[rows])
            if times == "uniform":
                args = (values[rows][where[rows]] for values in (batch.sketch, z, at[:, None].expand(4, CANVAS)))
                cost = Uniform().cost(logits, *args, drafter.schedule, alphabet)
            else:
                cost = F.cross_entropy(logits, batch.sketch[where], reduction="none")
            summed = torch.zeros(4, CANVAS).masked_scatter(where, cost.float()).sum(-1)
            total += summed if times == "uniform" else weight.float() * summed
    assert torch.allclose(found, total / 2, rtol=2e-4, atol=1e-4)


@dataclass(frozen=True)
class Scripted(Noise):
    """Corrupts by given numbers."""

    u: object = None

    def uniform(self, stream, step=0, positions=1):
        return self.u if stream == streams.CORRUPT else super().uniform(stream, step, positions)


@pytest.mark.parametrize("width", [1, 2, 4])
@torch.no_grad()
def test_the_honest_bound_is_the_enumerated_one(width):
    """All counts in all blocks and all orders on a canvas of four: the sum of each block's exact bound, given the
    clean blocks before it."""
    length, blocks = 4, Blocks(4, width)
    drafter = Diffusion(attention_block=width)
    reasoner, one = tiny_reasoner(canvas=length, drafter=drafter), tiny_batch(3, canvas=length)
    orders = torch.tensor(list(permutations(range(length)))).double() / length
    times = (torch.arange(length) + 0.5).double() / length
    n = len(orders) * length
    rows = torch.zeros(n, dtype=torch.long)
    batch = type(one)(one.prompts.select(rows), one.sketch[rows], one.answer[rows], one.answer_keep[rows])
    noise = Scripted(0, batch.prompts.keys, u=orders.repeat(length, 1))
    t = times.repeat_interleave(len(orders))
    losses = reasoner.losses(batch, noise, t, feed=Gold())
    x, expected = one.sketch[0], 0.0
    denoise, _ = drafter.bind(
        reasoner.networks.drafter, Request(one.prompts.select(torch.tensor([0])), length, SPECIAL), Spent.nothing(1)
    )
    for block in range(blocks.count):
        own = torch.arange(length) // width == block

        def within(z, t, own=own):
            """Predictions for one block, whatever else the canvas holds."""
            whole = torch.where(torch.arange(length) < own.nonzero()[0, 0], x, MASK).repeat(len(z), 1)
            whole[:, own] = z
            where = own.expand(len(z), -1)
            logits = denoise.select(torch.zeros(len(z), dtype=torch.long)).logits(whole, t, where)
            return logits.unflatten(0, z.shape)

        expected += float(exact(Predict(within), x[own], MASK))
    assert float(losses.sketch.mean()) == pytest.approx(expected, rel=1e-5)


def text(row, keep):
    return row[keep].tolist()


@torch.no_grad()
def test_blocks_of_one_are_the_autoregressive_likelihood():
    """By the transformers model itself, one plain causal row, over what may stand on a canvas: whatever the times."""
    reasoner, batch = tiny_reasoner(drafter=Diffusion(attention_block=1)), tiny_batch(5)
    costs = [reasoner.losses(batch, Noise(seed, batch.prompts.keys)).sketch for seed in (0, 1)]
    assert torch.equal(*costs)
    for row in range(5):
        prefix = [*text(batch.prompts.tokens[row], batch.prompts.keep[row]), SKETCH]
        x = text(batch.sketch[row], batch.sketch[row] != PAD)
        logits = reasoner.networks.drafter.model(torch.tensor([prefix + x[:-1]])).logits[0, len(prefix) - 1 :]
        logits[:, list(SPECIAL.never_drafted)] = -torch.inf
        expected = F.cross_entropy(logits, torch.tensor(x), reduction="sum")
        assert float(costs[0][row]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"shift": False}, {"copies": 2, "next_token": 0.5}, {"times": "continuous"}])
def test_one_block_is_plain_diffusion_bit_for_bit(options):
    batch = tiny_batch(5)
    for block in (CANVAS, CANVAS + 3):
        plain, blocked = (Diffusion(attention_block=b, **options) for b in (None, block))
        reasoner = tiny_reasoner(drafter=plain)
        assert torch.equal(reasoner.losses(batch).sketch, reasoner.losses(batch, drafter=blocked).sketch)
        runs = [reasoner.reason(batch.prompts, Budget(3), drafter=drafter) for drafter in (plain, blocked)]
        assert [r.sketch_tokens for r in runs[0]] == [r.sketch_tokens for r in runs[1]]
        assert [r.spent["flops"] for r in runs[0]] == [r.spent["flops"] for r in runs[1]]


# ---- drafting


@dataclass
class Uncached(Denoiser):
    """The same predictions without any memory: prompt, clean stream and views in one row, as in training."""

    drafter: Diffusion
    network: object
    prompts: object

    def logits(self, z, t, where):
        canvas = self.drafter._canvas(z.shape[1], SPECIAL)
        parts, start = [], self.prompts.keep.sum(-1)
        for row in range(len(z)):
            at = torch.tensor([row])
            segments = [*canvas.past(z[at], start[at]), canvas.noisy(z[at], z[at], start[at], "canvas")]
            hidden = self.network([prompt_segment(self.prompts.select(at)), *segments])["canvas"]
            parts.append(canvas.logits(self.network, hidden, where[at]))
        return torch.cat(parts) if parts else torch.zeros(0, self.network.model.config.vocab_size)

    def select(self, rows):
        return dataclasses.replace(self, prompts=self.prompts.select(rows))


@dataclass
class Both(Denoiser):
    """Asks two denoisers, which must agree."""

    one: Denoiser
    other: Denoiser
    asked: list

    def logits(self, z, t, where):
        found, expected = self.one.logits(z, t, where), self.other.logits(z, t, where)
        assert torch.allclose(found, expected, **CLOSE)
        self.asked.append(len(z))
        return found

    def select(self, rows):
        return Both(self.one.select(rows), self.other.select(rows), self.asked)


@dataclass(frozen=True)
class Checked(Diffusion):
    """Compares every prediction of a draft with the uncached one."""

    asked: list = dataclasses.field(default_factory=list)

    def bind(self, network, request, spent):
        denoise, prefix = super().bind(network, request, spent)
        inner = Uncached(self, network, request.prompts)
        alphabet = Alphabet(MASK, network.model.config.vocab_size, SPECIAL.never_drafted)
        ruled = self._ruled(inner, request.special, alphabet)
        return Both(denoise, ruled, self.asked), prefix


EVERY = {
    "threshold": (Threshold(0.3), 6),
    "random": (Random(), 6),
    "ancestral": (Ancestral(), 20),  # more steps than positions: blocks of one are asked again
    "remask": (Remask("cap", 0.5), 20),
    "edit": (Edit(0.3, 0.3), 12),
}


@pytest.mark.parametrize("name", EVERY)
@WIDTHS
def test_cached_equals_uncached(name, width):
    """Ragged prompts, budgets of each row's own, rows that are in different blocks and leave at different steps."""
    policy, steps = EVERY[name]
    reasoner, prompts = tiny_reasoner(), tiny_batch(5).prompts
    drafter = Checked(policy=policy, temperature=1.0, attention_block=width)
    least = drafter.least_steps(CANVAS)
    budget = Budget((steps, 0, max(steps - 1, least), least, steps))
    request, noise = Request(prompts, CANVAS, SPECIAL), Noise(0, prompts.keys)
    states = list(drafter.draft(reasoner.networks.drafter, request, budget, noise, Spent.nothing(5)))
    assert (states[-1].z[[0, 2, 3, 4]] != MASK).all()
    assert len(drafter.asked) > 1 and max(drafter.asked) == 4
    done = torch.zeros(5, CANVAS, dtype=torch.bool)  # what an earlier block holds stays
    for before, after in zip(states, states[1:], strict=False):
        block = torch.arange(CANVAS) // width
        for row in range(5):
            if (touched := (after.is_new | after.is_reopened)[row]).any():
                done[row] |= block < block[touched].min()
                assert len(block[touched].unique()) == 1
        assert torch.equal(before.z[done], after.z[done])


@pytest.mark.parametrize("options", [{"shift": False}, {"decode_window": 1}, {"corruption": Uniform()}])
@pytest.mark.parametrize("pairing", ["shared", "separate"])
def test_cached_equals_uncached_in_other_arrangements(options, pairing):
    times = {"times": "continuous"} if "corruption" in options else {}
    drafter = Checked(policy=Random(), temperature=1.0, attention_block=2, **options, **times)
    reasoner = tiny_reasoner(pairing=pairing)
    results = reasoner.reason(tiny_batch(4).prompts, Budget(CANVAS), drafter=drafter)
    assert any(r.spent["denoiser_forwards"] == CANVAS for r in results)


def test_a_row_alone_is_drafted_as_in_the_batch():
    reasoner, prompts = tiny_reasoner(), tiny_batch(8).prompts
    remasks, steps = (
        Diffusion(attention_block=2, policy=Remask("cap", 0.5), temperature=1.0),
        (18, 12, 9, 15, 18, 7, 5, 16),
    )
    for drafter, budgets in (
        (Diffusion(attention_block=2, policy=Threshold(0.3), temperature=1.0), (5,) * 8),
        (Diffusion(attention_block=4), (5,) * 8),
        (remasks, steps),  # some rows ask nothing while others do
    ):
        together = reasoner.reason(prompts, Budget(budgets), drafter=drafter)
        for row in range(8):
            (alone,) = reasoner.reason(prompts.select(torch.tensor([row])), Budget(budgets[row]), drafter=drafter)
            assert alone.sketch_tokens == together[row].sketch_tokens
            for cost in ("denoiser_forwards", "positions"):
                assert alone.spent[cost] == together[row].spent[cost], (drafter, row, cost)


def test_guidance_over_blocks_forgets_the_prompt_and_keeps_the_past():
    """By hand, with an unconditional canvas that has a past but no prompt."""
    reasoner, batch = tiny_reasoner(), tiny_batch(3)
    network, x = reasoner.networks.drafter, batch.sketch
    drafter = Diffusion(attention_block=2, guidance=1.5)
    denoise, _ = bound_to(reasoner, batch.prompts, drafter)
    z = torch.where(torch.arange(CANVAS) < 2, x, MASK)
    where = ((torch.arange(CANVAS) // 2) == 1).expand(3, -1)
    canvas, start = drafter._canvas(CANVAS, SPECIAL), batch.prompts.keep.sum(-1)
    streams_ = [*canvas.past(z, start), canvas.noisy(z, z, start, "canvas")]
    both = [
        canvas.logits(network, network(segments)["canvas"], where).log_softmax(-1)
        for segments in ([prompt_segment(batch.prompts), *streams_], streams_)
    ]
    expected = both[0] + 1.5 * (both[0] - both[1])
    found = denoise.logits(z, torch.ones(3), where)
    assert torch.allclose(found[found.isfinite()], expected[found.isfinite()], **CLOSE)


@pytest.mark.parametrize("seed", range(4))
def test_blocks_of_one_decode_what_generate_does_and_cost_what_the_chain_does(seed):
    """Greedily, over what may stand on a canvas, where a pad ends the text as an end token does."""
    drafter = Diffusion(attention_block=1, policy=LeftToRight())
    reasoner, prompts = tiny_reasoner(seed, drafter=drafter), tiny_batch(6).prompts
    results = reasoner.reason(prompts, Budget(CANVAS))
    model, q = reasoner.networks.drafter.model, prompts.tokens.shape[1]
    for row, result in enumerate(results):
        prefix = [*text(prompts.tokens[row], prompts.keep[row]), SKETCH]
        out = model.generate(
            input_ids=torch.tensor([prefix]), attention_mask=torch.ones(1, len(prefix), dtype=torch.long),
            max_new_tokens=CANVAS, do_sample=False, eos_token_id=[END, PAD], pad_token_id=PAD,
            suppress_tokens=list(SPECIAL.never_drafted),
        )[0, len(prefix) :].tolist()  # fmt: skip
        assert result.sketch_tokens == out + [PAD] * (CANVAS - len(out))
        assert result.spent["denoiser_forwards"] == len(out)
        drafted = q + 1 + (len(out) - 1)  # the marker with the prompt; then every token but the last is read
        decoded = (CANVAS + 1) + 1 + (result.spent["decoder_forwards"] - 1)  # sketch, the answer's marker, the answer
        assert result.spent["positions"] == drafted + decoded


def test_forwards_and_positions_are_counted_with_the_past():
    """Three blocks of two in one step each: the view of 3 slots, and from the second on 2 slots of the past."""
    reasoner, prompts = tiny_reasoner(drafter=Diffusion(attention_block=2)), tiny_batch(4).prompts
    drafter, spent = reasoner.config.drafter, Spent.nothing(4)
    states = []
    drafting = drafter.draft(
        reasoner.networks.drafter, Request(prompts, CANVAS, SPECIAL), Budget(3), Noise(0, prompts.keys), spent
    )
    for state in drafting:
        states.append(state)
    taken = sum((before.z == MASK).any(-1).double() for before in states[:-1])
    assert torch.equal(spent.denoiser_forwards, taken) and taken.max() == 3
    assert torch.equal(spent.positions, prompts.tokens.shape[1] + 3 * taken + 2 * (taken - 1))
    q, flops = prompts.tokens.shape[1], reasoner.networks.drafter.flops
    full = flops(q, q) + flops(3, q + 3) + flops(5, q + 5) + flops(5, q + 7)
    assert float(spent.flops.max()) == pytest.approx(full, rel=0.02)  # the past of a forward sees less than the view


# ---- the prompt is read with the first step


@pytest.mark.parametrize("width", [None, 1, 2])
def test_reading_the_prompt_with_the_first_step_changes_nothing_but_a_forward(width):
    reasoner, prompts = tiny_reasoner(), tiny_batch(5).prompts
    drafter = Diffusion(attention_block=width)
    z, t = torch.full((5, CANVAS), MASK), torch.ones(5)
    where = (torch.arange(CANVAS) < (width or CANVAS)).expand(5, -1)
    (folded, one), (apart, other) = (bound_to(reasoner, prompts, drafter) for _ in range(2))
    first = other.encoded()
    assert torch.allclose(folded.logits(z, t, where), apart.logits(z, t, where), **CLOSE)
    memory = one.encoded()
    assert torch.equal(memory.keep, first.keep)
    for a, b in zip(memory.cache.layers, first.cache.layers, strict=True):
        assert torch.allclose(a.keys, b.keys, atol=1e-6) and torch.allclose(a.values, b.values, atol=1e-6)
    assert one.spent.denoiser_forwards.tolist() == [1] * 5 and other.spent.denoiser_forwards.tolist() == [2] * 5
    assert torch.equal(one.spent.positions, other.spent.positions)
    assert torch.allclose(one.spent.flops, other.spent.flops)


def test_rows_that_draft_nothing_read_their_prompts_by_themselves():
    """For the decoder that shares the trunk. All rows' memories are one, in order, and nobody's is read twice."""
    reasoner, prompts = tiny_reasoner(), tiny_batch(5).prompts
    network, request, spent = reasoner.networks.drafter, Request(prompts, CANVAS, SPECIAL), Spent.nothing(5)
    drafted = finish(Diffusion().draft(network, request, Budget((2, 0, 3, 0, 1)), Noise(0, prompts.keys), spent))
    with torch.no_grad():
        _, memory = network.remember([prompt_segment(prompts)])
    assert torch.equal(drafted.memory.keep, memory.keep)
    for a, b in zip(drafted.memory.cache.layers, memory.cache.layers, strict=True):
        assert torch.allclose(a.keys, b.keys, atol=1e-6) and torch.allclose(a.values, b.values, atol=1e-6)
    assert spent.denoiser_forwards[1::2].tolist() == [1, 1] and (spent.denoiser_forwards[::2] <= 3).all()


def test_time_that_ran_out_before_the_first_step_reads_nothing():
    reasoner, prompts = tiny_reasoner(), tiny_batch(2).prompts
    spent, request = Spent.nothing(2), Request(prompts, CANVAS, SPECIAL, pace=lambda: 0)
    drafting = Diffusion().draft(reasoner.networks.drafter, request, Budget(3), Noise(0, prompts.keys), spent)
    drafted = finish(drafting)
    assert drafted.memory is None and not spent.denoiser_forwards.any() and (drafted.sketch == PAD).all()


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_shortened_canvas_takes_the_blocks_it_has(width):
    """Tokens bound the canvas, and so the blocks; forwards the steps."""
    reasoner = tiny_reasoner(drafter=Diffusion(attention_block=width))
    for tokens in range(CANVAS + 1):
        for result in reasoner.reason(tiny_batch(3).prompts, Budget(tokens=tokens)):
            assert MASK not in result.sketch_tokens and result.spent["sketch_tokens"] <= tokens
    answer, least = reasoner.config.max_answer, reasoner.config.drafter.least_steps(CANVAS)
    for forwards in range(answer, answer + CANVAS + 1):
        for result in reasoner.reason(tiny_batch(3).prompts, Budget(forwards=forwards)):
            assert result.spent["sequential_forwards"] <= forwards
            assert (result.allowed["steps"] > 0) == (forwards - answer >= least)


# ---- training rows and what is refused


def test_one_step_drafts_are_block_by_block_drafts_and_paid_for():
    """At block 1, the draws of a chain: the law is the drafter's own, and nothing of gold is in them."""
    batch = tiny_batch(8)
    for width in (1, 2, 4):
        drafter = Diffusion(attention_block=width)
        reasoner, noise, spent = tiny_reasoner(drafter=drafter), Noise(0, batch.prompts.keys), Spent.nothing(3)
        network, rows = reasoner.networks.drafter, torch.tensor([6, 1, 3])
        drafts = drafter.one_step(network, batch, rows, noise, SPECIAL, spent)
        assert 1 <= spent.denoiser_forwards.max() <= -(-CANVAS // width)
        other = dataclasses.replace(batch, sketch=batch.sketch.flip(0))
        assert torch.equal(drafter.one_step(network, other, rows, noise, SPECIAL), drafts)
        drawn = dataclasses.replace(drafter, temperature=1.0, policy=LeftToRight())
        request = Request(batch.prompts.select(rows), CANVAS, SPECIAL)
        states = drawn.draft(network, request, Budget(-(-CANVAS // width)), noise.select(rows), Spent.nothing(3))
        last = list(states)[-1].z
        stop = ((last == END) | (last == PAD)).long()
        assert torch.equal(torch.where(stop.cumsum(-1) - stop > 0, PAD, last), drafts)


def test_a_blocked_reasoner_trains():
    for width, next_token in product((1, 2, 4), (0.0, 0.5)):
        if width == 1 and next_token:
            continue
        reasoner = tiny_reasoner(drafter=Diffusion(attention_block=width, next_token=next_token))
        batch, totals = tiny_batch(5), []
        optimiser = torch.optim.SGD(reasoner.parameters(), lr=1e-3)
        for _ in range(2):
            losses = reasoner.losses(batch)
            totals.append(float(losses.sketch.sum().detach()))
            optimiser.zero_grad()
            reasoner.loss(losses).backward()
            optimiser.step()
        assert totals[1] < totals[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attention_block": 0}, "attention_block=0: must be 1 or more"),
        ({"attention_block": 4, "decode_window": 3}, "decode_window=3 with attention_block=4: a window must divide"),
        ({"attention_block": 1, "next_token": 1.0}, "next_token=1.0 with attention_block=1"),
    ],
)
def test_blocks_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Diffusion(**options)


def test_fewer_steps_than_blocks_are_refused_and_none_are_not():
    reasoner = tiny_reasoner(drafter=Diffusion(attention_block=2))
    for budget in (Budget(2), Budget((0, 3, 2))):
        with pytest.raises(ValueError, match="steps=2 with attention_block=2: the 3 blocks that are"):
            reasoner.reason(["1+2=", "1=", "2="], budget)
    assert reasoner.reason(["1+2="], Budget(0))[0].sketch == ""
    assert reasoner.config.drafter.least_steps(CANVAS) == 3
