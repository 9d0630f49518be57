"""Sampling: drafts against diffusers' pipeline, answers against `generate` and against the bare weight matrices."""

import string
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from benchmark_setting import Figure, Setting, medians, ratio, timed, turns
from diffusers import BlockRefinementScheduler, LLaDA2Pipeline
from torch import Tensor, nn

from hybrid.diffusion.budget import Budget
from hybrid.diffusion.noise import Noise
from hybrid.drafters import Request, finish
from hybrid.drafters.diffusion import Diffusion
from hybrid.nets.decode import write
from hybrid.nets.network import Network, prompt_segment
from hybrid.reasoner import Reasoner
from hybrid.records import Prompts, Special, Spent
from hybrid.tasks import Character


def reasoner_of(setting: Setting, **changes: Any) -> Reasoner:
    """An untrained reasoner over 100 characters, which never draws an end token, so that no row ends early."""
    torch.manual_seed(0)
    reasoner = Reasoner(setting.model(**changes), Character(string.printable).train([])).eval()
    if torch.cuda.is_available():
        reasoner = reasoner.to("cuda", torch.bfloat16)
    special, decoder = reasoner.special, reasoner.networks.decoder
    with torch.no_grad():  # their logits are 0 and thus never the likeliest of 100
        decoder.model.get_input_embeddings().weight[[special.pad, special.end]] = 0.0
    return reasoner


def random_prompts(rows: int, tokens: int, reasoner: Reasoner) -> Prompts:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(5, len(reasoner.tokenizer), (rows, tokens), generator=generator)
    return Prompts(torch.arange(rows), drawn, torch.ones_like(drawn, dtype=torch.bool)).to(reasoner.device)


def compiled(setting: Setting, network: Network, work: Callable[[], object]) -> float:
    """Compile the network's sampling where the setting says so; seconds that the first call takes for it."""
    if not setting.compile:
        return 0.0
    network.compile_sampling()
    first = timed(work)
    return max(0.0, first - timed(work))


