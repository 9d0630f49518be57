"""The command line: hybrid train | evaluate | sample | show | report."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

EXAMPLES = """\
examples:
  hybrid train configs/quickstart/hybrid.yaml                 train; the same command resumes
  hybrid train configs/quickstart/hybrid.yaml seed=1 train.steps=500 run=runs/short
  hybrid evaluate runs/hybrid --steps 0,1,2,4,8 --policies confidence,threshold --controls gold,shuffled
  hybrid sample runs/hybrid --prompt 73250100,41000213 --steps 8
  hybrid sample runs/hybrid --live --trace draft.json         watch it, keep it; `hybrid report` plays it
  hybrid show configs/quickstart/hybrid.yaml                  resolved config, sizes, other kinds
  hybrid report runs/hybrid runs/direct --out runs/frontier   one frontier of several runs
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where it went well, 2 on bad input, 130 on Ctrl-C."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    for text in rest:  # overrides that stand after an option
        if text.startswith("-") or not hasattr(options, "overrides"):
            parser.error(f"unrecognized argument: {text}")
        options.overrides = [*options.overrides, text]
    if not hasattr(options, "command"):
        parser.print_help()
        return 2
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        options.command(options)
    except KeyboardInterrupt as stop:
        print(f"\nhybrid: {stop or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get("HYBRID_TRACEBACK"):
            raise
        print(f"hybrid: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split())


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, like every other part."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"hybrid: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hybrid", description="Draft a reasoning sketch by diffusion, answer autoregressively, measure both.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, run: Callable[[Any], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=run)
        return sub

    overrides: dict[str, Any] = dict(
        nargs="*", metavar="key=value", default=[], help="dotted overrides of the config, values as YAML"
    )
    train = command("train", _train, "Train an experiment config into its run folder, or resume it.")
    train.add_argument("config", help="YAML file, or a run folder")
    train.add_argument("overrides", **overrides)
    train.add_argument("--no-progress", action="store_true", help="no progress bar")

    evaluate = command("evaluate", _evaluate, "Measure a trained run: accuracy against what was spent, over budgets.")
    evaluate.add_argument("run", help="run folder of `hybrid train`")
    evaluate.add_argument("overrides", **overrides)
    evaluate.add_argument("--steps", help="denoising budgets, such as 0,1,2,4,8")
    evaluate.add_argument("--policies", help="such as confidence,threshold")
    evaluate.add_argument("--controls", help="of gold,shuffled,pause; '' for none")
    evaluate.add_argument("--examples", type=int, help="only the first so many")
    evaluate.add_argument("--batch", type=int, help="examples answered together; 1 measures latency")
    evaluate.add_argument("--drafts", type=int, help="sketches per prompt, one answer chosen; needs a --temperature")
    evaluate.add_argument("--temperature", type=float, help="of the sketch's draws; 0: greedy")
    evaluate.add_argument("--out", help="folder for the frontier files; default: the run folder")
    evaluate.add_argument("--no-progress", action="store_true", help="no progress bar")

    sample = command("sample", _sample, "Answer prompts under a budget; prints sketch, answer and what was spent.")
    sample.add_argument("run", help="run folder of `hybrid train`")
    sample.add_argument("--prompt", action="append", help="a prompt, may be repeated; default: lines of stdin")
    sample.add_argument("--file", help="prompts, one a line; - for stdin")
    sample.add_argument("--paragraphs", action="store_true", help="prompts of several lines, blank lines between them")
    sample.add_argument("--steps", type=int, help="denoising steps; 0: no sketch; default: one per canvas position")
    sample.add_argument("--tokens", type=int, help="sketch tokens at most, end token included")
    sample.add_argument("--forwards", type=int, help="network calls at most, the answer's reserved first")
    sample.add_argument("--ms", type=float, help="milliseconds at most, the answer's time kept free")
    sample.add_argument("--effort", help="none, low, medium or high: 0, 1/8, 1/3 or all of the canvas in steps")
    sample.add_argument("--drafts", type=int, default=1, help="sketches per prompt, each answered")
    sample.add_argument("--choose", default="vote", help="among several drafts: vote, likelihood or confidence")
    sample.add_argument("--policy", help="which positions a step commits, such as confidence or threshold")
    sample.add_argument("--threshold", type=float, help="of the threshold policy, 0 to 1")
    sample.add_argument("--temperature", type=float, help="0: greedy (the default)")
    sample.add_argument("--seed", type=int, default=0, help="of the draws")
    sample.add_argument("--json", action="store_true", help="one JSON object per prompt")
    sample.add_argument("--live", action="store_true", help="show the canvas while it is denoised")
    sample.add_argument("--delay", type=float, help="with --live: seconds that each state is shown")
    sample.add_argument("--trace", metavar="FILE", help="every state as data; `hybrid report FILE --out DIR` plays it")

    show = command("show", _show, "Show a resolved config, its parts and parameter counts, and what other kinds exist.")
    show.add_argument("config", help="YAML file, or a run folder")
    show.add_argument("overrides", **overrides)

    report = command("report", _report, "Merge the frontiers of runs of one task; play traces of `hybrid sample`.")
    report.add_argument("runs", nargs="+", help="run folders, frontier.json files, trace files")
    report.add_argument("--out", required=True, help="folder for frontier.json, .csv, .png, .html and trace.html")
    return parser


def _split_overrides(options: Any) -> list[str]:
    for text in options.overrides:
        if "=" not in text:
            raise ValueError(f"override {text!r}: expected key=value")
    return list(options.overrides)


def _folder(experiment: Any, config: str) -> Path:
    if experiment.run:
        return Path(experiment.run)
    path = Path(config)
    if path.is_dir():
        return path
    of = path.parent.name
    return Path("runs") / (path.stem if of in ("", "configs") else f"{of}-{path.stem}")


def _read(options: Any, extra: Sequence[str] = ()) -> Any:
    from hybrid.config import add_fork_path
    from hybrid.experiment import read_experiment

    path = getattr(options, "config", None) or options.run
    add_fork_path(path)
    return read_experiment(path, [*_split_overrides(options), *extra])


def _train(options: Any) -> None:
    experiment = _read(options)
    folder = _folder(experiment, options.config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"run={folder}: this folder cannot be made ({error.strerror}); name another") from None
    from hybrid.train.run import is_trained, train

    train(experiment, folder, progress=not options.no_progress)
    done = "trained" if is_trained(folder, experiment) else "stopped early"
    print(f"{done}: {folder}\nnext: hybrid evaluate {folder}")


def _evaluate(options: Any) -> None:
    from hybrid import report
    from hybrid.build import plain
    from hybrid.evaluate import evaluate
    from hybrid.experiment import is_run, load_reasoner

    if not is_run(options.run):
        raise ValueError(f"{options.run} is not a run folder; train one with `hybrid train CONFIG`")
    lists = {"steps": options.steps, "policies": options.policies, "controls": options.controls}
    extra = [f"evaluate.{k}=[{v}]" for k, v in lists.items() if v is not None]
    extra += [
        f"evaluate.{k}={v}"
        for k in ("examples", "batch", "drafts", "temperature")
        if (v := getattr(options, k)) is not None
    ]
    experiment = _read(options, extra)
    reasoner, trained = load_reasoner(options.run, experiment)
    examples = experiment.examples(experiment.evaluate.split)
    frontier = evaluate(
        reasoner, experiment.task, examples, experiment.evaluate, name=experiment.title, seed=experiment.seed,
        training_positions=float(trained["positions"]), progress=not options.no_progress,
    )  # fmt: skip
    config = plain(experiment)
    frontier = dataclasses.replace(frontier, model=config["model"], extra={"config": config})
    out = Path(options.out or options.run)
    files = report.write(frontier, out)
    print(report.table(frontier))
    print("written: " + ", ".join(str(f) for f in files))


def _prompts(options: Any) -> list[str]:
    if options.prompt and options.file:
        raise ValueError("give --prompt or --file, not both")
    if options.prompt:
        return [p.replace("\\n", "\n") for p in options.prompt]
    if options.file in (None, "-"):
        if sys.stdin.isatty():
            print("prompts, one a line; end with Ctrl-D", file=sys.stderr)
        text = sys.stdin.read()
    else:
        text = Path(options.file).read_text(encoding="utf-8")
    parts = text.replace("\r\n", "\n").split("\n\n" if options.paragraphs else "\n")
    return [p.strip("\n") for p in parts if p.strip()]


def _sample(options: Any) -> None:
    from hybrid.build import build
    from hybrid.diffusion.budget import Budget
    from hybrid.diffusion.policy import Policy
    from hybrid.drafters.diffusion import Diffusion
    from hybrid.experiment import is_run, load_reasoner
    from hybrid.live import reason

    if not is_run(options.run):
        raise ValueError(f"{options.run} is not a run folder; train one with `hybrid train CONFIG`")
    if options.live and options.json:
        raise ValueError("--live is for eyes and --json for programs: give one, or --live with --trace FILE")
    options.overrides = []
    experiment = _read(options)
    budget = Budget(options.steps, options.tokens, options.forwards, options.ms, options.effort)
    prompts = _prompts(options)
    reasoner, _ = load_reasoner(options.run, experiment)
    drafter = reasoner.config.drafter
    changes: dict[str, Any] = {}
    if options.policy or options.threshold is not None:
        section: dict[str, Any] = {"kind": options.policy or "threshold"}
        if options.threshold is not None:
            section["threshold"] = options.threshold
        changes["policy"] = build(Policy, section, "policy")
    if options.temperature is not None:
        changes["temperature"] = options.temperature
    if changes:
        if not isinstance(drafter, Diffusion):
            method = reasoner.config.method
            raise ValueError(f"--{next(iter(changes))} is for diffusion drafters; this run is `{method}`")
        drafter = dataclasses.replace(drafter, **changes)
    results = reason(
        reasoner, prompts, budget, drafter=drafter, seed=options.seed, out=sys.stdout, task=experiment.title,
        drafts=options.drafts, choose=options.choose, live=options.live, delay=options.delay, trace=options.trace,
    )  # fmt: skip
    for prompt, result in zip(prompts, results, strict=True):
        if options.json:
            print(json.dumps({"prompt": prompt, **dataclasses.asdict(result)}, ensure_ascii=False))
            continue
        spent = result.spent
        print(f"prompt  {prompt}\nsketch  {result.sketch or '(none)'}\nanswer  {result.answer}")
        if result.drafts:
            print("drafts  " + "  ".join(f"{d.sketch} > {d.answer}" for d in result.drafts))
        print("allowed " + ", ".join(f"{name} {limit}" for name, limit in result.allowed.items()))
        print(
            f"spent   {spent['denoiser_forwards']:.0f} denoiser + {spent['decoder_forwards']:.0f} decoder forwards, "
            f"{spent['positions']:.0f} positions, {spent['sketch_tokens']:.0f} sketch + "
            f"{spent['answer_tokens']:.0f} answer tokens, {spent['seconds'] * 1e3:.1f} ms"
            f"{'' if result.complete else '  (incomplete)'}\n"
        )


def _show(options: Any) -> None:
    from hybrid.build import plain
    from hybrid.config import dump
    from hybrid.describe import kinds_table, parameters_table

    experiment = _read(options)
    print(dump(plain(experiment)))
    print(parameters_table(experiment))
    print(kinds_table())


def _report(options: Any) -> None:
    from hybrid import frontier, report, report_trace, trace

    paths = [Path(r) / "frontier.json" if Path(r).is_dir() else Path(r) for r in options.runs]
    films = [p for p in paths if trace.is_trace(p)]
    traces = [one for path in films for one in trace.read(path)]
    runs = [frontier.read(p) for p in paths if p not in films]
    files = [report_trace.write(traces, options.out, has_frontier=bool(runs))] if films else []
    if runs:
        merged = frontier.merge(runs)
        files += report.write(merged, options.out)
        print(report.table(merged))
    print("written: " + ", ".join(str(f) for f in files))


if __name__ == "__main__":
    sys.exit(main())
