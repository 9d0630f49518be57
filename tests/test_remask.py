"""Policies that take back: remasking keeps the marginal, editing replaces what it should and nothing else."""

from itertools import product

import pytest
import torch
from toy import Joint, RandomDenoiser, chi_squared_p

from hybrid.diffusion.corruption import Absorbing, Alphabet
from hybrid.diffusion.draft import draft
from hybrid.diffusion.guidance import Banned, Counted, Denoiser, Ended, Ending, Predict
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Ancestral, FirstHitting
from hybrid.diffusion.remask import Edit, Remask
from hybrid.diffusion.schedule import Linear, NoiseSchedule
from hybrid.diffusion.stop import Stable
from hybrid.kinds import look_up, names
from hybrid.records import Spent

SCHEDULES = {name: look_up(NoiseSchedule, name)() for name in names(NoiseSchedule)}
ROWS, ODDS = 20_000, 1e-6
JOINT = Joint.random(k=2, length=3)
ALONE = Joint.independent(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]).double())


def run(denoise, policy, steps, rows=ROWS, joint=JOINT, schedule=None, z=None, temperature=1.0, **options):
    z = joint.blank.expand(rows, -1).clone() if z is None else z
    states = draft(
        denoise, z, policy, torch.as_tensor(steps).expand(len(z)), Noise(0, torch.arange(len(z))),
        corruption=Absorbing(), schedule=schedule or Linear(), alphabet=Alphabet(joint.mask, joint.k + 1),
        temperature=temperature, **options,
    )  # fmt: skip
    return list(states)


def alphas_of(policy, schedule, steps):
    """alpha after each step, by the rule's own clock in plain Python."""
    if policy.rule != "loop":
        times = [1 - i / steps for i in range(steps + 1)]
    else:
        times = []
        for i in range(steps + 1):
            done = i / steps
            if done < policy.on:
                times.append(1 - (1 - policy.hold) * done / policy.on)
            else:
                times.append(min(policy.hold, policy.hold * (1 - done) / (1 - policy.on - policy.loop)))
    return [float(schedule.alpha(torch.tensor(t).double())) for t in times]


def sigma_of(policy, alpha_t, alpha_s):
    most = 1.0 if alpha_t == 0 else min(1.0, (1 - alpha_s) / alpha_t)
    if policy.rule == "rescale":
        return policy.rate * most
    return min(policy.rate, most) if policy.rule == "cap" or alpha_t == alpha_s else 0.0


def enumerated(joint, policy, schedule, steps):
    """Laws after every step: each position by itself reveals, stays or is remasked."""
    alpha = alphas_of(policy, schedule, steps)
    states, laws = {tuple(joint.blank[0].tolist()): 1.0}, []
    for t, s in zip(alpha, alpha[1:], strict=False):
        sigma = sigma_of(policy, t, s)
        reveal = (s - (1 - sigma) * t) / (1 - t)
        after: dict = {}
        for z, p in states.items():
            probs = joint.posterior(torch.tensor([z]))[0].tolist()
            options = [
                [(joint.mask, 1 - reveal)] + [(y, reveal * q) for y, q in enumerate(probs[at])]
                if token == joint.mask else [(token, 1 - sigma), (joint.mask, sigma)]
                for at, token in enumerate(z)
            ]  # fmt: skip
            for outcome in product(*options):
                weight = p
                for _, q in outcome:
                    weight *= q
                if weight > 1e-15:
                    new = tuple(y for y, _ in outcome)
                    after[new] = after.get(new, 0.0) + weight
        states = after
        laws.append(states)
    return laws


def counts_and_law(joint, z, law):
    base = joint.k + 1
    powers = base ** torch.arange(joint.length - 1, -1, -1)
    expected = torch.zeros(base**joint.length, dtype=torch.float64)
    for state, p in law.items():
        expected[int((torch.tensor(state) * powers).sum())] = p
    return torch.bincount((z * powers).sum(-1), minlength=len(expected)).double(), expected


RULES = [Remask("cap", 0.3), Remask("rescale", 0.6), Remask("loop", 0.5, on=0.4, loop=0.4, hold=0.3)]
every_rule = pytest.mark.parametrize("policy", RULES, ids=lambda p: p.rule)


