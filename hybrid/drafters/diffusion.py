"""The diffusion drafter: denoises the canvas in parallel, as a whole or block by block."""

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.bridge import Tokens
from hybrid.diffusion import noise as streams
from hybrid.diffusion.blocks import Blocks
from hybrid.diffusion.bound import corrupt_by_counts, cost, masked_cost
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.corruption import Absorbing, Alphabet, Corruption, check_marks
from hybrid.diffusion.draft import BrokenPrediction, State, check_policy, draft, unchanged
from hybrid.diffusion.guidance import Banned, Denoiser, Ended, Guided, Known
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Confidence, LeftToRight, Policy
from hybrid.diffusion.sampling import Sampling
from hybrid.diffusion.schedule import Linear, NoiseSchedule
from hybrid.diffusion.stop import Stop
from hybrid.diffusion.windows import check_windows
from hybrid.drafters.anneal import annealed, check_anneal
from hybrid.drafters.canvas import Canvas, CanvasDenoiser, Prefix, alphabet_of, check_blocks, ending
from hybrid.drafters.causal import check_verify, verified
from hybrid.drafters.drafter import Drafted, Drafter, Drafting, Plan, Request, finish
from hybrid.drafters.self_condition import Carried, check_self_condition, conditioned
from hybrid.kinds import register
from hybrid.nets.network import Network, prompt_segment
from hybrid.nets.pairing import Hidden
from hybrid.records import Batch, Special, Spent


