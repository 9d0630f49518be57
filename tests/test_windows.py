"""Semi-autoregressive windows and early exit: one hard budget, from left to right, and no mask left behind."""

from dataclasses import dataclass
from itertools import islice, pairwise, product

import pytest
import torch
from toy import Joint, RandomDenoiser, chi_squared_p

from hybrid.diffusion.corruption import Absorbing, Alphabet, Uniform
from hybrid.diffusion.draft import draft
from hybrid.diffusion.guidance import Counted, Denoiser, Ending, Predict
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Ancestral, Confidence, EntropyBound, LeftToRight, Policy, Ranked, Threshold
from hybrid.diffusion.remask import Edit, Remask
from hybrid.diffusion.schedule import Linear
from hybrid.diffusion.stop import Prophet, Stable, Stop
from hybrid.diffusion.windows import Windows
from hybrid.kinds import look_up, names
from hybrid.records import Spent

EVERY = {name: look_up(Policy, name)() for name in names(Policy)}
K, LENGTH, ROWS, ODDS = 2, 7, 20_000, 1e-6
MASK = K
DENOISER = RandomDenoiser(K, LENGTH)


def fits(policy):
    return Absorbing() if policy.refusal(Absorbing()) is None else Uniform()


every_policy = pytest.mark.parametrize("policy", EVERY.values(), ids=list(EVERY))


def run(denoise, policy, steps, rows=30, length=LENGTH, z=None, keys=None, **options):
    corruption, noise = fits(policy), Noise(0, torch.arange(rows) if keys is None else keys)
    alphabet = Alphabet(MASK, K + 1)
    z = corruption.noise(noise.uniform(9, 0, length), alphabet) if z is None else z
    states = draft(
        denoise, z, policy, torch.as_tensor(steps).expand(len(z)), noise, corruption=corruption, schedule=Linear(),
        alphabet=alphabet, **({"temperature": 1.0} | options),
    )  # fmt: skip
    return list(islice(states, 100))


# ---- how steps are spread


def test_every_spreading_of_steps_sums_and_fits():
    """All patterns of open positions over 7, all widths, all budgets that fit: shares sum to the steps; each window
    that has open positions gets at least one and at most as many as are open; of two alike the earlier no less."""
    patterns = torch.tensor(list(product([False, True], repeat=LENGTH)))[1:]
    for width in (1, 2, 3, 4, 7, 9):
        n = torch.stack([chunk.sum(-1) for chunk in patterns.split(width, dim=1)], dim=1)
        for steps in range(1, LENGTH + 1):
            can = (steps >= (n > 0).sum(-1)) & (steps <= n.sum(-1))
            windows = Windows.plan(patterns[can], torch.full((int(can.sum()),), steps), width)
            share = windows.due.diff(dim=1, prepend=torch.zeros(len(windows.due), 1, dtype=torch.int64))
            assert (share.sum(-1) == steps).all()
            assert ((share >= (n[can] > 0)) & (share <= n[can])).all()
            alike = n[can][:, 1:] == n[can][:, :-1]
            assert (share[:, 1:] <= share[:, :-1])[alike].all()


def test_more_steps_than_positions_are_spread_too():
    windows = Windows.plan(torch.ones(1, 4, dtype=torch.bool), torch.tensor([13]), 1)
    assert windows.due.tolist() == [[4, 7, 10, 13]]


def test_a_plan_is_pressed_into_what_is_left_and_never_stretched():
    """Rows of 12 and of 3 steps, one taken: the first must end 6 steps later, the second has time."""
    due = torch.tensor([[4, 7, 10, 13], [1, 2, 3, 4]])
    windows = Windows(torch.arange(4), due)
    assert windows.hurried(1, 6).due.tolist() == [[3, 4, 6, 7], [1, 2, 3, 4]]
    assert all(torch.equal(windows.hurried(1, left).due, due) for left in (12, 13, 40))
    assert windows.hurried(1, 1).due.tolist() == [[2, 2, 2, 2], [1, 2, 2, 2]]
    assert windows.hurried(8, 2).due.tolist() == [[8, 8, 9, 10], [1, 2, 3, 4]]


# ---- drafting in windows


