"""Wrappers of a denoiser in their packed form, guidance on the prompt, and how tokens are drawn."""

import pytest
import torch
from toy import Joint, Noisy, RandomDenoiser, chi_squared_p, tiny_batch, tiny_reasoner
from transformers import TopKLogitsWarper, TopPLogitsWarper

from hybrid.diffusion.budget import Budget
from hybrid.diffusion.guidance import (
    Banned,
    Counted,
    Ended,
    Ending,
    FromLeaveOneOut,
    Guided,
    Predict,
    _among,
    pack,
    spread,
)
from hybrid.diffusion.noise import sample
from hybrid.diffusion.remask import Remask
from hybrid.diffusion.sampling import Sampling
from hybrid.diffusion.schedule import Linear
from hybrid.drafters import Request
from hybrid.drafters.diffusion import Diffusion
from hybrid.records import Special, Spent

K, LENGTH, ROWS = 3, 4, 12
INNER = RandomDenoiser(K, LENGTH)
Z = torch.randint(K + 1, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
T = torch.linspace(0.1, 1, ROWS).double()
WRAPPED = {
    "banned": Banned(INNER, (0,)),
    "ended": Ended(INNER, Ending(1, 0, K)),
    "leave_one_out": FromLeaveOneOut(INNER, Linear().alpha, K),
    "guided": Guided(INNER, RandomDenoiser(K, LENGTH, seed=1), 0.7),
    "counted": Counted(INNER, Spent.nothing(ROWS), torch.arange(ROWS)),
    "all": Ended(Banned(Guided(INNER, RandomDenoiser(K, LENGTH, seed=1), 0.7), (2,)), Ending(1, 0, K)),
}


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_packing_is_boolean_indexing_and_spreading_its_inverse(share):
    where = torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(1)) < share
    for values in (torch.rand(ROWS, LENGTH), torch.rand(ROWS, LENGTH, 5), torch.rand(ROWS, 1).expand(-1, LENGTH)):
        assert torch.equal(pack(values, where, int(where.sum())), values[where])
    values = torch.rand(ROWS, LENGTH)
    assert torch.equal(spread(values[where], where, -1.0), torch.where(where, values, -1.0))


@pytest.mark.parametrize("name", WRAPPED)
def test_asking_somewhere_is_reading_the_dense_answer_there(name):
    denoise = WRAPPED[name]
    where = torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(2)) < 0.5
    dense = denoise(Z, T)
    assert dense.shape == (ROWS, LENGTH, K + 1) and torch.equal(denoise.logits(Z, T, where), dense[where])
    rows = torch.tensor([7, 2])
    assert torch.equal(denoise.select(rows).logits(Z[rows], T[rows], where[rows]), dense[rows][where[rows]])


def test_the_head_runs_only_where_it_is_asked():
    """Counted at the output embeddings themselves: in drafting the open positions, in training the masked ones."""
    reasoner, batch, seen = tiny_reasoner(), tiny_batch(4), []
    network = reasoner.networks.drafter
    hook = network.model.get_output_embeddings().register_forward_hook(
        lambda module, args, out: seen.append(args[0].shape[:-1].numel())
    )
    request = Request(batch.prompts, 6, Special())
    denoise, _ = Diffusion().bind(network, request, Spent.nothing(4))
    seen.clear()
    where = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) < 0.4
    logits = denoise.logits(torch.full((4, 6), 2), torch.ones(4), where)
    assert seen == [int(where.sum())] == [len(logits)]
    seen.clear()
    states = []
    reasoner.reason(batch.prompts, Budget(3), watch=states.append)
    asked = [int((s.z == 2).sum()) for s in states[:-1]]
    assert seen[: len(asked)] == asked
    seen.clear()
    losses = reasoner.losses(batch)
    assert seen[-1] < 4 * 6 and (losses.sketch > 0).all()  # last of all, the canvas's masks
    hook.remove()


def test_a_step_at_which_nobody_asks_costs_no_forward():
    """A remasking draft of one prompt, through the real networks: full canvases pass steps for nothing."""
    reasoner, states = tiny_reasoner(), []
    drafter = Diffusion(policy=Remask("cap", 0.05), temperature=1.0)
    (result,) = reasoner.reason(tiny_batch(1).prompts, Budget(30), drafter=drafter, watch=states.append)
    asked = sum(bool((s.z == 2).any()) for s in states[:-1])
    assert result.spent["denoiser_forwards"] == asked < 30 and len(states) == 31
    assert any(s.is_reopened.any() for s in states) and 2 not in result.sketch_tokens


