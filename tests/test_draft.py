"""The loop: hard budgets, untouched context, no masks left or emitted, rows that leave, closing."""

from dataclasses import dataclass, field
from itertools import islice

import pytest
import torch
from toy import Joint, RandomDenoiser, chi_squared_p

from hybrid.diffusion.budget import Budget, quota
from hybrid.diffusion.corruption import Absorbing, Alphabet
from hybrid.diffusion.draft import draft
from hybrid.diffusion.guidance import Banned, Counted, Denoiser, Ending, Predict
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Ancestral, Confidence, LeftToRight, Policy, Ranked, Threshold
from hybrid.diffusion.remask import Remask
from hybrid.diffusion.schedule import Linear
from hybrid.diffusion.state import State
from hybrid.kinds import look_up, names
from hybrid.records import Spent

EVERY = {name: look_up(Policy, name)() for name in names(Policy)}
POLICIES = {name: policy for name, policy in EVERY.items() if policy.refusal(Absorbing()) is None}
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))
K, LENGTH = 3, 5
MASK = K
ALPHABET = Alphabet(MASK, K + 1)
DENOISER = RandomDenoiser(K, LENGTH)


def run(denoise, z, policy, steps, keys=None, seed=0, **options):
    rows = len(z)
    steps = torch.as_tensor(steps).expand(rows)
    keys = torch.arange(rows) if keys is None else keys
    options = {"corruption": Absorbing(), "schedule": Linear(), "alphabet": ALPHABET, "temperature": 1.0} | options
    states = draft(denoise, z, policy, steps, Noise(seed, keys), **options)
    return list(islice(states, 100))  # a loop that does not end fails, rather than hangs


def blank(rows, length=LENGTH):
    return torch.full((rows, length), MASK)


@dataclass(frozen=True)
class Logged(Denoiser):
    """Remembers the rows that ask, and their times, of every call."""

    inner: Denoiser
    rows: torch.Tensor
    calls: list = field(default_factory=list)

    def logits(self, z, t, where):
        asks = where.any(-1)
        self.calls.append((self.rows[asks].tolist(), t[asks].tolist()))
        assert len(z) == len(self.rows) == len(t)
        return self.inner.logits(z, t, where)

    def select(self, rows):
        return Logged(self.inner.select(rows), self.rows[rows], self.calls)


@pytest.mark.parametrize("n_open", [0, 1, 5, 7, 12])
def test_quotas_sum_to_what_is_open(n_open):
    for steps in (1, 2, 3, 5, 7, 20):
        left, taken = torch.tensor([n_open]), []
        for step in range(steps):
            taken.append(int(quota(left, torch.tensor([steps - step]))))
            left = left - taken[-1]
        assert sum(taken) == n_open and taken == sorted(taken, reverse=True)
        assert max(taken) - min(taken) <= 1
    assert int(quota(torch.tensor([3]), torch.tensor([0]))) == 0


@every_policy
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_no_mask_is_left_and_forwards_stay_within_the_budget(policy, steps):
    """Canvas 5 divides by none of 2, 3 and 4."""
    rows = 40
    spent = Spent.nothing(rows)
    states = run(Counted(DENOISER, spent, torch.arange(rows), flops=3.0), blank(rows), policy, steps)
    assert not (states[-1].z == MASK).any()
    assert (spent.denoiser_forwards <= steps).all() and len(states) - 1 <= steps
    assert len(states) - 1 == spent.denoiser_forwards.max() or policy.reopens  # which may find nothing to predict
    assert torch.equal(spent.sequential_forwards, spent.denoiser_forwards)
    assert torch.equal(spent.positions, spent.denoiser_forwards * LENGTH)
    assert torch.equal(spent.flops, spent.denoiser_forwards * 3)
    if isinstance(policy, Ranked):
        assert (spent.denoiser_forwards == steps).all()


