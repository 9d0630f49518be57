"""The command line: hybrid train | evaluate | sample | show | sweep | report, and the commands of cli_tools."""

import argparse
import dataclasses
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from hybrid import cli_help, cli_sample, cli_tools


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where it went well, 2 on bad input, 130 on Ctrl-C, 143 on SIGTERM."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    for text in rest:  # overrides that stand after an option
        if text.startswith("-") or not hasattr(options, "overrides"):
            parser.error(f"unrecognized argument: {text}")
        options.overrides = [*options.overrides, text]
    if not hasattr(options, "command"):
        parser.print_help()
        return 2
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal's encoding lacks is escaped, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = options.command(options) or 0
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a reader that is gone is no error
        return status
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":  # of several processes, one says so
            print(f"\nhybrid: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except SystemExit as stop:
        return int(stop.code or 0)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get("HYBRID_TRACEBACK"):
            raise
        if line := _one_line(error):  # none: another rank says it
            print(f"hybrid: {line}", file=sys.stderr)
        return 2


def _one_line(error: Exception) -> str:
    text = str(error)
    if "in DataLoader worker" in text:  # with all of its traceback
        text = text.strip().splitlines()[-1].partition(": ")[2]
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
        epilog=cli_help.ALL, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"hybrid {version('hybrid-reasoning')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, run: Callable[[Any], int | None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, epilog=cli_help.OF[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
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
    evaluate.add_argument("--answers", help="of decode,verify,canvas; the last two where the canvas holds the answer")
    evaluate.add_argument("--verify", help="forwards that verify a draft at most, such as 0,64; 0: drafts stand")
    evaluate.add_argument("--devices", type=int, default=1, help="processes that share the examples")
    evaluate.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu or cuda:N")
    evaluate.add_argument("--out", help="folder for the frontier files; default: the run folder")
    evaluate.add_argument("--no-progress", action="store_true", help="no progress bar")

    sample = command("sample", _sample, "Answer prompts under a budget; prints sketch, answer and what was spent.")
    sample.add_argument("run", help="run folder of `hybrid train`")
    cli_sample.arguments(sample)

    show = command("show", _show, "Show a resolved config, its parts and parameter counts, and what other kinds exist.")
    show.add_argument("config", help="YAML file, or a run folder")
    show.add_argument("overrides", **overrides)

    sweep = command("sweep", _sweep, "Train and evaluate every combination of key=a,b,c; the same command goes on.")
    sweep.add_argument("config", help="YAML file")
    sweep.add_argument("overrides", nargs="+", metavar="key=a,b,c", help="a setting and its values, or its one value")
    sweep.add_argument("--out", help="folder for runs and the merged frontier; default: runs/sweep-CONFIG")
    sweep.add_argument("--jobs", type=int, default=1, help="points at a time")
    sweep.add_argument(
        "--slurm", metavar="KEY=VALUE,...", help="under Slurm, such as slurm_partition=gpu,gpus_per_node=8"
    )

    cli_tools.add_commands(command, overrides)

    report = command(
        "report",
        _report,
        "Merge the frontiers of runs of one task, seeds averaged and other configs told apart; "
        "play traces of `hybrid sample`.",
    )
    report.add_argument("runs", nargs="+", help="run folders, frontier.json files, trace files")
    report.add_argument("--out", required=True, help="folder for frontier.json, .csv, .png, .html and trace.html")
    return parser


def _folder(experiment: Any, config: str, is_named: bool) -> Path:
    """Where to train. A run folder as config is the folder, wherever it lies by now, unless an override names another:
    `run` in its config is where it was begun."""
    path = Path(config)
    if experiment.run and (is_named or not path.is_dir()):
        return Path(experiment.run)
    if path.is_dir():
        return path
    of = path.parent.name
    return Path("runs") / (path.stem if of in ("", "configs") else f"{of}-{path.stem}")


def _train(options: Any) -> int | None:
    experiment = cli_tools.read(options)
    folder = _folder(experiment, options.config, any(text.startswith("run=") for text in options.overrides))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"run={folder}: this folder cannot be made ({error.strerror}); name another") from None
    from hybrid.launch import launch
    from hybrid.shard import rank_and_world
    from hybrid.train.run import check, is_trained, train

    me = rank_and_world()
    if me is None and experiment.train.world > 1:
        check(experiment, folder)  # here, so that it is said once
        return launch(experiment.train.devices, options.arguments)
    train(experiment, folder, progress=not options.no_progress)
    if me is None or me[0] == 0:
        done = "trained" if is_trained(folder, experiment) else "stopped early"
        print(f"{done}: {folder}\nnext: hybrid evaluate {folder}")
    return 0


def _started(options: Any) -> int | None:
    """Start the command as `--devices` processes and wait for them; None where this process is to do it."""
    from hybrid.launch import launch
    from hybrid.shard import rank_and_world

    if options.devices < 1:
        raise ValueError(f"--devices {options.devices}: must be 1 or more")
    return launch(options.devices, options.arguments) if options.devices > 1 and rank_and_world() is None else None


