"""Policies and schedulers, both ways: ours in others' loops, diffusers' in ours, the same tokens step by step."""

import dataclasses

import pytest
import torch
from toy import RandomDenoiser, tiny_reasoner

from hybrid.build import build, plain
from hybrid.diffusion import noise as streams
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.corruption import Absorbing, Alphabet, Uniform
from hybrid.diffusion.draft import draft
from hybrid.diffusion.guidance import FromLeaveOneOut, Predict
from hybrid.diffusion.noise import Noise, sample
from hybrid.diffusion.policy import Policy
from hybrid.diffusion.remask import Edit
from hybrid.diffusion.schedule import Linear
from hybrid.kinds import look_up, names

diffusers = pytest.importorskip("diffusers")

from hybrid.hub.pipeline import HybridReasoningPipeline  # noqa: E402
from hybrid.hub.policies import BlockRefinement, DiscreteDDIM, EntropyBound, settings_of  # noqa: E402
from hybrid.hub.scheduler import PolicyScheduler  # noqa: E402

K, LENGTH, ROWS = 3, 6, 20
MASK = K
EVERY = {name: look_up(Policy, name)() for name in names(Policy)}
OURS = [(n, Absorbing()) for n, p in EVERY.items() if not p.refusal(Absorbing())]
OURS += [(n, Uniform()) for n, p in EVERY.items() if not p.refusal(Uniform())]


def states_of(denoise, policy, z, steps, corruption=None, seed=0, **options):
    options = {"schedule": Linear(), "alphabet": Alphabet(K, K + 1), "corruption": corruption or Absorbing()} | options
    noise = Noise(seed, torch.arange(len(z)))
    return list(draft(denoise, z, policy, torch.full((len(z),), steps), noise, **options))


