"""Uniform corruption: its noise, its bound, its reverse process, and what it refuses."""

import math
from fractions import Fraction
from itertools import islice, product

import pytest
import torch
from test_bound import quadrature
from toy import Joint, Noisy, RandomDenoiser, chi_squared_p, tiny_batch, tiny_reasoner

from hybrid.diffusion.bound import monte_carlo
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.corruption import Absorbing, Alphabet, Uniform
from hybrid.diffusion.draft import draft
from hybrid.diffusion.guidance import Banned, Counted, FromLeaveOneOut, Predict
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Ancestral, Confidence, FirstHitting, Policy
from hybrid.diffusion.remask import PredictorCorrector, Remask
from hybrid.diffusion.schedule import Linear, NoiseSchedule
from hybrid.drafters import Request
from hybrid.drafters.diffusion import Diffusion
from hybrid.kinds import look_up, names
from hybrid.records import Special, Spent

SCHEDULES = [look_up(NoiseSchedule, name)() for name in names(NoiseSchedule)]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
EVERY = {name: look_up(Policy, name)() for name in names(Policy)}
POLICIES = {name: policy for name, policy in EVERY.items() if policy.refusal(Uniform()) is None}
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))
UNIFORM = Uniform()
JOINT = Joint.random(k=2, length=2)
ALPHABET = Alphabet(JOINT.k, JOINT.k + 1)
ODDS = 1e-6
ROWS = 20_000


def law_of_corruption(x, alpha, k):
    """q(z | x) over all canvases, in the order of Joint.canvases."""
    one = torch.full((k, k), (1 - alpha) / k, dtype=torch.float64) + alpha * torch.eye(k, dtype=torch.float64)
    law = one[x[0]]
    for token in x[1:]:
        law = torch.outer(law, one[token]).flatten()
    return law


def run(denoise, policy, steps, rows=ROWS, joint=JOINT, schedule=None, seed=0, z=None, alphabet=None, **options):
    alphabet = alphabet or Alphabet(joint.k, joint.k + 1)
    noise = Noise(seed, torch.arange(rows))
    z = UNIFORM.noise(noise.uniform(9, 99, joint.length), alphabet) if z is None else z
    options = {"corruption": UNIFORM, "schedule": schedule or Linear(), "temperature": 1.0} | options
    states = draft(denoise, z, policy, torch.as_tensor(steps).expand(rows), noise, alphabet=alphabet, **options)
    return list(islice(states, 100))


# ---- noise


def test_noise_is_drawn_from_text_alone_and_evenly():
    alphabet = Alphabet(mask_id=2, size=9, absent=(0, 4))
    u = ((torch.arange(600) + 0.5) / 600).double()[None]
    tokens = UNIFORM.noise(u, alphabet)
    counts = torch.bincount(tokens[0], minlength=9).tolist()
    assert alphabet.k == 6 and counts == [0, 100, 0, 100, 0, 100, 100, 100, 100]
    assert UNIFORM.noise(torch.tensor([[1 - 2.0**-53]]).double(), alphabet).tolist() == [[8]]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_token_survives_or_is_redrawn_itself_among_them(alpha):
    """u on a grid: shares are exact to one part in its size."""
    n = 1200
    u = ((torch.arange(n) + 0.5) / n).double()[None]
    z = UNIFORM.corrupt(torch.ones(1, n, dtype=torch.long), torch.tensor([alpha]).double(), u, Alphabet(3, 4))
    expected = torch.tensor([0, alpha, 0]) + (1 - alpha) / 3
    assert torch.allclose(torch.bincount(z[0], minlength=3) / n, expected, atol=2 / n)


