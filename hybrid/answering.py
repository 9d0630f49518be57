"""Answering prompts within a budget: draft a sketch, read it, write the answer, count it all."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Int
from torch import Tensor

from hybrid.bridge import Projection, Tokens
from hybrid.choose import Choice, check_drafts, chosen
from hybrid.diffusion.budget import Budget, Plan, Unit
from hybrid.diffusion.deadline import Deadline
from hybrid.diffusion.draft import State
from hybrid.diffusion.noise import Noise
from hybrid.drafters import Drafted, Drafter, Request, finish
from hybrid.drafters.canvas import ending
from hybrid.drafters.controls import NoSketch
from hybrid.model import Model
from hybrid.nets.layout import Segment
from hybrid.nets.network import Memory, prompt_segment
from hybrid.nets.pairing import Pairing
from hybrid.nets.verify import Verified
from hybrid.pace import Timing, Trial, calibrate
from hybrid.records import Prompts, Reasoned, Special, Spent
from hybrid.tasks.tokenizer import Tokenizer
from hybrid.writing import Writing, how_of, log_of, read_off

Watch = Callable[[State], None]


@dataclass
class Answering:
    """A drafter's and a decoder's networks at work on prompts. `timings` are those of batches already timed."""

    model: Model
    networks: Pairing
    tokenizer: Tokenizer
    bridge: Projection | None = None
    timings: dict[object, Timing] = field(default_factory=dict)

    @torch.no_grad()
    def reason(
        self,
        prompts: Prompts,
        budget: Budget,
        drafter: Drafter,
        *,
        seed: int,
        gold: Int[Tensor, "b l"] | None,
        other: Int[Tensor, "b l"] | None,
        drafts: int,
        choose: Choice,
        watch: Watch | None,
        clock: Callable[[], float],
        agree: Callable[[bool], bool] = bool,
        answer: str | None = None,
        answer_temperature: float = 0.0,
    ) -> list[Reasoned]:
        """See `Reasoner.reason`."""
        began, room = clock(), self.model.answer_room
        writing = Writing(how_of(answer, room, drafter, self.networks.decoder), answer_temperature)
        check_drafts(drafts, choose, drafter, answer_temperature)
        self.model.check_verify(drafter)
        request = Request(
            prompts, self.model.canvas, self.tokenizer.special, gold, other, agree=agree, answer_room=room
        )
        plan, told, least = self._plan(budget, drafter, len(prompts), writing), budget.explicit(), self._least(drafter)
        if writing.how == "canvas" and not all(plan.steps):
            raise ValueError(
                f"answer='canvas': this budget leaves row {plan.steps.index(0)} no step, so that there is no canvas to "
                f"read; {least} or more are needed"
            )
        counts, drafts_at_all = _counts(drafter), drafter.learns or drafter.steps_matter
        if budget.forwards is not None and drafts_at_all and not (any(plan.steps) or budget.is_nothing):
            told["note"] = (
                f"forwards={budget.forwards}: the answer may take {writing.forwards(self.model.max_answer)}, and a "
                f"sketch {self._besides(drafter, writing)} besides its {counts}; answered without one"
            )
        if budget.ms is not None and drafts_at_all and any(plan.steps):
            timing, began = self._timing(request, drafter, plan, drafts, began, clock, writing)
            ends = began + budget.ms / 1e3 - timing.answer
            fit = int((ends - clock() - timing.before) / timing.step)
            too_few = least if writing.how == "canvas" else 0  # without a step there is a decoded answer, or none
            plan = plan.at_most(fit if fit >= least else too_few, counts)
            if drafter.forwards_besides:  # what verifies comes after the last step
                ends -= timing.before
            request = replace(request, pace=Deadline(ends, timing.step, clock).steps_left)
            if not any(plan.steps):
                needed = 1e3 * (timing.before + timing.step * least + timing.answer)
                told["note"] = f"ms={budget.ms:g}: a sketch and its answer take {needed:.1f} ms; answered without one"
        results: dict[int, Reasoned] = {}
        # Rows without a sketch are answered apart, so that they cost what they would alone.
        for some, copies in (
            ([r for r, n in enumerate(plan.steps) if not n], drafts if answer_temperature else 1),
            ([r for r, n in enumerate(plan.steps) if n], drafts),
        ):
            if not some:
                continue
            rows = [r for r in some for _ in range(copies)]
            index = torch.tensor(rows, device=prompts.keys.device)
            noise = Noise(seed, prompts.keys[index]).copies(torch.arange(len(rows), device=index.device) % copies)
            own, by = plan.select(rows), (drafter, writing)
            if not any(own.steps):
                by = NoSketch(), replace(writing, how="decode")
            found = self.answer(request.select(index), own, by[0], noise, watch, clock, by[1])
            for i, row in enumerate(some):
                results[row] = chosen(found[i * copies : (i + 1) * copies], choose)
        seconds = (clock() - began) / len(prompts)
        return [
            replace(r, allowed=r.allowed | told, spent=r.spent | {"seconds": seconds})
            for _, r in sorted(results.items())
        ]

    def _least(self, drafter: Drafter) -> int:
        """Fewest steps for the canvas, other than none."""
        return drafter.least_steps(self.model.positions if drafter.proposes else self.model.canvas)

    def _besides(self, drafter: Drafter, writing: Writing) -> int:
        """Forwards that a sketch takes besides its steps: those that verify it, and a bridge's."""
        reads = self.bridge is not None and writing.how != "canvas"
        return drafter.forwards_besides + (self.model.bridge.forwards if reads else 0)

    def _plan(self, budget: Budget, drafter: Drafter, rows: int, writing: Writing) -> Plan:
        """Steps and tokens of each row. Forwards buy steps, or tokens where a drafter writes them one by one."""
        return Plan.of(
            budget, rows, self.model.canvas,
            more=self.model.answer_room if drafter.proposes else 0,
            answer=writing.forwards(self.model.max_answer),
            besides=self._besides(drafter, writing),
            per_step=drafter.forwards_per_step,
            least=self._least(drafter),
            counts=_counts(drafter),
        )  # fmt: skip

    def _timing(
        self, request: Request, drafter: Drafter, plan: Plan, drafts: int, began: float, clock: Callable[[], float],
        writing: Writing,
    ) -> tuple[Timing, float]:  # fmt: skip
        """How long the parts of a call of this shape take, and when the call began: after it was timed, if it was."""
        shape = (
            len(request.prompts) * drafts,
            request.prompts.tokens.shape[1],
            type(drafter),
            drafter.forwards_besides,
            drafter.forwards_per_step,
            writing,
            self.model.max_answer,
        )
        if shape in self.timings:
            return self.timings[shape], began
        rows = torch.arange(len(request.prompts), device=request.prompts.keys.device).repeat(drafts)
        several = request.select(rows)

        def call(n: int) -> Trial:
            trial = Plan((n,) * len(rows), (self.model.canvas,) * len(rows)).at_most(n, counts)
            found = self.answer(several, trial, drafter, Noise(0, several.prompts.keys), None, clock, writing)
            draft, answer = (sum(r.timing[part] for r in found) for part in ("draft", "answer"))
            if counts == "tokens":  # a text may end before it has n
                draft *= n / max(r.spent["denoiser_forwards"] for r in found)
            return Trial(draft, answer, max(r.spent["decoder_forwards"] for r in found))

        least, counts = self._least(drafter), _counts(drafter)
        most = max(min(max(getattr(plan, counts)), 8), least)
        self.timings[shape] = calibrate(call, most, least, writing.forwards(self.model.max_answer))
        return self.timings[shape], clock()

    def answer(
        self,
        request: Request,
        plan: Plan,
        drafter: Drafter,
        noise: Noise,
        watch: Watch | None,
        clock: Callable[[], float],
        writing: Writing,
    ) -> list[Reasoned]:
        """One batch whose rows all draft, or none."""
        began = clock()
        prompts, special = request.prompts, request.special
        spent = Spent.nothing(len(prompts))
        if any(n < request.canvas for n in plan.tokens):
            request = dataclasses.replace(request, room=torch.tensor(plan.tokens, device=prompts.keys.device))
        drafting = drafter.draft(self.networks.drafter, request, Budget(plan.steps), noise, spent)
        drafted = finish(drafting, watch)
        drafted_at = clock()
        reader = self.tokenizer.reader
        if writing.how == "canvas":
            written = read_off(drafted, special)
        else:
            written = writing.written(
                self.networks.decoder, *self._prefix(prompts, drafted, spent), drafted, self.model.max_answer,
                special=reader.special, noise=noise, spent=spent, agree=request.agree,
            )  # fmt: skip
        holes = (written.tokens == reader.special.mask).any(-1)
        if not drafter.blanks:
            holes = holes | (drafted.sketch == special.mask).any(-1)
        text = Tokens().segment(drafted.sketch, prompts.keep.sum(-1), special)
        spent.sketch_tokens += text.keep[:, 1:].sum(-1).cpu()
        spent.answer_tokens += written.keep.sum(-1).cpu()
        if isinstance(written, Verified):
            spent.accepted_tokens += written.accepted.cpu()
        complete = ((written.tokens == reader.special.end).any(-1) & ~holes).tolist()
        canvases, sketches = drafted.sketch.tolist(), ending(special).read(drafted.sketch).tolist()
        answers, answer_logp = written.tokens.tolist(), log_of(written).tolist()
        sketch_logp = _mean_log(drafted, special)
        counted = {f.name: getattr(spent, f.name) for f in fields(spent) if not f.kw_only}
        shares = {
            "draft": (drafted_at - began) / len(prompts),
            "answer": (clock() - drafted_at) / len(prompts),
        }
        return [
            Reasoned(
                sketch=self.tokenizer.decode(sketches[row]),
                answer=reader.decode(answers[row]),
                sketch_tokens=canvases[row],
                answer_tokens=answers[row],
                allowed={"steps": plan.steps[row], "tokens": plan.tokens[row], "max_answer": self.model.max_answer},
                spent={name: float(counts[row]) for name, counts in counted.items()},
                timing=shares,
                complete=complete[row],
                answer_logp=answer_logp[row],
                sketch_logp=sketch_logp[row],
                answer_by=writing.how,
            )
            for row in range(len(prompts))
        ]

    def sketch(self, prompts: Prompts, canvas: Int[Tensor, "b l"]) -> Segment:
        """The canvas behind the prompt, as text that the decoder reads.

        Raises:
            ValueError: it is so much longer in the decoder's vocabulary that no room is left for the answer.
        """
        own, read = prompts.as_read, self.tokenizer.read(canvas)
        if (room := self.networks.decoder.room) is not None:
            left = room - own.tokens.shape[1] - self.model.max_answer - 2
            if read.shape[1] > left:
                raise ValueError(
                    f"a sketch of {read.shape[1]} tokens in the decoder's vocabulary: {left} of its {room} positions "
                    f"are left beside a prompt of {own.tokens.shape[1]} and max_answer = {self.model.max_answer}"
                )
        return self.model.bridge.segment(read, own.keep.sum(-1), self.tokenizer.reader.special)

    def _prefix(self, prompts: Prompts, drafted: Drafted, spent: Spent) -> tuple[list[Segment], Memory | None]:
        """What the decoder must still read before it answers, and the memory it may start from."""
        special = self.tokenizer.reader.special
        memory = drafted.memory if self.networks.is_shared else None
        if drafted.holds_sketch and type(self.model.bridge) is not Tokens:
            # It remembers the text, and not what this bridge makes of it: all is read anew.
            drafted, memory = replace(drafted, memory=None), None
        if memory is not None and drafted.holds_sketch:
            # Only the last token written is not in memory yet: the end token, or what a full canvas cut off.
            count = (drafted.sketch != special.pad).sum(-1, keepdim=True)
            last = drafted.sketch.gather(1, (count - 1).clamp(min=0))
            keep = torch.ones_like(last, dtype=torch.bool)
            sketch = Segment("sketch", last, keep, memory.next_position[:, None], is_causal=True)
            end = memory.next_position + 1
        else:
            sketch = self.sketch(prompts, drafted.sketch)
            end = prompts.as_read.keep.sum(-1) + sketch.keep.sum(-1)
            if self.bridge is not None and sketch.keep.any():
                sketch = self.bridge(self.networks, prompts, sketch, drafted.memory, spent)
        marker = torch.full_like(end[:, None], special.answer)
        keep = torch.ones_like(marker, dtype=torch.bool)
        answer = Segment("answer", marker, keep, end[:, None], is_causal=True, sees=("prompt", "sketch"))
        read = [sketch, answer] if sketch.keep.any() else [answer]
        return (read if memory is not None else [prompt_segment(prompts.as_read), *read]), memory


def _counts(drafter: Drafter) -> Unit:
    """What the drafter's forwards and time buy."""
    return "steps" if drafter.steps_matter or not drafter.learns else "tokens"


def _mean_log(drafted: Drafted, special: Special) -> list[float] | list[None]:
    """Mean log-probability of the tokens drawn, up to the end; what followed from others counts for nothing."""
    if drafted.confidence is None:
        return [None] * len(drafted.sketch)
    drawn = (drafted.confidence > 0) & ~ending(special).is_over(drafted.sketch)
    logs = torch.where(drawn, drafted.confidence.clamp(min=1e-30), 1.0).log()
    return (logs.sum(-1) / drawn.sum(-1).clamp(min=1)).tolist()
