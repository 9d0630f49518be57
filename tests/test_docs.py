"""The docs run: every command and line of the tutorials, in order, on shrunken runs; every config builds."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from hybrid.build import build
from hybrid.cli import main
from hybrid.experiment import Experiment
from hybrid.reasoner import Model
from hybrid.tasks import Rows, Task
from hybrid.train.settings import Train

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
SMALL = ["train.steps=2", "train.positions=null", "train.validate_every=0", "train.precision=32-true"]
BLOCK = re.compile(r"^```(\w+) ?([^\n]*)\n(.*?)^```", re.M | re.S)


def run(line):
    words = shlex.split(line)
    assert words[0] == "hybrid", line
    words += SMALL if words[1] == "train" else []
    words += ["--examples", "4"] if words[1] == "evaluate" else []
    words += ["--no-progress"] if words[1] in ("train", "evaluate") else []
    before, known = [*sys.path], {*sys.modules}
    assert main(words[1:]) == 0, line
    sys.path[:] = before  # the next command is another process
    for name in {*sys.modules} - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(Path.cwd())):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("file", TUTORIALS, ids=lambda file: file.stem)
def test_a_tutorial_runs(file, tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    names, blocks = {}, BLOCK.findall(file.read_text())
    assert blocks
    for language, where, text in blocks:
        if where.startswith("file="):
            Path(where.removeprefix("file=")).write_text(text)
        elif language == "bash":
            for line in text.splitlines():
                run(line)
        else:
            assert language == "python"
            with monkeypatch.context() as notebook:
                notebook.syspath_prepend(str(tmp_path))
                exec(compile(text.replace("STEPS := 300", "STEPS := 2"), f"{file.name}", "exec"), names)


def anchor(heading):
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "experiments").rglob("*.md")]


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(file):
    for link, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", file.read_text()):
        to = file.parent / link if link else file
        assert to.exists(), f"{file.name}: {link}"
        if heading:
            assert heading in [anchor(one) for one in re.findall(r"^#+ (.+)", to.read_text(), re.M)], (
                f"{link}#{heading}"
            )


def test_there_are_tutorials():
    assert {"reproduce", "budget", "fork", "notebook"} <= {file.stem for file in TUTORIALS}


def test_configs_of_the_guide_and_the_checkpoints_page_build():
    found = [block for name in ("guide", "checkpoints") for block in BLOCK.findall((DOCS / f"{name}.md").read_text())]
    kinds = {"model": Model, "task": Task, "train": Train, "experiment": Experiment}
    built = [build(kinds[what], yaml.safe_load(text)) for language, what, text in found if language == "yaml"]
    assert {type(one) for one in built} >= {Model, Rows, Train, Experiment}


def test_the_api_page_is_that_of_the_docstrings():
    spec = importlib.util.spec_from_file_location("api", ROOT / "scripts" / "api.py")
    api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(api)
    assert (DOCS / "api.md").read_text() == api.page(), "docs/api.md is old: run python scripts/api.py"
    assert "#### model.backbone kind: pretrained" in api.page() and "trust_remote_code = False" in api.page()