def start(corruption, rows=ROWS):
    """A canvas to begin with; under masks with two tokens given."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randint(K, (rows, LENGTH), generator=generator)
    is_given = torch.rand(rows, LENGTH, generator=generator).argsort(-1) < 2
    return torch.where(is_given, z, MASK) if corruption.marks_noise else z


# ---- ours as a scheduler


@pytest.mark.parametrize(("name", "corruption"), OURS, ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_a_saved_scheduler_steps_as_the_drafting_loop(name, corruption, tmp_path):
    """Every policy under every corruption, at temperature 1, in a plain loop over `timesteps`: the same states."""
    PolicyScheduler(
        plain(EVERY[name]), MASK, corruption=plain(corruption), temperature=1.0, num_inference_steps=9
    ).save_pretrained(tmp_path)
    scheduler = PolicyScheduler.from_pretrained(tmp_path)
    assert scheduler.policy == EVERY[name] and scheduler.corruption == corruption
    assert len(scheduler.timesteps) == scheduler.config.num_inference_steps == 9
    denoise, z = RandomDenoiser(K, LENGTH, seed=3), start(corruption)
    posterior = FromLeaveOneOut(denoise, Linear().alpha, K) if isinstance(corruption, Uniform) else denoise
    expected = states_of(posterior, EVERY[name], z, 4, corruption, temperature=1.0)[1:]
    scheduler.set_timesteps(4)
    for i, t in enumerate(scheduler.timesteps):
        out = scheduler.step(denoise(z, torch.ones(len(z))), t, z)
        if i < len(expected):
            assert torch.equal(out.prev_sample, expected[i].z)
            assert torch.equal(out.transfer_index, expected[i].is_new)
            assert torch.equal(out.renoised_index, expected[i].is_reopened)
            assert torch.equal(out.sampled_probs, expected[i].confidence)
        else:  # all rows were done early
            assert torch.equal(out.prev_sample, z) and not out.transfer_index.any()
        z = out.prev_sample
    assert (z < K).all()


def test_a_draw_is_a_function_of_generator_and_identity():
    denoise, z = RandomDenoiser(K, LENGTH), torch.full((2, LENGTH), MASK)

    def run(z, seed, keys=None):
        scheduler = PolicyScheduler("random", MASK, temperature=1.0)
        scheduler.set_timesteps(LENGTH)
        generator = torch.Generator().manual_seed(seed)
        for t in scheduler.timesteps:
            z = scheduler.step(denoise(z, torch.ones(len(z))), t, z, generator=generator, keys=keys).prev_sample
        return z

    assert torch.equal(run(z, 0), run(z, 0)) and not torch.equal(run(z, 0), run(z, 1))
    assert torch.equal(run(z, 0)[1:], run(z[1:], 0, torch.tensor([1])))
    scheduler = PolicyScheduler("confidence", MASK)
    scheduler.set_timesteps(1)
    one = [scheduler.step(denoise(z, torch.ones(2)), 0, z, return_dict=False)[0] for _ in range(2)]
    assert torch.equal(*one)  # step 0 begins anew


def test_banned_tokens_and_a_vocabulary_without_a_mask():
    z = torch.zeros(40, LENGTH, dtype=torch.long)
    logits = torch.zeros(40, LENGTH, 5)
    scheduler = PolicyScheduler("ancestral", None, [1, 4], corruption="uniform", temperature=1.0)
    scheduler.set_timesteps(3)
    for t in scheduler.timesteps:
        z = scheduler.step(logits, t, z).prev_sample
    assert set(z.flatten().tolist()) == {0, 2, 3}


def test_what_a_scheduler_refuses():
    z, logits = torch.full((1, LENGTH), MASK), torch.zeros(1, LENGTH, K + 1)
    scheduler = PolicyScheduler("confidence", MASK)
    with pytest.raises(ValueError, match="before set_timesteps"):
        scheduler.step(logits, 0, z)
    with pytest.raises(ValueError, match="num_inference_steps=0: must be 1"):
        scheduler.set_timesteps(0)
    scheduler.set_timesteps(3)
    with pytest.raises(ValueError, match="timestep=1: after 0 of 3 steps"):
        scheduler.step(logits, 1, z)
    after = scheduler.step(logits, 0, z).prev_sample
    with pytest.raises(ValueError, match="timestep=2: after 1 of 3"):
        scheduler.step(logits, 2, after)
    with pytest.raises(ValueError, match="not the canvas that the step before"):
        scheduler.step(logits, 1, z)
    with pytest.raises(ValueError, match="needs its mask"):
        PolicyScheduler("confidence")
    with pytest.raises(ValueError, match="there is no mask to return to"):
        PolicyScheduler("remask", corruption="uniform")
    with pytest.raises(ValueError, match="unknown Policy kind 'best'"):
        PolicyScheduler("best", MASK)


# ---- theirs as policies


def told(scheduler, tokens, probs):
    """Their scheduler with our draws: what is compared is what it decides."""
    scheduler._sample_from_logits = lambda logits, **options: (tokens, probs)
    return scheduler


@pytest.mark.parametrize("steps", range(1, 5))
@pytest.mark.parametrize("threshold", [0.4, 0.6, 0.9, 2.0])
def test_block_refinement_is_theirs(steps, threshold):
    """All of it greedy, their own code end to end: the same canvas after every step, four open positions to a row."""
    denoise, z, counts = RandomDenoiser(K, LENGTH, seed=5), start(Absorbing()), set()
    states = states_of(denoise, BlockRefinement(threshold), z, steps)
    scheduler = diffusers.BlockRefinementScheduler()
    scheduler.set_timesteps(steps, block_length=4)
    for step, state in enumerate(states[1:]):
        z = scheduler.step(denoise(z, torch.ones(ROWS)), step, z, mask_token_id=MASK, threshold=threshold).prev_sample
        assert torch.equal(z, state.z)
        counts |= set(state.is_new.sum(-1).tolist())
    assert not (z == MASK).any()
    assert steps < 4 or (len(counts) > 2) == (threshold < 0.9)  # where it is in reach, the threshold is at work


def test_block_refinement_edits_as_theirs():
    denoise, edits = RandomDenoiser(K, LENGTH, seed=5), 0
    z = torch.full((ROWS, LENGTH), MASK)
    states = states_of(denoise, BlockRefinement(0.9, editing_threshold=0.4), z, LENGTH)
    scheduler = diffusers.BlockRefinementScheduler(block_length=LENGTH)
    scheduler.set_timesteps(LENGTH, block_length=LENGTH)
    for step, state in enumerate(states[1:]):
        out = scheduler.step(
            denoise(z, torch.ones(ROWS)), step, z, mask_token_id=MASK, threshold=0.9, editing_threshold=0.4
        )
        z, edits = out.prev_sample, edits + int(out.editing_transfer_index.sum())
        assert torch.equal(z, state.z)
    assert edits > 0
    # Where no step commits more than its share, the two rules are one.
    ours = states_of(denoise, Edit(1.0, 0.4), torch.full((ROWS, LENGTH), MASK), LENGTH)
    theirs = states_of(denoise, BlockRefinement(1.0, 0.4), torch.full((ROWS, LENGTH), MASK), LENGTH)
    assert all(torch.equal(a.z, b.z) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("bound", [0.0, 0.5, 1.5])
def test_entropy_bound_is_theirs(bound):
    """With its falling temperature: the same positions keep the same tokens, and the rest is noise afresh."""
    denoise, z, steps = RandomDenoiser(K, LENGTH, seed=5), start(Uniform()), 5
    states = states_of(denoise, EntropyBound(bound), z, steps, Uniform("posterior"), temperature=1.0)
    scheduler, accepted = diffusers.EntropyBoundScheduler(bound, 0.8, 0.4), 0
    scheduler.set_timesteps(steps)
    for step, (before, after) in enumerate(zip(states, states[1:-1], strict=False)):
        logits = denoise(before.z, torch.ones(ROWS))[..., :K]
        told(scheduler, after.z, torch.zeros(after.z.shape))
        out = scheduler.step(logits.float(), step, before.z)
        assert torch.equal(after.is_new, out.accepted_index)
        assert torch.equal(after.is_reopened, ~out.accepted_index)
        assert torch.equal(after.z[after.is_new], out.prev_sample[after.is_new])
        accepted += int(out.accepted_index.sum())
    assert states[-1].is_new.all() and 0 < accepted <= ROWS * LENGTH * (steps - 1)


def test_the_prediction_falls_in_temperature_as_theirs():
    """At the time of every step, and so does what is drawn from it; rows may be at different steps."""
    logits, steps = torch.randn(ROWS, LENGTH, K, generator=torch.Generator().manual_seed(0)), 4
    denoise = EntropyBound(t_max=2.0, t_min=0.5).wrapped(Predict(lambda z, t: logits))
    scheduler = diffusers.EntropyBoundScheduler(t_max=2.0, t_min=0.5)
    scheduler.set_timesteps(steps)
    at = torch.arange(ROWS) % steps
    where = torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.5
    found = denoise.logits(torch.zeros(ROWS, LENGTH, dtype=torch.long), 1 - at.double() / steps, where)
    z = torch.zeros(1, LENGTH, dtype=torch.long)
    theirs = [scheduler.step(logits[r : r + 1], int(at[r]), z).pred_logits[0] for r in range(ROWS)]
    assert torch.allclose(found, torch.stack(theirs)[where])


def test_discrete_ddim_is_theirs():
    """Their own step on the real ids, with our draws and a generator like ours: every position takes the same route.

    A token that is noise by chance equals another now and then, so what theirs shows is compared where ours is settled.
    """
    denoise, z, steps = RandomDenoiser(K, LENGTH, seed=5), start(Uniform()), 4
    states = states_of(denoise, DiscreteDDIM(), z, steps, Uniform("posterior"), temperature=1.0)
    noise, seen = Noise(0, torch.arange(ROWS)), torch.zeros(3)
    for step, (before, after) in enumerate(zip(states, states[1:], strict=False)):
        tokens = sample(denoise(before.z, torch.ones(ROWS)), noise.uniform(streams.DRAW, step, LENGTH))
        seeds = (noise.uniform(streams.CHOOSE, step)[:, 0] * 2.0**53).long().tolist()
        for row, seed in enumerate(seeds):
            scheduler = told(diffusers.DiscreteDDIMScheduler(), tokens[row][None], torch.zeros(1, LENGTH))
            scheduler.set_timesteps(steps)
            generator = torch.Generator().manual_seed(seed)
            out = scheduler.step(torch.zeros(1, LENGTH, K), step, before.z[row][None], generator=generator).prev_sample
            is_noise = after.is_reopened[row]
            assert torch.equal(after.z[row][~is_noise], out[0][~is_noise])
            assert torch.equal(after.z[row][after.is_new[row]], tokens[row][after.is_new[row]])
            is_neither = (out[0] != before.z[row]) & (out[0] != tokens[row])
            assert not (is_neither & ~is_noise).any()
            seen += torch.stack([is_noise, after.is_new[row], ~is_noise & ~after.is_new[row]]).sum(-1)
    assert (seen > 0).all() and states[-1].is_new.all()


@pytest.mark.parametrize("policy", [BlockRefinement(0.5), EntropyBound(0.5), DiscreteDDIM()], ids=repr)
def test_a_row_alone_equals_that_row_in_a_batch(policy):
    corruption = Uniform() if policy.refusal(Absorbing()) else Absorbing()
    denoise, z, noise = RandomDenoiser(K, LENGTH), start(corruption), Noise(0, torch.arange(ROWS))
    options = dict(corruption=corruption, schedule=Linear(), alphabet=Alphabet(K, K + 1), temperature=1.0)
    steps = torch.arange(ROWS) % 4 + 1
    whole = list(draft(denoise, z, policy, steps, noise, **options))[-1]
    for row in range(0, ROWS, 3):
        at = torch.tensor([row])
        alone = list(draft(denoise, z[at], policy, steps[at], noise.select(at), **options))[-1]
        assert torch.equal(alone.z[0], whole.z[row])


@pytest.mark.parametrize(
    ("kind", "corruption", "said"),
    [
        ("BlockRefinement", Uniform(), "it fills masks"),
        ("EntropyBound", Absorbing(), "where masks belong"),
        ("DiscreteDDIM", Absorbing(), "where masks belong"),
    ],
)
def test_each_is_refused_where_it_makes_no_sense(kind, corruption, said):
    from hybrid.drafters.diffusion import Diffusion

    section = {"kind": "diffusion", "policy": f"hybrid.hub.policies.{kind}", "corruption": plain(corruption)}
    section |= {} if corruption.marks_noise else {"times": "continuous"}
    with pytest.raises(ValueError, match=said):
        build(Diffusion, section, "drafter")
    with pytest.raises(ValueError, match="threshold=0|entropy_bound=-1|unknown key"):
        build(Policy, {"kind": f"hybrid.hub.policies.{kind}", "threshold": 0, "entropy_bound": -1}, "policy")


def test_windows_are_their_blocks():
    """A canvas in two windows is two of their blocks, one after the other."""
    denoise, z, half = RandomDenoiser(K, LENGTH, seed=5), torch.full((8, LENGTH), MASK), LENGTH // 2
    found = states_of(denoise, BlockRefinement(2.0), z, 4, decode_window=half)[-1].z
    scheduler = diffusers.BlockRefinementScheduler(block_length=half, threshold=2.0)
    scheduler.set_timesteps(2, block_length=half)
    for block in (slice(0, half), slice(half, LENGTH)):
        for step in range(2):
            logits = denoise(z, torch.ones(8))[:, block]
            z = z.clone()
            z[:, block] = scheduler.step(logits, step, z[:, block], mask_token_id=MASK).prev_sample
    assert torch.equal(found, z)


# ---- in the pipeline


def test_the_pipelines_scheduler_is_the_policy_that_drafts(tmp_path):
    reasoner = tiny_reasoner()
    pipeline = HybridReasoningPipeline.of(reasoner)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.scheduler.policy == reasoner.config.drafter.policy
    pipeline.scheduler = PolicyScheduler("left_to_right", 2, temperature=1.0, decode_window=3)
    pipeline.save_pretrained(tmp_path)
    loaded = HybridReasoningPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert plain(loaded.scheduler.policy) == {"kind": "left_to_right"}
    drafter = dataclasses.replace(
        reasoner.config.drafter, policy=look_up(Policy, "left_to_right")(), temperature=1.0, decode_window=3
    )
    expected = reasoner.reason(["12+3=", "7="], Budget(4), drafter=drafter)
    for one in (pipeline, loaded):
        assert [r.sketch_tokens for r in one(["12+3=", "7="], 4).results] == [r.sketch_tokens for r in expected]
    pipeline.scheduler = diffusers.BlockRefinementScheduler(threshold=1e-9)
    assert pipeline("12+3=", 6).results[0].spent["denoiser_forwards"] == 1
    pipeline.scheduler = diffusers.EntropyBoundScheduler()
    with pytest.raises(ValueError, match="where masks belong"):
        pipeline("12+3=", 4)


def test_settings_of_their_schedulers():
    of = diffusers.EntropyBoundScheduler(0.3, 0.9, 0.5)
    assert settings_of(of) == {"policy": EntropyBound(0.3, 0.9, 0.5)}
    edit = diffusers.BlockRefinementScheduler(threshold=0.7, editing_threshold=0.5)
    assert settings_of(edit) == {"policy": BlockRefinement(0.7, 0.5)}
    assert settings_of(diffusers.DiscreteDDIMScheduler()) == {"policy": DiscreteDDIM()}
    with pytest.raises(ValueError, match="corrector_steps=1"):
        settings_of(diffusers.DiscreteDDIMScheduler(corrector_steps=1))
    with pytest.raises(ValueError, match="DDIMScheduler denoises no tokens"):
        settings_of(diffusers.DDIMScheduler())