@every_policy
def test_ranked_policies_commit_their_quota(policy):
    if isinstance(policy, Ranked):
        states = run(DENOISER, blank(8), policy, 3)
        assert [s.is_new.sum(-1).tolist() for s in states] == [[0] * 8, [2] * 8, [2] * 8, [1] * 8]


@every_policy
def test_states_tell_the_story(policy):
    """Step numbers count up; what changed is new or reopened; a committed token stays; masks elsewhere, sure of 0."""
    states = run(DENOISER, blank(16), policy, 4)
    assert [s.step for s in states] == list(range(len(states)))
    balance = sum(s.is_new.long() - s.is_reopened.long() for s in states)
    assert (balance == 1).all() or policy.rereads
    for before, after in zip(states, states[1:], strict=False):
        assert not (after.is_new & after.is_reopened).any()
        assert torch.equal(before.z != after.z, after.is_new | after.is_reopened)
        assert torch.equal((after.z == MASK), (before.z == MASK) & ~after.is_new | after.is_reopened)
        assert torch.equal(after.confidence == 0, after.z == MASK)
        assert policy.reopens or not after.is_reopened.any()


@every_policy
def test_context_is_never_altered_and_the_input_neither(policy):
    z = blank(30)
    z[:, 1] = torch.arange(30) % K
    z[::2, 4] = 2
    given = z.clone()
    states = run(DENOISER, z, policy, 3)
    assert torch.equal(z, given)
    for state in states:
        assert torch.equal(state.z[:, 1], given[:, 1]) and (state.z[::2, 4] == 2).all()


@every_policy
def test_a_banned_token_is_never_committed(policy):
    """The network's favourite is the mask; the ban holds at every temperature."""

    def loves_masks(z, t):
        logits = torch.zeros(*z.shape, K + 1)
        logits[..., MASK] = 50.0
        return logits

    for temperature in (0.0, 1.0):
        states = run(Banned(Predict(loves_masks), (MASK, 0)), blank(20), policy, 4, temperature=temperature)
        assert set(states[-1].z.flatten().tolist()) <= {1, 2}


@every_policy
def test_a_denoiser_that_insists_on_masks_overruns_no_budget(policy):
    """Without the ban a draft may keep holes, but it ends on time."""
    masks = Predict(lambda z, t: torch.tensor([-torch.inf] * K + [0.0]).expand(*z.shape, K + 1))
    assert len(run(masks, blank(3), policy, [1, 4, 2])) == 5


@every_policy
def test_a_row_alone_equals_that_row_in_a_batch(policy):
    rows = 12
    steps = torch.tensor([1, 2, 3, 4, 5, 0] * 2)
    keys = torch.arange(50, 50 + rows)
    whole = run(DENOISER, blank(rows), policy, steps, keys)[-1]
    for row in range(rows):
        alone = run(DENOISER, blank(1), policy, steps[row : row + 1], keys[row : row + 1])[-1]
        assert torch.equal(alone.z[0], whole.z[row])
        assert torch.equal(alone.confidence[0], whole.confidence[row])


@every_policy
def test_order_of_rows_does_not_matter(policy):
    keys = torch.arange(12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        run(DENOISER, blank(12), policy, 3, keys)[-1].z[order],
        run(DENOISER, blank(12), policy, 3, keys[order])[-1].z,
    )


def test_rows_with_budgets_of_their_own_leave_when_done():
    log = Logged(DENOISER, torch.arange(4))
    states = run(log, blank(4), Confidence(), [2, 0, 4, 1])
    assert [rows for rows, _ in log.calls] == [[0, 2, 3], [0, 2], [2], [2]]
    assert [[round(t, 6) for t in times] for _, times in log.calls] == [[1, 1, 1], [0.5, 0.75], [0.5], [0.25]]
    assert (states[-1].z[1] == MASK).all() and not (states[-1].z[[0, 2, 3]] == MASK).any()


def test_a_row_that_needs_nothing_takes_no_part():
    log = Logged(DENOISER, torch.arange(3))
    z = blank(3)
    z[1] = 0
    run(log, z, Ancestral(), 2)
    assert all(1 not in rows for rows, _ in log.calls)


