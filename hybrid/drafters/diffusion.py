"""The diffusion drafter: denoises the whole canvas in parallel."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hybrid.bridge import Tokens
from hybrid.diffusion import noise as streams
from hybrid.diffusion.bound import corrupt_by_counts
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.corruption import Absorbing, Corruption
from hybrid.diffusion.draft import draft
from hybrid.diffusion.guidance import Banned, Counted, Denoiser, Ended, Ending, Predict
from hybrid.diffusion.noise import Noise, sample
from hybrid.diffusion.policy import Confidence, Policy
from hybrid.diffusion.schedule import Linear, NoiseSchedule
from hybrid.drafters.drafter import Drafted, Drafter, Drafting, Plan, Request
from hybrid.kinds import register
from hybrid.nets.layout import Segment
from hybrid.nets.network import Memory, Network, prompt_segment
from hybrid.nets.pairing import Hidden
from hybrid.records import Batch, Special, Spent


def canvas_segment(z: Int[Tensor, "b l"], start: Int[Tensor, "b"], special: Special, name: str = "canvas") -> Segment:
    """The canvas: its opening marker and l tokens, bidirectional, after the prompt.

    Markers and positions are those of the clean sketch it will become.
    """
    tokens = F.pad(z, (1, 0), value=special.sketch)
    at = start[:, None] + torch.arange(tokens.shape[1], device=z.device)
    return Segment(name, tokens, torch.ones_like(tokens, dtype=torch.bool), at, is_causal=False, sees=("prompt",))


def canvas_logits(network: Network, hidden: Float[Tensor, "b l+1 d"], is_shifted: bool) -> Float[Tensor, "b l k"]:
    """Predictions of the l canvas tokens: each read at its own position, or, shifted, at the one before it."""
    return network.logits(hidden[:, :-1] if is_shifted else hidden[:, 1:])


@dataclass(frozen=True)
class CanvasDenoiser(Denoiser):
    """The network's prediction of a canvas, over the remembered prompt, which is encoded once."""

    network: Network
    memory: Memory
    special: Special
    is_shifted: bool

    def __call__(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"]) -> Float[Tensor, "b l k"]:
        hidden = self.network([canvas_segment(z, self.memory.next_position, self.special)], self.memory)
        return canvas_logits(self.network, hidden["canvas"], self.is_shifted)

    def select(self, rows: Int[Tensor, "r"]) -> "CanvasDenoiser":
        return dataclasses.replace(self, memory=self.memory.select(rows))


@register(Drafter, "diffusion")
@dataclass(frozen=True)
class Diffusion(Drafter):
    """Discrete diffusion over the canvas, conditioned on the prompt.

    corruption, schedule: the forward process. policy, temperature: defaults of a call; a call may name others.
    times: "counts" masks exactly n of l positions, n uniform (bounded weight l / n); "continuous" masks each
        position at a stratified time t (weight from the schedule). Both estimate the same bound.
    train_weight: exponent on that weight in training. 1 is the bound; 0 weighs all masked tokens alike.
    copies: corruptions of each sketch per training step, which share one encoding of the prompt.
    shift: read the prediction of a token at the position before it, as autoregressive networks do
        (DiffuLLaMA, arXiv 2410.17891; Dream, arXiv 2508.15487).
    anneal: steps of training over which a causal network learns to look ahead on the canvas: each later position is
        seen with probability step / anneal (DiffuLLaMA, section 3.3). Drafts and validation always look ahead.
    next_token: weight of a causal next-token loss on the clean sketch, in training only, beside the bound.
    """

    learns: ClassVar[bool] = True
    steps_matter: ClassVar[bool] = True

    corruption: Corruption = field(default_factory=Absorbing)
    schedule: NoiseSchedule = field(default_factory=Linear)
    policy: Policy = field(default_factory=Confidence)
    temperature: float = 0.0
    times: Literal["counts", "continuous"] = "counts"
    train_weight: float = 1.0
    copies: int = 1
    shift: bool = True
    anneal: int = 0
    next_token: float = 0.0

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise ValueError(f"copies={self.copies}: must be 1 or more")
        if self.anneal < 0:
            raise ValueError(f"anneal={self.anneal}: must be 0 (look ahead from the start) or a number of steps")
        if not 0 <= self.train_weight <= 1:
            raise ValueError(f"train_weight={self.train_weight}: must be between 0 (tokens alike) and 1 (the bound)")

    def plan(
        self, network: Network, batch: Batch, t: Float[Tensor, "b"], noise: Noise, special: Special
    ) -> Plan | None:
        prompt = prompt_segment(batch.prompts)
        start = batch.prompts.keep.sum(-1)
        x = batch.sketch
        segments, copies = [prompt], []
        for copy in range(self.copies):
            u = noise.uniform(streams.CORRUPT, copy, x.shape[1])
            at = 1 - (1 - t + copy / self.copies) % 1.0  # the copies cover the times evenly too, in (0, 1]
            if self.times == "counts":
                z, weight = corrupt_by_counts(x, at, u, special.mask)
            else:
                z, weight = self.corruption.corrupt(x, self.schedule.alpha(at), u, special.mask), None
            segments.append(self._annealed(canvas_segment(z, start, special, f"canvas{copy}"), noise, copy))
            copies.append((z, at, weight))
        if self.next_token:
            segments.append(dataclasses.replace(Tokens().segment(x, start, special), name="clean"))

        def cost(hidden: Hidden) -> Float[Tensor, "b"]:
            total = torch.zeros(len(x), device=x.device)
            for copy, (z, at, weight) in enumerate(copies):
                read = canvas_logits(network, hidden[f"canvas{copy}"], self.shift)
                logits = _ruled(Predict(lambda *_, read=read: read), special)(z, at)
                total = total + self._cost(logits, x, z, at, weight, special)
            total = total / self.copies
            if self.next_token:
                logits = network.logits(hidden["clean"][:, :-1]).float()
                nll = F.cross_entropy(logits.movedim(-1, 1), x, reduction="none")
                total = total + self.next_token * torch.where(x != special.pad, nll, 0.0).sum(-1)
            return total

        return Plan(segments, cost, (x != special.pad).sum(-1))

    def _cost(
        self,
        logits: Float[Tensor, "b l k"],
        x: Int[Tensor, "b l"],
        z: Int[Tensor, "b l"],
        t: Float[Tensor, "b"],
        weight: Float[Tensor, "b"] | None,
        special: Special,
    ) -> Float[Tensor, "b"]:
        if weight is None:
            cost = self.corruption.cost(logits, x, z, t, self.schedule, special.mask).sum(-1)
            weight = self.schedule.weight(t)
        else:
            nll = F.cross_entropy(logits.float().movedim(-1, 1), x, reduction="none")
            cost = weight.float() * torch.where(z == special.mask, nll, 0.0).sum(-1)
        return cost * (weight ** (self.train_weight - 1)).float()

    def _annealed(self, canvas: Segment, noise: Noise, copy: int) -> Segment:
        """The canvas as training sees it: at step `noise.epoch`, later positions are visible by share."""
        if noise.epoch >= self.anneal:
            return canvas
        n = canvas.tokens.shape[1]
        u = noise.uniform(streams.CORRUPT, self.copies + copy, n * n).unflatten(-1, (n, n))
        return dataclasses.replace(canvas, ahead=u < noise.epoch / self.anneal)

    def honest(self) -> "Diffusion":
        return dataclasses.replace(self, train_weight=1.0, next_token=0.0, anneal=0)

    @torch.no_grad()
    def one_step(
        self, network: Network, batch: Batch, rows: Int[Tensor, "r"], noise: Noise, special: Special
    ) -> Int[Tensor, "r l"]:
        some = batch.prompts.select(rows)
        length = batch.sketch.shape[1]
        z = torch.full((len(rows), length), special.mask, device=rows.device)
        hidden = network([prompt_segment(some), canvas_segment(z, some.keep.sum(-1), special)])
        read = canvas_logits(network, hidden["canvas"], self.shift)
        ruled = _ruled(Predict(lambda *_: read), special)
        tokens = sample(ruled(z, torch.ones(len(rows))), noise.select(rows).uniform(streams.DRAW, 0, length))
        over = _ending(special).is_over(tokens)
        return torch.where(over, special.pad, tokens)

    @torch.no_grad()
    def bind(self, network: Network, request: Request, spent: Spent) -> tuple[Denoiser, Memory]:
        """Encode the prompts once; the denoiser over them, ruled and counted, and their memory."""
        rows, width = request.prompts.tokens.shape
        again = width if network.rereads else 0  # such a network encodes no prompt once, but reads it at every step
        if not again:
            spent.charge("denoiser", positions=width, flops=network.flops(width, width))
        _, memory = network.remember([prompt_segment(request.prompts)])
        inner = CanvasDenoiser(network, memory.read_only(), request.special, self.shift)
        flops = network.flops(again + request.canvas + 1, width + request.canvas + 1)
        return _ruled(Counted(inner, spent, torch.arange(rows), flops, extra=again + 1), request.special), memory

    def draft(self, network: Network | None, request: Request, budget: Budget, noise: Noise, spent: Spent) -> Drafting:
        assert network is not None
        special = request.special
        denoise, memory = self.bind(network, request, spent)
        rows, device = len(request.prompts), request.prompts.tokens.device
        u = noise.uniform(streams.CORRUPT, 0, request.canvas)
        state = None
        for state in draft(
            denoise,
            self.corruption.pure_noise(rows, request.canvas, u, special.mask),
            self.policy,
            budget.rows(rows, request.canvas, device),
            noise,
            corruption=self.corruption,
            schedule=self.schedule,
            mask_id=special.mask,
            temperature=self.temperature,
            close=_ending(special).close,
        ):
            yield state
        assert state is not None  # draft yields its first state before any step
        is_blank = self.corruption.is_open(state.z, special.mask).all(-1, keepdim=True)
        return Drafted(torch.where(is_blank, special.pad, state.z), state.confidence, memory)


def _ending(special: Special) -> Ending:
    return Ending(special.end, special.pad, special.mask)


def _ruled(denoise: Denoiser, special: Special) -> Denoiser:
    """What never stands on a canvas is banned, and what must stand there is certain."""
    return Ended(Banned(denoise, special.never_drafted), _ending(special))