def test_a_first_step_renoises_by_draws_of_its_own():
    """What is drawn again is the old token by chance alone, among ten or more."""
    drafter = Diffusion(corruption=UNIFORM, times="continuous", policy=Ancestral())
    reasoner, prompts = tiny_reasoner(canvas=40, drafter=drafter), tiny_batch(5, 40).prompts
    request, noise, spent = Request(prompts, 40, Special()), Noise(0, prompts.keys), Spent.nothing(5)
    drafting = drafter.draft(reasoner.networks.drafter, request, Budget(8), noise, spent)
    before, after = islice(drafting, 2)
    redrawn = after.is_reopened & ~after.is_new
    assert redrawn.sum() > 50
    assert (before.z == after.z)[redrawn].double().mean() < 0.3


# ---- the bound


def integral(denoise, x, schedule, joint=JOINT):
    """The bound on -log p(x): all corrupted canvases enumerated, Gauss-Legendre quadrature over t."""
    nodes, weights = quadrature(150)
    alphabet, total = Alphabet(joint.k, joint.k + 1), 0.0
    alpha = schedule.alpha(nodes)
    laws = torch.stack([law_of_corruption(x.tolist(), a, joint.k) for a in alpha])
    for place, z in enumerate(joint.canvases):
        z, data = z.expand(len(nodes), -1), x.expand(len(nodes), -1)
        # A u that leads from x to z: below alpha where they agree, else in z's part of what is above.
        a = alpha[:, None]
        u = torch.where(z == x, a / 2, a + (1 - a) * (z + 0.5) / joint.k)
        assert torch.equal(UNIFORM.corrupt(data, alpha, u, alphabet), z)
        cost = monte_carlo(denoise, data, nodes, u, UNIFORM, schedule, alphabet)
        total += (weights * laws[:, place] * cost).sum()
    return total


@every_schedule
@pytest.mark.parametrize("output", ["posterior", "leave_one_out"])
def test_the_oracle_pays_exactly_minus_log_p(schedule, output):
    """Of the joint's two tokens together, in either reading of the network's output."""
    oracle = Noisy(JOINT, schedule, leaves_one_out=output == "leave_one_out")
    denoise = Uniform(output).posterior(oracle, schedule, ALPHABET)
    for x, p in zip(JOINT.canvases, JOINT.probs, strict=True):
        assert float(integral(denoise, x, schedule)) == pytest.approx(-float(p.log()), rel=2e-4)


@every_schedule
def test_knowing_nothing_costs_log_k_per_token(schedule):
    """Know-nothing means a uniform leave-one-out output; a uniform posterior would deny the evidence of z."""
    joint = Joint.random(k=4, length=1)
    nothing = Predict(lambda z, t: torch.zeros(*z.shape, 5, dtype=torch.float64))
    denoise = Banned(UNIFORM.posterior(nothing, schedule, Alphabet(4, 5)), (4,))
    expected = float(torch.tensor(4.0).log())
    assert float(integral(denoise, joint.canvases[2], schedule, joint)) == pytest.approx(expected, rel=2e-4)
    denied = Banned(nothing, (4,))
    assert float(integral(denied, joint.canvases[2], schedule, joint)) > 1.2 * expected


def test_any_other_denoiser_costs_more_on_average():
    entropy = -float((JOINT.probs * JOINT.probs.log()).sum())
    other = UNIFORM.posterior(RandomDenoiser(JOINT.k, JOINT.length), Linear(), ALPHABET)
    costs = torch.stack([integral(other, x, Linear()) for x in JOINT.canvases])
    assert float((JOINT.probs * costs).sum()) > entropy + 0.01


def test_the_cost_is_finite_and_not_negative_at_the_ends_of_time():
    for dtype in (torch.float32, torch.float64):
        t = torch.tensor([1e-6, 1e-4, 1.0], dtype=dtype)
        logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
        for schedule in SCHEDULES:
            for x, z in product(range(3), repeat=2):
                cost = UNIFORM.cost(logits, torch.full((3,), x), torch.full((3,), z), t, schedule, Alphabet(3, 4))
                assert cost.isfinite().all() and (cost >= -1e-5).all(), (schedule, x, z, cost)


