"""Schedulers of diffusers as policies of ours, by dotted path: `policy: {kind: hybrid.hub.policies.BlockRefinement}`.

Each step hands every row to a scheduler built for it (theirs keep state between calls, and decide nothing before
`set_timesteps`), and takes over which positions it kept and which it returned to noise. Drawing stays the loop's: the
token and its probability are told to the scheduler, and what it decides by chance comes from a generator seeded by
the row's identity, so that a row alone equals that row in a batch. The loop's last step commits all that is open.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from diffusers import BlockRefinementScheduler, DiscreteDDIMScheduler, EntropyBoundScheduler, SchedulerMixin
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.build import plain
from hybrid.diffusion import noise as streams
from hybrid.diffusion.corruption import Corruption
from hybrid.diffusion.guidance import Denoiser, pack
from hybrid.diffusion.policy import Policy
from hybrid.diffusion.proposal import Proposal
from hybrid.drafters import Drafter
from hybrid.drafters.diffusion import Diffusion
from hybrid.hub.scheduler import PolicyScheduler
from hybrid.records import Special

SETTINGS = ("temperature", "top_k", "top_p", "decode_window")


@dataclass(frozen=True)
class _Row:
    """One row's open window, as a scheduler is shown it: a block of n positions.

    at: where the block lies. taken, given: steps of the window, so far and in all. told: draws instead of sampling.
    """

    row: int
    at: Int[Tensor, "n"]
    tokens: Int[Tensor, "1 n"]
    sample: Int[Tensor, "1 n"]
    logits: Float[Tensor, "1 n k"]
    confidence: Float[Tensor, "1 n"]
    taken: int
    given: int
    generator: torch.Generator

    def ready(self, scheduler: Any, **options: Any) -> Any:
        """The scheduler, set up for this row's steps and told what was drawn."""
        scheduler.set_timesteps(self.given, device=self.at.device, **options)
        scheduler._sample_from_logits = self._drawn
        return scheduler

    def _drawn(self, logits: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return self.tokens, self.confidence


def _rows(proposal: Proposal) -> Iterator[_Row]:
    mine = proposal.is_open | proposal.is_committed
    asked = torch.zeros(*mine.shape, proposal.logits.shape[-1], dtype=proposal.logits.dtype, device=mine.device)
    logits = asked.masked_scatter(proposal.where[..., None], proposal.logits)
    seeds = (proposal.noise.uniform(streams.CHOOSE, proposal.step)[:, 0] * 2.0**53).long().tolist()
    for row, seed in enumerate(seeds):
        at = mine[row].nonzero()[:, 0]
        if len(at) == 0:
            continue
        tokens, sample, own, confidence = (
            x[row, at][None] for x in (proposal.tokens, proposal.z, logits, proposal.confidence)
        )
        generator = torch.Generator(mine.device).manual_seed(seed)
        taken, given = int(proposal.taken[row]), int(proposal.given[row])
        yield _Row(row, at, tokens, sample, own, confidence, taken, given, generator)


def _gathered(proposal: Proposal, decide: Callable[[_Row], Bool[Tensor, "1 n"]]) -> Bool[Tensor, "b l"]:
    """What is decided of each row's block, at its place on the canvas."""
    found = torch.zeros_like(proposal.is_open)
    for row in _rows(proposal):
        found[row.row, row.at] = decide(row)[0]
    return found


@dataclass(frozen=True)
class BlockRefinement(Policy):
    """`BlockRefinementScheduler`: all positions above `threshold`, or else the step's share of the block; committed
    tokens are edited above `editing_threshold` where it is given. Its share is that of the whole block, ours that of
    what is left open: as `threshold` and `edit`, the two differ once a step has committed more than its share.
    """

    always_commits: ClassVar[bool] = False

    threshold: float = 0.95
    editing_threshold: float | None = None

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ValueError(f"threshold={self.threshold}: must be above 0; above 1 it is out of reach")
        if self.editing_threshold is not None and not self.editing_threshold > 0:
            raise ValueError(f"editing_threshold={self.editing_threshold}: must be above 0, or null for no editing")

    @property
    def rereads(self) -> bool:  # type: ignore[override]
        return self.editing_threshold is not None

    def keep(self, proposal: Proposal) -> Bool[Tensor, "b l"]:
        mask_id = proposal.alphabet.mask_id

        def decide(row: _Row) -> Bool[Tensor, "1 n"]:
            scheduler = row.ready(BlockRefinementScheduler(), block_length=len(row.at))
            said = scheduler.step(
                row.logits, row.taken, row.sample, mask_token_id=mask_id, threshold=self.threshold,
                editing_threshold=self.editing_threshold,
            )  # fmt: skip
            return said.transfer_index | said.editing_transfer_index

        return _gathered(proposal, decide)

    def refusal(self, corruption: Corruption) -> str | None:
        return (
            None if corruption.marks_noise else "it fills masks; use hybrid.hub.policies.EntropyBound or DiscreteDDIM"
        )


@dataclass(frozen=True)
class _Uniform(Policy):
    """For uniform corruption only: every position stays in question until the last step."""

    always_commits: ClassVar[bool] = False
    settles: ClassVar[bool] = False

    def refusal(self, corruption: Corruption) -> str | None:
        if not corruption.marks_noise:
            return None
        return "it redraws what it does not keep, where masks belong; use hybrid.hub.policies.BlockRefinement"


@dataclass(frozen=True)
class EntropyBound(_Uniform):
    """`EntropyBoundScheduler`: at every step the positions of least entropy whose entropies sum, but for the largest,
    to at most `entropy_bound` nats keep their token, and all others become noise afresh.

    t_max, t_min: the prediction is sharpened by a temperature that falls evenly from the first to the last; draw at
    temperature 1 to draw from just that.
    """

    entropy_bound: float = 0.1
    t_max: float = 0.8
    t_min: float = 0.4

    def __post_init__(self) -> None:
        if not self.entropy_bound >= 0:
            raise ValueError(f"entropy_bound={self.entropy_bound}: must be 0 nats or more")
        if not 0 < self.t_min <= self.t_max:
            raise ValueError(f"t_max={self.t_max}, t_min={self.t_min}: the temperature falls, and never to 0")

    def wrapped(self, denoise: Denoiser) -> Denoiser:
        return Sharpened(denoise, self.t_max, self.t_min)

    def keep(self, proposal: Proposal) -> Bool[Tensor, "b l"]:
        def decide(row: _Row) -> Bool[Tensor, "1 n"]:
            scheduler = row.ready(EntropyBoundScheduler(self.entropy_bound, t_max=1.0, t_min=1.0))
            return scheduler.step(row.logits, row.taken, row.sample, generator=row.generator).accepted_index

        return _gathered(proposal, decide) & proposal.is_open

    def reopen(self, proposal: Proposal, keep: Bool[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        return proposal.is_open & ~keep


@dataclass(frozen=True)
class Sharpened(Denoiser):
    """Predictions at temperature t_min + (t_max - t_min) t: the even fall of `EntropyBoundScheduler`, whose first step
    is at t = 1 and whose last is one step short of 0."""

    inner: Denoiser
    t_max: float
    t_min: float

    def logits(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "n k"]:
        logits = self.inner.logits(z, t, where)
        temperature = (self.t_min + (self.t_max - self.t_min) * t).to(logits.dtype)
        return logits / pack(temperature[:, None].expand(z.shape), where, len(logits))[:, None]

    def select(self, rows: Int[Tensor, "r"]) -> "Sharpened":
        return Sharpened(self.inner.select(rows), self.t_max, self.t_min)


@dataclass(frozen=True)
class DiscreteDDIM(_Uniform):
    """`DiscreteDDIMScheduler`: the reverse process of uniform corruption on the linear schedule, as our `ancestral`.

    Its corrector asks the network again within a step, which a policy does not: see `predictor_corrector`.
    """

    by_chance: ClassVar[bool] = True

    def keep(self, proposal: Proposal) -> Bool[Tensor, "b l"]:
        return self._went(proposal, lambda now, row: now == row.tokens)

    def reopen(self, proposal: Proposal, keep: Bool[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        return self._went(proposal, lambda now, row: now < proposal.alphabet.k) & ~keep

    def _went(self, proposal: Proposal, route: Callable[[Tensor, _Row], Bool[Tensor, "1 n"]]) -> Bool[Tensor, "b l"]:
        """Positions that took a route. Tokens are shown to the scheduler as ids beyond its alphabet, from which it
        draws noise: so what comes back tells whether it is the drawn token, the standing one, or noise."""
        k = proposal.alphabet.k

        def decide(row: _Row) -> Bool[Tensor, "1 n"]:
            row = replace(row, tokens=row.tokens + k, sample=row.sample + k)
            scheduler = row.ready(DiscreteDDIMScheduler())
            only_k = row.logits[..., :1].expand(-1, -1, k)
            return route(scheduler.step(only_k, row.taken, row.sample, generator=row.generator).prev_sample, row)

        return _gathered(proposal, decide) & proposal.is_open


def settings_of(scheduler: SchedulerMixin) -> dict[str, Any]:
    """What a scheduler says of a diffusion drafter: its policy, and of ours how it draws.

    Raises:
        ValueError: a scheduler that denoises no tokens, or has a corrector.
    """
    config: Any = scheduler.config
    if isinstance(scheduler, PolicyScheduler):
        return {"policy": scheduler.policy} | {name: config[name] for name in SETTINGS}
    if isinstance(scheduler, BlockRefinementScheduler):
        return {"policy": BlockRefinement(config.threshold, config.editing_threshold or None)}
    if isinstance(scheduler, EntropyBoundScheduler):
        return {"policy": EntropyBound(config.entropy_bound, config.t_max, config.t_min)}
    if isinstance(scheduler, DiscreteDDIMScheduler):
        if config.corrector_steps:
            raise ValueError(
                f"corrector_steps={config.corrector_steps}: its sweeps ask the network within a step; only 0 is "
                "supported, and policy: predictor_corrector corrects"
            )
        return {"policy": DiscreteDDIM()}
    known = "PolicyScheduler, BlockRefinementScheduler, EntropyBoundScheduler and DiscreteDDIMScheduler"
    raise ValueError(f"{type(scheduler).__name__} denoises no tokens; known: {known}")


def scheduler_of(drafter: Drafter, special: Special) -> PolicyScheduler | None:
    """The scheduler that does what a diffusion drafter's policy does; None for other drafters."""
    if not isinstance(drafter, Diffusion):
        return None
    parts = {name: plain(getattr(drafter, name)) for name in ("policy", "corruption", "schedule")}
    return PolicyScheduler(
        **parts, **{name: getattr(drafter, name) for name in SETTINGS}, mask_token_id=special.mask,
        banned_token_ids=list(special.never_drafted),
    )  # fmt: skip
