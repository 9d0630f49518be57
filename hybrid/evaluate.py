"""Evaluation: the frontier of quality against what was spent, and the figures watched while training."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from tqdm import tqdm

from hybrid.choose import Choice, check_drafts
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.draft import check_steps
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Policy
from hybrid.drafters import Drafter
from hybrid.drafters.canvas import ending
from hybrid.drafters.controls import NoSketch
from hybrid.drafters.diffusion import Diffusion
from hybrid.feed import Drafted as OneStep
from hybrid.feed import Feed, Gold, Nothing, Partial
from hybrid.frontier import Frontier, Row
from hybrid.kinds import kind_of, look_up
from hybrid.metrics import Tally
from hybrid.nets.quantised import size_of
from hybrid.reasoner import Reasoner
from hybrid.records import Batch, Example, Reasoned, Spent
from hybrid.shard import ALONE, Shard
from hybrid.tasks import Task, collate
from hybrid.writing import How, how_of


@dataclass(frozen=True)
class Evaluate:
    """The config's `evaluate` section.

    steps: budgets; null: 0, 1, 2, 4, ... up to the canvas. policies: null: the drafter's own.
    controls: of gold, shuffled, pause. split: "valid" or "test". examples: the first so many; null: all.
    batch: examples answered together; 1 measures latency. temperature: null: the drafter's own.
    answers: of decode, verify, canvas (see `how_of`), each a row of its own; null: the model's default.
    verify: forwards that verify a draft at most, each a row of its own; null: the drafter's own.
    """

    steps: tuple[int, ...] | None = None
    policies: tuple[Policy, ...] | None = None
    controls: tuple[str, ...] = ("gold", "shuffled")
    split: str = "test"
    examples: int | None = 500
    batch: int = 64
    temperature: float | None = None
    drafts: int = 1
    choose: Choice = "vote"
    answers: tuple[How, ...] | None = None
    verify: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        known = ("gold", "shuffled", "pause")
        if wrong := [name for name in self.controls if name not in known]:
            raise ValueError(f"controls={wrong[0]!r}: must be of {', '.join(known)}")
        if self.split not in ("valid", "test"):
            raise ValueError(f"split={self.split!r}: must be valid or test")
        if self.drafts < 1:
            raise ValueError(f"drafts={self.drafts}: must be 1 or more")
        if self.batch < 1:
            raise ValueError(f"batch={self.batch}: must be 1 or more")
        if self.examples is not None and self.examples < 1:
            raise ValueError(f"examples={self.examples}: must be 1 or more, or null for all")
        for name in ("steps", "policies", "answers", "verify"):
            if getattr(self, name) == ():
                raise ValueError(f"{name}=[]: name one or more, or null for the default")
        for steps in self.steps or ():
            Budget(steps)  # refuses what no budget can be


@dataclass(frozen=True)
class Way:
    """One way of answering: a method's name, who drafts, the budget, how the row is labelled, who writes the answer."""

    method: str
    drafter: Drafter
    budget: Budget
    labels: Mapping[str, Any]
    drafts: int = 1
    how: How = "decode"

    @property
    def has_sketch(self) -> bool:
        """Whether there is a sketch to judge: blanks and nothing are none."""
        return not (isinstance(self.drafter, NoSketch) or self.drafter.blanks or self.budget.is_nothing)


