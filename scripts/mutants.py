#!/usr/bin/env python
"""Are the tests worth their time? Break the package in the ways this field ships, and see what notices."""

import argparse
import contextlib
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "scripts" / "mutants.txt"
HELP = """\
Each mutant is one fault put into a copy of the package: a name, a file, the text it replaces (which must
occur exactly once) and what stands there instead; scripts/mutants.txt lists them. The laws that concern the
file then run on the copy, up to the first failure. A mutant is caught when a test fails or hangs, and missed
when all pass: then the fault is one that nothing would notice, and a test is due. The copy without any fault
must pass first.
"""
EXAMPLES = """\
examples:
  scripts/mutants.py                          all of them
  scripts/mutants.py --list                   their names, files and faults
  scripts/mutants.py --only quota-floor       one; repeat --only for more
  scripts/mutants.py --jobs 4                 four at a time, for machines with cores to spare

exit status: 0 all caught; 1 some missed; 2 a mutant's text is not in its file exactly once, an unknown name,
or the package as it is does not pass.
"""

# Which tests concern which files, likeliest first.
TESTS = {
    "hybrid/diffusion/schedule.py": ("test_schedule", "test_bound"),
    "hybrid/diffusion/corruption.py": ("test_bound", "test_uniform", "test_policy"),
    "hybrid/diffusion/bound.py": ("test_bound", "test_blocks", "test_reasoner"),
    "hybrid/diffusion/blocks.py": ("test_blocks", "test_reasoner"),
    "hybrid/diffusion/noise.py": ("test_noise", "test_bound"),
    "hybrid/diffusion/budget.py": ("test_draft", "test_budget"),
    "hybrid/diffusion/policy.py": ("test_policy", "test_draft", "test_remask", "test_uniform"),
    "hybrid/diffusion/proposal.py": ("test_policy", "test_draft"),
    "hybrid/diffusion/remask.py": ("test_remask", "test_uniform"),
    "hybrid/diffusion/stop.py": ("test_windows",),
    "hybrid/diffusion/windows.py": ("test_windows", "test_budget"),
    "hybrid/diffusion/sampling.py": ("test_guidance", "test_draft"),
    "hybrid/diffusion/state.py": ("test_draft", "test_remask", "test_uniform"),
    "hybrid/diffusion/draft.py": ("test_draft", "test_policy", "test_windows", "test_remask", "test_uniform"),
    "hybrid/diffusion/guidance.py": ("test_ending", "test_draft", "test_guidance", "test_uniform", "test_verify"),
    "hybrid/nets/layout.py": ("test_networks", "test_blocks"),
    "hybrid/nets/network.py": ("test_networks", "test_controls", "test_blocks", "test_families", "test_self_condition"),
    "hybrid/nets/memory.py": ("test_networks", "test_controls", "test_blocks", "test_compiled"),
    "hybrid/nets/compiled.py": ("test_compiled",),
    "hybrid/nets/head.py": ("test_families",),
    "hybrid/hub/scheduler.py": ("test_schedulers",),
    "hybrid/hub/policies.py": ("test_schedulers",),
    "hybrid/hub/names.py": ("test_hub",),
    "hybrid/nets/recurrent.py": ("test_families",),
    "hybrid/nets/encoder.py": ("test_families",),
    "hybrid/nets/pretrained.py": ("test_pretrained",),
    "hybrid/nets/adapt.py": ("test_adapt", "test_hub"),
    "hybrid/tasks/checkpoint_tokenizer.py": ("test_pretrained",),
    "hybrid/tasks/two_tokenizers.py": ("test_two_tokenizers",),
    "hybrid/tasks/ontology.py": ("test_ontology",),
    "hybrid/tasks/collate.py": ("test_two_tokenizers", "test_tokenizer"),
    "hybrid/tasks/arithmetic.py": ("test_checkers",),
    "hybrid/tasks/countdown.py": ("test_checkers", "test_tasks"),
    "hybrid/tasks/multiplication.py": ("test_checkers", "test_tasks"),
    "hybrid/tasks/sudoku.py": ("test_checkers", "test_tasks"),
    "hybrid/tasks/addition.py": ("test_checkers", "test_tasks"),
    "hybrid/tasks/gsm8k.py": ("test_checkers",),
    "hybrid/tasks/chain.py": ("test_tasks",),
    "hybrid/tasks/rows.py": ("test_rows",),
    "hybrid/tasks/task.py": ("test_tasks",),
    "hybrid/tasks/procedural.py": ("test_tasks",),
    "hybrid/harness.py": ("test_harness",),
    "hybrid/drafters/anneal.py": ("test_conversion",),
    "hybrid/drafters/self_condition.py": ("test_self_condition",),
    "hybrid/nets/decode.py": ("test_networks", "test_controls", "test_budget"),
    "hybrid/nets/verify.py": ("test_verify", "test_speculative"),
    "hybrid/writing.py": ("test_verify",),
    "hybrid/drafters/canvas.py": (
        "test_blocks",
        "test_controls",
        "test_networks",
        "test_families",
        "test_self_condition",
    ),
    "hybrid/drafters/diffusion.py": (
        "test_controls",
        "test_outside",
        "test_networks",
        "test_feeds",
        "test_reasoner",
        "test_blocks",
        "test_conversion",
        "test_verify",
        "test_speculative",
        "test_self_condition",
    ),
    "hybrid/drafters/causal.py": ("test_controls", "test_speculative"),
    "hybrid/drafters/autoregressive.py": ("test_controls", "test_reasoner", "test_budget"),
    "hybrid/drafters/internalised.py": ("test_internalised",),
    "hybrid/drafters/controls.py": ("test_controls",),
    "hybrid/bridge.py": ("test_networks", "test_reasoner", "test_latent"),
    "hybrid/feed.py": ("test_feeds", "test_training", "test_pretrained"),
    "hybrid/reasoner.py": ("test_reasoner", "test_internalised", "test_two_tokenizers"),
    "hybrid/trace.py": ("test_trace",),
    "hybrid/live.py": ("test_live",),
    "hybrid/report_html.py": ("test_report_trace", "test_report"),
    "hybrid/shard.py": ("test_training",),
    "hybrid/train/data.py": ("test_training", "test_interrupt"),
    "hybrid/train/optimiser.py": ("test_training", "test_adapt"),
    "hybrid/train/module.py": ("test_training", "test_interrupt"),
    "hybrid/train/checkpoints.py": ("test_interrupt",),
    "hybrid/train/curve.py": ("test_interrupt",),
    "hybrid/train/interrupt.py": ("test_interrupt",),
    "hybrid/train/run.py": ("test_training", "test_checkpoint_run", "test_interrupt"),
    "hybrid/records.py": ("test_controls", "test_budget", "test_verify"),
    "hybrid/metrics.py": ("test_metrics", "test_budget"),
    "hybrid/choose.py": ("test_budget",),
    "hybrid/answering.py": ("test_budget", "test_reasoner", "test_controls", "test_outside"),
    "hybrid/pace.py": ("test_budget",),
    "hybrid/diffusion/deadline.py": ("test_budget",),
    "hybrid/evaluate.py": ("test_evaluate", "test_verify", "test_speculative"),
    "hybrid/merging.py": ("test_merging", "test_metrics"),
    "hybrid/report.py": ("test_report",),
    "hybrid/sample.py": ("test_tasks",),
    "hybrid/report_series.py": ("test_report", "test_merging"),
    "hybrid/frontier.py": ("test_metrics", "test_merging"),
    "hybrid/build.py": ("test_config",),
    "hybrid/config.py": ("test_config",),
    "hybrid/experiment.py": ("test_training", "test_checkpoint_run"),
}
# Imported once, before the copies fork off.
LIBRARIES = [
    "torch", "pytest", "diffusers", "tokenizers", "einops", "jaxtyping", "pytorch_lightning",
    "transformers.generation.utils", "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.gpt_neox.modeling_gpt_neox",
]  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    old: str
    new: str

    @property
    def tests(self) -> tuple[str, ...]:
        return TESTS[self.file]