@pytest.mark.parametrize("t", [0.5, 0.01, 1e-4])
def test_the_cost_is_exact_where_a_likely_token_of_many_is_noise(t):
    """In float32: then s^ / s is about (t / k)^2, and its distance from 0 is lost in 1 + r."""
    k, x, z = 50_000, torch.tensor([7]), torch.tensor([3])
    output = torch.full((1, k + 1), -12.0, dtype=torch.float64)
    output[0, 3], output[0, 7], output[0, k] = 5.0, -10.0, -torch.inf
    t, alphabet = torch.tensor([t]).double(), Alphabet(k, k + 1)
    denoise = UNIFORM.posterior(Predict(lambda z, t: output[None].clone()), Linear(), alphabet)
    logits = denoise.logits(z[None], t, torch.ones(1, 1, dtype=torch.bool)).float().requires_grad_()
    cost = UNIFORM.cost(logits, x, z, t, Linear(), alphabet)
    cost.backward()
    p = [Fraction(float(y)) for y in logits[0].detach().double().softmax(-1)]
    total, rho = sum(p), 1 + Fraction(float(1 - t)) * k / Fraction(float(t))
    expected = 0.0
    for y in (0, 7):  # all but text and noise are alike
        s = rho if y == 7 else Fraction(1)
        ratio = (1 + (rho - 1) * (p[y] - p[3] / rho) / total) / s
        expected += (k - 2 if y == 0 else 1) * float(s) * (float(ratio - 1) - math.log(ratio))
    assert float(cost.detach()) == pytest.approx(expected / float(1 - t) / k, rel=1e-3)
    assert logits.grad.isfinite().all()


@every_schedule
def test_the_leave_one_out_of_the_oracle_becomes_its_posterior(schedule):
    joint = Joint.random(3, 3)
    t = torch.linspace(0.05, 1, len(joint.canvases)).double()
    found = FromLeaveOneOut(Noisy(joint, schedule, leaves_one_out=True), schedule.alpha, joint.k)(joint.canvases, t)
    assert torch.allclose(found.softmax(-1), Noisy(joint, schedule)(joint.canvases, t).softmax(-1), rtol=1e-9)


# ---- the reverse process


@pytest.mark.parametrize(("alpha_t", "alpha_s"), [(0.0, 0.4), (0.2, 0.5), (0.3, 1.0)])
def test_a_step_back_is_bayes_rule(alpha_t, alpha_s):
    """Commit, stay and renoise together are q(z_s | z_t, x) for every pair of tokens."""
    k, a = 3, alpha_t / alpha_s
    alphabet, alphas = Alphabet(k, k + 1), torch.tensor([[alpha_t], [alpha_s]]).double()
    for z, x in product(range(k), repeat=2):
        commit, renoise = UNIFORM.reverse(torch.tensor([[z]]), torch.tensor([[x]]), *alphas, alphabet)
        found = torch.full((k,), float(renoise) / k)
        found[x] += float(commit)
        found[z] += 1 - float(commit) - float(renoise)
        bayes = torch.tensor(
            [(a * (y == z) + (1 - a) / k) * (alpha_s * (y == x) + (1 - alpha_s) / k) for y in range(k)]
        )
        assert torch.allclose(found, bayes / bayes.sum(), atol=1e-6), (z, x)