def ways(reasoner: Reasoner, settings: Evaluate) -> list[Way]:
    """All rows of the frontier, cheapest first; refused here, before anything runs, where a budget cannot be used."""
    model = reasoner.config
    drafter, canvas = model.drafter, model.positions
    pairing: dict[str, Any] = {"pairing": model.pairing if drafter.learns else None, "drafts": 1, "answer": "decode"}
    decoder = reasoner.networks.decoder
    hows = [how_of(asked, model.answer_room, drafter, decoder) for asked in settings.answers or (None,)]
    if not isinstance(drafter, Diffusion):
        if not drafter.steps_matter:
            return [Way(model.method, drafter, Budget(), pairing)]
        budgets = _budgets(settings, drafter, canvas)
        return [Way(model.method, drafter, Budget(s), {**pairing, "steps": s}) for s in budgets]
    if settings.temperature is not None:
        drafter = dataclasses.replace(drafter, temperature=settings.temperature)
    pairing["block"] = drafter.attention_block
    listed = []
    budgets = _budgets(settings, drafter, canvas)
    if 0 in budgets:
        listed.append(Way(model.method, drafter, Budget(0), {**pairing, "steps": 0}))
    verifying = settings.verify or (drafter.verify,)
    for policy, forwards in product(settings.policies or (drafter.policy,), verifying):
        own = dataclasses.replace(drafter, policy=policy, verify=forwards)
        check_drafts(settings.drafts, settings.choose, own)
        labels: dict[str, Any] = {**pairing, "policy": kind_of(Policy, type(policy)), "drafts": settings.drafts}
        told = {f.name: getattr(policy, f.name) for f in dataclasses.fields(policy)}
        labels["threshold"] = told.pop("threshold", None)
        told |= {"temperature": own.temperature} if own.temperature else {}
        told |= {"verify": forwards} if forwards else {}
        # A comma and a blank part the settings of a row, so that none of them may hold both.
        labels["setting"] = ", ".join(f"{name} {value}".replace(", ", ",") for name, value in told.items()) or None
        for steps in budgets:
            check_steps(torch.tensor([steps]), torch.tensor([canvas]), policy)
            own.check_steps(torch.tensor([steps]), torch.ones(1, canvas, dtype=torch.bool))
            for how in hows if steps else ():
                if how == "canvas" and forwards != verifying[0]:
                    continue  # no answer on the canvas is another for it
                method = "diffusion" if how == "canvas" else "speculative" if forwards else model.method
                told = {**labels, "steps": steps, "answer": how}
                listed.append(Way(method, own, Budget(steps), told, settings.drafts, how))
    if model.method != "hybrid":  # what is told of another bridge's controls is not told of the hybrid's
        pairing["setting"] = f"{model.method} bridge"
    controls = dict.fromkeys(settings.controls)
    return listed + [Way(name, look_up(Drafter, name)(), Budget(), pairing) for name in controls]


def _budgets(settings: Evaluate, drafter: Drafter, canvas: int) -> list[int]:
    least = drafter.least_steps(canvas)
    powers = [0, *(2**i for i in range(canvas.bit_length()) if least <= 2**i < canvas), canvas]
    return list(dict.fromkeys(powers if settings.steps is None else settings.steps))


def evaluate(
    reasoner: Reasoner,
    task: Task,
    examples: Sequence[Example],
    settings: Evaluate,
    *,
    name: str,
    seed: int = 0,
    training_positions: float | None = None,
    progress: bool = True,
    shard: Shard = ALONE,
) -> Frontier:
    """Answer the examples in every way, score them by the task's rules, and count what was spent.

    name: of the task, in the files. seed: of the draws. The first call of all is repeated untimed, to warm up.
    shard: of several processes, each answers every so-manieth batch, and all return the frontier of the whole.
    """
    reasoner.eval()
    chosen = [examples[i] for i in range(min(len(examples), settings.examples or len(examples)))]
    if not chosen:
        raise ValueError("no examples to evaluate")
    parameters = sum(map(size_of, reasoner.parameters()))
    listed = ways(reasoner, settings)
    rows = []
    with tqdm(
        total=len(listed) * len(chosen), unit=" examples", disable=not progress or shard.rank > 0, dynamic_ncols=True
    ) as bar:
        answer(reasoner, listed[-1], chosen[: settings.batch], chosen, seed)
        for way in listed:
            label = (way.method, way.labels.get("policy"), way.budget.steps, way.how)
            bar.set_description(" ".join(str(part) for part in label if part is not None))
            tally = Tally()
            for at in shard.deal(range(0, len(chosen), settings.batch)):
                part = chosen[at : at + settings.batch]
                results, batch = answer(reasoner, way, part, chosen, seed, at, choose=settings.choose)
                scores = [task.score(e, r.sketch, r.answer) for e, r in zip(part, results, strict=True)]
                if not way.has_sketch:
                    scores = [
                        dataclasses.replace(s, sketch_exact=None, sketch_valid=None, draft_correct=None) for s in scores
                    ]
                if way.drafts > 1:
                    answers = [[d.answer for d in r.drafts] for r in results]
                    right = [
                        [task.score(e, d.sketch, d.answer).answer_correct for d in r.drafts]
                        for e, r in zip(part, results, strict=True)
                    ]
                    tally.add_drafts(right, answers)
                spent = spent_of(results)
                sketches = ending(reasoner.special).read(torch.tensor([r.sketch_tokens for r in results]))
                lengths = ((canvas.cpu() != reasoner.special.pad).sum(-1) for canvas in (sketches, batch.sketch))
                tally.add(scores, spent, *lengths)
                bar.update(min(len(part) * shard.world, len(listed) * len(chosen) - bar.n))
            tally = Tally.from_vector(shard.sum(tally.vector()))
            rows.append(
                Row.counted(
                    tally, way.method, **way.labels, batch=settings.batch, parameters=parameters,
                    training_positions=training_positions,
                    accepted_tokens=tally.spent["accepted_tokens"] if way.how == "verify" else None,
                    answer_is=settings.choose if way.drafts > 1 else task.answer_is, seed=seed,
                )
            )  # fmt: skip
    return Frontier(name, settings.split, rows, seed=seed)