@every_rule
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_remasking_follows_its_enumerated_transitions(policy, schedule):
    """After every step, each rule by its own clock."""
    steps = 5
    states = run(JOINT, policy, steps, schedule=schedule)
    for state, law in zip(states[1:], enumerated(JOINT, policy, schedule, steps), strict=True):
        assert chi_squared_p(*counts_and_law(JOINT, state.z, law)) > ODDS


@every_rule
def test_remasking_keeps_the_marginal(policy):
    """Where tokens are independent no parallel draw errs: at every time the law is exactly that of masked data,
    each token visible with probability alpha by the rule's clock, and the final law is the data's."""
    steps = 10
    states = run(ALONE, policy, steps, joint=ALONE)
    assert max(len(torch.unique(s.is_reopened)) for s in states) == 2  # some were remasked
    for state, alpha in zip(states, alphas_of(policy, Linear(), steps), strict=True):
        law = {}
        for z in product(range(ALONE.k + 1), repeat=2):
            marginals = ALONE.posterior(ALONE.blank)[0]
            parts = [1 - alpha if y == ALONE.mask else alpha * float(marginals[i, y]) for i, y in enumerate(z)]
            law[z] = parts[0] * parts[1]
        assert chi_squared_p(*counts_and_law(ALONE, state.z, law)) > ODDS
    assert chi_squared_p(ALONE.counts(states[-1].z), ALONE.probs) > ODDS


class Ends(Joint):
    """Canvases that end: 0 is a pad, 1 an end, and all that follows from them is known."""

    ending = Ending(1, 0, 3)

    def posterior(self, z):
        z = self.ending.close(z)
        known = torch.cat([super().posterior(z), torch.zeros(*z.shape, 1, dtype=torch.float64)], dim=-1).log()
        ruled = Ended(Predict(lambda z, t: known), self.ending)(z, torch.zeros(len(z)))
        return ruled.softmax(-1)[..., : self.k]


@every_rule
def test_closing_what_is_certain_changes_no_law(policy):
    """Pads after an end are shown at once, and yet are masked and revealed like others: where an end is masked again,
    some are left to tell of it. Else drafts that end early, whose pads all go with one token, would be the fewer."""
    joint, steps = Ends.random(k=3, length=3), 6
    states = run(joint, policy, steps, joint=joint, close=joint.ending.close)
    for state, law in zip(states[1:], enumerated(joint, policy, Linear(), steps), strict=True):
        shown: dict = {}
        for z, p in law.items():
            closed = tuple(joint.ending.close(torch.tensor([z]))[0].tolist())
            shown[closed] = shown.get(closed, 0.0) + p
        assert chi_squared_p(*counts_and_law(joint, state.z, shown)) > ODDS


@every_rule
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_committed_tokens_are_remasked_as_often_as_the_rule_says(policy, schedule):
    """The law of the canvas hardly tells: reveals make up for whatever is remasked."""
    steps = 8
    states, alpha = run(JOINT, policy, steps, schedule=schedule), alphas_of(policy, schedule, steps)
    for before, after, t, s in zip(states, states[1:], alpha, alpha[1:], strict=False):
        stood = before.z != JOINT.mask
        assert not (after.is_reopened & ~stood).any()
        sigma, n = sigma_of(policy, t, s) if s < 1 else 0.0, max(1, int(stood.sum()))
        found = float(after.is_reopened.sum()) / n
        assert abs(found - sigma) <= 5 * (sigma * (1 - sigma) / n) ** 0.5 or not stood.any(), (found, sigma)


def test_remasking_undoes_what_parallel_draws_got_wrong():
    """Enumerated, on dependent tokens: more steps come nearer to the joint, and many come very near."""
    for rule in ("cap", "rescale"):
        policy = Remask(rule, 0.3)
        laws = [JOINT.law_of(enumerated(JOINT, policy, Linear(), steps)[-1]) for steps in (1, 4, 24)]
        distance = [float((law - JOINT.probs).abs().sum() / 2) for law in laws]
        assert distance[0] > distance[1] > distance[2] and distance[2] < distance[0] / 5


