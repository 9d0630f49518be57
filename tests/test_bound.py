"""The training bound: all its forms are one number, never below -log p, and tight for the oracle."""

from itertools import permutations, product

import pytest
import torch
from toy import Joint, RandomDenoiser

from hybrid.diffusion.bound import corrupt_by_counts, cost, exact, monte_carlo
from hybrid.diffusion.corruption import Absorbing, Alphabet
from hybrid.diffusion.guidance import Predict
from hybrid.diffusion.noise import Noise, low_discrepancy_times
from hybrid.diffusion.schedule import Linear, NoiseSchedule
from hybrid.kinds import look_up, names

SCHEDULES = [look_up(NoiseSchedule, name)() for name in names(NoiseSchedule)]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
K, LENGTH = 3, 3
ALPHABET = Alphabet(K, K + 1)
JOINT = Joint.random(K, LENGTH)
DENOISERS = [JOINT, RandomDenoiser(K, LENGTH)]
every_denoiser = pytest.mark.parametrize("denoise", DENOISERS, ids=lambda d: type(d).__name__)
CANVASES = JOINT.canvases


def integral(denoise, x, schedule, alphabet):
    """The continuous-time form: all masked sets enumerated, Gauss-Legendre quadrature over t."""
    nodes, weights = quadrature(40)
    total = 0.0
    for hidden in product([False, True], repeat=len(x)):
        hidden = torch.tensor(hidden)
        n = len(nodes)
        u = torch.where(hidden, 1 - 2.0**-53, 0.0).double().expand(n, -1)  # survives iff u < alpha
        cost = monte_carlo(denoise, x.expand(n, -1), nodes, u, Absorbing(), schedule, alphabet)
        alpha = schedule.alpha(nodes)[:, None]
        total += (weights * cost * torch.where(hidden, 1 - alpha, alpha).prod(-1)).sum()
    return total