def _evaluate(options: Any) -> int | None:
    from hybrid import report
    from hybrid.build import plain
    from hybrid.evaluate import evaluate, ways
    from hybrid.experiment import check_run, load_reasoner, positions_in_all, read_experiment
    from hybrid.shard import joined, own_device

    check_run(options.run)
    lists = {k: getattr(options, k) for k in ("steps", "policies", "controls", "answers", "verify")}
    extra = [f"evaluate.{k}=[{v}]" for k, v in lists.items() if v is not None]
    extra += [
        f"evaluate.{k}={v}"
        for k in ("examples", "batch", "drafts", "temperature")
        if (v := getattr(options, k)) is not None
    ]
    experiment = cli_tools.read(options, extra)
    cli_tools.check_evaluated(experiment, read_experiment(options.run))
    if said := cli_tools.unused(options, experiment.model.drafter):
        print(f"hybrid: warning: {said}", file=sys.stderr)
    reasoner, trained = load_reasoner(options.run, experiment)
    examples = experiment.examples(experiment.evaluate.split)
    ways(reasoner, experiment.evaluate)  # refuses what makes no sense before any process is started, as the next line
    device, out = own_device(options.device), Path(options.out or options.run)
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise ValueError(f"{out}: this folder cannot be written; name another with --out DIR")
    if (status := _started(options)) is not None:
        return status
    with joined(experiment.train.timeout) as shard:
        reasoner.to(device)
        frontier = evaluate(
            reasoner, experiment.task, examples, experiment.evaluate, name=experiment.title, seed=experiment.seed,
            training_positions=positions_in_all(trained), progress=not options.no_progress, shard=shard,
        )  # fmt: skip
    if shard.rank > 0:
        return 0
    config = plain(experiment)
    frontier = dataclasses.replace(frontier, model=config["model"], extra={"config": config})
    print(report.table(frontier), flush=True)  # before the files, for which the disk may be full
    files = report.write(frontier, out)
    print("written: " + ", ".join(str(f) for f in files))
    return 0


def _sample(options: Any) -> int | None:
    cli_sample.check(options)
    options.overrides = []
    return cli_sample.run(options, cli_tools.read(options), _started)


def _show(options: Any) -> None:
    from hybrid.build import plain
    from hybrid.config import dump
    from hybrid.describe import example_table, kinds_table
    from hybrid.experiment import TOKENIZER
    from hybrid.reasoner import Reasoner
    from hybrid.sizes import sizes_table
    from hybrid.tasks import Tokenizer
    from hybrid.train.optimiser import optimiser_of

    experiment = cli_tools.read(options)
    print(dump(plain(experiment)))
    own = Path(options.config) / TOKENIZER  # a run's, where there is one: its data may be elsewhere by now
    kept = own.is_file() and not options.overrides
    reasoner = Reasoner(experiment.model, Tokenizer.load(own) if kept else experiment.make_tokenizer())
    print(sizes_table(reasoner, optimiser_of(reasoner, experiment.train)))
    print(example_table(experiment))
    print(kinds_table())


def _sweep(options: Any) -> int:
    from hybrid import report
    from hybrid.config import add_fork_path
    from hybrid.sweep import parameters, points, sweep

    add_fork_path(options.config)
    out = Path(options.out or Path("runs") / f"sweep-{Path(options.config).stem}")
    slurm = None if options.slurm is None else parameters(options.slurm)
    listed = points(options.config, options.overrides, out)
    merged, failed = sweep(listed, out, jobs=options.jobs, slurm=slurm, say=lambda line: print(line, flush=True))
    files = report.write(merged, out)
    print(report.table(merged))
    print("written: " + ", ".join(str(f) for f in files))
    if failed:
        again = "the same command runs what is left"
        print(f"hybrid: {len(failed)} of {len(listed)} points failed: {'; '.join(failed)}; {again}", file=sys.stderr)
    return 1 if failed else 0


def _report(options: Any) -> None:
    from hybrid import frontier, report, report_trace, trace
    from hybrid.merging import merge

    for run in (Path(r) for r in options.runs):
        if run.is_dir() and not (run / "frontier.json").is_file():
            raise ValueError(f"{run} has no frontier.json; `hybrid evaluate` of a run writes it")
    paths = [Path(r) / "frontier.json" if Path(r).is_dir() else Path(r) for r in options.runs]
    films = [p for p in paths if trace.is_trace(p)]
    into = (Path(options.out) / "frontier.json").resolve()
    if len(paths) - len(films) > 1 and into in [path.resolve() for path in paths]:
        raise ValueError(f"--out {options.out}: its frontier is one of those to be merged; name another folder")
    traces = [one for path in films for one in trace.read(path)]
    runs = [frontier.read(p) for p in paths if p not in films]
    files = [report_trace.write(traces, options.out, has_frontier=bool(runs))] if films else []
    if runs:
        merged = merge(runs)
        files += report.write(merged, options.out)
        print(report.table(merged))
    print("written: " + ", ".join(str(f) for f in files))


if __name__ == "__main__":
    sys.exit(main())
