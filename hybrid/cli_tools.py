"""Commands around a run: hybrid check-data | export | harness; what every command reads, and what an evaluation may."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid.drafters import Drafter
    from hybrid.experiment import Experiment

Command = Callable[[str, Callable[[Any], None], str], argparse.ArgumentParser]


def add_commands(command: Command, overrides: dict[str, Any]) -> None:
    """Their parsers. overrides: the options of the argument that takes `key=value`."""
    check = command("check-data", _check_data, "Check an experiment's data before training on it.")
    check.add_argument("config", help="YAML file, or a run folder")
    check.add_argument("overrides", **overrides)
    check.add_argument("--samples", type=int, default=2, help="train rows shown as the networks read them")

    export = command("export", _export, "Write a run as a pipeline of transformers models, with a model card.")
    export.add_argument("run", help="run folder of `hybrid train`")
    export.add_argument("out", help="new folder for the pipeline")
    export.add_argument("--adapters", action="store_true", help="also write low-rank matrices on their own")
    export.add_argument("--push", metavar="REPOSITORY", help="upload it to the Hub under this name")
    export.add_argument("--private", action="store_true", help="make the repository private")

    harness = command("harness", _harness, "Run tasks of lm-evaluation-harness on a trained run, under a budget.")
    harness.add_argument("run", help="run folder of `hybrid train`")
    harness.add_argument("--tasks", required=True, help="names, such as gsm8k,arc_easy")
    harness.add_argument("--include", metavar="DIR", help="folder of task files of your own; only these are known then")
    harness.add_argument("--steps", type=int, help="denoising steps; default: one per canvas position")
    harness.add_argument("--gen-kwargs", metavar="KEY=VALUE,...", help="over the tasks' own, such as policy=margin")
    harness.add_argument("--join", default="{answer}", help="text that is scored, of {sketch} and {answer}")
    harness.add_argument("--score", default="bound", help="log-likelihood: bound (of a sketch) or answer")
    harness.add_argument("--samples", type=int, default=32, help="masks per bound")
    harness.add_argument("--limit", type=int, help="only the first so many rows of each task")
    harness.add_argument("--batch", type=int, default=32, help="rows answered together")
    harness.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu or cuda:N")
    harness.add_argument("--out", help="file for the harness's results as JSON")


def read(options: Any, extra: Sequence[str] = ()) -> Any:
    """The experiment of a command's config or run folder, with its overrides."""
    from hybrid.config import add_fork_path
    from hybrid.experiment import read_experiment

    path = getattr(options, "config", None) or options.run
    add_fork_path(path)
    return read_experiment(path, [*options.overrides, *extra])


def _check_data(options: Any) -> None:
    from hybrid.data_check import check_data

    report = check_data(read(options), options.samples)
    print("\n".join(report.lines))
    if report.faults:
        print("\n".join(f"fault: {fault}" for fault in report.faults))
        raise ValueError(f"{len(report.faults)} faults in the data, listed above")


def _export(options: Any) -> None:
    from hybrid.config import add_fork_path
    from hybrid.experiment import check_run
    from hybrid.hub.export import export, push

    check_run(options.run)
    add_fork_path(options.run)
    made = export(options.run, options.out, adapters=options.adapters)
    print("written: " + ", ".join(str(path) for path in made))
    if options.push:
        print(f"pushed: {push(options.out, options.push, private=options.private)}")


def _harness(options: Any) -> None:
    from hybrid.config import add_fork_path
    from hybrid.experiment import check_run

    try:
        from hybrid.harness import HybridLM, run_tasks
    except ImportError:
        raise ValueError("harness needs the package lm-eval: pip install 'hybrid-reasoning[harness]'") from None
    check_run(options.run)
    add_fork_path(options.run)
    if options.out:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        if Path(options.out).is_dir():
            raise ValueError(f"--out {options.out}: is a folder; name a file")
    model = HybridLM(
        options.run, options.steps, options.join, options.score, options.samples, batch_size=options.batch,
        device=options.device,
    )  # fmt: skip
    results = run_tasks(
        model, options.tasks.split(","), include=options.include, limit=options.limit, options=options.gen_kwargs
    )
    for task, figures in results["results"].items():
        shown = {k: v for k, v in figures.items() if isinstance(v, float) and "stderr" not in k}
        print(f"{task}: " + ", ".join(f"{name.partition(',')[0]} {value:.4f}" for name, value in shown.items()))
    print(f"log-likelihoods are {results['hybrid']['loglikelihood']}")
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=1, default=str) + "\n", encoding="utf-8")
        print(f"written: {options.out}")


def check_evaluated(experiment: "Experiment", trained: "Experiment") -> None:
    """Refuse overrides of an evaluation under which its rows would tell of something else than what is measured.

    Raises:
        ConfigError: naming the key, and what does it instead.
    """
    from hybrid.build import ConfigError

    if experiment.model.method != trained.model.method:
        raise ConfigError(
            f"model: these weights are those of {trained.model.method}, and their rows would be called "
            f"{experiment.model.method}; answers without a sketch are --steps 0, and over blanks --controls pause"
        )
    if experiment.tokenizer != trained.tokenizer:
        raise ConfigError("tokenizer: a run is evaluated with its own")
    policies = experiment.evaluate.policies
    own, other = (getattr(one.model.drafter, "policy", None) for one in (trained, experiment))
    if policies is not None and own != other and other not in policies:
        raise ConfigError(
            "model.drafter.policy: evaluate.policies says which are measured, and has not this one; give --policies"
        )


def unused(options: Any, drafter: "Drafter") -> str | None:
    """Options of an evaluation that say nothing to this drafter, in one line; None: all of them count."""
    from hybrid.drafters.diffusion import Diffusion

    names = ("policies", "controls", "drafts", "temperature", "verify", *(() if drafter.steps_matter else ("steps",)))
    given = [f"--{name}" for name in names if getattr(options, name) not in (None, "")]
    if isinstance(drafter, Diffusion) or not given:
        return None
    return f"{', '.join(given)}: of diffusion drafters alone, and this run's is {type(drafter).__name__}; not used"