@register(Drafter, "diffusion")
@dataclass(frozen=True)
class Diffusion(Drafter):
    """Discrete diffusion over the canvas, conditioned on the prompt. A canvas with room for the answer is one canvas:
    the bound is over both parts, each of which ends by itself, and the policy decides over all that is open.

    corruption, schedule: the forward process. Under uniform corruption pads are ordinary tokens, the bound
        supervises all of the canvas, and times are continuous.
    attention_block: positions of a block, a property of the model. A block attends to itself in both directions and
        to the clean text before it, and is drafted to its end before the next (BD3-LM, arXiv 2503.09573; semi-
        autoregressive). Null: the whole canvas, which is plain masked diffusion. 1: an autoregressive model. At
        least one step goes to each block.
    policy, temperature, top_k, top_p, decode_window, stop: defaults of a call (see `draft`); a call may name others.
    guidance: scale of classifier-free guidance on the prompt; 0 is none. It asks the network twice a step: with the
        prompt, and with a prompt that is absent, which means that its positions are kept free and nobody sees them.
    times: "counts" masks exactly n of l positions, n uniform (bounded weight l / n); "continuous" masks each
        position at a stratified time t (weight from the schedule). Both estimate the same bound.
    train_weight: exponent on that weight in training. 1 is the bound; 0 weighs all masked tokens alike.
    focal: exponent on 1 - p of a masked token's cost in training, so that what is known counts less. 0 is the bound; 2
        is usual (MGDM, arXiv 2410.14157).
    copies: corruptions of each sketch per training step, which share one encoding of the prompt.
    shift: read the prediction of a token at the position before it, as autoregressive networks do
        (DiffuLLaMA, arXiv 2410.17891; Dream, arXiv 2508.15487).
    anneal: steps of training over which a causal network learns to look ahead; drafts and validation always do.
    next_token: weight of a causal next-token loss on the clean sketch, in training only, beside the bound. It reads
        a row of its own, since within a block the clean text of block diffusion sees what follows.
    self_condition: share of training rows whose masks also carry what a first forward over the same canvas predicted
        there (Analog Bits, arXiv 2208.04202, where it is 0.5); drafts carry what their last step predicted, at no
        forward more, and the bound that validation tells is that of the second forward. 0: masks are masks. At 1 nobody
        would learn a draft's first step, which carries nothing.
    verify: forwards that verify the draft at most; a default of a call. The network reads it from left to right and
        keeps what it would have written itself, as it has learnt by next_token (see `causal.verified`).
    """

    learns: ClassVar[bool] = True
    steps_matter: ClassVar[bool] = True
    proposes: ClassVar[bool] = True

    corruption: Corruption = field(default_factory=Absorbing)
    schedule: NoiseSchedule = field(default_factory=Linear)
    attention_block: int | None = None
    policy: Policy = field(default_factory=Confidence)
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    decode_window: int | None = None
    stop: Stop | None = None
    guidance: float = 0.0
    times: Literal["counts", "continuous"] = "counts"
    train_weight: float = 1.0
    focal: float = 0.0
    copies: int = 1
    shift: bool = True
    anneal: int = 0
    next_token: float = 0.0
    self_condition: float = 0.0
    verify: int = 0

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise ValueError(f"copies={self.copies}: must be 1 or more")
        check_anneal(self.anneal, self.attention_block)
        check_verify(self.verify, self.next_token)
        if not 0 <= self.train_weight <= 1:
            raise ValueError(f"train_weight={self.train_weight}: must be between 0 (tokens alike) and 1 (the bound)")
        if self.focal and not 1 <= self.focal < float("inf"):
            raise ValueError(f"focal={self.focal}: must be 0 (the bound), or 1 or more")
        if not 0 <= self.guidance < float("inf"):
            raise ValueError(f"guidance={self.guidance}: must be 0 (none) or more")
        if self.decode_window is not None and self.decode_window < 1:
            raise ValueError(f"decode_window={self.decode_window}: must be 1 or more, or null for the whole canvas")
        check_blocks(self.attention_block, self.decode_window, self.next_token)
        check_self_condition(self.self_condition, self.attention_block, self.shift, self.corruption)
        check_marks(self.corruption, self.times, train_weight=(self.train_weight, 1), focal=(self.focal, 0))
        Sampling(self.temperature, self.top_k, self.top_p)  # refuses what makes no sense
        check_policy(self.policy, self.corruption)

    @property
    def forwards_besides(self) -> int:
        return self.verify  # the prompt is read in the first step

    @property
    def forwards_per_step(self) -> int:
        return 2 if self.guidance else 1

    @property
    def draws(self) -> bool:
        return self.temperature > 0 or self.policy.by_chance or not self.corruption.marks_noise

    @property
    def supervises_pads(self) -> bool:
        return not self.corruption.marks_noise

    def _canvas(self, length: int, special: Special) -> Canvas:
        return Canvas(Blocks(length, min(self.attention_block or length, length)), self.shift, special)

    def plan(
        self, network: Network, batch: Batch, t: Float[Tensor, "b"], noise: Noise, special: Special
    ) -> Plan | None:
        start, x = batch.prompts.keep.sum(-1), batch.canvas(special.pad)
        alphabet = alphabet_of(network, special)
        canvas = self._canvas(x.shape[1], special)
        blocks = canvas.blocks
        clean, is_own = blocks.rows(x), blocks.is_own(len(x), x.device)
        segments, copies = [prompt_segment(batch.prompts), *canvas.past(x, start)], []
        for copy in range(self.copies):
            u = blocks.rows(noise.uniform(streams.CORRUPT, copy, x.shape[1]))
            at = blocks.times(t, copy, self.copies)
            if self.times == "counts":
                z, weight = corrupt_by_counts(clean, at, u, special.mask, is_own)
            else:
                z, weight = self.corruption.corrupt(clean, self.schedule.alpha(at), u, alphabet), None
            segment = canvas.noisy(blocks.joined(z), x, start, f"canvas{copy}")
            segments.append(annealed(segment, self.anneal, noise, copy))
            known = blocks.known(clean, z, special.mask)
            copies.append((known, at, weight, is_own & self.corruption.is_supervised(known, alphabet)))
        masks, read = [blocks.joined(where) for *_, where in copies], partial(canvas.logits, network)
        segments, more = conditioned(network, read, segments, masks, start, self.self_condition, noise, special.mask)
        if self.next_token:
            segments.append(dataclasses.replace(Tokens().segment(batch.sketch, start, special), name="clean"))

        def total_cost(hidden: Hidden) -> Float[Tensor, "b"]:
            total = torch.zeros(len(x), device=x.device)
            for copy, (z, at, weight, where) in enumerate(copies):
                known = Known(canvas.logits(network, hidden[f"canvas{copy}"], blocks.joined(where)))
                logits = self._ruled(known, special, alphabet, batch.parts).logits(z, at, where)
                total = total + blocks.summed(self._cost(logits, clean, z, at, where, weight, alphabet))
            total = total / self.copies
            if self.next_token:
                logits = network.logits(hidden["clean"][:, :-1]).float()
                nll = F.cross_entropy(logits.movedim(-1, 1), batch.sketch, reduction="none")
                total = total + self.next_token * torch.where(batch.sketch != special.pad, nll, 0.0).sum(-1)
            return total

        return Plan(segments, total_cost, ((x != special.pad) | self.supervises_pads).sum(-1), more)

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
        if not self.corruption.is_absorbing:
            return cost(logits, x, z, t, where, self.corruption, self.schedule, alphabet)
        weight = self.schedule.weight(t) if weight is None else weight
        return masked_cost(logits, x, where, weight**self.train_weight, self.focal)

    def least_steps(self, canvas: int) -> int:
        """One for each window, or block."""
        return -(-canvas // (self.decode_window or self.attention_block or canvas))

    def honest(self) -> "Diffusion":
        share = float(self.self_condition > 0)  # as all steps of a draft but its first
        return dataclasses.replace(
            self, train_weight=1.0, focal=0.0, next_token=0.0, anneal=0, verify=0, self_condition=share
        )

    @torch.no_grad()
    def one_step(
        self,
        network: Network,
        batch: Batch,
        rows: Int[Tensor, "r"],
        noise: Noise,
        special: Special,
        spent: Spent | None = None,
    ) -> Int[Tensor, "r l"]:
        """Drawn at temperature 1 from the prediction of pure noise, block after block."""
        some, noise = batch.prompts.select(rows), noise.select(rows)
        request = Request(some, batch.sketch.shape[1], special, answer_room=batch.answer_room)
        plain = dataclasses.replace(
            self, policy=LeftToRight(), decode_window=None, temperature=1.0, top_k=None, top_p=None, stop=None,
            guidance=0.0, verify=0, self_condition=0.0,
        )  # fmt: skip
        steps, spent, made = plain.least_steps(request.length), spent or Spent.nothing(len(rows)), 0

        def count(state: State) -> None:
            nonlocal made
            made = state.step

        sketch = batch.sketch[rows]
        try:
            if len(rows):
                drafted = finish(plain.draft(network, request, Budget(steps), noise, spent), count)
                sketch = ending(special).read(drafted.sketch)
        except BrokenPrediction:  # the step's own losses say so, with all that it takes to compute them again
            sketch, made = torch.full_like(sketch, special.mask), made + 1
        for _ in range(steps - made):  # where rows end early, or there are none: other ranks' calls must meet ours
            nobody, _ = plain.bind(network, request.select(rows[:0]), spent)
            nobody(batch.canvas(special.pad)[:0], torch.zeros(0, device=rows.device))
        return sketch

    def bind(self, network: Network, request: Request, spent: Spent) -> tuple[Denoiser, Prefix]:
        """The denoiser over the prompts, ruled and counted; and the prompts, which its first forward will read."""
        prompts = request.prompts
        prefix, start = Prefix(network, prompts, spent), prompts.keep.sum(-1)
        canvas, everyone = self._canvas(request.length, request.special), torch.arange(len(prompts))
        carried = Carried() if self.self_condition else None
        given = CanvasDenoiser(
            canvas, network, spent, everyone, start, prefix, torch.zeros_like(start), None, carried, self.policy.reopens
        )
        denoise: Denoiser = Guided(given, given.unprompted(), self.guidance) if self.guidance else given
        return self._ruled(denoise, request.special, alphabet_of(network, request.special), request.parts), prefix

    @torch.no_grad()
    def draft(self, network: Network | None, request: Request, budget: Budget, noise: Noise, spent: Spent) -> Drafting:
        assert network is not None
        special, length = request.special, request.length
        denoise, prefix = self.bind(network, request, spent)
        alphabet = alphabet_of(network, special)
        steps = budget.rows(len(request.prompts), length, request.prompts.tokens.device)
        z = self.corruption.noise(noise.uniform(streams.RENOISE, 0, length), alphabet)
        room = torch.full_like(steps, length) if request.room is None else request.room
        at = torch.arange(length, device=steps.device)
        is_free = (at < room[:, None]) | (at >= request.canvas)
        self.check_steps(steps, is_free)
        z = torch.where(is_free, z, special.pad)
        state = None
        for state in draft(
            denoise, z, self.policy, steps, noise,
            corruption=self.corruption, schedule=self.schedule, alphabet=alphabet, is_free=is_free,
            decode_window=self.decode_window or self.attention_block,
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, stop=self.stop,
            close=ending(special, request.parts).close if self.corruption.marks_noise else unchanged,
            pace=request.pace, agree=request.agree,
        ):  # fmt: skip
            yield state
        assert state is not None  # draft yields its first state before any step
        is_blank = (steps == 0) | (state.step == 0)
        # Where time ran out before the first step, nobody has read the prompts, and whoever answers reads them anyway.
        memory = prefix.encoded() if state.step else None
        z, confidence = torch.where(is_blank[:, None], special.pad, state.z), state.confidence
        drafted = Drafted(z[:, : request.canvas], confidence[:, : request.canvas], memory)
        if request.answer_room:
            answer, sure = z[:, request.canvas :], confidence[:, request.canvas :]
            drafted = dataclasses.replace(drafted, answer=answer, answer_confidence=sure)
        if not self.verify or not state.step:
            return drafted
        sampling = Sampling(self.temperature, self.top_k, self.top_p)
        drafted = verified(network, request, drafted, self.verify, sampling, noise, spent)
        assert drafted.confidence is not None
        yield state.edited(drafted.sketch, drafted.confidence)
        return drafted

    def check_steps(self, steps: Int[Tensor, "b"], is_free: Bool[Tensor, "b l"]) -> None:
        """Refuse fewer steps than windows, or blocks, with something to draft."""
        name = "attention_block" if self.decode_window is None else "decode_window"
        check_windows(steps, is_free, getattr(self, name), name)

    def _ruled(self, denoise: Denoiser, special: Special, alphabet: Alphabet, parts: tuple[int, ...] = ()) -> Denoiser:
        """Read as a posterior; what never stands on a canvas is banned, and what must stand there is certain.

        The last rests on text being certain, so it holds only where noise is marked.
        """
        banned = Banned(self.corruption.posterior(denoise, self.schedule, alphabet), special.never_drafted)
        return Ended(banned, ending(special, parts)) if self.corruption.marks_noise else banned