def answer(
    reasoner: Reasoner,
    way: Way,
    part: Sequence[Example],
    everything: Sequence[Example],
    seed: int,
    at: int = 0,
    choose: Choice = "vote",
) -> tuple[list[Reasoned], Batch]:
    """Answer some examples one way. A shuffled sketch is that of the next example of all."""
    batch = collate(part, reasoner.tokenizer, reasoner.config.canvas)
    after = [everything[(at + i + 1) % len(everything)] for i in range(len(part))]
    other = collate(after, reasoner.tokenizer, reasoner.config.canvas).sketch
    device = reasoner.device
    results = reasoner.reason(
        batch.prompts,
        way.budget,
        drafter=way.drafter,
        seed=seed,
        gold=batch.sketch.to(device),
        other=other.to(device),
        drafts=way.drafts,
        choose=choose,
        answer=way.how,
    )
    return results, batch


def spent_of(results: Sequence[Reasoned]) -> Spent:
    """What a call spent, row by row, from its results."""
    columns = {
        f.name: torch.tensor([r.spent[f.name] for r in results], dtype=torch.float64)
        for f in dataclasses.fields(Spent)
        if not f.kw_only
    }
    draft, answer = (sum(r.timing[part] for r in results) for part in ("draft", "answer"))
    whole = sum(r.spent["seconds"] for r in results)
    return Spent(**columns, seconds=whole, draft_seconds=draft, answer_seconds=answer)


@torch.no_grad()
def validation_totals(
    reasoner: Reasoner, task: Task, examples: Sequence[Example], agree: Callable[[bool], bool] = bool
) -> dict[str, tuple[float, float]]:
    """(total, count) of the figures watched in training, under noise that is the same at every validation.

    bound: nats per drafted token, the true bound on -log p(sketch | prompt), or of sketch and answer where the canvas
    holds both. joint: of sketch and answer by drafter and decoder, gold feed, where it holds the sketch alone.
    answer_FEED: nats per answer token when the decoder reads that feed. accuracy_STEPS: share of right
    answers at three budgets; without steps, `accuracy`.
    """
    model = reasoner.config
    batch = collate(examples, reasoner.tokenizer, model.canvas).to(reasoner.device)
    noise = Noise(0, batch.prompts.keys)
    totals: dict[str, tuple[float, float]] = {}
    for name, feed in _feeds(reasoner):
        losses = reasoner.losses(batch, noise, feed=feed, drafter=model.drafter.honest())
        totals[f"answer_{name}"] = float(losses.answer.sum()), float(losses.answer_count.sum())
        if name == "gold" and model.drafter.learns:
            count = float(losses.sketch_count.sum())
            totals["bound"] = float(losses.sketch.sum()), count
            if not model.answer_room:
                costs = losses.sketch + losses.answer
                totals["joint"] = float(costs.sum()), count + float(losses.answer_count.sum())
    least = model.drafter.least_steps(model.positions)
    quarter = max(model.positions // 4, least) if model.positions >= 4 else 0
    steps = sorted({0, quarter, model.positions}) if model.drafter.steps_matter else [None]
    for budget in steps:
        gold, other = batch.sketch, batch.sketch.roll(1, 0)  # at which only controls look
        results = reasoner.reason(batch.prompts, Budget(budget), gold=gold, other=other, agree=agree)
        right = sum(task.score(e, r.sketch, r.answer).answer_correct for e, r in zip(examples, results, strict=True))
        totals["accuracy" if budget is None else f"accuracy_{budget}"] = float(right), float(len(examples))
    return totals


def _feeds(reasoner: Reasoner) -> Iterator[tuple[str, Feed]]:
    drafter, own = reasoner.config.drafter, reasoner.config.feed
    if not drafter.learns:
        yield kind_of(Feed, type(own)), own
        return
    yield "gold", Gold()
    if drafter.steps_matter:
        yield "partial", Partial()
        if drafter.has_one_step:
            yield "drafted", OneStep()
        yield "none", Nothing()
