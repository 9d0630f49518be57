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
from hybrid.diffusion.state import Rows, State
from hybrid.diffusion.stop import Memory, Stop
from hybrid.diffusion.windows import Windows, check_windows

__all__ = ["BrokenPrediction", "State", "check_policy", "check_steps", "draft", "unchanged"]


class BrokenPrediction(ValueError):
    """A network predicts what is no probability."""


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


@dataclass(frozen=True)
class _Step:
    """The two halves of a step, for all rows that take part."""

    policy: Policy
    corruption: Corruption
    schedule: NoiseSchedule
    alphabet: Alphabet
    sampling: Sampling
    stop: Stop | None
    close: Callable[[Int[Tensor, "b l"]], Int[Tensor, "b l"]]

    def propose(self, rows: Rows, step: int) -> tuple[Proposal, Clock, Float[Tensor, "r"]]:
        """Predictions and draws, at what is open in each row's window; and the time s at which the step ends."""
        z, mine, due = rows.shown, rows.is_mine, rows.windows.due_of(rows.window)
        is_open = mine & self.corruption.is_open(z, rows.is_decided, self.alphabet)
        is_committed = mine & ~self.corruption.is_open(rows.z, rows.is_decided, self.alphabet)
        n_open = is_open.sum(-1)
        clock = Clock(
            t=rows.t, taken=step - rows.began, given=due - rows.began, n_open=n_open,
            quota=quota(n_open, due - step), schedule=self.schedule, noise=rows.noise, step=step, canvas=z.shape[1],
        )  # fmt: skip
        t, s = self.policy.times(clock)
        s = s.minimum(rows.t)  # a plan that is hurried and then not must not turn time back
        where = is_open | is_committed if self.policy.rereads else is_open
        # What a policy that settles leaves open is the first noise, whatever the time: evidence of nothing.
        told = torch.ones_like(t) if self.policy.settles and not self.corruption.marks_noise else t
        logits = rows.denoise.logits(z, told, where)

        def u() -> Float[Tensor, "n"]:
            return pack(rows.noise.uniform(streams.DRAW, step, z.shape[1]), where, len(logits))

        proposal = Proposal(
            z=z, logits=logits, where=where, tokens=z.masked_scatter(where, self.sampling.draw(logits, u)),
            # What closing filled is as masked as what it follows from: a policy that reopens decides over it, too.
            is_open=mine & ~is_committed if self.policy.reopens else is_open,
            is_committed=is_committed, certainty=rows.certainty, quota=clock.quota,
            taken=clock.taken, given=clock.given,
            survive_t=self.schedule.alpha(t), survive_s=self.schedule.alpha(s),
            corruption=self.corruption, alphabet=self.alphabet, noise=rows.noise, step=step,
        )  # fmt: skip
        return proposal, clock, s

    def decide(
        self, rows: Rows, proposal: Proposal, clock: Clock
    ) -> tuple[Bool[Tensor, "r l"], Bool[Tensor, "r l"], Bool[Tensor, "r"], Memory]:
        """Positions that take their token, positions that return to noise, rows whose window ends with this step,
        and what the stopping rule remembers. A last step commits all that is open, and neither reopens anything nor
        edits a row where that would."""
        is_last, memory = clock.given - clock.taken == 1, rows.memory
        if self.stop is not None:
            says, memory = self.stop.judge(proposal, clock.taken / clock.given, memory)
            is_last = is_last | says
        keep = self.policy.keep(proposal) | (proposal.is_open & is_last[:, None])
        if self.policy.rereads:
            keep = keep & ~(proposal.is_committed & (is_last & self._opens(rows, proposal, keep))[:, None])
        return keep, self.policy.reopen(proposal, keep) & ~is_last[:, None], is_last, memory

    def _opens(self, rows: Rows, proposal: Proposal, keep: Bool[Tensor, "r l"]) -> Bool[Tensor, "r"]:
        """Rows in whose window something is open once these tokens are taken: pads stand on the end before them."""
        z = self.close(torch.where(keep, proposal.tokens, rows.z))
        return (rows.is_mine & self.corruption.is_open(z, rows.is_decided | keep, self.alphabet)).any(-1)

    def written(
        self, rows: Rows, proposal: Proposal, keep: Bool[Tensor, "r l"], reopened: Bool[Tensor, "r l"]
    ) -> Int[Tensor, "r l"]:
        """The canvases as committed, after the step."""
        z = torch.where(keep, proposal.tokens, rows.z)
        if not self.policy.reopens and self.corruption.marks_noise:
            return z
        u = rows.noise.uniform(streams.RENOISE, proposal.step + 1, z.shape[1])  # 0: the canvas at first
        return torch.where(reopened, self.corruption.noise(u, self.alphabet), z)


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
    pace: Callable[[], int] | None = None,
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
    close: fills positions whose token has become certain, at no cost; what it fills reopens with what made it so, until
        a policy that reopens has committed it like all else.
    pace: the steps that still fit into the time left, asked before each; the plan is hurried to them, and at 0 drafting
        ends with what stands on the canvas.
    agree: whether all ranks are done when this one is; an all-reduce under sharding.

    Raises:
        ValueError: steps, windows, sampling or a policy that make no sense together; a prediction that is no number.
    """
    check_policy(policy, corruption)
    taking = _Step(policy, corruption, schedule, alphabet, Sampling(temperature, top_k, top_p), stop, close)
    state = State.first(z)
    is_free = corruption.is_open(z, state.is_new, alphabet) if is_free is None else is_free
    is_open = is_free & corruption.is_open(z, state.is_new, alphabet)
    check_steps(steps, is_open.sum(-1), policy)
    check_windows(steps, is_open, decode_window)
    yield state

    denoise, windows = policy.wrapped(denoise), Windows.plan(is_open, steps, decode_window)
    rows = Rows(
        denoise, noise, windows, torch.arange(len(z), device=z.device), z, z, is_free, state.is_new, state.confidence,
        t=torch.ones_like(steps, dtype=torch.float64), window=windows.leftmost(is_open), began=torch.zeros_like(steps),
        memory=stop.begin(z) if stop else (),
    ).select(((steps > 0) & is_open.any(-1)).nonzero()[:, 0])  # fmt: skip
    step = 0
    while not agree(len(rows) == 0):
        if len(rows) == 0:  # other ranks go on: keep their collectives company, with nothing to decide
            rows.denoise.logits(rows.z, rows.t, rows.is_free)
            continue
        left = None if pace is None else pace()
        if left == 0:
            rows = rows.select(rows.index[:0])
            continue
        hurried = rows if left is None else dataclasses.replace(rows, windows=rows.windows.hurried(step, left))
        proposal, clock, s = taking.propose(hurried, step)
        keep, reopened, is_last, memory = taking.decide(rows, proposal, clock)
        now = taking.written(rows, proposal, keep, reopened)
        settled = keep if policy.settles else keep & is_last[:, None]
        is_decided = (rows.is_decided | settled) & ~reopened
        sure = torch.where(proposal.where, proposal.confidence, 1.0)  # what closing filled was certain
        certainty = torch.where(keep, sure, rows.certainty).masked_fill(reopened, 0.0)
        shown = close(now)
        step += 1

        still_open = rows.is_free & corruption.is_open(shown, is_decided, alphabet)
        goes_on = (still_open & rows.is_mine).any(-1) | policy.reopens | (keep.any(-1) & policy.rereads)
        is_done = is_last | ~goes_on  # with its window
        beyond = still_open & (rows.windows.of > rows.window[:, None])
        # The host waits for the device here, once a step, to learn which rows leave and whether all is well; the
        # denoiser waits once more, to learn how many positions it is asked about.
        stays, is_broken = torch.stack([~is_done | beyond.any(-1), proposal.confidence.isnan().any(-1)]).cpu()
        if is_broken.any():
            raise BrokenPrediction(_broken(proposal, rows))
        state = state.after(rows.index, shown, keep, certainty, reopened)
        yield state

        rows = dataclasses.replace(
            rows, z=now, shown=shown, is_decided=is_decided, certainty=certainty, memory=memory,
            t=torch.where(is_done, 1.0, s),
            window=torch.where(is_done, rows.windows.leftmost(beyond), rows.window),
            began=torch.where(is_done, step, rows.began),
        )  # fmt: skip
        if not stays.all():
            rows = rows.select(stays.nonzero()[:, 0].to(z.device))


def _broken(proposal: Proposal, rows: Rows) -> str:
    row, position = proposal.confidence.isnan().nonzero()[0].tolist()
    return (
        f"prediction of step {proposal.step + 1}, row {int(rows.index[row])}, position {position} is no probability: "
        "NaN or infinite logits, as a broken checkpoint gives"
    )
