"""Laws of every registered noise schedule: endpoints, monotone, slope, inverse, weight."""

import pytest
import torch

from hybrid.diffusion.schedule import NoiseSchedule, Polynomial
from hybrid.kinds import look_up, names

SCHEDULES = [look_up(NoiseSchedule, name)() for name in names(NoiseSchedule)] + [
    Polynomial(0.7),
    Polynomial(3.0),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
TIMES = torch.linspace(0, 1, 401, dtype=torch.float64)
INSIDE = TIMES[1:-1]


@every_schedule
def test_endpoints(schedule):
    ends = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert torch.allclose(ends, torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-15)


@every_schedule
def test_alpha_falls_strictly_and_stays_a_probability(schedule):
    alpha = schedule.alpha(TIMES)
    assert (alpha.diff() < 0).all()
    assert ((alpha >= 0) & (alpha <= 1)).all()


@every_schedule
def test_slope_is_the_derivative_of_alpha(schedule):
    t = INSIDE.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    assert torch.allclose(schedule.slope(INSIDE), slope, rtol=1e-10)


@every_schedule
def test_inverse_round_trips(schedule):
    assert torch.allclose(schedule.inverse(schedule.alpha(TIMES)), TIMES, atol=1e-9)
    assert torch.allclose(schedule.alpha(schedule.inverse(TIMES)), TIMES, atol=1e-9)


@every_schedule
def test_weight_is_the_rate_of_masking_over_the_masked_share(schedule):
    expected = -schedule.slope(INSIDE) / (1 - schedule.alpha(INSIDE))
    assert torch.allclose(schedule.weight(INSIDE), expected, rtol=1e-7)  # 1 - alpha cancels early on


@every_schedule
def test_weight_is_usable_at_the_ends_of_what_training_draws(schedule):
    """Times lie in (0, 1]: the weight is finite, and not negative, at the last and at a very early time."""
    for dtype in (torch.float32, torch.float64):
        weight = schedule.weight(torch.tensor([1e-4, 1.0], dtype=dtype))
        assert weight.isfinite().all() and (weight >= -1e-6).all()


def test_linear_weight_is_one_over_t():
    linear = look_up(NoiseSchedule, "linear")()
    assert torch.allclose(linear.weight(INSIDE), 1 / INSIDE)


@pytest.mark.parametrize("power", [0.0, -1.0, float("nan")])
def test_powers_that_make_no_schedule_are_refused(power):
    with pytest.raises(ValueError, match="power"):
        Polynomial(power)
