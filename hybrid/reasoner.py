"""The reasoner: a drafter and a decoder that answer together. Needs no trainer: use it in a notebook.

reasoner = Reasoner(Model(canvas=32), tokenizer)
losses = reasoner.losses(batch)                      # totals and counts, ready to backpropagate
results = reasoner.reason(["12*34"], Budget(steps=8))  # sketch, answer, and what was spent
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hybrid.bridge import Bridge, Latent, Tokens
from hybrid.diffusion import noise as streams
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.draft import State
from hybrid.diffusion.noise import Noise, low_discrepancy_times, uniform
from hybrid.drafters import Drafted, Drafter, Request, finish
from hybrid.drafters.abilities import check_abilities
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.drafters.controls import NoSketch
from hybrid.drafters.diffusion import Diffusion
from hybrid.feed import Feed, Fodder, Gold, Mixture, Nothing
from hybrid.nets.backbone import Backbone, Qwen3
from hybrid.nets.decode import write
from hybrid.nets.layout import Segment, running
from hybrid.nets.network import Memory, Network, prompt_segment
from hybrid.nets.pairing import Pairing
from hybrid.records import Batch, Prompts, Reasoned, Spent
from hybrid.tasks.collate import prompts as collate_prompts
from hybrid.tasks.tokenizer import Tokenizer


@dataclass(frozen=True)
class Model:
    """The config of a reasoner.

    pairing: shared: one trunk drafts and decodes. separate: two networks, each of its own backbone.
    backbone: the trunk, or the decoder's. drafter_backbone: the separate drafter's; null: like `backbone`.
    canvas: positions for the sketch and its end token. max_answer: answer tokens reserved in every call.
    sketch_weight, answer_weight: of the two means in the training loss.
    """

    pairing: Literal["shared", "separate"] = "shared"
    drafter: Drafter = field(default_factory=Diffusion)
    backbone: Backbone = field(default_factory=Qwen3)
    drafter_backbone: Backbone | None = None
    bridge: Bridge = field(default_factory=Tokens)
    feed: Feed = field(default_factory=Mixture)
    canvas: int = 32
    max_answer: int = 16
    sketch_weight: float = 1.0
    answer_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("canvas", "max_answer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more")
        if self.pairing == "shared" and self.drafter_backbone is not None:
            raise ValueError("drafter_backbone is for pairing: separate; a shared trunk is `backbone`")
        if self.pairing == "shared" and isinstance(self.drafter, Autoregressive) and not isinstance(self.feed, Gold):
            raise ValueError("an autoregressive drafter that shares its trunk trains on the gold sketch: feed: gold")

        if isinstance(self.bridge, Latent) and isinstance(self.drafter, Autoregressive):
            raise ValueError("bridge: latent reads a canvas that was denoised; an autoregressive drafter takes tokens")

    @property
    def method(self) -> str:
        """The name of this arrangement in every table."""
        if isinstance(self.drafter, Autoregressive):
            return "chain" if self.pairing == "shared" else "ar_drafter"
        if not self.drafter.learns:
            return "direct"
        return "latent" if isinstance(self.bridge, Latent) else "hybrid"


@dataclass(frozen=True)
class Losses:
    """Totals in nats and counts of supervised tokens, per row; means are taken by whoever sums over ranks.

    sketch: the drafter's cost (an upper bound on -log p(sketch | prompt) at train_weight 1). answer: -log p of
    the answer given prompt and fed sketch. positions: sent through networks for this, all rows together.
    """

    sketch: Float[Tensor, "b"]
    sketch_count: Int[Tensor, "b"]
    answer: Float[Tensor, "b"]
    answer_count: Int[Tensor, "b"]
    positions: int


class Reasoner(nn.Module):
    """Drafter, decoder, bridge and feed at work on one tokenizer's text."""

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config, self.tokenizer, self.special = model, tokenizer, tokenizer.special
        decoder = model.backbone.network(len(tokenizer))
        drafter: Network | None = None
        if model.drafter.learns:
            own = model.drafter_backbone or model.backbone
            drafter = decoder if model.pairing == "shared" else own.network(len(tokenizer))
        self.networks = Pairing(decoder, drafter)
        check_abilities(model.drafter, self.networks)
        self.bridge = model.bridge.module(self.networks)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def losses(
        self,
        batch: Batch,
        noise: Noise | None = None,
        t: Float[Tensor, "b"] | None = None,
        *,
        feed: Feed | None = None,
        drafter: Drafter | None = None,
    ) -> Losses:
        """Both costs of a batch, in one pass through the networks.

        noise: keyed by the examples; default: seed 0. t: diffusion times in (0, 1], stratified over the batch.
        feed: which sketch the decoder reads; drafter: with which costs; default: the model's own.
        """
        self._check_room(batch.prompts)
        noise = noise or Noise(0, batch.prompts.keys)
        if t is None:
            slots = torch.arange(len(batch), device=self.device)
            t = low_discrepancy_times(uniform(noise.seed, noise.epoch, streams.TIME), slots, len(batch))
        drafter, network = drafter or self.config.drafter, self.networks.drafter
        plan = None if network is None else drafter.plan(network, batch, t, noise, self.special)
        feed = feed or self.config.feed
        fed, extra = self._fed(batch, noise, feed)
        sketch, answer = self._decoding(batch, fed)
        if self.bridge is not None and not isinstance(feed, Nothing):
            sketch = self.bridge(self.networks, batch.prompts, sketch)
            extra += len(batch) * (batch.prompts.tokens.shape[1] + sketch.tokens.shape[1])
        drafting = [] if plan is None else plan.segments
        if plan is not None and self.networks.is_shared and any(s.name == "sketch" for s in drafting):
            sketch = next(s for s in drafting if s.name == "sketch")  # the chain reads what it writes
        decoding = [prompt_segment(batch.prompts), *([] if isinstance(feed, Nothing) else [sketch]), answer]
        drafted, decoded = self.networks(drafting, decoding)

        logits = self.networks.decoder.logits(decoded["answer"]).float()
        nll = F.cross_entropy(logits.movedim(-1, 1), batch.answer, reduction="none")
        nothing = torch.zeros(len(batch), device=nll.device)
        return Losses(
            sketch=nothing if plan is None else plan.cost(drafted),
            sketch_count=nothing.long() if plan is None else plan.count,
            answer=torch.where(batch.answer_keep, nll, 0.0).sum(-1),
            answer_count=batch.answer_keep.sum(-1),
            positions=extra + len(batch) * self._width(drafting, decoding),
        )

    def _check_room(self, prompts: Prompts) -> None:
        """Refuse prompts that leave no room for canvas and answer, and their markers, in the network's positions."""
        networks = [self.networks.decoder, *([self.networks.drafter] if self.networks.drafter is not None else [])]
        positions = min((n.room for n in networks if n.room is not None), default=None)
        room = (positions or 0) - self.config.canvas - self.config.max_answer - 2
        if positions is not None and prompts.tokens.shape[1] > room:
            raise ValueError(
                f"prompt of {prompts.tokens.shape[1]} tokens: at most {room} of the network's {positions} positions "
                f"are left beside canvas = {self.config.canvas} and max_answer = {self.config.max_answer}"
            )

    def loss(self, losses: Losses) -> Float[Tensor, ""]:
        """The training loss of one process's batch: the two means, weighted."""
        sketch = losses.sketch.sum() / losses.sketch_count.sum().clamp(min=1)
        answer = losses.answer.sum() / losses.answer_count.sum().clamp(min=1)
        return self.config.sketch_weight * sketch + self.config.answer_weight * answer

    def _width(self, drafting: list[Segment], decoding: list[Segment]) -> int:
        """Positions per row: a shared trunk runs a common segment once."""
        rows = (
            [{s.name: s for s in (*drafting, *decoding)}.values()] if self.networks.is_shared else [drafting, decoding]
        )
        return sum(s.tokens.shape[1] for row in rows for s in row)

    def _fed(self, batch: Batch, noise: Noise, feed: Feed) -> tuple[Int[Tensor, "b l"], int]:
        """The canvas each row's decoder reads, and the positions spent on drafting it."""
        spent = 0

        def one_step(rows: Int[Tensor, "r"]) -> Int[Tensor, "r l"]:
            nonlocal spent
            spent += len(rows) * (batch.prompts.tokens.shape[1] + batch.sketch.shape[1])
            assert self.networks.drafter is not None
            drafted = self.config.drafter.one_step(self.networks.drafter, batch, rows, noise, self.special)
            assert drafted is not None
            return drafted

        can_draft = self.config.drafter.steps_matter and self.networks.drafter is not None
        fodder = Fodder(batch.sketch, noise, self.special, len(self.tokenizer), one_step if can_draft else None)
        return feed.feed(fodder), spent

    def _decoding(self, batch: Batch, fed: Int[Tensor, "b l"]) -> tuple[Segment, Segment]:
        """Sketch and answer as the decoder reads them in training."""
        start = batch.prompts.keep.sum(-1)
        sketch = self.config.bridge.segment(fed, start, self.special)
        tokens = F.pad(batch.answer[:, :-1], (1, 0), value=self.special.answer)
        at = running(batch.answer_keep, start + sketch.keep.sum(-1))
        return sketch, Segment("answer", tokens, batch.answer_keep, at, is_causal=True, sees=("prompt", "sketch"))

    @torch.no_grad()
    def reason(
        self,
        prompts: Sequence[str] | Prompts,
        budget: Budget | None = None,
        *,
        drafter: Drafter | None = None,
        seed: int = 0,
        gold: Int[Tensor, "b l"] | None = None,
        other: Int[Tensor, "b l"] | None = None,
        watch: Callable[[State], None] | None = None,
    ) -> list[Reasoned]:
        """Draft a sketch within the budget, then answer. One result per prompt, in order.

        drafter: instead of the model's own: another policy or temperature, or a control (which may need `gold`
        or `other` sketches). seed: draws are a function of it and of each prompt. watch: sees every state.

        Raises:
            ValueError: an empty batch or prompt, unknown characters, a budget the policy cannot use.
        """
        began = time.perf_counter()
        budget = budget or Budget()
        if not isinstance(prompts, Prompts):
            prompts = collate_prompts(prompts, self.tokenizer)
        self._check_room(prompts)
        prompts = prompts.to(self.device)
        spent = Spent.nothing(len(prompts))
        drafter = NoSketch() if budget.is_nothing else drafter or self.config.drafter
        request = Request(prompts, self.config.canvas, self.special, gold, other)
        noise = Noise(seed, prompts.keys)
        drafted = finish(drafter.draft(self.networks.drafter, request, budget, noise, spent), watch)

        written = write(
            self.networks.decoder,
            *self._prefix(prompts, drafted, spent),
            self.config.max_answer,
            end_id=self.special.end,
            pad_id=self.special.pad,
            banned=self.special.never_written,
            spent=spent,
            part="decoder",
        )
        holes = (drafted.sketch == self.special.mask).any(-1)
        spent.sketch_tokens += (
            self.config.bridge.segment(drafted.sketch, prompts.keep.sum(-1), self.special).keep[:, 1:].sum(-1).cpu()
        )
        spent.answer_tokens += written.keep.sum(-1).cpu()
        spent.seconds = time.perf_counter() - began
        ended = (written.tokens == self.special.end).any(-1)
        allowed = budget.rows(len(prompts), self.config.canvas).tolist()
        return [
            Reasoned(
                sketch=self.tokenizer.decode(drafted.sketch[row].tolist()),
                answer=self.tokenizer.decode(written.tokens[row].tolist()),
                sketch_tokens=drafted.sketch[row].tolist(),
                answer_tokens=written.tokens[row].tolist(),
                allowed={"steps": allowed[row], "max_answer": self.config.max_answer},
                spent=_row(spent, row, len(prompts)),
                complete=bool(ended[row] & ~holes[row]),
            )
            for row in range(len(prompts))
        ]

    def _prefix(self, prompts: Prompts, drafted: Drafted, spent: Spent) -> tuple[list[Segment], Memory | None]:
        """What the decoder must still read before it answers, and the memory it may start from."""
        start = prompts.keep.sum(-1)
        memory = drafted.memory if self.networks.is_shared else None
        if memory is not None and drafted.holds_sketch:
            # Only the last token written is not in memory yet: the end token, or what a full canvas cut off.
            count = (drafted.sketch != self.special.pad).sum(-1, keepdim=True)
            last = drafted.sketch.gather(1, (count - 1).clamp(min=0))
            keep = torch.ones_like(last, dtype=torch.bool)
            sketch = Segment("sketch", last, keep, memory.next_position[:, None], is_causal=True)
            end = memory.next_position + 1
        else:
            sketch = self.config.bridge.segment(drafted.sketch, start, self.special)
            end = start + sketch.keep.sum(-1)
            if self.bridge is not None and sketch.keep.any():
                sketch = self.bridge(self.networks, prompts, sketch, drafted.memory, spent)
        marker = torch.full_like(end[:, None], self.special.answer)
        keep = torch.ones_like(marker, dtype=torch.bool)
        answer = Segment("answer", marker, keep, end[:, None], is_causal=True, sees=("prompt", "sketch"))
        read = [sketch, answer] if sketch.keep.any() else [answer]
        return (read if memory is not None else [prompt_segment(prompts), *read]), memory


def _row(spent: Spent, row: int, rows: int) -> dict[str, float]:
    """One row's share of what a batch spent; seconds are shared evenly."""
    values = {f.name: float(getattr(spent, f.name)[row]) for f in fields(spent) if f.name != "seconds"}
    return values | {"seconds": spent.seconds / rows}