@every_policy
@pytest.mark.parametrize(("width", "steps"), [(1, 7), (2, 4), (3, 3), (3, 6), (7, 3), (9, 2)])
def test_windows_are_drafted_from_left_to_right_within_the_budget(policy, width, steps):
    """7 divides by none of 2 and 3. A window is done before the next begins, and what is done stays."""
    spent = Spent.nothing(30)
    states = run(Counted(DENOISER, spent, torch.arange(30)), policy, steps, decode_window=width)
    assert (spent.denoiser_forwards <= steps).all() and len(states) - 1 <= steps
    assert not (states[-1].z == MASK).any()
    at = torch.arange(LENGTH) // width
    last = torch.full((30,), -1)
    for before, after in zip(states, states[1:], strict=False):
        touched = after.is_new | after.is_reopened
        for row in touched.any(-1).nonzero()[:, 0].tolist():
            windows = at[touched[row]].unique()
            assert len(windows) == 1 and windows[0] >= last[row]
            last[row] = windows[0]
            if fits(policy).marks_noise:
                assert not (before.z[row, at < windows[0]] == MASK).any()
    if isinstance(policy, Ranked):
        assert (spent.denoiser_forwards == steps).all()


@every_policy
def test_windows_leave_context_alone_and_rows_independent(policy):
    z = torch.randint(K, (12, LENGTH), generator=torch.Generator().manual_seed(0))
    is_free = torch.rand(12, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.7
    is_free[:, 0], is_free[:, 6] = True, True
    z = torch.where(is_free, MASK, z) if fits(policy).marks_noise else z
    steps = torch.tensor([3, 3, 0, 3] * 3)
    options = dict(decode_window=3, is_free=is_free)
    states = run(DENOISER, policy, steps, rows=12, z=z, **options)
    assert all(torch.equal(s.z[~is_free], z[~is_free]) for s in states)
    for row in range(12):
        at = torch.tensor([row])
        one = run(DENOISER, policy, steps[at], rows=1, z=z[at], keys=at, decode_window=3, is_free=is_free[at])[-1]
        assert torch.equal(one.z[0], states[-1].z[row])


@pytest.mark.parametrize("name", [n for n, p in EVERY.items() if p.exact and p.always_commits])
@pytest.mark.parametrize("width", [1, 2])
def test_exact_policies_keep_the_joint_in_windows(name, width):
    """One token at a time, whatever the order within the windows."""
    joint = Joint.random(K, 3)
    policy = EntropyBound(0.0) if name == "entropy_bound" else EVERY[name]
    z = run(joint, policy, 3, rows=ROWS, length=3, decode_window=width)[-1].z
    assert chi_squared_p(joint.counts(z), joint.probs) > ODDS


def test_each_window_has_a_time_of_its_own():
    """Ancestral, 8 steps in two windows: of 4 open positions 1/4 are left after 3 of the window's 4 steps."""
    flat = Predict(lambda z, t: torch.tensor([0.0, 0.0, -torch.inf]).expand(*z.shape, 3))
    states = run(flat, Ancestral(), 8, rows=5000, length=8, decode_window=4)
    for step, expected in ((1, 3 / 4), (2, 2 / 4), (3, 1 / 4), (4, 0)):
        assert float((states[step].z[:, :4] == MASK).double().mean()) == pytest.approx(expected, abs=0.02)
    late = (states[3].z[:, :4] == MASK).any(-1)  # rows whose second window begins with the fifth step
    for step, expected in ((4, 1), (5, 3 / 4), (6, 2 / 4), (7, 1 / 4), (8, 0)):
        assert float((states[step].z[late, 4:] == MASK).double().mean()) == pytest.approx(expected, abs=0.02)


def test_windows_of_one_position_are_left_to_right():
    first = run(DENOISER, Confidence(), LENGTH, decode_window=1)
    second = run(DENOISER, LeftToRight(), LENGTH)
    assert all(torch.equal(a.z, b.z) for a, b in zip(first, second, strict=True))


def test_a_window_that_finishes_early_passes_its_steps_on():
    """All is sure: one step per window, of the six that were allowed."""
    certain = Predict(lambda z, t: torch.tensor([9.0, 0, -torch.inf]).expand(*z.shape, 3))
    assert len(run(certain, Threshold(0.9), 6, decode_window=3)) == 1 + 3


@dataclass(frozen=True)
class Asked(Denoiser):
    """Remembers what it was asked about."""

    inner: Denoiser
    where: list

    def logits(self, z, t, where):
        self.where.append(where.clone())
        return self.inner.logits(z, t, where)


def test_nothing_is_asked_outside_the_window_or_where_it_is_decided():
    asked = Asked(DENOISER, [])
    states = run(asked, Confidence(), 6, rows=1, decode_window=3)
    for before, where in zip(states, asked.where, strict=False):
        window = (before.z[0] == MASK).long().argmax() // 3
        expected = (before.z == MASK) & (torch.arange(LENGTH) // 3 == window)
        assert torch.equal(where, expected)


def test_an_end_in_an_early_window_closes_the_later_ones():
    end, pad = 0, 1
    ends = Predict(lambda z, t: torch.tensor([9.0, -torch.inf, -torch.inf]).expand(*z.shape, 3))
    states = run(ends, LeftToRight(), 7, rows=2, decode_window=3, close=Ending(end, pad, MASK).close)
    assert len(states) == 2 and states[-1].z.tolist() == [[end] + [pad] * 6] * 2


def test_a_reopened_end_reopens_what_it_closed():
    """Pads that followed from an end go with it, but for those that have been committed, and what follows them."""
    end, pad = 0, 1
    likely = Predict(lambda z, t: torch.tensor([0.0, -torch.inf, -torch.inf]).expand(*z.shape, 3))
    states = run(likely, Remask("cap", 0.5), 12, rows=200, close=Ending(end, pad, MASK).close)
    assert any((s.is_reopened & (before.z == end)).any() for before, s in pairwise(states))
    is_committed = torch.zeros_like(states[0].is_new)
    for s in states:
        is_committed = (is_committed | s.is_new) & ~s.is_reopened
        tells = (s.z == end) | (s.z == pad) & is_committed
        assert (tells.long().cumsum(-1) > 0)[s.z == pad].all()


def test_a_window_of_context_alone_needs_no_step():
    z = torch.tensor([[MASK] * 3 + [0] * 3 + [MASK]])
    states = run(DENOISER, Confidence(), 2, rows=1, z=z, decode_window=3)
    assert len(states) == 3 and not (states[-1].z == MASK).any()
    with pytest.raises(ValueError, match="the 2 windows that are to be drafted"):
        run(DENOISER, Confidence(), 1, rows=1, z=z, decode_window=3)


@pytest.mark.parametrize(
    ("steps", "width", "said"),
    [(2, 3, "steps=2 with decode_window=3: the 3 windows"), (6, 1, "7 windows"), (7, 0, "decode_window=0")],
)
def test_fewer_steps_than_windows_are_refused(steps, width, said):
    with pytest.raises(ValueError, match=said):
        run(DENOISER, Confidence(), steps, decode_window=width)


# ---- early exit


@dataclass(frozen=True)
class After(Stop):
    """Stops every row after so many steps of its window."""

    steps: int = 1

    def judge(self, proposal, progress, memory):
        return torch.full_like(proposal.quota, proposal.step + 1 >= self.steps, dtype=torch.bool), memory


@every_policy
@pytest.mark.parametrize("width", [None, 3])
def test_early_exit_leaves_no_mask_and_saves_the_rest(policy, width):
    spent = Spent.nothing(30)
    states = run(Counted(DENOISER, spent, torch.arange(30)), policy, 7, stop=After(2), decode_window=width)
    assert not (states[-1].z == MASK).any()
    assert len(states) - 1 <= (2 if width is None else 4)  # windows after the first take a step each
    assert (spent.denoiser_forwards <= len(states) - 1).all()


def surer(gap):
    """Wants token 0 everywhere, by a log-probability gap."""
    return Predict(lambda z, t: torch.tensor([gap, 0.0, -torch.inf]).double().expand(*z.shape, 3))


@pytest.mark.parametrize(("gap", "steps"), [(7.6, 1), (6.2, 3), (5.1, 5), (2.6, 7), (1.0, 7)])
def test_prophet_commits_once_every_gap_is_above_its_falling_threshold(gap, steps):
    """From 7.5 to 2.5 nats over 7 steps: before step i it is 7.5 - 5 i / 7."""
    expected = next((i + 1 for i in range(7) if gap > 7.5 - 5 * i / 7), 7)
    assert expected == steps and len(run(surer(gap), Confidence(), 7, stop=Prophet())) - 1 == steps


def test_prophet_waits_for_the_last_doubtful_position():
    def predict(z, t):
        logits = torch.tensor([9.0, 0.0, -torch.inf]).repeat(*z.shape, 1)
        logits[:, 3, 0] = 0.1
        return logits

    assert len(run(Predict(predict), LeftToRight(), 7, stop=Prophet())) - 1 == 5  # doubt is decided at the fourth step


def test_prophet_minds_no_position_that_is_decided():
    """A policy that rereads is told of the token that stands at the first position, which it doubts."""

    def predict(z, t):
        logits = torch.tensor([9.0, 0.0, -torch.inf]).repeat(*z.shape, 1)
        logits[:, 0, 0] = 0.1
        return logits

    z = torch.tensor([[0, *[MASK] * (LENGTH - 1)]])
    options = dict(rows=1, z=z, is_free=torch.ones_like(z, dtype=torch.bool), stop=Prophet())
    assert len(run(Predict(predict), Edit(threshold=1.0, edit=1.0), 6, **options)) - 1 == 1


@pytest.mark.parametrize(("steps", "expected"), [(1, 1), (2, 2), (4, 4), (9, 7)])
def test_stable_stops_after_so_many_equal_predictions(steps, expected):
    assert len(run(surer(9.0), LeftToRight(), 7, stop=Stable(steps, entropy=0.01))) - 1 == expected


def test_stable_needs_both_stability_and_confidence():
    assert len(run(surer(3.0), LeftToRight(), 7, stop=Stable(2, entropy=0.01))) - 1 == 7  # entropy .19 nats
    # A mean over what is open: were it over the canvas, it would fall below .1 as tokens are committed.
    assert len(run(surer(3.0), LeftToRight(), 7, stop=Stable(2, entropy=0.1))) - 1 == 7

    def fickle(z, t):
        """Sure of the parity of what stands, so the likeliest canvas changes whenever a token is committed."""
        wanted = (z != MASK).sum(-1) % 2
        logits = torch.nn.functional.one_hot(wanted, 3)[:, None].double() * 20
        return torch.where(torch.arange(3) == MASK, -torch.inf, logits).expand(*z.shape, 3)

    assert len(run(Predict(fickle), LeftToRight(), 7, stop=Stable(2, entropy=0.01))) - 1 == 7
    assert len(run(Predict(fickle), LeftToRight(), 7, stop=Stable(1, entropy=0.01))) - 1 == 1


@pytest.mark.parametrize("policy", [Edit(0.4, 0.4), Remask("cap", 0.5)], ids=["edit", "remask"])
@pytest.mark.parametrize("stop", [Prophet(1e6, 1e6), Stable(1, entropy=1e-12)], ids=["prophet", "stable"])
def test_a_full_canvas_is_no_reason_to_stop(policy, stop):
    """Rules that nothing open can meet end no draft: what is full is reread, or remasked, as without them."""
    plain, stopped = (run(DENOISER, policy, 14, stop=rule) for rule in (None, stop))
    assert len(stopped) == len(plain) > 4
    assert all(torch.equal(a.z, b.z) for a, b in zip(plain, stopped, strict=True))


def test_rows_stop_by_themselves():
    """Half of the rows are sure at once; what the others do is as if they were alone."""

    def predict(z, t):
        sure = (torch.arange(len(z)) % 2 == 0)[:, None, None]
        return torch.where(sure, torch.tensor([9.0, 0.0, -torch.inf]), torch.tensor([0.1, 0.0, -torch.inf])).expand(
            *z.shape, 3
        )

    @dataclass(frozen=True)
    class Rows(Denoiser):
        index: torch.Tensor

        def __call__(self, z, t):
            return predict(torch.zeros(30, LENGTH, dtype=torch.long), t)[self.index]

        def select(self, rows):
            return Rows(self.index[rows])

    spent = Spent.nothing(30)
    run(Counted(Rows(torch.arange(30)), spent, torch.arange(30)), LeftToRight(), 7, stop=Prophet())
    assert spent.denoiser_forwards.tolist() == [1.0, 7.0] * 15


@pytest.mark.parametrize(
    ("rule", "options", "said"),
    [
        (Stable, (0,), "steps=0"),
        (Stable, (2, 0.0), "entropy=0"),
        (Prophet, (2.0, 3.0), "early=2.0, late=3.0"),
        (Prophet, (1.0, -1.0), "late=-1.0"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rule, options, said):
    with pytest.raises(ValueError, match=said):
        rule(*options)