@dataclass(frozen=True)
class Lazy(Policy):
    """Never commits anything of its own accord."""

    always_commits = False

    def keep(self, proposal):
        return torch.zeros_like(proposal.is_open)


def test_the_last_step_of_a_budget_commits_all_that_is_open():
    """Whatever the policy says, and for each row when its own budget ends."""
    states = run(DENOISER, blank(3), Lazy(), [1, 3, 2])
    assert [(s.z == MASK).all(-1).tolist() for s in states[:3]] == [
        [True] * 3,
        [False, True, True],
        [False, True, False],
    ]
    assert not (states[-1].z == MASK).any() and len(states) == 4


def test_threshold_stops_early_when_all_is_sure():
    certain = Predict(lambda z, t: torch.tensor([9.0, 0, 0, -torch.inf]).expand(*z.shape, K + 1))
    assert len(run(certain, blank(2), Threshold(0.9), 5)) == 2
    unsure = Predict(lambda z, t: torch.tensor([0.1, 0, 0, -torch.inf]).expand(*z.shape, K + 1))
    assert len(run(unsure, blank(2), Threshold(0.9), 5)) == 6


def test_confidence_is_the_probability_of_the_committed_token_when_drawn():
    states = run(DENOISER, blank(10), LeftToRight(), LENGTH)
    for before, after in zip(states, states[1:], strict=False):
        probs = DENOISER(before.z, torch.ones(10)).softmax(-1)
        drawn = probs.gather(-1, after.z.clamp(max=K)[..., None])[..., 0].float()
        assert torch.allclose(after.confidence[after.is_new], drawn[after.is_new], atol=1e-6)
        assert torch.equal(after.confidence[~after.is_new], before.confidence[~after.is_new])


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_logits(temperature):
    """One position, 20,000 rows, against softmax(logits / temperature). False alarm: 1e-6, once."""
    logits = torch.tensor([1.0, 0.0, -1.0, -torch.inf])
    predict = Predict(lambda z, t: logits.expand(*z.shape, K + 1))
    z = run(predict, blank(20_000, 1), Confidence(), 1, temperature=temperature)[-1].z[:, 0]
    law = (logits.double() / temperature).softmax(-1)
    assert chi_squared_p(torch.bincount(z, minlength=K + 1).double(), law) > 1e-6


def test_greedy_takes_the_likeliest_and_breaks_ties_to_the_lowest_token():
    for rows in (1, 2, 500):
        tie = Predict(lambda z, t: torch.tensor([0.0, 2.0, 2.0, -torch.inf]).expand(*z.shape, K + 1))
        states = run(tie, blank(rows), Confidence(), LENGTH, temperature=0.0)
        assert (states[-1].z == 1).all()
        for step, state in enumerate(states[1:]):
            assert state.is_new[:, step].all() and (state.is_new.sum(-1) == 1).all()


def test_greedy_needs_no_noise():
    first = run(DENOISER, blank(8), Confidence(), 3, temperature=0.0, seed=0)[-1].z
    assert torch.equal(first, run(DENOISER, blank(8), Confidence(), 3, temperature=0.0, seed=1)[-1].z)
    drawn = [run(DENOISER, blank(8), Confidence(), 3, seed=seed)[-1].z for seed in (0, 1)]
    assert not torch.equal(*drawn)


def test_closing_fills_what_is_certain_and_costs_no_step():
    """A text token at 0, an end at 1: all after it becomes pads at once, and the row is done."""
    end, pad, text = 0, 1, 2
    ending = Ending(end, pad, MASK)

    def predict(z, t):
        logits = torch.full((*z.shape, K + 1), -torch.inf)
        logits[:, 0, text] = 0.0
        logits[:, 1:, end] = 0.0
        return logits

    states = run(Predict(predict), blank(3), LeftToRight(), LENGTH, close=ending.close)
    assert len(states) == 3 and (states[-1].z == torch.tensor([text, end, pad, pad, pad])).all()


