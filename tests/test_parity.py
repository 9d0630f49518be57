"""Our confidence and threshold policies against diffusers' block-refinement scheduler, token by token."""

import pytest
import torch
from toy import RandomDenoiser

from hybrid.diffusion.corruption import Absorbing, Alphabet, Uniform
from hybrid.diffusion.draft import draft
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Confidence, EntropyBound, Threshold
from hybrid.diffusion.remask import Edit
from hybrid.diffusion.schedule import Linear

diffusers = pytest.importorskip("diffusers")

K, LENGTH = 3, 6
DENOISER = RandomDenoiser(K, LENGTH, seed=5)


def theirs(z, steps, threshold, until_done):
    """Every state of their scheduler; built per draft, since it commits nothing before `set_timesteps`."""
    scheduler = diffusers.BlockRefinementScheduler(block_length=LENGTH)
    scheduler.set_timesteps(steps, block_length=LENGTH)
    states = [z]
    for step in range(steps):
        out = scheduler.step(DENOISER(z, torch.ones(len(z))), step, z, mask_token_id=K, threshold=threshold)
        z = out.prev_sample
        states.append(z)
        if until_done and not (z == K).any():
            break
    return states


def ours(z, steps, policy):
    states = draft(
        DENOISER, z, policy, torch.full((len(z),), steps), Noise(0, torch.arange(len(z))),
        corruption=Absorbing(), schedule=Linear(), alphabet=Alphabet(K, K + 1),
    )  # fmt: skip
    return [state.z for state in states]


@pytest.mark.parametrize("steps", range(1, LENGTH + 1))
def test_confidence_is_theirs_with_a_threshold_out_of_reach(steps):
    """Also where the canvas does not divide by the steps: both give the larger shares first."""
    blank = torch.full((20, LENGTH), K)
    expected, found = theirs(blank, steps, 1.0, until_done=False), ours(blank, steps, Confidence())
    assert len(expected) == len(found)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("threshold", [0.4, 0.6, 0.8, 0.95])
def test_threshold_is_theirs_at_one_token_per_step(threshold):
    """Twenty different canvases with two tokens given. Their quota spreads the whole block over the steps and
    ours what is open, so they are one rule where both quotas are 1; row by row, since theirs stop together.
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(K, (20, LENGTH), generator=generator)
    z = torch.where(torch.rand(20, LENGTH, generator=generator).argsort(-1) < 4, K, z)
    lengths = set()
    for row in z[:, None]:
        expected = theirs(row, LENGTH, threshold, until_done=True)
        found = ours(row, 4, Threshold(threshold))
        assert len(expected) == len(found)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        lengths.add(len(found))
    assert len(lengths) > 1 or threshold == 0.95  # some drafts stop early: the threshold was at work


@pytest.mark.parametrize(("threshold", "edit"), [(0.4, 0.4), (0.6, 0.3), (0.9, 0.5)])
def test_editing_is_theirs(threshold, edit):
    """State by state, while masks are filled and after, until nothing changes: one step per position and as many again.

    Their schedule is built for the steps that fill the block, ours spends those left on rereading.
    """
    edits = 0
    for seed in range(12):
        denoise = RandomDenoiser(K, LENGTH, seed=seed)
        scheduler = diffusers.BlockRefinementScheduler(block_length=LENGTH)
        scheduler.set_timesteps(LENGTH, block_length=LENGTH)
        z = torch.full((1, LENGTH), K)
        states = draft(
            denoise, z, Edit(threshold, edit), torch.tensor([2 * LENGTH]), Noise(0, torch.arange(1)),
            corruption=Absorbing(), schedule=Linear(), alphabet=Alphabet(K, K + 1),
        )  # fmt: skip
        for step, state in enumerate(list(states)[1:]):
            out = scheduler.step(
                denoise(z, torch.ones(1)), min(step, LENGTH - 1), z, mask_token_id=K, threshold=threshold,
                editing_threshold=edit,
            )  # fmt: skip
            z = out.prev_sample
            assert torch.equal(z, state.z), (seed, step)
            edits += int(out.editing_transfer_index.sum())
        assert state.step == 2 * LENGTH or not state.is_new.any()
    assert edits > 0


@pytest.mark.parametrize("bound", [0.0, 0.5, 1.5, 9.0])
def test_entropy_bound_accepts_what_theirs_does(bound):
    """One step of uniform corruption, at temperature 1: the same positions, whatever is drawn there."""
    scheduler = diffusers.EntropyBoundScheduler(entropy_bound=bound, t_max=1.0, t_min=1.0, num_inference_steps=1)
    z = torch.randint(K, (30, LENGTH), generator=torch.Generator().manual_seed(0))
    logits = DENOISER(z, torch.ones(30))[..., :K]
    theirs_accept = scheduler.step(logits.float(), 0, z).accepted_index
    states = draft(
        DENOISER, z, EntropyBound(bound), torch.full((30,), LENGTH), Noise(0, torch.arange(30)),
        corruption=Uniform("posterior"), schedule=Linear(), alphabet=Alphabet(K, K + 1), temperature=1.0,
    )  # fmt: skip
    assert torch.equal(list(states)[1].is_new, theirs_accept)
