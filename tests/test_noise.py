"""Randomness is a function of identity: pinned, uniform, and blind to the batch."""

import pytest
import torch
from toy import chi_squared_p

from hybrid.diffusion import noise as streams
from hybrid.diffusion.noise import Noise, sample, uniform

GOLDEN = [
    [0.7581495229989136, 0.25373719182420496],
    [0.3385647167378353, 0.8964227319988683],
    [0.4771882996058687, 0.8683635462432358],
    [0.2888875864051693, 0.06549447831838562],
]
GOLDEN_SHARED = 0.609394524568175
LARGEST = 1 - 2.0**-53  # the largest number that `uniform` can give


def test_golden_values():
    """These numbers are part of the format: if they change, every published sample does."""
    drawn = Noise(7, torch.tensor([0, 1, -5, 2**62])).uniform(streams.DRAW, 3, 2)
    assert torch.equal(drawn, torch.tensor(GOLDEN, dtype=torch.float64)), drawn.tolist()
    assert uniform(7, 0, streams.TIME) == GOLDEN_SHARED


def test_the_words_are_hashed_as_published():
    """Against plain Python integers: SplitMix64's finaliser over a running hash."""
    wrap = (1 << 64) - 1

    def mix(x):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & wrap
        return x ^ (x >> 31)

    for seed, key, epoch, stream, step, position in [
        (0, 0, 0, 0, 0, 0),
        (2**40, -3, 2, 5, 9, 1),
        (1, 2**62, 0, 2, 3, 4),
    ]:
        state = 0
        for word in (seed, epoch, key, stream, step, position):
            state = mix(((state ^ (word & wrap)) + 0x9E3779B97F4A7C15) & wrap)
        found = Noise(seed, torch.tensor([key]), epoch).uniform(stream, step, position + 1)[0, position]
        assert float(found) == (state >> 11) * 2.0**-53


def test_noise_is_a_function_of_the_key_not_of_the_place():
    keys = torch.arange(100, 140)
    all_rows = Noise(3, keys).uniform(streams.DRAW, 2, 5)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Noise(3, keys[order]).uniform(streams.DRAW, 2, 5), all_rows[order])
    assert torch.equal(Noise(3, keys).select(order[:7]).uniform(streams.DRAW, 2, 5), all_rows[order[:7]])
    assert torch.equal(Noise(3, keys[11:12]).uniform(streams.DRAW, 2, 9)[:, :5], all_rows[11:12])


def test_select_keeps_seed_and_epoch():
    keys = torch.arange(10)
    assert torch.equal(
        Noise(3, keys, epoch=4).select(torch.tensor([2])).uniform(0), Noise(3, keys[2:3], epoch=4).uniform(0)
    )


def test_every_word_matters():
    """Of two numbers that differ in one word, none are equal (chance of an equal pair: 40 * 2^-53)."""
    keys = torch.arange(4)
    base = Noise(1, keys).uniform(1, 1, 2)
    others = [
        Noise(2, keys).uniform(1, 1, 2), Noise(1, keys + 4).uniform(1, 1, 2),
        Noise(1, keys, 1).uniform(1, 1, 2), Noise(1, keys).uniform(2, 1, 2), Noise(1, keys).uniform(1, 2, 2),
    ]  # fmt: skip
    assert all((base != other).all() for other in others)
    assert len(base.unique()) == base.numel()


def test_all_streams_differ():
    named = [streams.TIME, streams.CORRUPT, streams.DRAW, streams.CHOOSE, streams.FEED, streams.SHUFFLE]
    named += [streams.REMASK, streams.ANSWER, streams.RENOISE, streams.CLOCK]
    assert len(set(named)) == len(named)


@pytest.mark.parametrize("axis", ["key", "position", "step", "seed"])
def test_neighbouring_words_give_uniform_and_independent_numbers(axis):
    """Pairs of neighbours fall evenly into 16 x 16 cells. False alarm: 1e-6 once; the numbers are fixed."""
    n = 40_000
    if axis == "key":
        u = Noise(0, torch.arange(n)).uniform(streams.DRAW)[:, 0]
    elif axis == "position":
        u = Noise(0, torch.tensor([5])).uniform(streams.DRAW, 0, n)[0]
    elif axis == "step":
        u = torch.cat([Noise(0, torch.arange(40)).uniform(streams.DRAW, i)[:, 0] for i in range(n // 40)])
    else:
        u = torch.cat([Noise(i, torch.arange(40)).uniform(streams.DRAW)[:, 0] for i in range(n // 40)])
    assert ((u >= 0) & (u < 1)).all() and u.dtype == torch.float64
    cells = (u[::2] * 16).long() * 16 + (u[1::2] * 16).long()
    counts = torch.bincount(cells, minlength=256).double()
    assert chi_squared_p(counts, torch.full((256,), 1 / 256, dtype=torch.float64)) > 1e-6


def test_sampling_is_the_inverse_cdf():
    """u on a grid: shares are exact to one part in its size, and tokens ascend with u."""
    n = 10_000
    probs = torch.tensor([0.2, 0.0, 0.5, 0.05, 0.25], dtype=torch.float64)
    u = ((torch.arange(n) + 0.5) / n).double()[None]
    tokens = sample(probs.log().expand(1, n, -1), u)[0]
    assert (tokens.diff() >= 0).all()
    assert torch.allclose(torch.bincount(tokens, minlength=5).double() / n, probs, atol=2 / n)


def test_impossible_tokens_are_never_drawn():
    """First, last and middle tokens of zero probability, at the least and at the largest u."""
    for support in ([1, 2], [0], [3], [0, 3], [1], [2]):
        logits = torch.full((4,), -torch.inf)
        logits[support] = torch.tensor([0.3, 1.7])[: len(support)]
        for u in (0.0, 0.5, LARGEST):
            token = sample(logits.expand(1, 1, -1), torch.tensor([[u]], dtype=torch.float64))
            assert int(token) in support
        ends = [sample(logits.expand(1, 1, -1), torch.tensor([[u]], dtype=torch.float64)) for u in (0.0, LARGEST)]
        assert [int(end) for end in ends] == [support[0], support[-1]]


def test_the_tail_is_drawn_as_often_as_it_should_be():
    """A category of probability 1e-10, which float32 would lose: the last part of [0, 1) is its own."""
    p = 1e-10
    logits = torch.tensor([0.0, torch.tensor(p, dtype=torch.float64).log()], dtype=torch.float64).expand(1, 1, -1)
    for u, token in ((1 - 1.01 * p, 0), (1 - 0.99 * p, 1)):
        assert int(sample(logits, torch.tensor([[u]], dtype=torch.float64))) == token
