"""A reasoner under lm-evaluation-harness, as the model `hybrid`: other people's tasks, our budgets.

lm_eval finds it by `import hybrid.harness`; `hybrid harness RUN --tasks ...` does that and runs the tasks.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.tasks import TaskManager

from hybrid.diffusion import noise as streams
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.noise import Noise
from hybrid.drafters.diffusion import Diffusion
from hybrid.experiment import load_run
from hybrid.feed import Gold
from hybrid.reasoner import Reasoner
from hybrid.records import Example
from hybrid.sample import chosen
from hybrid.tasks import collate, key_of

# What a task's generation_kwargs may say: ours, the budget's; and the harness's own, of which the model's answer
# length and greedy decoding leave nothing to choose.
OURS = ("steps", "num_inference_steps", "policy", "threshold", "temperature", "verify", "seed", "join")
THEIRS = ("until", "do_sample", "max_gen_toks", "max_new_tokens", "max_tokens", "top_p", "top_k")


@register_model("hybrid")
class HybridLM(LM):
    """Generation answers under a budget; log-likelihood is that of a sketch, as a bound, or of an answer.

    run: a run folder, or a reasoner. steps: denoising steps where a task's generation_kwargs name none; None: one per
    canvas position. join: the text that is scored, of {sketch} and {answer}.
    score: "bound": the continuation as a sketch, by the diffusion bound with exactly n masked positions, n stratified
    over `samples` (LLaDA, arXiv 2502.09992, app. B.5; uniform corruption has no masks, so times are stratified): an
    unbiased estimate of a lower bound on log p, its end token included.
    "answer": the continuation as the answer to the sketch drafted under the budget, exact given that sketch.
    """

    def __init__(
        self, run: str | Reasoner, steps: int | None = None, join: str = "{answer}",
        score: Literal["bound", "answer"] = "bound", samples: int = 32, seed: int = 0, batch_size: int = 32,
        device: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if score not in ("bound", "answer"):
            raise ValueError(f"score={score!r}: must be bound or answer")
        if int(samples) < 1 or int(batch_size) < 1:
            raise ValueError(f"samples={samples}, batch_size={batch_size}: must be 1 or more")
        _check_join(join)
        if not isinstance(run, Reasoner):
            run = load_run(run, device or "auto")
        elif device is not None:
            run.to(device)
        self.reasoner = run.eval()
        own = self.reasoner.config.drafter
        self.drafter = own if isinstance(own, Diffusion) else None
        if score == "bound" and (self.drafter is None or self.reasoner.config.answer_room):
            score = "answer"  # no canvas of a sketch alone, no bound on it: the decoder's own likelihood
        self.steps, self.join, self.score = steps, join, score
        self.samples, self.seed, self.batch = int(samples), seed, int(batch_size)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The joined sketch and answer of each context, cut at the first of its `until`.

        Raises:
            ValueError: generation_kwargs that nobody reads.
        """
        written: list[str] = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items(), key=str)), []).append(i)
        for places in groups.values():
            options = dict(requests[places[0]].args[1])
            for at in range(0, len(places), self.batch):
                part = places[at : at + self.batch]
                for i, text in zip(part, self._answers([requests[i].args[0] for i in part], options), strict=True):
                    written[i] = text
        return written

    def _answers(self, contexts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
        if unknown := sorted(set(options) - {*OURS, *THEIRS}):
            raise ValueError(f"generation_kwargs.{unknown[0]}: known: {', '.join((*OURS, *THEIRS))}")
        steps = options.get("steps", options.get("num_inference_steps", self.steps))
        seed = options.get("seed", self.seed)
        temperature = None  # tasks say 0 to every model, to those that never draw too
        if "temperature" in options and self.drafter is not None:
            temperature = float(options["temperature"]) if options.get("do_sample", True) else 0.0
        drafter = chosen(
            self.reasoner.config, options.get("policy"), options.get("threshold"), temperature, options.get("verify")
        )
        results = self.reasoner.reason(list(contexts), Budget(steps), drafter=drafter, seed=seed)
        join = str(options.get("join", self.join))
        _check_join(join)
        texts = [join.format(sketch=r.sketch, answer=r.answer) for r in results]
        until = options.get("until") or []
        for stop in [until] if isinstance(until, str) else until:
            texts = [text.partition(stop)[0] if stop else text for text in texts]
        return texts

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log p or its lower bound, whether greedy decoding gives the continuation; for bounds always False)."""
        found: list[tuple[float, bool]] = []
        for at in range(0, len(requests), self.batch):
            pairs = [(str(r.args[0]), str(r.args[1])) for r in requests[at : at + self.batch]]
            found += self.bounds(pairs) if self.score == "bound" else self._of_answers(pairs)
        return found

    @torch.no_grad()
    def bounds(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Minus the diffusion bound of each continuation as the sketch, in nats."""
        reasoner = self.reasoner
        assert self.drafter is not None
        honest = self.drafter.honest()
        times: Literal["counts", "continuous"] = "counts" if honest.corruption.is_absorbing else "continuous"
        drafter = dataclasses.replace(honest, times=times, copies=1)
        rows = [Example(key_of(context + continuation), context, continuation, "") for context, continuation in pairs]
        batch = collate(rows, reasoner.tokenizer, reasoner.config.canvas).to(reasoner.device)
        total = torch.zeros(len(rows), dtype=torch.float64, device=reasoner.device)
        u = Noise(self.seed, batch.prompts.keys).uniform(streams.TIME)[:, 0]
        for sample in range(self.samples):
            t = (sample + 1 - u) / self.samples  # one of each stratum, in (0, 1]
            noise = Noise(self.seed, batch.prompts.keys, sample)
            total += reasoner.losses(batch, noise, t, feed=Gold(), drafter=drafter).sketch.double()
        return [(-float(cost) / self.samples, False) for cost in total]

    @torch.no_grad()
    def _of_answers(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """log p(answer, end | prompt, its drafted sketch), and whether that is the answer written."""
        reasoner = self.reasoner
        drafted = reasoner.reason([prompt for prompt, _ in pairs], Budget(self.steps), seed=self.seed)
        rows = [Example(key_of(prompt), prompt, "", answer) for prompt, answer in pairs]
        batch = collate(rows, reasoner.tokenizer, reasoner.config.canvas).to(reasoner.device)
        sketch = torch.tensor([r.sketch_tokens for r in drafted], device=reasoner.device)
        costs = reasoner.losses(dataclasses.replace(batch, sketch=sketch), feed=Gold()).answer
        answers = [row[keep].tolist() for row, keep in zip(batch.answer, batch.answer_keep, strict=True)]
        return [
            (-float(cost), result.answer_tokens[: len(answer)] == answer)
            for cost, result, answer in zip(costs, drafted, answers, strict=True)
        ]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise ValueError("loglikelihood_rolling: a reasoner answers prompts and has no likelihood of text without one")


def _check_join(join: str) -> None:
    try:
        join.format(sketch="", answer="")
    except (KeyError, IndexError, ValueError, AttributeError):
        raise ValueError(f"join={join!r}: must be a text of {{sketch}} and {{answer}}") from None


def run_tasks(
    model: HybridLM,
    tasks: Sequence[str],
    *,
    include: str | Path | None = None,
    limit: int | None = None,
    options: str | dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The harness's results of the tasks: names it knows, of the Hub, or of YAML files in the folder `include`.

    options: generation_kwargs over the tasks' own, as a dict or as "steps=8,policy=margin". What log-likelihoods are is
    said under `hybrid`.

    Raises:
        ValueError: a task that is not known, or data that cannot be had.
    """
    if include is not None and not Path(include).is_dir():
        raise ValueError(f"include={include}: no such folder")
    manager = TaskManager(include_path=None if include is None else str(include), include_defaults=include is None)
    if unknown := [name for name in tasks if name not in manager.all_tasks]:
        raise ValueError(f"task {unknown[0]!r} is not known; {'in ' + str(include) if include else 'name its folder'}: "
                         f"{', '.join(sorted(manager.all_tasks)[:8])}")  # fmt: skip
    try:
        found = simple_evaluate(
            model=model, tasks=list(tasks), task_manager=manager, limit=limit, gen_kwargs=options or None,
            bootstrap_iters=0, log_samples=True,
        )  # fmt: skip
    except (ConnectionError, OSError) as error:
        raise ValueError(f"the data of {', '.join(tasks)} cannot be had: {str(error).partition(chr(10))[0]}") from None
    assert found is not None
    is_masked = model.drafter is None or model.drafter.corruption.marks_noise
    drawn = "masks of exactly n tokens" if is_masked else "times"
    said = {
        "bound": f"lower bounds on log p, estimated by {model.samples} stratified {drawn}",
        "answer": "log p of the answer given the sketch drafted under the budget",
    }
    return {**found, "hybrid": {"steps": model.steps, "loglikelihood": said[model.score], "seed": model.seed}}
