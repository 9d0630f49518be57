"""Our policies as a scheduler of diffusers: `set_timesteps`, then `step` after `step`, saved and loaded by its library.

scheduler = PolicyScheduler("threshold", mask_token_id=5)
scheduler.set_timesteps(8)
for t in scheduler.timesteps:
    canvas = scheduler.step(model(canvas).logits, t, canvas).prev_sample
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.build import build
from hybrid.diffusion.corruption import Alphabet, Corruption
from hybrid.diffusion.draft import State, check_policy, draft
from hybrid.diffusion.guidance import Banned, Denoiser
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Policy
from hybrid.diffusion.sampling import Sampling
from hybrid.diffusion.schedule import NoiseSchedule


@dataclass
class PolicySchedulerOutput(BaseOutput):
    """prev_sample: the canvas after the step. transfer_index, renoised_index: positions that took a token, and that
    returned to noise. sampled_probs: the probability each committed token had when drawn, 0 where there is none.
    pred_logits: those that were given.
    """

    prev_sample: Int[Tensor, "b l"]
    transfer_index: Bool[Tensor, "b l"]
    renoised_index: Bool[Tensor, "b l"]
    sampled_probs: Float[Tensor, "b l"]
    pred_logits: Float[Tensor, "b l k"]


@dataclass(frozen=True)
class _Told(Denoiser):
    """Predictions that somebody else makes for the whole batch: what the box holds. rows: those that still ask."""

    box: list[Float[Tensor, "_ l k"]]
    rows: Int[Tensor, "b"]

    def __call__(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"]) -> Float[Tensor, "b l k"]:
        return self.box[0][self.rows]

    def select(self, rows: Int[Tensor, "r"]) -> "_Told":
        return _Told(self.box, self.rows[rows])


class PolicyScheduler(SchedulerMixin, ConfigMixin):
    """Drafts by a policy of this package in a loop of somebody else's.

    What steps is the drafting loop itself, waiting for logits. So a draft has a state: step 0 begins one, steps come
    in order, and each takes the canvas that the one before gave.

    policy, corruption, schedule: a kind, or a section with its fields. temperature, top_k, top_p, decode_window: see
        `hybrid.diffusion.draft`.
    mask_token_id: null where there is none, under uniform corruption. banned_token_ids: never drafted, as the mask.

    Raises:
        ValueError: an unknown kind or field, or parts that make no sense together.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        policy: str | dict[str, Any] = "confidence",
        mask_token_id: int | None = None,
        banned_token_ids: Sequence[int] = (),
        corruption: str | dict[str, Any] = "absorbing",
        schedule: str | dict[str, Any] = "linear",
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        decode_window: int | None = None,
        num_inference_steps: int = 32,
    ) -> None:
        self.policy = build(Policy, policy, "policy")
        self.corruption = build(Corruption, corruption, "corruption")
        self.schedule = build(NoiseSchedule, schedule, "schedule")
        self.sampling = Sampling(temperature, top_k, top_p)
        check_policy(self.policy, self.corruption)
        if self.corruption.marks_noise and mask_token_id is None:
            raise ValueError(
                "mask_token_id=None: absorbing corruption needs its mask; without one, corruption: uniform"
            )
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.arange(num_inference_steps)
        self._is_set, self._taken = False, 0
        self._states: Iterator[State] = iter(())
        self._state: State | None = None
        self._told: list[Tensor] = []

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Drafts take so many steps in total; `timesteps` counts them from 0."""
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps={num_inference_steps}: must be 1 or more")
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.arange(num_inference_steps, device=device)
        self._is_set, self._taken, self._state = True, 0, None

    @torch.no_grad()
    def step(
        self,
        model_output: Float[Tensor, "b l k"],
        timestep: int | Int[Tensor, ""],
        sample: Int[Tensor, "b l"],
        *,
        generator: torch.Generator | None = None,
        keys: Int[Tensor, "b"] | None = None,
        return_dict: bool = True,
    ) -> PolicySchedulerOutput | tuple[Tensor, ...]:
        """One step. A row that has nothing left to decide stays as it is.

        generator: draws are a function of one number that the first step takes from it, and of keys, the rows'
        identities; default: 0, and their places.

        Raises:
            ValueError: no `set_timesteps` before it, a step out of turn, or a canvas that is not the last one given.
        """
        if not self._is_set:
            raise ValueError("step before set_timesteps(num_inference_steps), without which a draft has no length")
        at, steps = int(timestep), self.num_inference_steps
        if at == 0:
            self._taken, self._told = 0, []
            self._states = self._begin(model_output, sample, generator, keys)
            self._state = next(self._states)
        if self._state is None or at != self._taken or at >= steps:
            raise ValueError(f"timestep={at}: after {self._taken} of {steps} steps, which are taken in order from 0")
        if not torch.equal(sample, self._state.z):
            raise ValueError(f"sample of timestep={at} is not the canvas that the step before gave back")
        self._told[:] = [model_output]
        nothing = torch.zeros_like(sample, dtype=torch.bool)
        still = State(at + 1, sample, nothing, self._state.confidence, nothing)
        self._state = now = next(self._states, still)
        self._taken = at + 1
        found = (now.z, now.is_new, now.is_reopened, now.confidence, model_output)
        return PolicySchedulerOutput(*found) if return_dict else found

    def _begin(
        self,
        model_output: Float[Tensor, "b l k"],
        sample: Int[Tensor, "b l"],
        generator: torch.Generator | None,
        keys: Int[Tensor, "b"] | None,
    ) -> Iterator[State]:
        rows, device, config = torch.arange(len(sample), device=sample.device), sample.device, self.config
        seed = 0 if generator is None else int(torch.randint(2**62, (), generator=generator, device=generator.device))
        size, mask_id, absent = model_output.shape[-1], config.mask_token_id, tuple(config.banned_token_ids)
        # Where there is no mask, it is a token beyond the vocabulary, which nothing draws.
        alphabet = Alphabet(size, size + 1, absent) if mask_id is None else Alphabet(mask_id, size, absent)
        told: Denoiser = self.corruption.posterior(_Told(self._told, rows), self.schedule, alphabet)
        return draft(
            Banned(told, tuple(token for token in alphabet.gone if token < size)), sample, self.policy,
            torch.full((len(sample),), self.num_inference_steps, device=device),
            Noise(seed, rows if keys is None else keys), corruption=self.corruption, schedule=self.schedule,
            alphabet=alphabet, decode_window=config.decode_window, temperature=self.sampling.temperature,
            top_k=self.sampling.top_k, top_p=self.sampling.top_p,
        )  # fmt: skip
