"""The fork example: parts from outside the package build, train, draft within the budget and keep the laws."""

import sys
from pathlib import Path

import pytest
import test_policy as policy_laws
import test_schedule as schedule_laws
import torch
from toy import chi_squared_p, tiny_reasoner

from hybrid.build import plain
from hybrid.config import add_fork_path
from hybrid.diffusion.budget import Budget
from hybrid.experiment import load_reasoner, read_experiment
from hybrid.kinds import kind_of, names

CONFIG = Path(__file__).parents[1] / "experiments" / "fork_example" / "run.yaml"
add_fork_path(CONFIG)

import fork_example_parts as fork  # noqa: E402  (found through the config's folder, as in a run)

PROMPTS = ["1+2=", "12+3=", "7=", "123+45=", "5+5="]


def redrafting(**options):
    return tiny_reasoner(drafter=fork.Redraft(policy=fork.EvenOdd(), schedule=fork.Exponential(), **options))


@pytest.mark.parametrize("rate", [0.1, 2.0, 9.0])
@pytest.mark.parametrize(
    "law",
    [
        schedule_laws.test_endpoints,
        schedule_laws.test_alpha_falls_strictly_and_stays_a_probability,
        schedule_laws.test_slope_is_the_derivative_of_alpha,
        schedule_laws.test_inverse_round_trips,
        schedule_laws.test_weight_is_the_rate_of_masking_over_the_masked_share,
        schedule_laws.test_weight_is_usable_at_the_ends_of_what_training_draws,
    ],
)
def test_the_schedule_keeps_every_law(law, rate):
    law(fork.Exponential(rate))


@pytest.mark.parametrize(
    "law",
    [
        policy_laws.test_only_open_positions_are_committed,
        policy_laws.test_policies_that_say_so_commit_every_step,
        policy_laws.test_exact_means_blind_to_the_drawn_tokens,
        policy_laws.test_one_step_is_the_product_of_marginals,
    ],
)
def test_the_policy_keeps_every_law(law):
    law(fork.EvenOdd())


def test_the_policy_reproduces_the_joint_one_token_at_a_time():
    """Odds of a false alarm as in test_policy."""
    joint = policy_laws.JOINT
    z, states = policy_laws.final(joint, fork.EvenOdd(), joint.length, fork.Exponential())
    assert [int(s.is_new[0].long().argmax()) for s in states[1:]] == [0, 2, 1]
    assert chi_squared_p(joint.counts(z), joint.probs) > policy_laws.ODDS


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_the_drafter_stays_within_the_budget_and_leaves_no_hole(steps, temperature):
    reasoner = redrafting(temperature=temperature)
    seen = []
    results = reasoner.reason(PROMPTS, Budget(steps), watch=seen.append)
    assert [s.step for s in seen] == sorted(s.step for s in seen) and seen[-1].step <= steps
    for result in results:
        assert result.spent["denoiser_forwards"] <= steps
        assert reasoner.special.mask not in result.sketch_tokens


def test_rows_of_one_batch_have_budgets_of_their_own():
    """Budgets 0 to 6 in one batch: each row is as when it stands alone, and counts what it took part in."""
    reasoner, steps = redrafting(temperature=1.0), (0, 1, 2, 5, 6)
    together = reasoner.reason(PROMPTS, Budget(steps))
    assert reasoner.tokenizer.decode(together[0].sketch_tokens) == ""
    for row in range(1, len(PROMPTS)):
        (alone,) = reasoner.reason([PROMPTS[row]], Budget(steps[row]))
        assert alone.sketch_tokens == together[row].sketch_tokens
        assert alone.spent["denoiser_forwards"] == together[row].spent["denoiser_forwards"] <= steps[row]


def test_the_second_pass_reopens_the_least_confident_text_and_nothing_else():
    reasoner, seen = redrafting(reopen=0.4), []
    reasoner.reason(PROMPTS, Budget(6), watch=seen.append)
    starts = [i for i, state in enumerate(seen) if i and not state.is_new.any() and state.step == seen[i - 1].step]
    assert len(starts) == 1
    before, after = seen[starts[0] - 1], seen[starts[0]]
    mask, special = reasoner.special.mask, reasoner.special
    is_text = (before.z != special.pad) & (before.z != special.end)
    reopened = after.z == mask
    assert not (reopened & ~is_text).any() and torch.equal(reopened.sum(-1), (is_text.sum(-1) * 0.4).ceil().long())
    for row in range(len(PROMPTS)):
        kept = before.confidence[row][is_text[row] & ~reopened[row]]
        assert not len(kept) or before.confidence[row][reopened[row]].max() <= kept.min()
    assert torch.equal(seen[-1].z[~reopened], before.z[~reopened])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from hybrid.train.run import train

    small = ["model.backbone.width=16", "model.backbone.layers=1", "train.steps=2", "train.batch_size=4",
             "train.validate_examples=4", "train.validate_every=2", "evaluate.examples=4"]  # fmt: skip
    experiment = read_experiment(CONFIG, small)
    return experiment, train(experiment, tmp_path_factory.mktemp("fork"), progress=False)


def test_the_config_builds_the_parts_by_path_and_trains(run):
    experiment, folder = run
    drafter = experiment.model.drafter
    assert type(drafter) is fork.Redraft and drafter.schedule == fork.Exponential(rate=1.5)
    assert plain(experiment)["model"]["drafter"]["kind"] == "fork_example_parts.Redraft"
    assert read_experiment(folder).model == experiment.model  # the run folder names them the same way
    assert (folder / "model.safetensors").is_file()


def test_the_trained_run_is_evaluated_and_samples_within_its_budget(run):
    from hybrid.evaluate import evaluate

    experiment, folder = run
    reasoner, _ = load_reasoner(folder, experiment)
    (result,) = reasoner.reason([experiment.examples("test")[0].prompt], Budget(4))
    assert result.spent["denoiser_forwards"] <= 4
    frontier = evaluate(
        reasoner, experiment.task, experiment.examples("test"), experiment.evaluate, name="fork", progress=False
    )
    policies = {row.policy for row in frontier.rows}
    assert {"fork_example_parts.EvenOdd", "confidence"} <= policies
    for row in frontier.rows:
        assert row.steps is None or row.denoiser_forwards <= row.steps


def test_nothing_in_the_package_knows_the_fork():
    from hybrid.diffusion.policy import Policy
    from hybrid.diffusion.schedule import NoiseSchedule
    from hybrid.drafters import Drafter

    for base, cls in ((NoiseSchedule, fork.Exponential), (Policy, fork.EvenOdd), (Drafter, fork.Redraft)):
        assert kind_of(base, cls) == f"fork_example_parts.{cls.__name__}" and cls.__name__ not in names(base)
    package = Path(sys.modules["hybrid"].__path__[0])
    assert not [f for f in package.rglob("*.py") if "fork_example" in f.read_text()]


@pytest.mark.parametrize("make", [lambda: fork.Exponential(0.0), lambda: fork.Redraft(reopen=2.0)])
def test_settings_that_make_no_part_are_refused(make):
    with pytest.raises(ValueError, match="must be above 0"):
        make()
