"""The shape of the package, read from its source: who imports whom, which library lives where, what is never done."""

import ast
import dataclasses
import importlib.util
import inspect
import sys
from functools import lru_cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import hybrid
from hybrid.experiment import Experiment
from hybrid.kinds import is_base, look_up, names

ROOT = Path(hybrid.__file__).parent
FILES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

# Imports point strictly down. A package stands on one floor, but for the settings of training, which are plain data.
FLOORS = [
    floor.split()
    for floor in """
        cli
        cli_help cli_sample cli_tools
        sweep
        train describe data_check hub harness
        experiment
        evaluate sample report live sizes
        reasoner report_page report_plot report_trace merging
        answering
        choose model writing
        drafters report_series trace
        feed bridge frontier config
        diffusion pace nets tasks metrics build report_html report_script report_player train.settings
        records kinds report_style shard launch reach
    """.strip().splitlines()
]
HEIGHT = {unit: -i for i, floor in enumerate(FLOORS) for unit in floor}
PLACE_OF = {
    "omegaconf": "config",
    "yaml": "config",
    "pytorch_lightning": "train",
    "submitit": "sweep",
    "diffusers": "hub",
    "matplotlib": "report_plot",
    "transformers": "nets tasks hub",
    "huggingface_hub": "hub reach",
    "peft": "nets",
    "tokenizers": "tasks",
    "datasets": "tasks",
    "pyarrow": "tasks",
    "math_verify": "tasks",
    "safetensors": "experiment hub nets",
    "lm_eval": "harness",
}
PURE = {"torch", "jaxtyping", *sys.stdlib_module_names}
UNSAFE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


@lru_cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def unit(module: str) -> str:
    """The name by which a module stands on a floor."""
    path = module.removeprefix("hybrid.")
    return path if path in HEIGHT else path.partition(".")[0]


def imported(module: str) -> list[str]:
    """Full names of what a module imports, anywhere in it; modules of ours in full."""
    found = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [part if part in FILES else str(node.module) for part in parts]
    return list(dict.fromkeys(found))


MODULES = [module for module in FILES if module != "hybrid"]


def test_every_module_stands_on_a_floor():
    assert not {unit(module) for module in MODULES} - set(HEIGHT)
    assert not FILES["hybrid"].read_text().strip() or not [m for m in imported("hybrid") if m.startswith("hybrid")]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    own = unit(module)
    for other in imported(module):
        if other.startswith("hybrid.") and unit(other) != own:
            assert HEIGHT[unit(other)] < HEIGHT[own], f"{module} imports {other}, which is not below it"


def test_no_circles_inside_packages():
    """Down the floors there are none; a package's own modules must not make one either."""
    TopologicalSorter({module: [m for m in imported(module) if m in FILES] for module in MODULES}).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_stay_in_their_place(module):
    for library in {name.partition(".")[0] for name in imported(module)}:
        places = PLACE_OF.get(library, unit(module))
        assert unit(module) in places.split(), f"{library} belongs in {places}"


@pytest.mark.parametrize("module", [m for m in MODULES if unit(m) in ("diffusion", "records", "kinds")])
def test_the_core_is_pure_torch(module):
    libraries = {name.partition(".")[0] for name in imported(module)} - {"hybrid"}
    assert libraries <= PURE, f"{module} imports {libraries - PURE}"


@pytest.mark.parametrize("module", [module for module in FILES if module.startswith("hybrid.cli")])
def test_the_command_line_starts_fast(module):
    """`hybrid --help` waits for no torch: only the commands import what they need."""
    top = [node for node in tree(module).body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = [a.name for n in top for a in n.names if isinstance(n, ast.Import)]
    found += [f"{n.module}.{a.name}" for n in top for a in n.names if isinstance(n, ast.ImportFrom)]
    others = {name.partition(".")[0] for name in found if not name.startswith("hybrid.cli")}
    assert others <= sys.stdlib_module_names


@pytest.mark.parametrize("module", FILES)
def test_files_are_one_idea_long(module):
    lines = len(FILES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= (150 if module == "hybrid.train.module" else 300)


@pytest.mark.parametrize("module", FILES)
def test_nothing_executes_data(module):
    assert not {name.partition(".")[0] for name in imported(module)} & UNSAFE
    for call in (node for node in ast.walk(tree(module)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        assert name not in ("eval", "exec", "compile", "__import__"), f"{module}, line {call.lineno}: {name}"
        keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert keywords.get("trust_remote_code", "False") == "False", f"{module}, line {call.lineno}"
        if name == "torch.load":
            assert keywords.get("weights_only") == "True", f"{module}, line {call.lineno}: not weights-only"


def config_classes() -> list[type]:
    """Every dataclass that a config of an experiment can hold, all registered kinds included."""
    found: list[type] = []
    todo: list[object] = [Experiment]
    while todo:
        hint = todo.pop()
        todo += [arg for arg in get_args(hint) if not isinstance(arg, str)]
        if isinstance(hint, type) and hint not in found:
            if is_base(hint):
                todo += [look_up(hint, name) for name in names(hint)]
            if dataclasses.is_dataclass(hint):
                found.append(hint)
                types = get_type_hints(hint)
                todo += [types[field.name] for field in dataclasses.fields(hint)]
    return found


@lru_cache
def reads_of(module: str) -> tuple[frozenset[str], dict[str, frozenset[str]]]:
    """Attributes read from anything but `self`, and for each class what its methods, checks aside, read of themselves
    (by name too, as in `getattr(self, name)`)."""
    elsewhere, own = set(), {}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                elsewhere.add(node.attr)
        if isinstance(node, ast.ClassDef):
            methods = [m for m in node.body if isinstance(m, ast.FunctionDef) and m.name != "__post_init__"]
            inside = [n for method in methods for n in ast.walk(method)]
            read = {n.attr for n in inside if isinstance(n, ast.Attribute)}
            own[node.name] = frozenset(read | {n.value for n in inside if isinstance(n, ast.Constant)})
    return frozenset(elsewhere), own


@pytest.mark.parametrize("cls", config_classes(), ids=lambda cls: cls.__name__)
def test_every_config_field_is_read(cls):
    read = set().union(*(reads_of(module)[0] for module in FILES))
    for kind in inspect.getmro(cls):
        if kind.__module__ in FILES:
            read |= reads_of(kind.__module__)[1][kind.__name__]
    unread = [field.name for field in dataclasses.fields(cls) if field.name not in read]
    assert not unread, f"{cls.__name__} has fields that change nothing: {unread}"


def test_every_mutant_is_a_fault_of_the_package_as_it_is():
    spec = importlib.util.spec_from_file_location("mutants", ROOT.parent / "scripts" / "mutants.py")
    sys.modules["mutants"] = mutants = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutants)
    listed = mutants.read(mutants.LIST)
    assert len(listed) > 100 and mutants.complaints(ROOT.parent, listed) == []
    assert all((ROOT.parent / "tests" / f"{test}.py").is_file() for mutant in listed for test in mutant.tests)