class Whole(nn.Module):
    """The same network as diffusers' pipeline wants it: logits of a whole row of prompt and canvas, which attend as
    ours do. The mask is made once, and what we never draw is banned.
    """

    def __init__(self, network: Network, special: Special, prompt: int) -> None:
        super().__init__()
        self.network, self.special, self.prompt = network.model, special, prompt
        self.mask: Tensor | None = None
        self.calls = self.positions = 0

    @property
    def device(self) -> torch.device:
        """Asked for by the pipeline."""
        return self.network.device

    def forward(self, tokens: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Any:
        self.calls, self.positions = self.calls + 1, self.positions + tokens.shape[1]
        if self.mask is None or self.mask.shape[0] != len(tokens):
            at = torch.arange(tokens.shape[1], device=tokens.device)
            is_canvas = at >= self.prompt - 1  # its opening marker, which ends their prompt, is of the canvas
            sees = (at[:, None] >= at) | is_canvas[:, None]
            zero = torch.zeros(len(tokens), 1, *sees.shape, dtype=self.network.dtype, device=tokens.device)
            self.mask = zero.masked_fill(~sees, -torch.inf)
        states = self.network.model(
            tokens, attention_mask=self.mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        logits = self.network.lm_head(states)
        logits[..., list(self.special.never_drafted)] = -torch.inf
        self._forbid_ends(tokens, logits)
        return SimpleNamespace(logits=logits)

    def _forbid_ends(self, tokens: Tensor, logits: Tensor) -> None:
        """In place: a sketch ends nowhere before a token already written, as in ours."""
        is_written = tokens != self.special.mask
        goes_on = is_written.flip(1).cumsum(1).flip(1) > 0
        for token in (self.special.pad, self.special.end):
            logits[..., token].masked_fill_(goes_on, -torch.inf)


class Spread(BlockRefinementScheduler):
    """Spreads the canvas over the steps, also where prompt and canvas are one block of the pipeline's."""

    canvas = 0

    def get_num_transfer_tokens(self, block_length: int, num_inference_steps: int) -> Tensor:
        return super().get_num_transfer_tokens(self.canvas, num_inference_steps)


class Drafts:
    """One draft, ours and theirs: the same weights, calls and tokens; greedy, by confidence."""

    def __init__(self, setting: Setting, rows: int, prompt: int, canvas: int, **changes: Any) -> None:
        drafter = Diffusion(shift=False)
        self.reasoner = reasoner_of(setting, drafter=drafter, canvas=canvas, **changes)
        network, special = self.reasoner.networks.drafter, self.reasoner.special
        assert network is not None
        self.network, self.rows, self.canvas, self.steps = network, rows, canvas, setting.draft_steps
        self.request = Request(random_prompts(rows, prompt - 1, self.reasoner), canvas, special)
        marker = torch.full((rows, 1), special.sketch, device=self.reasoner.device)
        self.prompt = torch.cat([self.request.prompts.tokens, marker], dim=1)
        self.whole, scheduler = Whole(network, special, prompt), Spread()
        scheduler.canvas = canvas
        self.pipeline = LLaDA2Pipeline(self.whole, scheduler)
        self.pipeline.set_progress_bar_config(disable=True)
        self.block = canvas if prompt % canvas == 0 else prompt + canvas
        self.compiling = compiled(setting, network, self.ours)

    def ours(self) -> Tensor:
        self.spent = Spent.nothing(self.rows)
        drafting = self.reasoner.config.drafter.draft(
            self.network, self.request, Budget(self.steps), Noise(0, self.request.prompts.keys), self.spent
        )
        return finish(drafting).sketch

    def theirs(self) -> Tensor:
        self.whole.calls = self.whole.positions = 0
        return self.pipeline(
            input_ids=self.prompt, gen_length=self.canvas, block_length=self.block, num_inference_steps=self.steps,
            threshold=2.0, editing_threshold=None, eos_early_stop=False, output_type="seq",
            mask_token_id=self.reasoner.special.mask,
        ).sequences  # fmt: skip

    def measured(self, repeats: int) -> tuple[float, str]:
        """How many times faster ours is, and what was measured."""
        same = float((self.ours() == self.theirs()).float().mean())
        calls = int(self.spent.denoiser_forwards.max())
        assert self.whole.calls == calls == self.steps, f"{self.whole.calls} calls of theirs, {calls} of ours"
        seconds = turns(repeats, self.ours, self.theirs)
        rates = [self.rows * self.canvas / side for side in medians(seconds)]
        told = f"{rates[0]:,.0f} tokens/s against {rates[1]:,.0f}, {same:.1%} of the tokens the same"
        return ratio(seconds), told + self.cost

    @property
    def positions(self) -> float:
        """Positions that theirs processes over those of ours."""
        return self.whole.positions / float(self.spent.positions.max())

    @property
    def cost(self) -> str:
        return f", {self.compiling:,.0f} s to compile" if self.compiling else ""


def draft_vs_llada2(setting: Setting, rows: int, **changes: Any) -> Figure:
    drafts = Drafts(setting, rows, 4 * setting.canvas, setting.canvas, **changes)
    value, told = drafts.measured(setting.repeats)
    return Figure(value, 5.0, f"{told}, {drafts.positions:.2f} times the positions")


def draft_vs_llada2_b1(setting: Setting) -> Figure:
    return draft_vs_llada2(setting, 1)


def draft_vs_llada2_b16(setting: Setting) -> Figure:
    return draft_vs_llada2(setting, setting.draft_batch)


def draft_vs_llada2_positions(setting: Setting) -> Figure:
    """A short prompt: there is less to save, and no more should be lost than that."""
    shares, told = [], []
    for rows in (1, setting.draft_batch):
        drafts = Drafts(setting, rows, setting.canvas, 2 * setting.canvas)
        value, said = drafts.measured(setting.repeats)
        shares.append(value / drafts.positions)
        told.append(f"batch {rows}: {value:.2f} for {drafts.positions:.2f} times the positions, {said}")
    return Figure(min(shares), 0.9, "; ".join(told))


class Answers:
    """The same tokens by our decoding and by `generate`, greedily."""

    def __init__(self, setting: Setting, rows: int, **changes: Any) -> None:
        reasoner = reasoner_of(setting, **changes)
        self.network, self.special = reasoner.networks.decoder, reasoner.special
        self.prompts, self.tokens = random_prompts(rows, setting.prompt, reasoner), setting.answer
        self.compiling = compiled(setting, self.network, self.ours)

    def ours(self, tokens: int | None = None) -> Tensor:
        special = self.special
        return write(
            self.network, [prompt_segment(self.prompts)], None, tokens or self.tokens, end_id=special.end,
            pad_id=special.pad, banned=special.never_written, spent=Spent.nothing(len(self.prompts)), part="decoder",
        ).tokens  # fmt: skip

    def theirs(self) -> Tensor:
        return self.network.model.generate(
            input_ids=self.prompts.tokens, attention_mask=self.prompts.keep.long(), max_new_tokens=self.tokens,
            do_sample=False, eos_token_id=self.special.end, pad_token_id=self.special.pad,
            suppress_tokens=list(self.special.never_written),
        )[:, self.prompts.tokens.shape[1] :]  # fmt: skip


def answer_vs_generate(setting: Setting, rows: int, **changes: Any) -> Figure:
    answers = Answers(setting, rows, **changes)
    same = float((answers.ours() == answers.theirs()).float().mean())
    seconds = turns(setting.repeats, answers.ours, answers.theirs)
    rates = [rows * answers.tokens / side for side in medians(seconds)]
    told = f"{rates[0]:,.0f} tokens/s against {rates[1]:,.0f}, {same:.1%} of the tokens the same"
    saved = [(theirs - ours) / (rows * answers.tokens) for ours, theirs in seconds]
    if answers.compiling and median(saved) > 0:
        told += f", {answers.compiling:,.0f} s to compile: pays after {answers.compiling / median(saved):,.0f} tokens"
    return Figure(ratio(seconds), 2.0, told)


def answer_vs_generate_b1(setting: Setting) -> Figure:
    return answer_vs_generate(setting, 1)


def answer_vs_generate_b32(setting: Setting) -> Figure:
    return answer_vs_generate(setting, 2 * setting.draft_batch)


def answer_vs_matrix_floor(setting: Setting, width: int | None = None) -> Figure:
    """Time of a token's products with all weight matrices, one after the other, over our time per token at batch 1,
    what comes before the first token apart."""
    answers = Answers(setting, 1, width=width or setting.wide)
    model = answers.network.model
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    inputs = [torch.randn(1, w.shape[1], dtype=w.dtype, device=w.device) for w in weights]

    @torch.no_grad()
    def products() -> None:
        for _ in range(answers.tokens):
            for x, weight in zip(inputs, weights, strict=True):
                nn.functional.linear(x, weight)

    seconds = turns(setting.repeats, products, lambda: answers.ours(answers.tokens + 1), lambda: answers.ours(1))
    shares = [floor / (all_ - first) for floor, all_, first in seconds]
    floor, whole, first = (side / answers.tokens * 1e3 for side in medians(seconds))
    told = f"{whole - first:.2f} ms a token, {floor:.2f} ms of it the bare weight matrices"
    return Figure(median(shares), 0.8, told + (f", {answers.compiling:,.0f} s to compile" if answers.compiling else ""))


def doubling_sampling(setting: Setting) -> Figure:
    """As steps, canvas or batch double: growth of a call's time over growth of the operations that it counted."""
    half = replace(setting, draft_steps=setting.draft_steps // 2, compile=False)
    prompt, canvas, rows = half.prompt, half.canvas // 2, half.draft_batch // 2
    plans = {
        "": (half, rows, canvas),
        "steps": (replace(half, draft_steps=2 * half.draft_steps), rows, canvas),
        "canvas": (half, rows, 2 * canvas),
        "batch": (half, 2 * rows, canvas),
    }
    drafts = {name: Drafts(s, b, prompt, length) for name, (s, b, length) in plans.items()}
    seconds = dict(zip(drafts, medians(turns(setting.repeats, *(d.ours for d in drafts.values()))), strict=True))
    work = {name: float(d.spent.flops.sum()) for name, d in drafts.items()}
    growth = {name: (seconds[name] / seconds[""], work[name] / work[""]) for name in plans if name}
    told = ", ".join(f"{name}: time x{time:.2f}, operations x{flops:.2f}" for name, (time, flops) in growth.items())
    return Figure(max(time / flops for time, flops in growth.values()), None, told)


def on_a_gpu(measure: Callable[..., Figure], *rows: int) -> Callable[[Setting], Figure]:
    """The same in bf16 at widths of 512 and 1024, the lesser of the two told, where there is a GPU."""

    def measured(setting: Setting) -> Figure:
        if not torch.cuda.is_available():
            return Figure(None, None, "needs a GPU")
        found = {width: measure(setting, *rows, width=width) for width in (512, 1024)}
        worst = min(found.values(), key=lambda figure: figure.value or 0.0)
        return replace(worst, detail="; ".join(f"width {w}: {f.value:.2f}, {f.detail}" for w, f in found.items()))

    return measured