def test_no_rows_are_predicted_alone_and_among_ranks(monkeypatch):
    """Alone without a forward; among ranks with one, so that their collectives meet, on a blank position."""
    reasoner, batch, calls = tiny_reasoner(), tiny_batch(3), []
    network = reasoner.networks.drafter
    denoise, _ = Diffusion().bind(network, Request(batch.prompts, 6, Special()), Spent.nothing(3))
    nobody = denoise.select(torch.zeros(0, dtype=torch.int64))
    z, t = torch.zeros(0, 6, dtype=torch.int64), torch.zeros(0)
    hook = network.register_forward_hook(lambda module, args, out: calls.append(args[0][0].tokens.shape))
    for among_ranks, expected in ((False, []), (True, [(1, 1)])):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda among_ranks=among_ranks: among_ranks)
        logits = nobody.logits(z, t, z.bool())
        assert logits.shape == (0, network.model.config.vocab_size) and calls == expected
    hook.remove()


# ---- guidance


def test_a_call_in_inference_mode_leaves_nothing_that_training_cannot_use():
    reasoner, batch = tiny_reasoner(), tiny_batch(5)
    _among.cache_clear()
    with torch.inference_mode():
        reasoner.reason(batch.prompts, Budget(3))
    reasoner.loss(reasoner.losses(batch)).backward()


def test_guidance_is_written_out():
    """softmax of (1 + w) log p(x | prompt) - w log p(x), for several w; 0 is no guidance."""
    other = RandomDenoiser(K, LENGTH, seed=1)
    p, q = INNER(Z, T).softmax(-1), other(Z, T).softmax(-1)
    for w in (0.0, 0.5, 3.0):
        expected = torch.where(p > 0, p ** (1 + w) / q.clamp(min=1e-300) ** w, 0.0)
        found = Guided(INNER, other, w)(Z, T).softmax(-1)
        assert torch.allclose(found, expected / expected.sum(-1, keepdim=True), rtol=1e-9)


def test_impossible_tokens_stay_impossible_under_guidance():
    p = Predict(lambda z, t: torch.tensor([-torch.inf, 0.0, 0.0]).expand(*z.shape, 3))
    q = Predict(lambda z, t: torch.tensor([0.0, -torch.inf, 0.0]).expand(*z.shape, 3))
    found = Guided(p, q, 2.0)(torch.zeros(1, 1, dtype=torch.long), torch.ones(1)).softmax(-1)[0, 0]
    assert found[0] == 0 and found.isfinite().all() and (found[1:] > 0).all()


def test_both_forwards_of_guidance_are_charged_and_the_prompt_is_absent_in_one():
    """Rows whose prompts differ draw apart only by what guidance adds; unguided, an absent prompt makes them alike."""
    reasoner, batch = tiny_reasoner(), tiny_batch(3)
    states = []
    guided = reasoner.reason(batch.prompts, Budget(2), drafter=Diffusion(guidance=1.5), watch=states.append)
    for row, result in enumerate(guided):
        steps = sum(bool((state.z[row] == 2).any()) for state in states[:-1])
        assert result.spent["denoiser_forwards"] == 2 * steps
    network = reasoner.networks.drafter
    denoise, _ = Diffusion(guidance=1.5).bind(network, Request(batch.prompts, 6, Special()), Spent.nothing(3))
    absent = denoise.inner.inner.unconditional
    other = tiny_batch(3).prompts
    other = type(other)(other.keys, torch.where(other.keep, 5, other.tokens), other.keep)
    again, _ = Diffusion(guidance=1.5).bind(network, Request(other, 6, Special()), Spent.nothing(3))
    blank = torch.full((3, 6), 2)
    assert torch.equal(absent(blank, torch.ones(3)), again.inner.inner.unconditional(blank, torch.ones(3)))
    assert not torch.equal(denoise(blank, torch.ones(3)), again(blank, torch.ones(3)))


# ---- drawing


