"""The diffusion drafter: denoises the whole canvas in parallel."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.bridge import Tokens
from hybrid.diffusion import noise as streams
from hybrid.diffusion.bound import corrupt_by_counts, cost
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.corruption import Absorbing, Alphabet, Corruption
from hybrid.diffusion.draft import check_policy, draft, unchanged
from hybrid.diffusion.guidance import Banned, Counted, Denoiser, Ended, Ending, Guided, Known, pack, spread
from hybrid.diffusion.noise import Noise, sample
from hybrid.diffusion.policy import Confidence, Policy
from hybrid.diffusion.sampling import Sampling
from hybrid.diffusion.schedule import Linear, NoiseSchedule
from hybrid.diffusion.stop import Stop
from hybrid.drafters.anneal import annealed
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


def canvas_logits(
    network: Network, hidden: Float[Tensor, "b _ d"], where: Bool[Tensor, "b l"], is_shifted: bool
) -> Float[Tensor, "n k"]:
    """Predictions of canvas tokens: each read at its own position, or, shifted, at the one before it.

    The head runs at the positions of `where` alone.
    """
    return network.logits((hidden[:, :-1] if is_shifted else hidden[:, 1:])[where])


@dataclass(frozen=True)
class CanvasDenoiser(Denoiser):
    """The network's prediction of a canvas, over the remembered prompt, which is encoded once."""

    network: Network
    memory: Memory
    special: Special
    is_shifted: bool

    def logits(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "n k"]:
        if len(z) == 0:
            return self._nothing(z)
        hidden = self.network([canvas_segment(z, self.memory.next_position, self.special)], self.memory)
        return canvas_logits(self.network, hidden["canvas"], where, self.is_shifted)

    def _nothing(self, z: Int[Tensor, "0 l"]) -> Float[Tensor, "0 k"]:
        """Predictions for no row, which transformers refuse. Other ranks' collectives are kept company by a blank."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return torch.zeros(0, self.network.model.config.vocab_size, device=z.device)
        blank = z.new_full((1, z.shape[1]), self.special.mask)
        hidden = self.network([canvas_segment(blank, z.new_zeros(1), self.special)])
        nowhere = torch.zeros_like(blank, dtype=torch.bool)
        return canvas_logits(self.network, hidden["canvas"], nowhere, self.is_shifted)

    def select(self, rows: Int[Tensor, "r"]) -> "CanvasDenoiser":
        return dataclasses.replace(self, memory=self.memory.select(rows))


@register(Drafter, "diffusion")
@dataclass(frozen=True)
class Diffusion(Drafter):
    """Discrete diffusion over the canvas, conditioned on the prompt.

    corruption, schedule: the forward process. Under uniform corruption pads are ordinary tokens, the bound
        supervises all of the canvas, and times are continuous.
    policy, temperature, top_k, top_p, decode_window, stop: defaults of a call (see `draft`); a call may name others.
    guidance: scale of classifier-free guidance on the prompt; 0 is none. It asks the network twice a step: with the
        prompt, and with a prompt that is absent, which means that its positions are kept free and nobody sees them.
    times: "counts" masks exactly n of l positions, n uniform (bounded weight l / n); "continuous" masks each
        position at a stratified time t (weight from the schedule). Both estimate the same bound.
    train_weight: exponent on that weight in training. 1 is the bound; 0 weighs all masked tokens alike.
    copies: corruptions of each sketch per training step, which share one encoding of the prompt.
    shift: read the prediction of a token at the position before it, as autoregressive networks do
        (DiffuLLaMA, arXiv 2410.17891; Dream, arXiv 2508.15487).
    anneal: steps of training over which a causal network learns to look ahead; drafts and validation always do.
    next_token: weight of a causal next-token loss on the clean sketch, in training only, beside the bound.
    """

    learns: ClassVar[bool] = True
    steps_matter: ClassVar[bool] = True

    corruption: Corruption = field(default_factory=Absorbing)
    schedule: NoiseSchedule = field(default_factory=Linear)
    policy: Policy = field(default_factory=Confidence)
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    decode_window: int | None = None
    stop: Stop | None = None
    guidance: float = 0.0
    times: Literal["counts", "continuous"] = "counts"
    train_weight: float = 1.0
    copies: int = 1
    shift: bool = True
    anneal: int = 0
    next_token: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("copies", 1), ("anneal", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be {least} or more")
        if not 0 <= self.train_weight <= 1:
            raise ValueError(f"train_weight={self.train_weight}: must be between 0 (tokens alike) and 1 (the bound)")
        if not 0 <= self.guidance < float("inf"):
            raise ValueError(f"guidance={self.guidance}: must be 0 (none) or more")
        if self.decode_window is not None and self.decode_window < 1:
            raise ValueError(f"decode_window={self.decode_window}: must be 1 or more, or null for the whole canvas")
        if not self.corruption.marks_noise:
            name = type(self.corruption).__name__
            if self.times == "counts":
                raise ValueError(f"times='counts' counts masks, and {name} corruption has none; use times: continuous")
            if self.train_weight != 1:
                raise ValueError(
                    f"train_weight={self.train_weight}: reweighs the masked tokens of absorbing corruption; the bound "
                    f"of {name} corruption has no such weight, so it must be 1"
                )
        Sampling(self.temperature, self.top_k, self.top_p)  # refuses what makes no sense
        check_policy(self.policy, self.corruption)

    @property
    def forwards_before(self) -> int:
        return 1

    @property
    def forwards_per_step(self) -> int:
        return 2 if self.guidance else 1

    @property
    def draws(self) -> bool:
        return self.temperature > 0 or self.policy.by_chance or not self.corruption.marks_noise

    def plan(
        self, network: Network, batch: Batch, t: Float[Tensor, "b"], noise: Noise, special: Special
    ) -> Plan | None:
        prompt = prompt_segment(batch.prompts)
        start = batch.prompts.keep.sum(-1)
        x = batch.sketch
        alphabet = _alphabet(network, special)
        segments, copies = [prompt], []
        for copy in range(self.copies):
            u = noise.uniform(streams.CORRUPT, copy, x.shape[1])
            at = 1 - (1 - t + copy / self.copies) % 1.0  # the copies cover the times evenly too, in (0, 1]
            if self.times == "counts":
                z, weight = corrupt_by_counts(x, at, u, special.mask)
            else:
                z, weight = self.corruption.corrupt(x, self.schedule.alpha(at), u, alphabet), None
            segments.append(annealed(canvas_segment(z, start, special, f"canvas{copy}"), self.anneal, noise, copy))
            copies.append((z, at, weight))
        if self.next_token:
            segments.append(dataclasses.replace(Tokens().segment(x, start, special), name="clean"))

        def total_cost(hidden: Hidden) -> Float[Tensor, "b"]:
            total = torch.zeros(len(x), device=x.device)
            for copy, (z, at, weight) in enumerate(copies):
                where = self.corruption.is_supervised(z, alphabet)
                known = Known(canvas_logits(network, hidden[f"canvas{copy}"], where, self.shift))
                logits = self._ruled(known, special, alphabet).logits(z, at, where)
                total = total + self._cost(logits, x, z, at, where, weight, alphabet)
            total = total / self.copies
            if self.next_token:
                logits = network.logits(hidden["clean"][:, :-1]).float()
                nll = F.cross_entropy(logits.movedim(-1, 1), x, reduction="none")
                total = total + self.next_token * torch.where(x != special.pad, nll, 0.0).sum(-1)
            return total

        is_counted = (x != special.pad) if self.corruption.marks_noise else torch.ones_like(x, dtype=torch.bool)
        return Plan(segments, total_cost, is_counted.sum(-1))

    def _cost(
        self,
        logits: Float[Tensor, "n k"],
        x: Int[Tensor, "b l"],
        z: Int[Tensor, "b l"],
        t: Float[Tensor, "b"],
        where: Bool[Tensor, "b l"],
        weight: Float[Tensor, "b"] | None,
        alphabet: Alphabet,
    ) -> Float[Tensor, "b"]:
        if weight is None:
            total = cost(logits, x, z, t, where, self.corruption, self.schedule, alphabet)
            weight = self.schedule.weight(t)
        else:
            nll = F.cross_entropy(logits.float(), pack(x, where, len(logits)), reduction="none")
            total = weight.float() * spread(nll, where, 0.0).sum(-1)
        return total if self.train_weight == 1 else total * (weight ** (self.train_weight - 1)).float()

    def least_steps(self, canvas: int) -> int:
        """One for each window."""
        return 1 if self.decode_window is None else -(-canvas // self.decode_window)

    def honest(self) -> "Diffusion":
        return dataclasses.replace(self, train_weight=1.0, next_token=0.0, anneal=0)

    @torch.no_grad()
    def one_step(
        self, network: Network, batch: Batch, rows: Int[Tensor, "r"], noise: Noise, special: Special
    ) -> Int[Tensor, "r l"]:
        some, noise = batch.prompts.select(rows), noise.select(rows)
        length = batch.sketch.shape[1]
        alphabet = _alphabet(network, special)
        z = self.corruption.noise(noise.uniform(streams.RENOISE, 0, length), alphabet)
        hidden = network([prompt_segment(some), canvas_segment(z, some.keep.sum(-1), special)])
        read = canvas_logits(network, hidden["canvas"], torch.ones_like(z, dtype=torch.bool), self.shift)
        ruled = self._ruled(Known(read), special, alphabet)
        tokens = sample(ruled(z, torch.ones(len(rows), device=z.device)), noise.uniform(streams.DRAW, 0, length))
        over = _ending(special).is_over(tokens)
        return torch.where(over, special.pad, tokens)

    @torch.no_grad()
    def bind(self, network: Network, request: Request, spent: Spent) -> tuple[Denoiser, Memory]:
        """Encode the prompts once; the denoiser over them, ruled and counted, and their memory."""
        rows, width = request.prompts.tokens.shape
        again = width if network.rereads else 0  # such a network reads the prompt at every step instead
        if not again:
            spent.charge("denoiser", positions=width, flops=network.flops(width, width))
        memory = network.remember([prompt_segment(request.prompts)])[1]
        flops = network.flops(again + request.canvas + 1, width + request.canvas + 1)

        def counted(memory: Memory) -> Denoiser:
            inner = CanvasDenoiser(network, memory, request.special, self.shift)
            return Counted(inner, spent, torch.arange(rows), flops, extra=again + 1)

        denoise = counted(memory.read_only())
        if self.guidance:
            denoise = Guided(denoise, counted(memory.read_only().forgotten()), self.guidance)
        return self._ruled(denoise, request.special, _alphabet(network, request.special)), memory

    def draft(self, network: Network | None, request: Request, budget: Budget, noise: Noise, spent: Spent) -> Drafting:
        assert network is not None
        special = request.special
        denoise, memory = self.bind(network, request, spent)
        alphabet = _alphabet(network, special)
        rows, device = len(request.prompts), request.prompts.tokens.device
        steps = budget.rows(rows, request.canvas, device)
        z = self.corruption.noise(noise.uniform(streams.RENOISE, 0, request.canvas), alphabet)
        is_free = None
        if request.room is not None:
            is_free = torch.arange(request.canvas, device=device) < request.room[:, None]
            z = torch.where(is_free, z, special.pad)
        state = None
        for state in draft(
            denoise,
            z,
            self.policy,
            steps,
            noise,
            corruption=self.corruption,
            schedule=self.schedule,
            alphabet=alphabet,
            decode_window=self.decode_window,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            stop=self.stop,
            is_free=is_free,
            pace=request.pace,
            close=_ending(special).close if self.corruption.marks_noise else unchanged,
        ):
            yield state
        assert state is not None  # draft yields its first state before any step
        is_blank = (steps == 0) | (state.step == 0)
        return Drafted(torch.where(is_blank[:, None], special.pad, state.z), state.confidence, memory)

    def _ruled(self, denoise: Denoiser, special: Special, alphabet: Alphabet) -> Denoiser:
        """Read as a posterior; what never stands on a canvas is banned, and what must stand there is certain.

        The last rests on text being certain, so it holds only where noise is marked.
        """
        banned = Banned(self.corruption.posterior(denoise, self.schedule, alphabet), special.never_drafted)
        return Ended(banned, _ending(special)) if self.corruption.marks_noise else banned


def _ending(special: Special) -> Ending:
    return Ending(special.end, special.pad, special.mask)


def _alphabet(network: Network, special: Special) -> Alphabet:
    return Alphabet(special.mask, network.config.vocab_size, special.never_drafted)
