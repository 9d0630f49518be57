"""The only denoising loop: predict, draw, decide which positions to keep, repeat."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.diffusion import noise as streams
from hybrid.diffusion.budget import quota
from hybrid.diffusion.corruption import Corruption
from hybrid.diffusion.guidance import Denoiser
from hybrid.diffusion.noise import Noise, sample
from hybrid.diffusion.policy import Policy, Proposal
from hybrid.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class State:
    """The canvas after `step` denoising steps, all rows of the batch.

    is_new: positions committed by this step. confidence: probability each committed token had when drawn.
    """

    step: int
    z: Int[Tensor, "b l"]
    is_new: Bool[Tensor, "b l"]
    confidence: Float[Tensor, "b l"]


def unchanged(z: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
    return z


def check_steps(steps: Int[Tensor, "b"], n_open: Int[Tensor, "b"], policy: Policy) -> None:
    """Refuse more steps than open positions where every step commits one; 0 and up are fine otherwise.

    Raises:
        ValueError: naming the steps, the policy and what is allowed.
    """
    if (steps < 0).any():
        raise ValueError(f"steps={int(steps.min())}: must be 0 (no sketch) or more")
    if policy.always_commits and (steps > n_open).any():
        row = int((steps - n_open).argmax())
        raise ValueError(
            f"steps={int(steps[row])} with policy {type(policy).__name__}, which commits at least one position "
            f"per step: at most {int(n_open[row])} steps, the open positions of the canvas"
        )


@torch.no_grad()
def draft(
    denoise: Denoiser,
    z: Int[Tensor, "b l"],
    policy: Policy,
    steps: Int[Tensor, "b"],
    noise: Noise,
    *,
    corruption: Corruption,
    schedule: NoiseSchedule,
    mask_id: int,
    temperature: float = 0.0,
    close: Callable[[Int[Tensor, "b l"]], Int[Tensor, "b l"]] = unchanged,
    agree: Callable[[bool], bool] = bool,
) -> Iterator[State]:
    """Denoise the open positions of canvas `z`, yielding the first state and then one after every step.

    Row r takes at most steps[r] steps, at times t_i = 1 - i / steps[r]; a row that is finished leaves the batch.
    Positions that are not open (prompt text, infilling context) are never altered.

    temperature: 0 draws the likeliest token, else softmax(logits / temperature).
    close: fills positions whose token has become certain, at no cost.
    agree: whether all ranks are done when this one is; an all-reduce under sharding.
    """
    check_steps(steps, corruption.is_open(z, mask_id).sum(-1), policy)
    if temperature < 0:
        raise ValueError(f"temperature={temperature}: must be 0 (greedy) or more")
    length = z.shape[1]
    is_new = torch.zeros_like(z, dtype=torch.bool)
    confidence = torch.zeros(z.shape, device=z.device)
    yield State(0, z, is_new, confidence)

    rows = ((steps > 0) & corruption.is_open(z, mask_id).any(-1)).nonzero()[:, 0]
    denoise, noise, steps = denoise.select(rows), noise.select(rows), steps[rows]
    step = 0
    while not agree(len(rows) == 0):
        if len(rows) == 0:  # other ranks go on: keep their collectives company, with nothing to decide
            denoise(z[:0], z.new_zeros(0, dtype=torch.float64))
            continue
        now = z[rows]
        is_open = corruption.is_open(now, mask_id)
        t, s = 1 - step / steps.double(), 1 - (step + 1) / steps.double()
        logits = denoise(now, t)
        if temperature == 0:
            tokens = logits.argmax(-1)
        else:
            tokens = sample(logits / temperature, noise.uniform(streams.DRAW, step, length))
        proposal = Proposal(
            logits=logits,
            tokens=tokens,
            is_open=is_open,
            quota=quota(is_open.sum(-1), steps - step),
            survive_t=schedule.alpha(t),
            survive_s=schedule.alpha(s),
            noise=noise,
            step=step,
        )
        is_last = (steps - step == 1)[:, None]
        keep = torch.where(is_last, is_open, policy.keep(proposal))
        now = close(torch.where(keep, tokens, now))
        step += 1

        z, is_new, confidence = z.clone(), torch.zeros_like(is_new), confidence.clone()
        z[rows], is_new[rows] = now, keep
        confidence[rows] = torch.where(keep, proposal.confidence, confidence[rows])
        yield State(step, z, is_new, confidence)

        stays = (corruption.is_open(now, mask_id).any(-1) & (steps > step)).nonzero()[:, 0]
        if len(stays) < len(rows):
            rows, denoise, noise, steps = rows[stays], denoise.select(stays), noise.select(stays), steps[stays]
