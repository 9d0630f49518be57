"""The reasoner: a drafter and a decoder that answer together. Needs no trainer: use it in a notebook.

reasoner = Reasoner(Model(canvas=32), tokenizer)
losses = reasoner.losses(batch)                      # totals and counts, ready to backpropagate
results = reasoner.reason(["12*34"], Budget(steps=8))  # sketch, answer, and what was spent
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hybrid.answering import Answering
from hybrid.bridge import Latent
from hybrid.choose import Choice
from hybrid.diffusion import noise as streams
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.draft import State
from hybrid.diffusion.noise import Noise, low_discrepancy_times, uniform
from hybrid.drafters import Drafter
from hybrid.drafters.abilities import check_abilities
from hybrid.feed import Feed, Fodder, Nothing
from hybrid.model import Model
from hybrid.nets.layout import Segment, running
from hybrid.nets.network import Network, prompt_segment
from hybrid.nets.pairing import Pairing
from hybrid.records import Batch, Prompts, Reasoned, Spent
from hybrid.tasks.collate import prompts as collate_prompts
from hybrid.tasks.tokenizer import Tokenizer


@dataclass(frozen=True)
class Losses:
    """Totals in nats and counts of supervised tokens, per row; means are taken by whoever sums over ranks.

    sketch: the drafter's cost (an upper bound on -log p(sketch | prompt) at train_weight 1, or on that of sketch and
    answer where the canvas holds both). answer: -log p of the answer given prompt and fed sketch. positions: sent
    through networks for this, all rows together.
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
        _check_vocabularies(model, tokenizer)
        self.config, self.tokenizer, self.special = model, tokenizer, tokenizer.special
        decoder = model.backbone.network(len(tokenizer.reader))
        drafter: Network | None = None
        if model.drafter.learns:
            own = model.drafter_backbone or model.backbone
            drafter = decoder if model.pairing == "shared" else own.network(len(tokenizer))
        self.networks = Pairing(decoder, drafter)
        check_abilities(model.drafter, self.networks)
        self.bridge = model.bridge.module(self.networks)
        self.answering = Answering(model, self.networks, tokenizer, self.bridge)

    def compile_sampling(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile drafting and answering, for many calls: see `Network.compile_sampling`."""
        for network in {id(n): n for n in (self.networks.decoder, self.networks.drafter) if n is not None}.values():
            network.compile_sampling(backend)

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
        self._check_room(batch.prompts, self.config.max_answer)
        batch = dataclasses.replace(batch, answer_room=self.config.answer_room)
        noise = noise or Noise(0, batch.prompts.keys)
        if t is None:
            slots = torch.arange(len(batch), device=self.device)
            t = low_discrepancy_times(uniform(noise.seed, noise.epoch, streams.TIME), slots, len(batch))
        drafter, network = drafter or self.config.drafter, self.networks.drafter
        batch = drafter.taught(batch, noise, self.special)
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
        decoding = [prompt_segment(batch.prompts.as_read), *([] if isinstance(feed, Nothing) else [sketch]), answer]
        drafted, decoded = self.networks(drafting, decoding)

        logits = self.networks.decoder.logits(decoded["answer"]).float()
        nll = F.cross_entropy(logits.movedim(-1, 1), batch.answer, reduction="none")
        nothing = torch.zeros(len(batch), device=nll.device)
        return Losses(
            sketch=nothing if plan is None else plan.cost(drafted),
            sketch_count=nothing.long() if plan is None else plan.count,
            answer=torch.where(batch.answer_keep, nll, 0.0).sum(-1),
            answer_count=batch.answer_keep.sum(-1),
            positions=extra + (0 if plan is None else plan.positions) + len(batch) * self._width(drafting, decoding),
        )

    def _check_room(self, prompts: Prompts, max_answer: int) -> None:
        """Refuse prompts that leave no room for canvas and answer, and their markers, in the network's positions."""
        for network, own in ((self.networks.drafter, prompts), (self.networks.decoder, prompts.as_read)):
            if network is None or network.room is None:
                continue
            room = network.room - self.config.canvas - max_answer - 2
            if own.tokens.shape[1] > room:
                raise ValueError(
                    f"prompt of {own.tokens.shape[1]} tokens: at most {room} of the network's {network.room} positions "
                    f"are left beside canvas = {self.config.canvas} and max_answer = {max_answer}"
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
            counted = Spent.nothing(len(rows))
            assert self.networks.drafter is not None
            drafted = self.config.drafter.one_step(self.networks.drafter, batch, rows, noise, self.special, counted)
            assert drafted is not None
            spent += int(counted.positions.sum())
            return drafted

        can_draft = self.config.drafter.has_one_step and self.networks.drafter is not None
        fodder = Fodder(batch.sketch, noise, self.special, len(self.tokenizer), one_step if can_draft else None)
        return feed.feed(fodder), spent

    def _decoding(self, batch: Batch, fed: Int[Tensor, "b l"]) -> tuple[Segment, Segment]:
        """Sketch and answer as the decoder reads them in training."""
        sketch = self.answering.sketch(batch.prompts, fed)
        tokens = F.pad(batch.answer[:, :-1], (1, 0), value=self.tokenizer.reader.special.answer)
        at = running(batch.answer_keep, batch.prompts.as_read.keep.sum(-1) + sketch.keep.sum(-1))
        return sketch, Segment("answer", tokens, batch.answer_keep, at, is_causal=True, sees=("prompt", "sketch"))

    def reason(
        self,
        prompts: Sequence[str] | Prompts,
        budget: Budget | None = None,
        *,
        drafter: Drafter | None = None,
        seed: int = 0,
        gold: Int[Tensor, "b l"] | None = None,
        other: Int[Tensor, "b l"] | None = None,
        drafts: int = 1,
        choose: Choice = "vote",
        watch: Callable[[State], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        agree: Callable[[bool], bool] = bool,
        answer: str | None = None,
        answer_temperature: float = 0.0,
        max_answer: int | None = None,
    ) -> list[Reasoned]:
        """Draft a sketch within the budget, then answer. One result per prompt, in order.

        drafter: instead of the model's own: another policy or temperature, or a control (which may need `gold`
        or `other` sketches). seed: draws are a function of it and of each prompt. drafts: sketches per prompt, all in
        one batch, each of which is answered; choose: whose answer is taken. watch: sees every state of the rows that
        draft. clock: in seconds; the first budget in milliseconds for a batch of some shape times that shape first.
        agree: whether all ranks are done when this one is, where their networks share weights. max_answer: answer
        tokens at most, instead of the model's.
        answer: decode, verify or canvas (see `how_of`); None: verify where the canvas holds an answer, else decode.
            Rows without a draft are decoded. answer_temperature: of the decoder's draws; 0: greedy.

        Raises:
            ValueError: an empty batch or prompt, unknown characters, a budget the policy cannot use, an answer that is
            to come from a canvas without one.
        """
        if not isinstance(budget, Budget | None):
            raise ValueError(f"budget={budget!r}: must be a Budget, such as Budget(steps=4)")
        if not isinstance(drafter, Drafter | None):
            raise ValueError(f"drafter={drafter!r}: must be a Drafter, such as Diffusion(policy=Confidence())")
        if not isinstance(prompts, Prompts):
            prompts = collate_prompts(prompts, self.tokenizer)
        answering = self.answering
        if max_answer is not None:
            model = dataclasses.replace(self.config, max_answer=max_answer)
            answering = dataclasses.replace(answering, model=model)  # the same timings, which know the room
        self._check_room(prompts, answering.model.max_answer)
        return answering.reason(
            prompts.to(self.device), budget or Budget(), drafter or self.config.drafter,
            seed=seed, gold=gold, other=other, drafts=drafts, choose=choose, watch=watch, clock=clock,
            agree=agree, answer=answer, answer_temperature=answer_temperature,
        )  # fmt: skip


def _check_vocabularies(model: Model, tokenizer: Tokenizer) -> None:
    """Refuse two vocabularies where drafter and decoder share more than text."""
    if tokenizer.reader is tokenizer or not model.drafter.learns:
        return
    if model.pairing == "shared":
        raise ValueError("tokenizer: two gives drafter and decoder a vocabulary each: set model.pairing: separate")
    if model.answer_room:
        raise ValueError(
            f"canvas_holds={model.canvas_holds!r}: the decoder verifies tokens of its own vocabulary, and with "
            "tokenizer: two the canvas holds others: set model.canvas_holds: sketch"
        )
    if isinstance(model.bridge, Latent):
        raise ValueError(
            "bridge: latent joins states to the tokens that they are over, and with tokenizer: two the decoder reads "
            "other tokens: set model.bridge: tokens"
        )
