"""`hybrid sample` at the command line: its arguments, and what it does with them."""

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any


def arguments(sample: argparse.ArgumentParser) -> None:
    sample.add_argument(
        "--prompt",
        action="append",
        help="a prompt, may be repeated (--prompt=-5+3 where it begins with a minus); default: lines of stdin",
    )
    sample.add_argument("--file", help="prompts, one a line; - for stdin")
    sample.add_argument("--paragraphs", action="store_true", help="prompts of several lines, blank lines between them")
    sample.add_argument("--steps", type=int, help="denoising steps; 0: no sketch; default: one per canvas position")
    sample.add_argument("--tokens", type=int, help="sketch tokens at most, end token included")
    sample.add_argument("--forwards", type=int, help="network calls at most, the answer's reserved first")
    sample.add_argument("--ms", type=float, help="milliseconds at most, the answer's time kept free")
    sample.add_argument("--effort", help="none, low, medium or high: 0, 1/8, 1/3 or all of the canvas in steps")
    sample.add_argument("--drafts", type=int, default=1, help="sketches per prompt, each answered")
    sample.add_argument("--choose", default="vote", help="among several drafts: vote, likelihood or confidence")
    sample.add_argument("--policy", help="which positions a step commits, such as margin, or {kind: remask, rate: 0.2}")
    sample.add_argument("--threshold", type=float, help="of the threshold policy, 0 to 1")
    sample.add_argument("--temperature", type=float, help="0: greedy (the default)")
    sample.add_argument("--verify", type=int, help="forwards that verify the sketch at most; 0: it stands as drafted")
    sample.add_argument("--answer", help="decode, verify or canvas; default: verify where the canvas holds an answer")
    sample.add_argument("--answer-temperature", type=float, default=0.0, help="of the decoder's draws; 0: greedy")
    sample.add_argument("--seed", type=int, default=0, help="of the draws")
    sample.add_argument("--json", action="store_true", help="one JSON object per prompt")
    sample.add_argument("--live", action="store_true", help="show the canvas while it is denoised")
    sample.add_argument("--delay", type=float, help="with --live: seconds that each state is shown")
    sample.add_argument("--trace", metavar="FILE", help="every state as data; `hybrid report FILE --out DIR` plays it")
    sample.add_argument(
        "--compile", action="store_true", help="compile first: half a minute or more that many prompts repay"
    )
    sample.add_argument("--batch", type=int, default=64, help="prompts answered together")
    sample.add_argument("--devices", type=int, default=1, help="processes that share the prompts")
    sample.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu or cuda:N")
    sample.add_argument("--out", help="file for the results; default: standard output")


def check(options: Any) -> None:
    """Refuse what makes no sense before anything is read."""
    from hybrid.experiment import check_run

    check_run(options.run)
    if options.live and options.json:
        raise ValueError("--live is for eyes and --json for programs: give one, or --live with --trace FILE")
    for name in ("trace", "out"):
        if (given := getattr(options, name)) and Path(given).is_dir():
            raise ValueError(f"--{name} {given}: is a folder; name a file")


def run(options: Any, experiment: Any, started: Callable[[Any], int | None]) -> int | None:
    """Answer the prompts; `started`: starts the processes that the options ask for, and waits for them."""
    from hybrid.config import section_of
    from hybrid.diffusion.budget import Budget
    from hybrid.experiment import load_reasoner
    from hybrid.live import reason as seen
    from hybrid.sample import answers, as_json, as_text, chosen, read_prompts, unlike, whole
    from hybrid.shard import joined, own_device, rank_and_world

    budget = Budget(options.steps, options.tokens, options.forwards, options.ms, options.effort)
    prompts = read_prompts(options.prompt, options.file, options.paragraphs)
    reasoner, _ = load_reasoner(options.run, experiment)
    policy = section_of("policy", options.policy)
    drafter = chosen(reasoner.config, policy, options.threshold, options.temperature, options.verify)
    line = as_json if options.json else as_text
    several = {"drafts": options.drafts, "choose": options.choose}
    several |= {"answer": options.answer, "answer_temperature": options.answer_temperature}
    device, is_seen = own_device(options.device), options.live or options.trace or options.delay is not None
    if is_seen and (options.devices > 1 or options.out):
        raise ValueError("--live and --trace are for one process and standard output: leave --devices and --out")
    if options.devices > 1 and options.file in (None, "-") and not options.prompt:
        raise ValueError("--devices shares the prompts of a --file, which standard input is not")
    if (status := started(options)) is not None:
        return status
    if (said := unlike(experiment.task, prompts)) and (rank_and_world() or (0, 1))[0] == 0:
        print(f"hybrid: warning: {said}", file=sys.stderr)
    reasoner.to(device)
    if options.compile:
        reasoner.compile_sampling()
    if is_seen:
        results = seen(
            reasoner, prompts, budget, drafter=drafter, seed=options.seed, out=sys.stdout, task=experiment.title,
            live=options.live, delay=options.delay, trace=options.trace, **several,
        )  # fmt: skip
        for prompt, result in zip(prompts, results, strict=True):
            print(line(prompt, result))
        return 0
    with joined(experiment.train.timeout) as shard:
        found = answers(
            reasoner, prompts, budget, drafter, seed=options.seed, batch=options.batch, shard=shard, **several,
            progress=options.out is not None and sys.stderr.isatty(),
        )  # fmt: skip
        with whole(Path(options.out)) if options.out and shard.rank == 0 else nullcontext(sys.stdout) as file:
            for prompt, result in found:
                print(line(prompt, result), file=file)
    return 0