def test_nobody_stops_before_all_agree():
    """A finished rank goes on calling its denoiser, on no rows, until the others are done too."""
    sizes, asked = [], []

    def predict(z, t):
        sizes.append(len(z))
        return DENOISER(z, t)

    def agree(done):
        asked.append(done)
        return done and len(asked) > 4

    states = run(Predict(predict), blank(3), Confidence(), 2, agree=agree)
    assert sizes == [3, 3, 0, 0] and asked == [False, False, True, True, True] and len(states) == 3


@every_policy
def test_more_steps_than_can_be_used_are_refused(policy):
    if policy.always_commits:
        with pytest.raises(ValueError, match=f"steps=6.*{type(policy).__name__}.*at most 5"):
            run(DENOISER, blank(2), policy, [5, 6])
    else:
        assert not (run(DENOISER, blank(2), policy, 40)[-1].z == MASK).any()


def test_rows_with_something_to_ask_are_asked_at_their_own_times():
    """A policy that reopens has rows whose canvas is full for a while; steps differ, and so do times."""
    steps, rows = torch.tensor([4, 8, 16, 5, 9, 20]), 6
    log = Logged(DENOISER, torch.arange(rows))
    states = run(log, blank(rows), Remask("cap", 0.3), steps)
    assert len({len(some) for some, _ in log.calls}) > 2
    told = {(row, round(t, 9)) for some, times in log.calls for row, t in zip(some, times, strict=True)}
    asked = [(state.z == MASK).any(-1).nonzero()[:, 0].tolist() for state in states[:-1]]
    assert told == {(row, round(1 - i / int(steps[row]), 9)) for i, some in enumerate(asked) for row in some}


def test_an_edited_state_keeps_what_lies_beyond_its_columns():
    before = State.first(torch.tensor([[0, 1, 2, 0, 1]]))
    after = before.edited(torch.tensor([[0, 2]]), torch.tensor([[0.5, 0.25]]))
    assert after.z.tolist() == [[0, 2, 2, 0, 1]] and after.step == before.step
    assert after.is_new.tolist() == [[False, True, False, False, False]] and not after.is_reopened.any()
    assert after.confidence.tolist() == [[0.5, 0.25, 0, 0, 0]]


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="steps=-1"):
        run(DENOISER, blank(2), Ancestral(), -1)
    with pytest.raises(ValueError, match="temperature=-0.5"):
        run(DENOISER, blank(2), Ancestral(), 1, temperature=-0.5)


@pytest.mark.parametrize("steps", [-1, 1.5, 2.0, True, False, 0.0, (1, -2), (True,), "3"])
def test_a_budget_is_a_whole_number_of_steps(unchecked, steps):
    with pytest.raises(ValueError, match="steps"):
        Budget(steps)


def test_budget_per_row():
    assert Budget(3).rows(2, 8).tolist() == [3, 3] and Budget().rows(2, 8).tolist() == [8, 8]
    assert Budget((1, 0)).rows(2, 8).tolist() == [1, 0]
    assert [Budget(s).is_nothing for s in (0, (0, 0), (0, 1), 1, None)] == [True, True, False, False, False]
    with pytest.raises(ValueError, match="2 rows.*has 3"):
        Budget((1, 0)).rows(3, 8)


def test_the_joint_survives_infilling():
    """Context given, one position open: its law is the exact conditional. False alarm 1e-6 once."""
    joint = Joint.random(2, 3, seed=3)
    z = torch.tensor([[1, joint.mask, 0]]).repeat(20_000, 1)
    final = run(joint, z, LeftToRight(), 1, alphabet=Alphabet(joint.mask, joint.k + 1))[-1].z
    law = joint.posterior(z[:1])[0, 1]
    assert chi_squared_p(torch.bincount(final[:, 1], minlength=2).double(), law) > 1e-6
