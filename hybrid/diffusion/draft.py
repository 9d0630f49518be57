"""The only denoising loop: predict, draw, decide which positions to keep and which to reopen, repeat."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.diffusion import noise as streams
from hybrid.diffusion.budget import quota
from hybrid.diffusion.corruption import Alphabet, Corruption
from hybrid.diffusion.guidance import Denoiser, pack
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Policy
from hybrid.diffusion.proposal import Clock, Proposal
from hybrid.diffusion.sampling import Sampling
from hybrid.diffusion.schedule import NoiseSchedule
from hybrid.diffusion.stop import Memory, Stop
from hybrid.diffusion.windows import Windows, check_windows


@dataclass(frozen=True)
class State:
    """The canvas after `step` denoising steps, all rows of the batch.

    is_new: positions that this step gave a token. is_reopened: those it returned to noise. confidence: the
    probability each committed token had when drawn, 0 where there is none.
    """

    step: int
    z: Int[Tensor, "b l"]
    is_new: Bool[Tensor, "b l"]
    confidence: Float[Tensor, "b l"]
    is_reopened: Bool[Tensor, "b l"]


@dataclass(frozen=True)
class _Rows:
    """Rows that still draft, and where each stands.

    index: its place in the batch. z: its canvas as committed, closing aside. is_decided: committed for good, which a
    corruption without a mask does not show. t: the time of its window. window: the one at work, begun at step `began`.
    """

    denoise: Denoiser
    noise: Noise
    windows: Windows
    index: Int[Tensor, "r"]
    z: Int[Tensor, "r l"]
    is_free: Bool[Tensor, "r l"]
    is_decided: Bool[Tensor, "r l"]
    certainty: Float[Tensor, "r l"]
    t: Float[Tensor, "r"]
    window: Int[Tensor, "r"]
    began: Int[Tensor, "r"]
    memory: Memory

    def __len__(self) -> int:
        return len(self.index)

    def select(self, rows: Int[Tensor, "s"]) -> "_Rows":
        bound = self.denoise.select(rows), self.noise.select(rows), self.windows.select(rows)
        kept = {f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)[3:-1]}
        return _Rows(*bound, **kept, memory=tuple(part[rows] for part in self.memory))


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


def check_policy(policy: Policy, corruption: Corruption) -> None:
    """Refuse a policy that makes no sense under the corruption, with its reason."""
    if reason := policy.refusal(corruption):
        raise ValueError(f"policy {type(policy).__name__} under {type(corruption).__name__} corruption: {reason}")


def _ask(rows: _Rows, z: Int[Tensor, "b l"], t: Float[Tensor, "b"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "n k"]:
    """Predictions at `where`, at no cost for rows that ask nothing: those a remasking policy left full for a step."""
    asking = where.any(-1).nonzero()[:, 0]
    if len(asking) == len(rows):
        return rows.denoise.logits(z, t, where)
    return rows.denoise.select(asking).logits(z[asking], t[asking], where[asking])


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
    alphabet: Alphabet,
    is_free: Bool[Tensor, "b l"] | None = None,
    decode_window: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Stop | None = None,
    close: Callable[[Int[Tensor, "b l"]], Int[Tensor, "b l"]] = unchanged,
    agree: Callable[[bool], bool] = bool,
) -> Iterator[State]:
    """Denoise canvas `z`, yielding the first state and then one after every step.

    Row r takes at most steps[r] steps, at times t_i = 1 - i / steps[r] unless the policy keeps a clock of its own; a
    row that is finished leaves the batch.

    is_free: what may be altered at all: prompt text and infilling context are not. None: what is open in `z`, which
        under absorbing corruption are its masks and under uniform corruption is everything.
    decode_window: draft windows of so many positions from left to right, each to its end; None: the whole canvas.
        Every window has its share of the steps, and its own time from 1 to 0.
    temperature, top_k, top_p: see Sampling. stop: a rule by which rows finish early.
    close: fills positions whose token has become certain, at no cost; what it fills reopens with what made it so.
    agree: whether all ranks are done when this one is; an all-reduce under sharding.

    Raises:
        ValueError: steps, windows, sampling or a policy that make no sense together; a prediction that is no number.
    """
    sampling = Sampling(temperature, top_k, top_p)
    check_policy(policy, corruption)
    nowhere = torch.zeros_like(z, dtype=torch.bool)
    is_free = corruption.is_open(z, nowhere, alphabet) if is_free is None else is_free
    is_open = is_free & corruption.is_open(z, nowhere, alphabet)
    check_steps(steps, is_open.sum(-1), policy)
    check_windows(steps, is_open, decode_window)
    length = z.shape[1]
    confidence = torch.zeros(z.shape, device=z.device)
    yield State(0, z, nowhere, confidence, nowhere)

    windows = Windows.plan(is_open, steps, decode_window)
    rows = _Rows(
        denoise, noise, windows, torch.arange(len(z), device=z.device), z, is_free, nowhere, confidence,
        t=torch.ones_like(steps, dtype=torch.float64), window=windows.leftmost(is_open), began=torch.zeros_like(steps),
        memory=stop.begin(z) if stop else (),
    ).select(((steps > 0) & is_open.any(-1)).nonzero()[:, 0])  # fmt: skip
    step = 0
    while not agree(len(rows) == 0):
        if len(rows) == 0:  # other ranks go on: keep their collectives company, with nothing to decide
            rows.denoise.logits(rows.z, rows.t, rows.is_free)
            continue
        now, noise, due = close(rows.z), rows.noise, rows.windows.due_of(rows.window)
        mine = rows.is_free & rows.windows.holds(rows.window)
        is_open = mine & corruption.is_open(now, rows.is_decided, alphabet)
        is_committed = mine & ~corruption.is_open(rows.z, rows.is_decided, alphabet)
        n_open = is_open.sum(-1)
        pace = quota(n_open, due - step)
        clock = Clock(rows.t, step - rows.began, due - rows.began, n_open, pace, schedule, noise, step, length)
        t, s = policy.times(clock)
        where = is_open | is_committed if policy.rereads else is_open
        logits = _ask(rows, now, t, where) if policy.reopens else rows.denoise.logits(now, t, where)
        u = pack(noise.uniform(streams.DRAW, step, length), where, len(logits))
        proposal = Proposal(
            z=now,
            logits=logits,
            where=where,
            tokens=now.masked_scatter(where, sampling.draw(logits, u)),
            is_open=is_open,
            is_committed=is_committed,
            certainty=rows.certainty,
            quota=pace,
            survive_t=schedule.alpha(t),
            survive_s=schedule.alpha(s),
            corruption=corruption,
            alphabet=alphabet,
            noise=noise,
            step=step,
        )
        is_last, memory = due - step == 1, rows.memory
        if stop is not None:
            says, memory = stop.judge(proposal, clock.taken / clock.given, memory)
            is_last = is_last | says
        keep = policy.keep(proposal) | (is_open & is_last[:, None])
        reopened = policy.reopen(proposal, keep) & ~is_last[:, None]
        after = torch.where(keep, proposal.tokens, rows.z)
        if policy.reopens or not corruption.marks_noise:
            fresh = corruption.noise(noise.uniform(streams.RENOISE, step, length), alphabet)
            after = torch.where(reopened, fresh, after)
        settled = keep if policy.settles else keep & is_last[:, None]
        is_decided = (rows.is_decided | settled) & ~reopened
        certainty = torch.where(keep, proposal.confidence, rows.certainty).masked_fill(reopened, 0.0)
        shown = close(after)
        step += 1

        z, is_new, is_reopened, confidence = z.clone(), nowhere.clone(), nowhere.clone(), confidence.clone()
        z[rows.index], is_new[rows.index], is_reopened[rows.index] = shown, keep, reopened
        confidence[rows.index] = certainty

        still = rows.is_free & corruption.is_open(shown, is_decided, alphabet)
        goes_on = (still & mine).any(-1) | policy.reopens | (keep.any(-1) & policy.rereads)
        is_done = is_last | ~goes_on
        beyond = still & (rows.windows.of > rows.window[:, None])
        rows = dataclasses.replace(
            rows,
            z=after,
            is_decided=is_decided,
            certainty=certainty,
            t=torch.where(is_done, 1.0, s),
            window=torch.where(is_done, rows.windows.leftmost(beyond), rows.window),
            began=torch.where(is_done, step, rows.began),
            memory=memory,
        )
        # The host waits for the device here, once a step, to learn which rows leave (and whether to stop at all);
        # the denoiser waits once more to learn how many positions it is asked about.
        stays, is_broken = torch.stack([~is_done | beyond.any(-1), proposal.confidence.isnan().any(-1)]).cpu()
        if is_broken.any():
            row = int(is_broken.nonzero()[0])
            at = int(proposal.confidence[row].isnan().nonzero()[0])
            raise ValueError(
                f"prediction of step {step}, row {int(rows.index[row])}, position {at} is no probability: "
                "NaN or infinite logits, as a broken checkpoint gives"
            )
        yield State(step, z, is_new, confidence, is_reopened)
        if not stays.all():
            rows = rows.select(stays.nonzero()[:, 0].to(z.device))