@pytest.mark.parametrize("rule", ["cap", "rescale", "conf"])
def test_rate_0_is_ancestral_sampling_bit_for_bit(rule):
    ancestral = run(JOINT, Ancestral(), 6, rows=300)
    remask = run(JOINT, Remask(rule, 0.0), 6, rows=300)
    for a, b in zip(ancestral, remask, strict=False):
        assert torch.equal(a.z, b.z) and torch.equal(a.confidence, b.confidence)
    assert not any(s.is_reopened.any() for s in remask)


def test_the_confidence_rule_shares_one_rate_out_to_the_least_certain():
    """Over many rows, a token that was drawn at probability .1 is remasked e^.8 times as often as one at .9."""
    steps, rows = 2, 40_000
    logits = torch.tensor([[0.1, 0.9], [0.9, 0.1]]).log()
    predict = Predict(lambda z, t: torch.cat([logits, torch.full((2, 1), -torch.inf)], 1).expand(len(z), 2, 3))
    policy = Remask("conf", 1.0)
    states = run(predict, policy, steps, rows=rows, joint=Joint.random(2, 2))
    both = (states[1].z == 0).all(-1)  # committed at .1 and .9, so sigma_max = 1 is shared out between the two
    both = both & ~(states[1].z == 2).any(-1)
    assert both.sum() > 500 and not states[2].is_reopened.any()  # the last step takes nothing back
    more = run(predict, policy, 3, rows=rows, joint=Joint.random(2, 2))
    both = (more[1].z == 0).all(-1)
    alpha_t, alpha_s = 1 / 3, 2 / 3
    share = torch.tensor([-0.1, -0.9]).softmax(-1) * min(1, (1 - alpha_s) / alpha_t)
    found = more[2].is_reopened[both].double().mean(0)
    spread = 5 * (share * (1 - share) / both.sum()).sqrt()
    assert ((found - share).abs() < spread).all(), (found, share)
    alone = (more[1].z != 2).sum(-1) == 1  # one token has the whole rate, here 1, to itself: masks take no share of it
    assert torch.equal(more[2].is_reopened[alone], (more[1].z != 2)[alone])


def test_more_steps_than_positions_and_context_untouched():
    spent = Spent.nothing(50)
    z = JOINT.blank.repeat(50, 1)
    z[:, 1] = 1
    states = run(Counted(JOINT, spent, torch.arange(50)), Remask("cap", 0.5), 20, z=z)
    assert len(states) == 21 and (states[-1].z != JOINT.mask).all()
    assert all((s.z[:, 1] == 1).all() and not s.is_reopened[:, 1].any() for s in states)
    assert (spent.denoiser_forwards <= 20).all()


def test_a_step_without_open_positions_costs_no_forward():
    """The count of forwards is that of the steps at which a row had something to ask."""
    rows, steps = 200, 12
    spent = Spent.nothing(rows)
    states = run(Counted(JOINT, spent, torch.arange(rows)), Remask("cap", 0.2), steps, rows=rows)
    asked = sum((s.z == JOINT.mask).any(-1).double() for s in states[:-1])
    assert torch.equal(spent.denoiser_forwards, asked) and (asked < steps).any()


@pytest.mark.parametrize(
    "options", [{"rate": -0.1}, {"rate": 1.1}, {"on": 0.6, "loop": 0.4}, {"on": 0.0}, {"hold": 0.0}, {"hold": 1.0}]
)
def test_rates_and_clocks_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Remask("loop", **options)


# ---- first hitting: the clock of the reverse process