def transition(joint, denoise, law, t, s, k):
    """The law after one step from t to s (linear), every draw of every position enumerated."""
    alpha_t, alpha_s = torch.tensor([1 - t]).double(), torch.tensor([1 - s]).double()
    after = torch.zeros_like(law)
    for z, p in zip(joint.canvases, law, strict=True):
        probs = denoise(z[None], torch.tensor([t]).double())[0].exp()
        rows = []
        for i, token in enumerate(z.tolist()):
            row = torch.zeros(k, dtype=torch.float64)
            for x in range(k):
                commit, renoise = UNIFORM.reverse(
                    torch.tensor([[token]]), torch.tensor([[x]]), alpha_t, alpha_s, Alphabet(k, k + 1)
                )
                step = torch.full((k,), float(renoise) / k, dtype=torch.float64)
                step[x] += float(commit)
                step[token] += 1 - float(commit) - float(renoise)
                row += probs[i, x] * step
            rows.append(row)
        after += p * torch.cartesian_prod(*rows).prod(-1)
    return after


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_ancestral_steps_are_the_product_of_enumerated_transitions(steps):
    """After every step, not only the last. False alarm: 1e-6 each."""
    denoise = Noisy(JOINT, Linear())
    states = run(denoise, Ancestral(), steps)
    law = torch.full((4,), 0.25, dtype=torch.float64)
    for i, state in enumerate(states[1:]):
        law = transition(JOINT, denoise, law, 1 - i / steps, 1 - (i + 1) / steps, JOINT.k)
        assert chi_squared_p(JOINT.counts(state.z), law) > ODDS
    assert len(states) == steps + 1


def test_ancestral_drafts_converge_to_the_joint():
    """Enumerated laws fall towards the joint, and drafts of 32 steps cannot be told from it."""
    denoise, distances = Noisy(JOINT, Linear()), []
    for steps in (1, 4, 16):
        law = torch.full((4,), 0.25, dtype=torch.float64)
        for i in range(steps):
            law = transition(JOINT, denoise, law, 1 - i / steps, 1 - (i + 1) / steps, JOINT.k)
        distances.append(float((law - JOINT.probs).abs().sum() / 2))
    assert distances == sorted(distances, reverse=True) and distances[2] < distances[0] / 8
    assert chi_squared_p(JOINT.counts(run(denoise, Ancestral(), 32)[-1].z), JOINT.probs) > ODDS


@pytest.mark.parametrize("policy", [Ancestral(), PredictorCorrector(0.5), PredictorCorrector(1.0)], ids=repr)
def test_every_step_keeps_the_marginal_of_independent_tokens(policy):
    """Where tokens are independent no parallel draw errs: at every time the law is that of corrupted data."""
    joint = Joint.independent(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]).double())
    for i, state in enumerate(run(Noisy(joint, Linear()), policy, 4, joint=joint)):
        alpha = i / 4
        law = sum(p * law_of_corruption(x.tolist(), alpha, 3) for x, p in zip(joint.canvases, joint.probs, strict=True))
        assert chi_squared_p(joint.counts(state.z), law) > ODDS


@pytest.mark.parametrize("name", [n for n, p in POLICIES.items() if p.exact and p.settles])
def test_the_noise_that_a_settling_policy_leaves_open_is_no_evidence(name):
    """It stands there from the first step on, and tells of no token: independent ones keep their law in any order."""
    joint = Joint.independent(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]).double())
    denoise = UNIFORM.posterior(Noisy(joint, Linear(), leaves_one_out=True), Linear(), Alphabet(3, 4))
    drafted = run(denoise, POLICIES[name], 2, joint=joint)[-1].z
    assert chi_squared_p(joint.counts(drafted), joint.probs) > ODDS


def test_a_corrector_of_rate_0_is_ancestral_and_of_another_rate_is_not():
    denoise = Noisy(JOINT, Linear())
    ancestral = [s.z for s in run(denoise, Ancestral(), 5, rows=200)]
    same = [s.z for s in run(denoise, PredictorCorrector(0.0), 5, rows=200)]
    other = [s.z for s in run(denoise, PredictorCorrector(0.8), 5, rows=200)]
    assert all(torch.equal(a, b) for a, b in zip(ancestral, same, strict=True))
    assert not torch.equal(ancestral[2], other[2])


# ---- every policy that makes sense here


