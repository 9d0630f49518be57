"""Config files, overrides, and plain data to dataclasses and back."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from hybrid.config import ABSENT, ConfigError, add_fork_path, build, differences, dump, load, plain, section_of
from hybrid.kinds import register

Write = Callable[[str, str], Path]


@dataclass(frozen=True)
class Curve:
    """A fake part."""


@register(Curve, "flat")
@dataclass(frozen=True)
class Flat(Curve):
    pass


@register(Curve, "power")
@dataclass(frozen=True)
class Power(Curve):
    power: float = 2.0
    scale: int = 1

    def __post_init__(self) -> None:
        if self.power <= 0:
            raise ValueError(f"power must be above 0,\n not {self.power}")


@dataclass(frozen=True)
class Unregistered(Curve):
    """Reached by dotted path."""

    width: int = 3


class Other:
    """No curve."""


class Writer:
    """A fake part with a part inside."""


@register(Writer, "diffusion")
@dataclass(frozen=True)
class Diffusion(Writer):
    curve: Curve = Flat()
    steps: int = 8


@register(Writer, "autoregressive")
@dataclass(frozen=True)
class Autoregressive(Writer):
    width: int = 8


@register(Writer, "bare")
class Bare(Writer):
    """Registered, but no dataclass."""


@dataclass(frozen=True)
class Train:
    steps: int
    batch: int = 4
    rate: float = 1e-3
    resume: bool = False
    precision: Literal["32", "bf16", 16] = "32"


@dataclass(frozen=True)
class Run:
    name: str
    train: Train = Train(steps=10, batch=2)
    drafter: Writer = field(default_factory=lambda: Diffusion(curve=Power(3.0, scale=5)))
    second: Writer | None = None
    layers: tuple[int, ...] = ()
    span: tuple[float, str] = (0.5, "words")
    curves: tuple[Curve, ...] = ()
    mixture: Mapping[str, float] = field(default_factory=lambda: {"gold": 1.0})
    named: dict[str, Curve] = field(default_factory=dict)
    budget: int | tuple[int, ...] | None = None
    label: Curve | str = "none"
    extra: Any = None
    derived: int = field(default=0, init=False)


@dataclass(frozen=True)
class Strict:
    curve: Curve
    train: Train


@dataclass(frozen=True)
class Odd:
    stream: bytes = b""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file under the test's folder."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def message(action: Callable[[], object]) -> str:
    """The single line of the ConfigError that `action` raises."""
    with pytest.raises(ConfigError) as caught:
        action()
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refusal(**keys: object) -> str:
    return message(lambda: build(Run, {"name": "x"} | keys))


# ---- files and layers


def test_the_file_wins_over_its_bases_and_overrides_over_the_file(write: Write) -> None:
    write("parts/a.yaml", "x: 1\ny: 1\nz: 1\nw: 1\ns: {p: 1, q: 1}\nl: [1, 2]")
    write("parts/b.yaml", "base: a.yaml\ny: 2\nz: 2\nw: 2\ns: {q: 2}")
    write("c.yaml", "w: c\nz: c")
    path = write("run.yaml", "base: [parts/b.yaml, c.yaml]\nz: 4\nl: [3]")
    expected = {"x": 1, "y": 2, "z": 4, "w": "c", "s": {"p": 1, "q": 2}, "l": [3]}
    assert load(path) == expected
    assert load(str(path), ["z=5", "s.p=6", "new.key=7"]) == expected | {
        "z": 5,
        "s": {"p": 6, "q": 2},
        "new": {"key": 7},
    }


def test_one_base_may_be_reached_twice(write: Write) -> None:
    write("root.yaml", "x: 1")
    write("a.yaml", "base: root.yaml\ny: 1")
    write("b.yaml", "base: root.yaml\nz: 1")
    assert load(write("run.yaml", "base: [a.yaml, b.yaml]")) == {"x": 1, "y": 1, "z": 1}


def test_a_cycle_of_bases_is_named(write: Write) -> None:
    write("a.yaml", "base: sub/b.yaml")
    write("sub/b.yaml", "base: ../a.yaml")
    text = message(lambda: load(write("run.yaml", "base: a.yaml")))
    assert "cannot be its own base" in text
    assert text.index("run.yaml -> ") < text.index("b.yaml -> ")


@pytest.mark.parametrize("base", ["3", "[1]", "{a: b}", "null"])
def test_base_is_a_name_or_names(write: Write, base: str) -> None:
    path = write("run.yaml", f"base: {base}")
    assert message(lambda: load(path)).startswith(f"{path}: base: expected a file name or a list of them, got ")


def test_missing_files_say_who_wanted_them(write: Write, tmp_path: Path) -> None:
    assert message(lambda: load(tmp_path / "no.yaml")) == f"{tmp_path / 'no.yaml'}: no such config file"
    path = write("run.yaml", "base: no.yaml")
    assert message(lambda: load(path)) == f"{tmp_path / 'no.yaml'}: no such config file (base of {path})"
    assert message(lambda: load(tmp_path)).startswith(f"{tmp_path}: cannot be read: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [1,\nc: 2", ", line 4: not YAML: "),
        ("a: 1\nb: 2\na: 3", ", line 3: not YAML: found duplicate key a"),
        ("a: !!python/object/apply:os.getcwd []", "not YAML: could not determine a constructor"),
        ("- 1\n- 2", ": expected a section of `key: value` lines, got a list"),
        ("3", "run.yaml: cannot be read: Invalid loaded object type: int"),
        ("a: ${b", "run.yaml: cannot be read: no viable alternative at input '${b'"),
    ],
)
def test_bad_yaml_names_file_and_line(write: Write, text: str, said: str) -> None:
    path = write("run.yaml", text)
    found = message(lambda: load(path))
    assert found.startswith(str(path))
    assert said in found


def test_an_empty_file_is_an_empty_config(write: Write) -> None:
    assert load(write("run.yaml", "# nothing yet\n")) == {}
    assert load(write("none.yaml", "")) == {}


def test_values_are_plain_and_typed_as_yaml(write: Write) -> None:
    found = load(write("run.yaml", "a: {b: [1, {c: 1e-3}]}\nd: '1e-3'\ne: null\nf: true"))
    assert found == {"a": {"b": [1, {"c": 0.001}]}, "d": "1e-3", "e": None, "f": True}
    assert type(found["a"]) is dict and type(found["a"]["b"]) is list and type(found["a"]["b"][1]) is dict


def test_interpolations_see_the_merged_config(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_TEST", "there")
    write("base.yaml", "n: 1\nm: ${n}\ndeep: {p: '${n}', q: 0}")
    path = write("run.yaml", "base: base.yaml\nn: 2\ncopy: ${deep}\nwhere: ${oc.env:HYBRID_TEST}/x\ntext: \\${n}")
    assert load(path, ["n=3", "copy.q=9", "also=${n}"]) == {
        "n": 3,
        "m": 3,
        "deep": {"p": 3, "q": 0},
        "copy": {"p": 3, "q": 9},
        "where": "there/x",
        "text": "${n}",
        "also": 3,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {b: '${c}'}", "a.b: Interpolation key 'c' not found"),
        ("a: ${b}\nb: ${a}", "Recursive interpolation"),
        ("a: ${oc.env:HYBRID_NOT_SET}", "a: KeyError raised while resolving interpolation"),
        ("a: {b: '???'}", "a.b: Missing mandatory value"),
    ],
)
def test_interpolations_that_fail_name_their_key(write: Write, text: str, said: str) -> None:
    path = write("run.yaml", text)
    found = message(lambda: load(path))
    assert found.startswith(f"{path}: ")
    assert said in found


# ---- overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        ("true", True),
        ("null", None),
        ("", None),
        ("[0,1,2]", [0, 1, 2]),
        ("[]", []),
        ("{p: 1, q: [a]}", {"p": 1, "q": ["a"]}),
        ("a=b", "a=b"),
        ("'3'", "3"),
        ("some words", "some words"),
    ],
)
def test_override_values_are_yaml(write: Write, text: str, value: object) -> None:
    assert load(write("run.yaml", "a: {b: 0}"), [f"a.b={text}"]) == {"a": {"b": value}}


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", ".a=1", "a.=1", "a[0]=1", "a b=1", "-- a=1"])
def test_malformed_overrides_stop(write: Write, text: str) -> None:
    path = write("run.yaml", "a: 1")
    assert message(lambda: load(path, [text])) == f"override {text!r}: expected key=value or key.sub=value"


@pytest.mark.parametrize("text", ["a=[1", "a={b", "a=${b"])
def test_override_values_that_do_not_parse_stop(write: Write, text: str) -> None:
    path = write("run.yaml", "a: 1")
    assert message(lambda: load(path, [text])).startswith(f"override {text!r}: the value is not YAML: ")


def test_the_last_of_two_overrides_wins(write: Write) -> None:
    assert load(write("run.yaml", "a: 1"), ["a=2", "b.c=1", "b={c: 2}", "a=3"]) == {"a": 3, "b": {"c": 2}}


def test_an_unknown_override_key_stops_the_build(write: Write) -> None:
    config = load(write("run.yaml", "name: x"), ["train.bacth=4"])
    assert message(lambda: build(Run, config)) == (
        "unknown key train.bacth (=4); did you mean train.batch? known: steps, batch, rate, resume, precision"
    )


def test_a_list_cannot_be_edited_by_index(write: Write) -> None:
    config = load(write("run.yaml", "name: x\nlayers: [1, 2]"), ["layers.0=5"])
    assert message(lambda: build(Run, config)) == "layers: expected a list (each int), got {'0': 5}"


# ---- layers of a part

BASE = "d: {kind: diffusion, curve: {kind: power, power: 3.0}, steps: 4}\nother: 1"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["d.kind=autoregressive"], {"kind": "autoregressive"}),
        (["d=autoregressive"], {"kind": "autoregressive"}),
        (["d.kind=autoregressive", "d.width=2"], {"kind": "autoregressive", "width": 2}),
        (["d.width=2", "d.kind=autoregressive"], {"kind": "autoregressive", "width": 2}),
        (["d=autoregressive", "d.width=2"], {"kind": "autoregressive", "width": 2}),
        (["d.width=2", "d=autoregressive"], {"width": 2, "kind": "autoregressive"}),
        (["d={kind: autoregressive, width: 2}"], {"kind": "autoregressive", "width": 2}),
        (["d.kind=diffusion"], {"kind": "diffusion", "curve": {"kind": "power", "power": 3.0}, "steps": 4}),
        (["d=diffusion"], {"kind": "diffusion", "curve": {"kind": "power", "power": 3.0}, "steps": 4}),
        (["d.curve=flat"], {"kind": "diffusion", "curve": {"kind": "flat"}, "steps": 4}),
        (["d.curve.kind=flat", "d.steps=5"], {"kind": "diffusion", "curve": {"kind": "flat"}, "steps": 5}),
        (["d=null"], None),
    ],
)
def test_a_new_kind_drops_what_the_old_one_inherited(write: Write, overrides: list[str], expected: object) -> None:
    assert load(write("run.yaml", BASE), overrides) == {"d": expected, "other": 1}


def test_a_file_that_changes_a_kind_keeps_its_own_keys_and_later_ones(write: Write) -> None:
    write("base.yaml", BASE)
    write("middle.yaml", "base: base.yaml\nd: {kind: autoregressive, width: 2}")
    assert load(write("run.yaml", "base: middle.yaml\nd: {depth: 3}"))["d"] == {
        "kind": "autoregressive",
        "width": 2,
        "depth": 3,
    }


def test_a_bare_string_below_a_section_is_its_kind(write: Write) -> None:
    path = write("run.yaml", "d: autoregressive")
    assert load(path, ["d.width=2"])["d"] == {"kind": "autoregressive", "width": 2}
    assert load(path, ["d=diffusion"])["d"] == "diffusion"


def test_a_kind_over_a_section_that_names_none_keeps_its_keys(write: Write) -> None:
    assert load(write("run.yaml", "d: {width: 2}"), ["d=autoregressive"])["d"] == {
        "width": 2,
        "kind": "autoregressive",
    }


def test_the_whole_config_may_be_a_part(write: Write) -> None:
    path = write("run.yaml", "kind: diffusion\nsteps: 3")
    assert build(Writer, load(path)) == Diffusion(steps=3)
    assert build(Writer, load(path, ["kind=autoregressive"])) == Autoregressive()


# ---- build


def test_build_reads_every_hint() -> None:
    section = {
        "name": "x",
        "train": {"steps": 3, "rate": 1, "resume": True, "precision": 16},
        "drafter": {"kind": "autoregressive", "width": 2},
        "second": "diffusion",
        "layers": [0, 1],
        "span": [1, "lines"],
        "curves": ["flat", {"kind": "power", "power": 4}],
        "mixture": {"drafted": 1, "none": 0.5},
        "named": {"a": "flat"},
        "budget": [1, 2],
        "label": "word",
        "extra": {"anything": [1, None]},
    }
    built = build(Run, section)
    assert built == Run(
        "x",
        Train(3, 2, 1.0, True, 16),
        Autoregressive(2),
        Diffusion(),
        (0, 1),
        (1.0, "lines"),
        (Flat(), Power(4.0)),
        {"drafted": 1.0, "none": 0.5},
        {"a": Flat()},
        (1, 2),
        "word",
        {"anything": [1, None]},
    )
    assert type(built.train.rate) is float and type(built.span[0]) is float


def test_absent_sections_take_the_field_default() -> None:
    assert build(Run, {"name": "x"}) == Run("x")


def test_a_section_without_a_kind_edits_the_default() -> None:
    assert build(Run, {"name": "x", "drafter": {"steps": 2}}).drafter == Diffusion(Power(3.0, 5), 2)
    assert build(Run, {"name": "x", "drafter": {"curve": {"power": 9}}}).drafter == Diffusion(Power(9.0, 5))
    assert build(Run, {"name": "x", "train": {"steps": 1}}).train == Train(steps=1, batch=2)


def test_the_kind_of_the_default_is_the_same_layer_and_another_kind_starts_afresh() -> None:
    assert build(Run, {"name": "x", "drafter": "diffusion"}).drafter == Diffusion(Power(3.0, 5))
    assert build(Run, {"name": "x", "drafter": {"kind": "autoregressive"}}).drafter == Autoregressive(8)


def test_a_default_of_the_field_leaks_into_no_other_build() -> None:
    assert build(Run, {"name": "x", "mixture": {"none": 1}}).mixture == {"none": 1.0}
    assert build(Run, {"name": "x"}).mixture == {"gold": 1.0}


def test_null_and_unions() -> None:
    assert build(Run, {"name": "x", "second": None}).second is None
    assert build(Run, {"name": "x", "budget": 3}).budget == 3
    assert build(Run, {"name": "x", "budget": None}).budget is None
    assert build(Run, {"name": "x", "label": "flat"}).label == Flat()
    assert build(Run, {"name": "x", "label": {"kind": "power"}}).label == Power()


def test_build_takes_a_kind_for_a_concrete_class_too() -> None:
    assert build(Power, {"power": 3}) == build(Power, {"kind": "power", "power": 3}) == Power(3.0)
    assert message(lambda: build(Power, "flat")) == "kind: 'flat' is no Power"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"train": {"steps": "10"}}, "train.steps: expected int, got '10'"),
        ({"train": {"steps": True}}, "train.steps: expected int, got True"),
        ({"train": {"steps": 1.0}}, "train.steps: expected int, got 1.0"),
        ({"train": {"steps": None}}, "train.steps: expected int, got None"),
        ({"train": {"rate": "1e-3"}}, "train.rate: expected float, got '1e-3'"),
        ({"train": {"rate": False}}, "train.rate: expected float, got False"),
        ({"train": {"resume": 1}}, "train.resume: expected bool (true or false), got 1"),
        ({"train": {"precision": "16"}}, "train.precision: expected one of '32', 'bf16', 16, got '16'"),
        ({"train": 3}, "train: expected a section (keys: steps, batch, rate, resume, precision), got 3"),
        (
            {"train": "fast"},
            "train: expected a section (keys: steps, batch, rate, resume, precision), got 'fast'",
        ),
        ({"name": 3}, "name: expected str, got 3"),
        ({"layers": "012"}, "layers: expected a list (each int), got '012'"),
        ({"layers": [0, "1"]}, "layers[1]: expected int, got '1'"),
        ({"span": [1.0]}, "span: expected a list (float, str), got [1.0]"),
        ({"curves": ["flat", 3]}, "curves[1]: expected a Curve (kinds: flat, power), got 3"),
        ({"mixture": [1]}, "mixture: expected a section (each value float), got [1]"),
        ({"mixture": {"gold": "1"}}, "mixture.gold: expected float, got '1'"),
        ({"mixture": {1: 1.0}}, "a key of mixture: expected str, got 1"),
        ({"budget": "all"}, "budget: expected int or a list (each int) or null, got 'all'"),
        ({"budget": [1, "x"]}, "budget[1]: expected int, got 'x'"),
        ({"second": 3}, "second: expected a Writer (kinds: autoregressive, bare, diffusion), got 3"),
        ({"label": None}, "label: expected a Curve (kinds: flat, power) or str, got None"),
        ({"label": {"kind": "power", "power": -1}}, "label: power must be above 0, not -1.0"),
        (
            {"second": {"steps": 1}},
            "missing required key second.kind: a Writer (kinds: autoregressive, bare, diffusion)",
        ),
        (
            {"second": {"kind": 3}},
            "second.kind: expected a Writer (kinds: autoregressive, bare, diffusion), got 3",
        ),
        ({"second": "bare"}, "second: Bare is no dataclass, so no config can build it"),
        ({"derived": 3}, "unknown key derived (=3); known: name, train, "),
        (
            {"trian": {"steps": 3}},
            "unknown key trian (={'steps': 3}); did you mean train? known: name, train, ",
        ),
        (
            {"train": {"kind": "x"}},
            "unknown key train.kind (='x'); known: steps, batch, rate, resume, precision",
        ),
        (
            {"drafter": {"kind": "autoregressive", "steps": 2}},
            "unknown key drafter.steps (=2) for kind autoregressive; known: width",
        ),
        (
            {"second": {"kind": "diffusion", "curve": {"kind": "flat", "power": 2}}},
            "unknown key second.curve.power (=2) for kind flat; known: none",
        ),
        ({"drafter": {"curve": {"power": 0}}}, "drafter.curve: power must be above 0, not 0.0"),
    ],
)
def test_messages_name_path_value_and_what_is_allowed(keys: dict[str, object], said: str) -> None:
    found = refusal(**keys)
    assert found == said or (said.endswith(", ") and found.startswith(said))


def test_messages_start_from_the_given_path() -> None:
    assert message(lambda: build(Train, {"steps": "x"}, "run.train")) == "run.train.steps: expected int, got 'x'"
    assert message(lambda: build(Train, {}, "run.train")) == "missing required key run.train.steps: int"
    assert message(lambda: build(Power, {"power": -1})) == "power must be above 0, not -1.0"


def test_long_values_are_cut() -> None:
    assert len(refusal(layers="9" * 1000)) < 150


def test_missing_keys_say_so() -> None:
    assert message(lambda: build(Run, {})) == "missing required key name: str"
    assert message(lambda: build(Strict, {})) == "missing required key curve: a Curve (kinds: flat, power)"
    assert message(lambda: build(Strict, {"curve": {}})) == (
        "missing required key curve.kind: a Curve (kinds: flat, power)"
    )
    assert message(lambda: build(Strict, {"curve": "flat", "train": {}})) == "missing required key train.steps: int"


def test_unknown_kinds_list_the_known_and_the_closest() -> None:
    found = refusal(second="difusion")
    assert found.startswith("second.kind: unknown Writer kind 'difusion'; known kinds: autoregressive, bare, diffusion")
    assert found.endswith("; did you mean diffusion?")


def test_a_hint_no_config_can_fill_is_the_programs_fault() -> None:
    with pytest.raises(TypeError, match="stream: no config value can be a <class 'bytes'>"):
        build(Odd, {"stream": "x"})
    with pytest.raises(TypeError, match="a config holds no bytes"):
        plain(Odd())


# ---- dotted paths


def test_a_kind_by_dotted_path() -> None:
    kind = f"{__name__}.Unregistered"
    assert build(Curve, {"kind": kind, "width": 4}) == Unregistered(4)
    assert plain(Unregistered(4)) == {"kind": kind, "width": 4}
    assert message(lambda: build(Curve, f"{__name__}.Other")).startswith(f"kind: '{__name__}.Other' is not a Curve")
    assert message(lambda: build(Curve, "no_such_module.X")).startswith("kind: cannot import Curve kind ")


def test_the_faults_of_a_forks_module_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faulty_fork_of_hybrid_test.py").write_text("raise TypeError('of the fork')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TypeError, match=r"^of the fork$"):
        build(Curve, "faulty_fork_of_hybrid_test.Sine")


def test_a_part_is_named_by_its_kind_or_by_a_section() -> None:
    assert section_of("policy", None) is None and section_of("policy", "my.Own") == "my.Own"
    assert section_of("policy", "{kind: my.Own, rate: 0.2, weights: [1, 2.5]}") == {
        "kind": "my.Own", "rate": 0.2, "weights": [1, 2.5],
    }  # fmt: skip
    with pytest.raises(ConfigError, match="^override 'policy={kind: my.Own': the value is not YAML"):
        section_of("policy", "{kind: my.Own")


def test_a_config_finds_modules_in_its_own_folder(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    write(
        "fork_of_hybrid_test.py",
        "from dataclasses import dataclass\n"
        f"from {__name__} import Curve\n"
        "@dataclass(frozen=True)\n"
        "class Sine(Curve):\n"
        "    period: float = 1.0\n",
    )
    path = write("run.yaml", "kind: fork_of_hybrid_test.Sine\nperiod: 2")
    assert "cannot import" in message(lambda: build(Curve, load(path)))
    add_fork_path(path)
    add_fork_path(str(path))
    assert sys.path.count(str(path.resolve().parent)) == 1
    assert str(path.resolve().parent) in sys.path[-2:]
    sine = build(Curve, load(path))
    assert plain(sine) == {"kind": "fork_of_hybrid_test.Sine", "period": 2.0}


# ---- and back

EXAMPLES: list[Any] = [
    Run("x"),
    Run("1e-3", Train(1, resume=True, precision=16), Autoregressive(3), Diffusion(Power(0.5, 2), 1)),
    Run("null", layers=(1, 2), span=(1.0, ""), curves=(Flat(), Power(1e-12), Unregistered(1)), budget=(3,)),
    Run("${x} \\${y} \\\\${", mixture={}, named={"on": Flat(), "a.b": Power(9.0)}, budget=0, label=Flat()),
    Run("two\nlines # é", label="plain words", extra={"deep": [[], {}, [1, {"x": None}]]}),
    Strict(Unregistered(), Train(5, rate=float("inf"))),
    Power(7.0),
]


@pytest.mark.parametrize("value", EXAMPLES, ids=range(len(EXAMPLES)))
def test_round_trip(value: Any, write: Write) -> None:
    data = plain(value)
    assert build(type(value), data) == value
    assert plain(build(type(value), data)) == data
    assert build(type(value), json.loads(json.dumps(data))) == value
    assert build(type(value), yaml.safe_load(yaml.safe_dump(data))) == value
    assert load(write("dumped.yaml", dump(data))) == data


def test_plain_spells_out_kinds() -> None:
    assert plain(Diffusion(Power(3.0))) == {
        "kind": "diffusion",
        "curve": {"kind": "power", "power": 3.0, "scale": 1},
        "steps": 8,
    }
    assert "kind" not in plain(Train(1))
    assert "derived" not in plain(Run("x"))


def test_dump_keeps_the_order_of_keys() -> None:
    assert dump({"b": 1, "a": {"d": [1], "c": "x"}}) == "b: 1\na:\n  d:\n  - 1\n  c: x\n"


def test_differences_are_dotted() -> None:
    a = {"x": 1, "s": {"p": [1, 2], "q": {"r": None}}, "only_a": {"z": 1}}
    b = {"x": 1.0, "s": {"p": [1], "q": {"r": 0}, "n": 1}}
    assert differences(a, b) == {
        "s.p": ([1, 2], [1]),
        "s.q.r": (None, 0),
        "s.n": (ABSENT, 1),
        "only_a": ({"z": 1}, ABSENT),
    }
    assert differences(a, a) == {}
