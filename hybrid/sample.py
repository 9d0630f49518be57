"""Many prompts, any number of processes: every prompt answered once, and results in the order of the prompts."""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from hybrid.build import build
from hybrid.choose import Choice
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.policy import Policy
from hybrid.drafters import Drafter
from hybrid.drafters.diffusion import Diffusion
from hybrid.kinds import look_up
from hybrid.reasoner import Model, Reasoner
from hybrid.records import Reasoned
from hybrid.shard import ALONE, Shard, batches
from hybrid.tasks import Task
from hybrid.tasks.collate import prompts as collate
from hybrid.tasks.task import read_text


def answers(
    reasoner: Reasoner,
    prompts: Sequence[str],
    budget: Budget,
    drafter: Drafter,
    *,
    seed: int = 0,
    drafts: int = 1,
    choose: Choice = "vote",
    batch: int = 64,
    shard: Shard = ALONE,
    progress: bool = False,
    **call: Any,
) -> Iterator[tuple[str, Reasoned]]:
    """Prompts with their results, in order, on rank 0; nothing on others. A round's results come together.

    call: what else `Reasoner.reason` is told.

    Raises:
        ValueError: before the first result: no prompts, an empty or unreadable one, or batch below 1.
    """
    if batch < 1:
        raise ValueError(f"--batch {batch}: must be 1 or more")
    parts = batches(len(prompts), batch)
    collate(prompts, reasoner.tokenizer)  # refuses all that cannot be read before any is answered
    is_shown = progress and shard.rank == 0
    with tqdm(total=len(prompts), unit=" prompts", disable=not is_shown, dynamic_ncols=True) as bar:
        for first in range(0, len(parts), shard.world):
            own = parts[first + shard.rank : first + shard.rank + 1]
            texts = [prompts[i] for part in own for i in part]
            mine = (
                reasoner.reason(texts, budget, drafter=drafter, seed=seed, drafts=drafts, choose=choose, **call)
                if texts
                else []
            )
            found = [result for results in shard.gather(mine) for result in results]
            if shard.rank == 0:
                begin = parts[first].start
                yield from zip(prompts[begin : begin + len(found)], found, strict=True)
                bar.update(len(found))


def chosen(
    model: Model,
    policy: str | Mapping[str, Any] | None = None,
    threshold: float | None = None,
    temperature: float | None = None,
    verify: int | None = None,
) -> Drafter:
    """The model's drafter with what a call says instead: a policy by name or section, its threshold, a temperature,
    forwards that verify the draft.

    Raises:
        ValueError: an unknown policy, a value it refuses, or a drafter that has none of these.
    """
    changes: dict[str, Any] = {}
    if policy or threshold is not None:
        section = dict(policy) if isinstance(policy, Mapping) else {"kind": policy or "threshold"}
        if threshold is not None and not hasattr(look_up(Policy, kind := str(section.get("kind"))), "threshold"):
            raise ValueError(f"threshold={threshold}: policy {kind} has none; take policy threshold")
        changes["policy"] = build(Policy, section | ({} if threshold is None else {"threshold": threshold}), "policy")
    if temperature is not None:
        changes["temperature"] = temperature
    if verify is not None:
        changes["verify"] = verify
    if changes and not isinstance(model.drafter, Diffusion):
        raise ValueError(f"{next(iter(changes))} is for diffusion drafters; this reasoner is `{model.method}`")
    return dataclasses.replace(model.drafter, **changes)


def read_prompts(given: Sequence[str] | None, file: str | None, paragraphs: bool) -> list[str]:
    """Prompts of the command line, or of a file or standard input: one a line, or one a paragraph."""
    if given and file:
        raise ValueError("give --prompt or --file, not both")
    if given:
        return [p.replace("\\n", "\n") for p in given]
    if file in (None, "-"):
        if sys.stdin is None:
            raise ValueError("standard input is closed; give --prompt or --file")
        if sys.stdin.isatty():
            print("prompts, one a line; end with Ctrl-D", file=sys.stderr)
        text = sys.stdin.read().removeprefix("\ufeff")  # of a file that begins with a byte order mark
    else:
        text = read_text(Path(str(file)))
    parts = text.replace("\r\n", "\n").split("\n\n" if paragraphs else "\n")
    return [p.strip("\n") for p in parts if p.strip()]


def unlike(task: Task, prompts: Sequence[str]) -> str | None:
    """One line on the prompts that are none of the task's, or None where all are."""
    if task.prompt_form is None:
        return None
    pattern, words = task.prompt_form
    others = [prompt for prompt in prompts if not re.fullmatch(pattern, prompt)]
    if not others:
        return None
    are = f" and {len(others) - 1} more are" if others[1:] else " is"
    return f"prompt {others[0]!r}{are} not of the form that the task trains on ({words}): answers may mean nothing"


def as_json(prompt: str, result: Reasoned) -> str:
    return json.dumps({"prompt": prompt, **dataclasses.asdict(result)}, ensure_ascii=False)


def as_text(prompt: str, result: Reasoned) -> str:
    spent = result.spent
    drafts = "".join(f"draft   {d.sketch} > {d.answer}\n" for d in result.drafts)
    allowed = ", ".join(f"{name} {limit}" for name, limit in result.allowed.items())
    return (
        f"prompt  {prompt}\nsketch  {result.sketch or '(none)'}\nanswer  {result.answer}\n{drafts}allowed {allowed}\n"
        f"spent   {spent['denoiser_forwards']:.0f} denoiser + {spent['decoder_forwards']:.0f} decoder forwards, "
        f"{spent['positions']:.0f} positions, {spent['sketch_tokens']:.0f} sketch + "
        f"{spent['answer_tokens']:.0f} answer tokens{_accepted(result)}, {spent['seconds'] * 1e3:.1f} ms "
        f"({result.timing['draft'] * 1e3:.1f} draft, {result.timing['answer'] * 1e3:.1f} {result.answer_by})"
        f"{'' if result.complete else '  (incomplete)'}\n"
    )


def _accepted(result: Reasoned) -> str:
    return f" ({result.spent['accepted_tokens']:.0f} accepted)" if result.answer_by == "verify" else ""


@contextmanager
def whole(path: Path) -> Iterator[TextIO]:
    """A file for results, which takes its name when all are in it. Until then, and where that never comes, they are in
    another beside it, which ends in .partial. A device or a pipe, such as /dev/null, is written as it is, and never
    replaced.
    """
    if path.exists() and not path.is_file():
        with open(path, "w", encoding="utf-8") as file:
            yield file
        return
    path = path.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.partial")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            yield file
        os.replace(beside, path)
    except BaseException:
        if beside.is_file() and beside.stat().st_size:
            print(f"hybrid: what was answered so far is in {beside}", file=sys.stderr)
        else:
            beside.unlink(missing_ok=True)
        raise
