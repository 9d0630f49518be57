"""The sampler's law: exact policies reproduce a known joint, the others their own enumerated transitions."""

from itertools import product

import pytest
import torch
from toy import Joint, chi_squared_p

from hybrid.diffusion.corruption import Absorbing, Alphabet
from hybrid.diffusion.draft import draft
from hybrid.diffusion.guidance import Predict
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import (
    Ancestral,
    Confidence,
    EntropyBound,
    Factor,
    Policy,
    Proposal,
    Threshold,
    commit_top,
)
from hybrid.diffusion.schedule import NoiseSchedule
from hybrid.kinds import look_up, names

EVERY = {name: look_up(Policy, name)() for name in names(Policy)}
POLICIES = {name: policy for name, policy in EVERY.items() if policy.refusal(Absorbing()) is None}
SCHEDULES = {name: look_up(NoiseSchedule, name)() for name in names(NoiseSchedule)}
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
ROWS = 20_000
ODDS = 1e-6  # of a false alarm when a test was first run; the numbers are fixed, so it never happens later
JOINT = Joint.random(k=2, length=3)


def final(joint, policy, steps, schedule=None, rows=ROWS, seed=0, temperature=1.0):
    """Final canvases of `rows` drafts, and the state after each step."""
    states = list(
        draft(
            joint, joint.blank.expand(rows, -1).clone(), policy, torch.full((rows,), steps),
            Noise(seed, torch.arange(rows)), corruption=Absorbing(), schedule=schedule or SCHEDULES["linear"],
            alphabet=Alphabet(joint.mask, joint.k + 1), temperature=temperature,
        )
    )  # fmt: skip
    return states[-1].z, states