@every_policy
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_forwards_stay_within_the_budget_and_only_text_is_drafted(policy, steps):
    rows, length, k = 30, 4, 3
    denoise, spent = RandomDenoiser(k, length), Spent.nothing(rows)
    joint, alphabet = Joint.random(k, length), Alphabet(k, k + 1)
    counted = Counted(FromLeaveOneOut(denoise, Linear().alpha, k), spent, torch.arange(rows))
    states = run(counted, policy, steps, rows=rows, joint=joint, alphabet=alphabet)
    assert (spent.denoiser_forwards <= steps).all() and len(states) - 1 == spent.denoiser_forwards.max()
    for state in states:
        assert (state.z < k).all() and not (state.is_new & state.is_reopened).any()
    last = torch.stack([s.is_new for s in states[1:]]).any(0)
    assert last.all()  # every position was decided at some step, noise is nowhere left over


@every_policy
def test_a_row_alone_equals_that_row_in_a_batch(policy):
    denoise, steps = RandomDenoiser(3, 4), torch.tensor([1, 2, 3, 4, 0, 2])
    noise = Noise(0, torch.arange(6))
    z = UNIFORM.noise(noise.uniform(9, 99, 4), Alphabet(3, 4))
    options = dict(corruption=UNIFORM, schedule=Linear(), alphabet=Alphabet(3, 4), temperature=1.0)
    whole = list(draft(denoise, z, policy, steps, noise, **options))[-1]
    for row in range(6):
        at = torch.tensor([row])
        alone = list(draft(denoise, z[at], policy, steps[at], noise.select(at), **options))[-1]
        assert torch.equal(alone.z[0], whole.z[row]) and torch.equal(alone.confidence[0], whole.confidence[row])


@every_policy
def test_context_is_never_altered(policy):
    z = torch.randint(3, (20, 4), generator=torch.Generator().manual_seed(0))
    is_free = torch.tensor([True, False, True, False]).expand(20, -1)
    options = dict(joint=Joint.random(3, 4), rows=20, z=z)
    for state in run(RandomDenoiser(3, 4), policy, 2, is_free=is_free, **options):
        assert torch.equal(state.z[~is_free], z[~is_free])
        assert not ((state.is_new | state.is_reopened) & ~is_free).any()


# ---- what belongs to one corruption only


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"times": "counts"}, "counts masks"),
        ({"train_weight": 0.5}, "train_weight=0.5"),
        ({"focal": 2.0}, "focal=2.0"),
        ({"policy": Remask()}, "Remask under Uniform corruption: there is no mask"),
        ({"policy": FirstHitting()}, "FirstHitting under Uniform corruption"),
        ({"corruption": Absorbing(), "policy": PredictorCorrector()}, "PredictorCorrector under Absorbing corruption"),
    ],
)
def test_what_belongs_to_one_corruption_is_refused_under_the_other(options, said):
    with pytest.raises(ValueError, match=said):
        Diffusion(**({"corruption": Uniform(), "times": "continuous"} | options))


@pytest.mark.parametrize("output", ["leave_one_out", "posterior"])
def test_a_hybrid_trains_two_steps_and_samples(output):
    """The bound supervises the whole canvas: pads too are tokens here."""
    drafter = Diffusion(corruption=Uniform(output), times="continuous", policy=Confidence())
    reasoner, batch = tiny_reasoner(drafter=drafter), tiny_batch(4)
    optimiser, totals = torch.optim.SGD(reasoner.parameters(), lr=1e-3), []
    for _ in range(2):
        losses = reasoner.losses(batch)
        totals.append(float(losses.sketch.sum()))
        assert losses.sketch_count.tolist() == [6] * 4 and (losses.sketch > 0).all()
        optimiser.zero_grad()
        reasoner.loss(losses).backward()
        optimiser.step()
    assert totals[1] < totals[0]
    for policy in POLICIES.values():
        for result in reasoner.reason(batch.prompts, Budget(3), drafter=Diffusion(
            corruption=Uniform(output), times="continuous", policy=policy, temperature=1.0
        )):  # fmt: skip
            assert not set(result.sketch_tokens) & set(reasoner.special.never_drafted)
            assert result.spent["denoiser_forwards"] <= 3