def read(path: Path) -> list[Mutant]:
    """The mutants of a text file: `name in file`, lines taken out (-), lines put in (+); # is a comment."""
    mutants = []
    for block in re.split(r"\n{2,}", path.read_text()):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if not lines:
            continue
        name, _, file = lines[0].partition(" in ")
        old, new = ("\n".join(line[1:] for line in lines[1:] if line[0] == sign) for sign in "-+")
        mutants.append(Mutant(name, file, old, new))
    return mutants


class FirstFailure:
    """A pytest plugin that remembers the first test that failed."""

    def __init__(self) -> None:
        self.test = ""

    def pytest_runtest_logreport(self, report) -> None:  # noqa: ANN001  (pytest's own type)
        if report.failed and not self.test:
            self.test = report.nodeid

    def pytest_collectreport(self, report) -> None:  # noqa: ANN001
        if report.failed and not self.test:
            self.test = f"{report.nodeid} (collection)"


def run_tests(copy: str, tests: tuple[str, ...], verdict: str) -> None:
    """In a process of its own: run the tests of the copy; write the exit status and the first failure."""
    import pytest

    os.chdir(copy)
    sys.path.insert(0, copy)
    sys.dont_write_bytecode = True
    seen = FirstFailure()
    with (
        open(os.path.join(copy, "log"), "w") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        files = [f"tests/{name}.py" for name in tests]
        options = [
            "-x",
            "-q",
            "--tb=short",
            "-m",
            "not slow",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            copy,
        ]
        code = pytest.main([*options, *files], plugins=[seen])
        home = sys.modules["hybrid"].__file__
        assert home.startswith(copy), f"the tests imported {home}, not the copy"
    Path(verdict).write_text(f"{int(code)}\n{seen.test}")


def judge(base: Path, mutant: Mutant | None, tests: tuple[str, ...], timeout: float) -> tuple[str, str]:
    """("passes" | "fails" | "hangs", the test that failed) of a copy of `base` with the fault in it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = os.path.realpath(folder)
        shutil.copytree(base, copy, dirs_exist_ok=True)
        if mutant is not None:
            path = Path(copy, mutant.file)
            path.write_text(path.read_text().replace(mutant.old, mutant.new))
        verdict = Path(copy, "verdict")
        process = CONTEXT.Process(target=run_tests, args=(copy, tests, str(verdict)))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            return "hangs", f"no end within {timeout:.0f} s"
        if not verdict.exists():
            log = Path(copy, "log").read_text()[-500:] if Path(copy, "log").exists() else ""
            return "fails", f"the process died with status {process.exitcode}: {log}"
        code, test = verdict.read_text().split("\n", 1)
        return ("passes" if code == "0" else "fails"), test


CONTEXT = multiprocessing.get_context("forkserver")


def complaints(base: Path, mutants: list[Mutant]) -> list[str]:
    """Mutants whose text is not in their file exactly once, or whose name is not their own."""
    found = []
    for mutant in mutants:
        count = (base / mutant.file).read_text().count(mutant.old)
        if count != 1:
            found.append(f"{mutant.name}: {mutant.old!r} occurs {count} times in {mutant.file}, not once")
        if sum(m.name == mutant.name for m in mutants) > 1:
            found.append(f"{mutant.name}: the name is taken twice")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n\n{HELP}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="NAME", action="append", help="run this mutant; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants at a time (default: 1)")
    parser.add_argument("--timeout", type=float, default=180, metavar="S", help="seconds per mutant (default: 180)")
    parser.add_argument("--list", action="store_true", help="list the mutants and stop")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: must be 1 or more")

    mutants = read(LIST)
    unknown = sorted(set(args.only or ()) - {m.name for m in mutants})
    if unknown:
        parser.error(f"unknown mutant {', '.join(unknown)}; --list shows all {len(mutants)}")
    chosen = [m for m in mutants if not args.only or m.name in args.only]
    if args.list:
        for m in chosen:
            print(f"{m.name:30} {m.file}\n    - {' '.join(m.old.split())}\n    + {' '.join(m.new.split())}")
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # starts faster
    CONTEXT.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:  # edits made meanwhile change nothing
        for part in ("hybrid", "tests", "docs", "configs"):
            shutil.copytree(ROOT / part, Path(folder, part), ignore=shutil.ignore_patterns("__pycache__"))
        wrong = complaints(Path(folder), mutants)
        if wrong:
            print("\n".join(wrong), file=sys.stderr)
            return 2
        return judge_all(Path(folder), chosen, args.jobs, args.timeout)


def judge_all(base: Path, mutants: list[Mutant], jobs: int, timeout: float) -> int:
    """Exit status: 0 where every mutant is caught, 1 where not, 2 where the package fails without any."""
    began = time.monotonic()
    used = tuple(dict.fromkeys(test for m in mutants for test in m.tests))
    print(f"the package as it is, on {len(used)} files of laws ...", flush=True)
    state, test = judge(base, None, used, timeout=max(timeout, 600))
    if state != "passes":
        print(f"the package as it is {state}: {test}\nmend that first", file=sys.stderr)
        return 2
    print(f"passes ({time.monotonic() - began:.0f} s); now {len(mutants)} mutants", flush=True)

    missed, width = [], len(str(len(mutants)))
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(lambda m: (m, *judge(base, m, m.tests, timeout)), mutants)
        for number, (mutant, state, test) in enumerate(results, 1):
            if state == "passes":
                missed.append(mutant.name)
            outcome = "MISSED" if state == "passes" else f"caught by {test}"
            done = f"[{number:{width}}/{len(mutants)}] {time.monotonic() - began:4.0f} s"
            print(f"{done}  {mutant.name}: {outcome}", flush=True)
    summary = f"caught {len(mutants) - len(missed)} of {len(mutants)}"
    print(f"{summary}; missed: {', '.join(missed)}" if missed else summary)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