@pytest.mark.parametrize("k", [1, 3, 20])
def test_top_k_is_transformers(k):
    logits = torch.randn(40, 9, generator=torch.Generator().manual_seed(0))
    expected = TopKLogitsWarper(top_k=k)(None, logits)
    assert torch.equal(Sampling(1.0, top_k=k).narrowed(logits), expected)


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 1.0])
def test_top_p_is_transformers(p):
    logits = torch.randn(200, 9, generator=torch.Generator().manual_seed(0)) * 2
    expected = TopPLogitsWarper(top_p=p)(None, logits) if p < 1 else logits
    assert torch.equal(Sampling(1.0, top_p=p).narrowed(logits), expected)


def test_top_p_is_taken_at_the_temperature_and_top_k_before_it():
    """Of .5 .3 .2 the nucleus of .75 is two tokens; hot, it is three; of the two likeliest alone, two again."""
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    n, u = 30_000, ((torch.arange(30_000) + 0.5) / 30_000).double()
    for sampling, expected in (
        (Sampling(1.0, top_p=0.75), [0.5 / 0.8, 0.3 / 0.8, 0.0]),
        (Sampling(1e6, top_p=0.75), [1 / 3, 1 / 3, 1 / 3]),
        (Sampling(1e6, top_k=2, top_p=0.75), [1 / 2, 1 / 2, 0.0]),
    ):
        shares = torch.bincount(sampling.draw(logits.expand(n, -1), lambda: u), minlength=3) / n
        assert torch.allclose(shares, torch.tensor(expected), atol=1e-3)


def test_half_precision_rounds_no_law():
    """bfloat16 networks: what is drawn follows their own logits, not the logits rounded once more at a temperature."""
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    u = ((torch.arange(50) + 0.5) / 50).double()
    for sampling in (Sampling(0.7), Sampling(1.3, top_p=0.9)):
        law = sampling.narrowed(logits.double() / sampling.temperature)
        for at in (0.1, 0.5, 0.9):
            at_all = (u + at) % 1
            assert torch.equal(sampling.draw(logits, lambda at_all=at_all: at_all), sample(law, at_all))
    reasoner, prompts = tiny_reasoner().to(torch.bfloat16), tiny_batch(3).prompts
    denoise, _ = Diffusion(guidance=1.5).bind(
        reasoner.networks.drafter, Request(prompts, 6, Special()), Spent.nothing(3)
    )
    masks = torch.full((3, 6), Special().mask)
    assert denoise.logits(masks, torch.ones(3), masks > 0).dtype == torch.float32


def test_drafts_draw_from_what_top_k_leaves():
    """Through the reasoner: at top_k = 1 any temperature drafts what greedy drafts."""
    reasoner, prompts = tiny_reasoner(), tiny_batch(4).prompts
    greedy = reasoner.reason(prompts, Budget(3))
    narrow = reasoner.reason(prompts, Budget(3), drafter=Diffusion(temperature=5.0, top_k=1))
    wide = reasoner.reason(prompts, Budget(3), drafter=Diffusion(temperature=5.0))
    assert [r.sketch_tokens for r in greedy] == [r.sketch_tokens for r in narrow] != [r.sketch_tokens for r in wide]


def test_the_exact_law_survives_packing():
    """Sampling one position of the packed prediction of an exact denoiser under uniform noise: its posterior."""
    joint, n = Joint.random(2, 2), 20_000
    z, where = torch.tensor([[0, 1]]).expand(n, -1), torch.tensor([[False, True]]).expand(n, -1)
    denoise, t = Noisy(joint, Linear()), torch.full((n,), 0.5)
    u = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = Sampling(1.0).draw(denoise.logits(z, t, where), lambda: u)
    assert chi_squared_p(torch.bincount(drawn, minlength=3).double(), denoise(z[:1], t[:1])[0, 1].exp()) > 1e-6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -0.5}, "temperature=-0.5"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": 1.0, "top_k": 0}, "top_k=0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p=0.0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p=1.5"),
        ({"top_k": 5}, "change nothing at temperature=0"),
    ],
)
def test_sampling_that_makes_no_sense_is_refused(options, said):
    for make in (Sampling, Diffusion):
        with pytest.raises(ValueError, match=said):
            make(**options)


@pytest.mark.parametrize("options", [{"guidance": -1.0}, {"decode_window": 0}])
def test_settings_of_the_drafter_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Diffusion(**options)