def proposal(k=4, length=5, rows=64, seed=0, tokens_seed=0, quota=2, ties=False, rereads=False):
    """A random proposal with some positions decided; `ties`: confidences take few values."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, length, k, generator=generator) * 2
    if ties:
        logits = torch.tensor([0.0, 0.0, 1.0, 2.0]).expand(rows, length, k).clone()
        logits[:, ::2, 2] = 5.0
    tokens = torch.randint(k, (rows, length), generator=torch.Generator().manual_seed(tokens_seed))
    is_open = torch.rand(rows, length, generator=generator) < 0.7
    is_committed = ~is_open & (torch.rand(rows, length, generator=generator) < 0.7)
    where = is_open | is_committed if rereads else is_open
    z = torch.where(is_open, k, 0)
    return Proposal(
        z=z, logits=logits[where], where=where, tokens=torch.where(where, tokens, z), is_open=is_open,
        is_committed=is_committed, certainty=torch.rand(rows, length, generator=generator) * is_committed,
        quota=torch.full((rows,), quota).minimum(is_open.sum(-1)),
        taken=torch.full((rows,), 1), given=torch.full((rows,), 3),
        survive_t=torch.full((rows,), 0.2).double(), survive_s=torch.full((rows,), 0.6).double(),
        corruption=Absorbing(), alphabet=Alphabet(k, k + 1), noise=Noise(seed, torch.arange(rows)), step=1,
    )  # fmt: skip


def test_a_proposal_tells_entropy_in_nats_and_the_draws_own_probability():
    given = proposal()
    law = torch.distributions.Categorical(logits=given.logits.double())
    drawn = given.tokens[given.where]
    assert torch.allclose(given.entropy[given.where].double(), law.entropy(), atol=1e-5)
    assert torch.allclose(given.confidence[given.where].double(), law.log_prob(drawn).exp(), atol=1e-5)
    assert not given.entropy[~given.where].any() and not given.confidence[~given.where].any()


# The decisions in plain Python, one row at a time: scores of (probabilities, drawn token) per position.
SCORES = {
    "confidence": lambda probs, token, i: probs[token],
    "margin": lambda probs, token, i: sorted(probs)[-1] - sorted(probs)[-2],
    "entropy": lambda probs, token, i: sum(p * torch.tensor(p).double().log().item() for p in probs if p > 0),
    "left_to_right": lambda probs, token, i: -i,
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", SCORES)
def test_ranked_policies_commit_the_best_scores_leftmost_first(name, ties):
    given = proposal(ties=ties)
    keep = POLICIES[name].keep(given)
    probs = torch.zeros(*given.z.shape, 4).masked_scatter(given.where[..., None], given.logits.softmax(-1))
    for row in range(len(keep)):
        score = [SCORES[name](probs[row, i].tolist(), given.tokens[row, i], i) for i in range(keep.shape[1])]
        where = [i for i in range(keep.shape[1]) if given.is_open[row, i]]
        best = sorted(where, key=lambda i: (-round(float(score[i]), 5), i))[: int(given.quota[row])]
        assert keep[row].nonzero()[:, 0].tolist() == sorted(best)


@pytest.mark.parametrize("threshold", [0.3, 0.7, 1.0])
def test_threshold_commits_all_sure_ones_and_at_least_the_quota(threshold):
    given = proposal()
    keep = Threshold(threshold).keep(given)
    sure = given.is_open & (given.confidence >= threshold)
    best = commit_top(given.confidence, given.is_open, given.quota)
    assert torch.equal(keep, torch.where((sure.sum(-1) >= given.quota)[:, None], sure, best))


def by_hand(given, score, count):
    """The `count(scores)` open positions of best score, at least the quota, in plain Python; leftmost first."""
    keep = torch.zeros_like(given.is_open)
    for row in range(len(keep)):
        where = [i for i in range(keep.shape[1]) if given.is_open[row, i]]
        ranked = sorted(where, key=lambda i: (-float(score[row, i]), i))
        n = max(count([float(score[row, i]) for i in ranked]), int(given.quota[row]))
        keep[row, ranked[:n]] = True
    return keep


@pytest.mark.parametrize("quota", [1, 3])
@pytest.mark.parametrize("factor", [0.2, 1.0, 2.0])
def test_factor_commits_the_largest_set_that_its_bound_allows(factor, quota):
    given = proposal(quota=quota)

    def count(ranked):
        return max((n for n, c in enumerate(ranked, 1) if (n + 1) * (1 - c) < factor), default=0)

    keep = Factor(factor).keep(given)
    assert torch.equal(keep, by_hand(given, given.confidence, count))
    assert (keep.sum(-1) > given.quota).any() == (factor > 0.2 and quota == 1)


@pytest.mark.parametrize("quota", [1, 3])
@pytest.mark.parametrize("bound", [0.0, 0.3, 1.0, 100.0])
def test_entropy_bound_accepts_exactly_the_stated_set(bound, quota):
    """The largest k with (sum - max) of the k lowest entropies within the bound; the quota is the least."""
    given = proposal(quota=quota)

    def count(ranked):
        lowest = [[-score for score in ranked[:k]] for k in range(1, len(ranked) + 1)]
        return max((len(few) for few in lowest if sum(few) - max(few) <= bound), default=0)

    keep = EntropyBound(bound).keep(given)
    assert torch.equal(keep, by_hand(given, -given.entropy, count))
    assert bound < 100 or torch.equal(keep, given.is_open)


@every_policy
def test_only_open_positions_are_committed(policy):
    for quota in (0, 1, 5):
        given = proposal(quota=quota, rereads=policy.rereads)
        keep = policy.keep(given)
        assert not (keep & ~given.where).any()
        assert not (policy.reopen(given, keep) & ~given.is_committed).any()


@every_policy
def test_policies_that_say_so_commit_every_step(policy):
    keep, given = policy.keep(proposal(quota=1)), proposal(quota=1)
    commits = keep.any(-1) | ~given.is_open.any(-1)
    assert not policy.always_commits or commits.all()


@every_policy
def test_exact_means_blind_to_the_drawn_tokens(policy):
    """Both ways: an exact policy never looks at them, and one that never does calls itself exact."""
    chosen = [policy.keep(proposal(tokens_seed=seed)) for seed in range(5)]
    assert policy.exact == all(torch.equal(chosen[0], other) for other in chosen[1:])


@pytest.mark.parametrize("name", [n for n, p in POLICIES.items() if p.exact and p.always_commits])
def test_exact_policies_reproduce_the_joint_one_token_at_a_time(name):
    z, _ = final(JOINT, POLICIES[name], JOINT.length)
    assert chi_squared_p(JOINT.counts(z), JOINT.probs) > ODDS


def test_first_hitting_in_several_reveals_a_step_is_random_order():
    """Its clock is all that differs: which positions, and so the law of the drafts, is that of `random`."""
    for steps in (1, 2, 3):
        hitting, random = (final(JOINT, POLICIES[name], steps)[0] for name in ("first_hitting", "random"))
        assert torch.equal(hitting, random)


def test_broken_predictions_stop_with_their_place():
    """NaN in one logit of one position, at the second step."""

    def predict(z, t):
        logits = torch.zeros(*z.shape, JOINT.k + 1)
        logits[..., JOINT.mask] = -torch.inf
        logits[z[:, 0] != JOINT.mask, 2, 0] = torch.nan
        return logits

    with pytest.raises(ValueError, match="step 2, row 0, position 2 is no probability: NaN"):
        final(Broken(predict), POLICIES["left_to_right"], 3, rows=4)


class Broken(Predict):
    """A prediction of tokens 0..k-1 on the canvas of JOINT."""

    blank, mask, k = JOINT.blank, JOINT.mask, JOINT.k


def transitions(joint, choose, steps):
    """Law after `steps` steps, every draw enumerated; `choose(z, drawn, quota)` says what to commit."""
    states = {tuple(joint.blank[0].tolist()): 1.0}
    for step in range(steps):
        after: dict = {}
        for z, p in states.items():
            open_ = [i for i, token in enumerate(z) if token == joint.mask]
            quota = -(-len(open_) // (steps - step))
            for drawn, q in joint.completions(z):
                keep = choose(z, drawn, quota) if open_ else []
                new = tuple(drawn[i] if i in keep or i not in open_ else joint.mask for i in range(joint.length))
                after[new] = after.get(new, 0.0) + p * q
        states = after
    return states


def by_score(joint, name):
    def choose(z, drawn, quota):
        probs = joint.posterior(torch.tensor([z]))[0].tolist()
        open_ = [i for i, token in enumerate(z) if token == joint.mask]
        return sorted(open_, key=lambda i: (-SCORES[name](probs[i], drawn[i], i), i))[:quota]

    return choose


def test_the_example_of_ninety_nine():
    """Independent .9/.1 and .5/.5: keeping the more confident draw gives the likely token .99, not .9."""
    joint = Joint.independent(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).double())
    law = joint.law_of(transitions(joint, by_score(joint, "confidence"), 2))
    assert torch.allclose(law, torch.tensor([0.495, 0.495, 0.005, 0.005]).double())
    z, _ = final(joint, Confidence(), 2)
    assert chi_squared_p(joint.counts(z), law) > ODDS
    assert chi_squared_p(joint.counts(z), joint.probs) < ODDS


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", SCORES)
def test_ranked_policies_follow_their_enumerated_transitions(name, steps):
    z, _ = final(JOINT, POLICIES[name], steps)
    law = JOINT.law_of(transitions(JOINT, by_score(JOINT, name), steps))
    assert law.sum() == pytest.approx(1)
    assert chi_squared_p(JOINT.counts(z), law) > ODDS


def test_threshold_follows_its_enumerated_transitions():
    def choose(z, drawn, quota):
        probs = JOINT.posterior(torch.tensor([z]))[0].tolist()
        open_ = [i for i, token in enumerate(z) if token == JOINT.mask]
        sure = [i for i in open_ if probs[i][drawn[i]] >= 0.6]
        best = sorted(open_, key=lambda i: (-probs[i][drawn[i]], i))[:quota]
        return sure if len(sure) >= quota else best

    z, _ = final(JOINT, Threshold(0.6), 3)
    assert chi_squared_p(JOINT.counts(z), JOINT.law_of(transitions(JOINT, choose, 3))) > ODDS


def ancestral_law(joint, schedule, steps):
    """Laws after every step of ancestral sampling, positions revealed alone: products of transitions."""
    alpha = [float(schedule.alpha(torch.tensor(1 - i / steps).double())) for i in range(steps + 1)]
    states, laws = {tuple(joint.blank[0].tolist()): 1.0}, []
    for i in range(steps):
        reveal = (alpha[i + 1] - alpha[i]) / (1 - alpha[i])
        after: dict = {}
        for z, p in states.items():
            probs = joint.posterior(torch.tensor([z]))[0].tolist()
            options = [
                [(joint.mask, 1 - reveal)] + [(y, reveal * q) for y, q in enumerate(probs[at])]
                if token == joint.mask else [(token, 1.0)]
                for at, token in enumerate(z)
            ]  # fmt: skip
            for outcome in product(*options):
                new = tuple(y for y, _ in outcome)
                weight = p
                for _, q in outcome:
                    weight *= q
                if weight > 0:
                    after[new] = after.get(new, 0.0) + weight
        states = after
        laws.append(states)
    return laws


@every_schedule
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_ancestral_steps_are_the_product_of_enumerated_transitions(schedule, steps):
    """After every step, not only the last."""
    _, states = final(JOINT, Ancestral(), steps, schedule)
    base = JOINT.k + 1
    powers = base ** torch.arange(JOINT.length - 1, -1, -1)
    for state, law in zip(states[1:], ancestral_law(JOINT, schedule, steps), strict=True):
        expected = torch.zeros(base**JOINT.length, dtype=torch.float64)
        for z, p in law.items():
            expected[int((torch.tensor(z) * powers).sum())] = p
        counts = torch.bincount((state.z * powers).sum(-1), minlength=len(expected)).double()
        assert chi_squared_p(counts, expected) > ODDS


@every_schedule
def test_total_variation_falls_as_ancestral_steps_grow(schedule):
    """Of the enumerated law, and of drafts: those of 16 steps are nearer to the joint than those of 1 or 2.

    The drafts' own distance has noise below 0.01 (8 outcomes, 20,000 rows); the gaps asserted are larger.
    """
    exact, drawn = [], []
    for steps in (1, 2, 4, 16):
        exact.append(float((JOINT.law_of(ancestral_law(JOINT, schedule, steps)[-1]) - JOINT.probs).abs().sum() / 2))
        z, _ = final(JOINT, Ancestral(), steps, schedule)
        drawn.append(float((JOINT.counts(z) / ROWS - JOINT.probs).abs().sum() / 2))
    assert exact == sorted(exact, reverse=True) and exact[-1] < exact[0] / 4
    assert drawn[0] > drawn[1] + 0.01 > drawn[3] + 0.02


@every_policy
def test_one_step_is_the_product_of_marginals(policy):
    z, states = final(JOINT, policy, 1)
    marginals = JOINT.posterior(JOINT.blank)[0]
    product_law = Joint.independent(marginals).probs
    assert len(states) == 2
    assert chi_squared_p(JOINT.counts(z), product_law) > ODDS
    assert chi_squared_p(JOINT.counts(z), JOINT.probs) < ODDS  # the joint is another law: the test has power


@every_schedule
def test_open_share_follows_the_schedule(schedule):
    """After a step to s a share 1 - alpha(s) is open. Tolerance: 5 sigma of 60,000 positions."""
    steps = 4
    _, states = final(JOINT, Ancestral(), steps, schedule)
    for i, state in enumerate(states):
        expected = 1 - float(schedule.alpha(torch.tensor(1 - i / steps).double()))
        assert float((state.z == JOINT.mask).double().mean()) == pytest.approx(expected, abs=5 * 0.5 / 60_000**0.5)


def test_random_orders_are_equally_likely():
    """The first position committed is each of three equally often (chi-squared, odds as above)."""
    _, states = final(JOINT, POLICIES["random"], 3)
    first = states[1].is_new.long().argmax(-1)
    assert (states[1].is_new.sum(-1) == 1).all()
    assert chi_squared_p(torch.bincount(first, minlength=3).double(), torch.full((3,), 1 / 3).double()) > ODDS


def test_ties_break_the_same_whatever_the_batch():
    """Equal scores commit leftmost first: alone, in small and in large batches."""
    for rows in (1, 3, 1000):
        for length in (5, 40):
            keep = commit_top(
                torch.zeros(rows, length), torch.ones(rows, length, dtype=torch.bool), torch.full((rows,), 2)
            )
            assert keep[:, :2].all() and not keep[:, 2:].any()


@pytest.mark.parametrize(("make", "said"), [(lambda: Factor(0.0), "factor"), (lambda: EntropyBound(-0.1), "bound")])
def test_bounds_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5])
def test_thresholds_that_are_no_probability_are_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        Threshold(threshold)