class Timed(Denoiser):
    """Remembers the times it is told."""

    def __init__(self, inner):
        self.inner, self.times = inner, []

    def __call__(self, z, t):
        self.times.append(t.clone())
        return self.inner(z, t)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_hitting_times_are_the_order_statistics_of_the_reveals(schedule):
    """Each of n positions is revealed at a time of its own with P(later than t) = alpha(t): of the times told, those
    above t are as many as n coins of bias alpha(t) say, at several t."""
    timed, n = Timed(RandomDenoiser(2, 4)), 4
    run(timed, FirstHitting(), n, joint=Joint.random(2, n), schedule=schedule)
    times = torch.stack(timed.times, dim=1)
    assert times.shape == (ROWS, n) and (times.diff(dim=1) <= 0).all()
    for t in (0.2, 0.5, 0.8):
        alpha = float(schedule.alpha(torch.tensor(t).double()))
        counts = torch.bincount((times > t).sum(-1), minlength=n + 1).double()
        ways = torch.tensor([1, 4, 6, 4, 1]).double()
        i = torch.arange(n + 1)
        assert chi_squared_p(counts, ways * alpha**i * (1 - alpha) ** (n - i)) > ODDS


def test_several_reveals_in_a_step_pass_all_their_times():
    """4 positions in 2 steps: the second time told is the third largest of four, whose mean is 2/5."""
    timed = Timed(RandomDenoiser(2, 4))
    run(timed, FirstHitting(), 2, joint=Joint.random(2, 4))
    first, third = timed.times
    assert float(first.mean()) == pytest.approx(4 / 5, abs=5 * (0.0267 / ROWS) ** 0.5)
    assert float(third.mean()) == pytest.approx(2 / 5, abs=5 * (0.04 / ROWS) ** 0.5)


# ---- editing


def test_editing_replaces_what_is_contradicted_and_stops_when_nothing_changes():
    """The draft wants all zeros; once position 0 stands, it wants ones: two of three are edited, context is not."""

    def predict(z, t):
        wanted = torch.where((z[:, :1] == 2).expand_as(z), 0, 1)
        wanted[:, 0] = 0
        logits = torch.nn.functional.one_hot(wanted, 3).double() * 9
        logits[..., 2] = -torch.inf
        return logits

    z = torch.tensor([[2, 2, 2, 0]])
    spent = Spent.nothing(1)
    states = run(Counted(Predict(predict), spent, torch.arange(1)), Edit(), 10, z=z, temperature=0.0)
    assert [s.z[0].tolist() for s in states] == [[2, 2, 2, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
    assert states[2].is_new[0].tolist() == [False, True, True, False] and not states[3].is_new.any()
    assert spent.denoiser_forwards.tolist() == [3]  # draft, edit, and the rereading that changes nothing


def test_editing_keeps_what_is_likely_and_what_the_budget_ends():
    """A contradiction below the edit threshold stays, and so does one found when no step is left to find it."""
    wants = torch.tensor([[0.0, 1.0, -torch.inf], [0.0, 1.0, -torch.inf], [0.1, 0.0, -torch.inf]])
    weak = Predict(lambda z, t: wants[z])  # what it thinks of a position that holds 0, 1 or the mask
    for edit, expected in ((0.9, [0, 0]), (0.7, [1, 1])):
        states = run(weak, Edit(threshold=0.1, edit=edit), 5, z=torch.tensor([[2, 2]]), temperature=0.0)
        assert states[-1].z[0].tolist() == expected
    assert run(weak, Edit(0.1, 0.7), 1, z=torch.tensor([[2, 2]]), temperature=0.0)[-1].z[0].tolist() == [0, 0]


@pytest.mark.parametrize("options", [{}, {"decode_window": 2}, {"stop": Stable(1)}], ids=str)
def test_a_last_step_edits_no_end_on_which_pads_stand(options):
    """Tokens 0 and 1 are text, 2 the end, 3 the pad, 4 the mask. An end that becomes text would open its pads again."""
    ending, opened = Ending(2, 3, 4), 0
    for seed in range(6):
        denoise = Ended(Banned(RandomDenoiser(4, 5, seed), (4,)), ending)
        for steps in (3, 4, 6, 9):
            z = torch.full((40, 5), 4)
            states = run(denoise, Edit(0.3, 0.3), steps, joint=RandomDenoiser(4, 5), z=z, close=ending.close, **options)
            assert (states[-1].z != 4).all()
            opened += sum(int(((a.z != 4) & (b.z == 4)).any()) for a, b in zip(states, states[1:], strict=False))
    assert opened  # before the last step it may