def quadrature(n):
    """Gauss-Legendre nodes and weights on (0, 1), by Golub and Welsch."""
    i = torch.arange(1, n, dtype=torch.float64)
    off = i / (4 * i**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (nodes + 1) / 2, vectors[0] ** 2


def over_orderings(denoise, x, mask_id):
    """-log probability of x along each ordering of its positions."""
    costs = []
    for order in permutations(range(len(x))):
        z, cost = torch.full_like(x, mask_id), 0.0
        for i in order:
            cost -= denoise(z[None], torch.ones(1)).log_softmax(-1)[0, i, x[i]]
            z = z.clone()
            z[i] = x[i]
        costs.append(cost)
    return torch.stack(costs)


@every_denoiser
def test_enumerated_sets_equal_the_mean_over_orderings(denoise):
    for x in CANVASES[::4]:
        assert torch.isclose(exact(denoise, x, K), over_orderings(denoise, x, K).mean(), rtol=1e-9)


@every_schedule
@every_denoiser
def test_continuous_time_equals_enumeration_under_every_schedule(denoise, schedule):
    """Tolerance: `cost` works in float32."""
    for x in CANVASES[::5]:
        found = integral(denoise, x, schedule, ALPHABET)
        assert torch.isclose(found, exact(denoise, x, K), rtol=2e-6), (found, exact(denoise, x, K))


@every_denoiser
def test_counts_equal_enumeration(denoise):
    """Every count and every order of u, each as likely as the others."""
    orders = torch.tensor(list(permutations(range(LENGTH)))).double() / LENGTH
    for x in CANVASES[::4]:
        total = 0.0
        for n in range(1, LENGTH + 1):
            t = torch.full((len(orders),), (n - 0.5) / LENGTH, dtype=torch.float64)
            z, weight = corrupt_by_counts(x.expand(len(orders), -1), t, orders, K)
            logp = denoise(z, t).log_softmax(-1)
            nll = -logp.gather(-1, x.expand(len(orders), -1)[..., None])[..., 0]
            total += (weight * torch.where(z == K, nll, 0.0).sum(-1)).mean() / LENGTH
        assert torch.isclose(total, exact(denoise, x, K), rtol=1e-9)


def test_the_oracle_pays_exactly_minus_log_p():
    for x, p in zip(JOINT.canvases, JOINT.probs, strict=True):
        assert torch.isclose(exact(JOINT, x, K), -p.log(), rtol=1e-9)


def test_the_bound_is_above_minus_log_p_of_the_model_that_it_bounds():
    """The model's p is the mean over orderings of the product of its predictions; it sums to 1."""
    denoise, total = DENOISERS[1], 0.0
    for x in CANVASES:
        p = (-over_orderings(denoise, x, K)).exp().mean()
        assert exact(denoise, x, K) >= -p.log() - 1e-12
        total += p
    assert total == pytest.approx(1)


@every_schedule
def test_knowing_nothing_costs_log_k_per_token(schedule):
    def nothing(z, t):
        logits = torch.zeros(*z.shape, K + 1)
        logits[..., K] = -torch.inf
        return logits

    expected = LENGTH * torch.tensor(float(K)).log().double()
    assert torch.isclose(integral(Predict(nothing), CANVASES[5], schedule, ALPHABET), expected, rtol=2e-6)
    assert torch.isclose(exact(Predict(nothing), CANVASES[5], K), expected, rtol=1e-6)


@every_schedule
def test_the_masked_share_is_one_minus_alpha(schedule):
    """u on a grid instead of random: the share is exact to one part in its size."""
    n = 1000
    u = ((torch.arange(n) + 0.5) / n).double()[None]
    for t in (0.1, 0.5, 0.9, 1.0):
        alpha = schedule.alpha(torch.tensor([t], dtype=torch.float64))
        z = Absorbing().corrupt(torch.zeros(1, n, dtype=torch.long), alpha, u, ALPHABET)
        assert float((z == K).double().mean()) == pytest.approx(1 - float(alpha), abs=1 / n)


def test_corruption_at_the_ends_of_time():
    u = Noise(0, torch.arange(50)).uniform(0, 0, LENGTH)
    x = CANVASES[torch.arange(50) % len(CANVASES)]
    assert torch.equal(Absorbing().corrupt(x, torch.ones(50), u, ALPHABET), x)
    assert (Absorbing().corrupt(x, torch.zeros(50), u, ALPHABET) == K).all()
    assert (Absorbing().noise(u, ALPHABET) == K).all()


def test_corruption_only_ever_masks():
    noise = Noise(0, torch.arange(200))
    x = CANVASES[torch.arange(200) % len(CANVASES)]
    t = low_discrepancy_times(0.3, torch.arange(200), 200)
    for z in (
        Absorbing().corrupt(x, 1 - t, noise.uniform(1, 0, LENGTH), ALPHABET),
        corrupt_by_counts(x, t, noise.uniform(1, 0, LENGTH), K)[0],
    ):
        assert ((z == x) | (z == K)).all() and (z == K).any() and (z == x).any()


def test_counts_mask_exactly_the_rounded_up_share():
    length = 7
    t = torch.tensor([1e-9, 1 / 7, 1 / 7 + 1e-6, 0.5, 1.0], dtype=torch.float64)
    u = Noise(1, torch.arange(5)).uniform(1, 0, length)
    z, weight = corrupt_by_counts(torch.zeros(5, length, dtype=torch.long), t, u, K)
    assert (z == K).sum(-1).tolist() == [1, 1, 2, 4, 7]
    assert torch.allclose(weight.double(), torch.tensor([7, 7, 7 / 2, 7 / 4, 1.0]).double())


def test_only_masked_positions_cost():
    x, z = torch.tensor([[0, 1, 2]]), torch.tensor([[0, K, 2]])
    logits = torch.randn(1, 3, K + 1, generator=torch.Generator().manual_seed(0))
    where = Absorbing().is_supervised(z, ALPHABET)
    assert where.tolist() == [[False, True, False]]
    found = cost(logits[where], x, z, torch.tensor([0.25]), where, Absorbing(), Linear(), ALPHABET)
    assert torch.allclose(found, torch.tensor([4 * float(-logits.log_softmax(-1)[0, 1, 1])]))


@pytest.mark.parametrize("offset", [0.0, 0.123456, 1 - 2.0**-53])
@pytest.mark.parametrize("total", [1, 7, 64])
def test_low_discrepancy_times_cover_evenly(offset, total):
    """One time in every cell of width 1/total, none of them 0; the same whatever rank holds the slot."""
    slots = torch.arange(total)
    t = low_discrepancy_times(offset, slots, total)
    assert ((t > 0) & (t <= 1)).all()
    assert torch.allclose(t.sort().values.diff(), torch.full((total - 1,), 1 / total, dtype=t.dtype))
    ranks = [low_discrepancy_times(offset, slots[rank::2], total) for rank in range(2)]
    assert torch.equal(t[0::2], ranks[0]) and torch.equal(t[1::2], ranks[1])


def test_one_time_alone_is_uniform():
    """Offsets on a grid: whatever the slot, its times fill (0, 1] evenly."""
    offsets = (torch.arange(200) + 0.5) / 200
    for slot in (0, 3):
        t = torch.stack([low_discrepancy_times(float(o), torch.tensor([slot]), 5)[0] for o in offsets])
        assert torch.allclose(t.sort().values, offsets.double(), atol=1e-7)
