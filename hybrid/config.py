"""Config files: YAML, `base:` files and dotted overrides, merged into one plain nested dict.

Layers, later over earlier: the files a file's `base:` names, in their order; the file; the overrides. A
section merges key by key, any other value is replaced whole. In a part's section

- a later layer that *changes* `kind` drops every key that earlier layers gave the section, since those
  belonged to the other kind; keys beside the new kind, or in layers above it, stay;
- the same kind adds to what is there, and so does a section without a kind, or over one;
- a bare string is short for `{kind: string}` here too.

`${train.steps}` and `${oc.env:HOME}` are OmegaConf interpolations, resolved once everything is merged. They
see what the layers spell out, not the defaults of dataclasses. `\\${` is a literal `${`.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError, compose

from hybrid.build import ConfigError, build, plain

__all__ = [
    "ABSENT", "FREE_TO_CHANGE", "ConfigError", "add_fork_path", "build", "differences", "dump", "load", "plain",
    "section_of", "values_of",
]  # fmt: skip

ABSENT: Final = "(absent)"
# What may change between the parts of one run, as keys begin: where and how it computes, not what.
FREE_TO_CHANGE = (
    "evaluate.", "run", "name", "train.log_every", "train.checkpoint_every", "train.validate_", "train.accelerator",
    "train.devices", "train.num_nodes", "train.strategy", "train.timeout", "train.workers",
    "train.activation_checkpointing", "train.compile", "train.loggers",
)  # fmt: skip


def load(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The YAML file at `path` over its bases, with `key.sub=value` overrides on top, as plain containers.

    Values of overrides are YAML. The overrides together are the top layer; of two for one key the later wins.

    Raises:
        ConfigError: a file that is missing, no YAML or its own base; a malformed override; an interpolation
            that does not resolve; a value left as `???`.
    """
    config = _layered(_file(Path(path), ()), _overrides(overrides))
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(config), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error), f"{path}: {error.full_key}") from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def values_of(key: str, text: str) -> list[str]:
    """The values of `key` in a comma-separated text, each as written; brackets, braces and quotes hold theirs together.

    Raises:
        ConfigError: the text between the commas is not YAML.
    """
    listed = f"[{text}]"
    try:
        nodes = compose(listed).value
    except MarkedYAMLError as error:
        raise ConfigError(f"{key}={text}: expected YAML values with commas between: {error.problem}") from error
    return [listed[node.start_mark.index : node.end_mark.index] for node in nodes] or [""]


def section_of(key: str, text: str | None) -> str | dict[str, Any] | None:
    """A part as a command names it: its kind, or `{kind: ..., option: ...}`.

    Raises:
        ConfigError: braces that hold no section.
    """
    if text is None or not text.lstrip().startswith("{"):
        return text
    section = OmegaConf.to_container(OmegaConf.create(_overrides([f"{key}={text}"])), resolve=True)
    assert isinstance(section, dict)
    return section[key]


def dump(config: Mapping[str, Any]) -> str:
    """YAML text of a resolved config. `load` reads it back unchanged."""
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(dict(config))))


def differences(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> dict[str, tuple[Any, Any]]:
    """The dotted keys at which two configs differ, with both values; ABSENT where one has no such key."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*a, *(key for key in b if key not in a)]:
        x, y = a.get(key, ABSENT), b.get(key, ABSENT)
        dotted = f"{path}.{key}" if path else str(key)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            found |= differences(x, y, dotted)
        elif x != y:
            found[dotted] = (x, y)
    return found


def add_fork_path(config_file: str | Path) -> None:
    """Make the folder of `config_file`, and behind it the one that we are in, importable, so that a kind may be a
    dotted path to a module there: a run need not lie where the config that it was trained from does.

    Appended to `sys.path`, once: a fork's module cannot shadow an installed one. Nothing is imported here.
    Neither `load` nor `build` calls this; whoever runs a config file does, before `build`.
    """
    for folder in (str(Path(config_file).resolve().parent), str(Path.cwd())):
        if folder not in sys.path:
            sys.path.append(folder)


def _file(path: Path, above: tuple[Path, ...]) -> dict[Any, Any]:
    """A file over its bases, unresolved. `above`: the files through whose `base:` we came here."""
    came_from = f" (base of {above[-1]})" if above else ""
    if any(path.resolve() == other.resolve() for other in above):
        chain = " -> ".join(str(file) for file in (*above, path))
        raise ConfigError(f"a file cannot be its own base: {chain}", str(path))
    own = _read(path, came_from)
    bases = own.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"base: expected a file name or a list of them, got {bases!r}", str(path))
    merged: dict[Any, Any] = {}
    for base in bases:
        merged = _layered(merged, _file(path.parent / base, (*above, path)))
    return _layered(merged, own)


def _read(path: Path, came_from: str) -> dict[Any, Any]:
    """The mapping one YAML file holds, interpolations untouched."""
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except FileNotFoundError as error:
        raise ConfigError(f"no such config file{came_from}", str(path)) from error
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"not YAML: {error.problem}", f"{path}{line}") from error
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"cannot be read{came_from}: {_first_line(error)}", str(path)) from error
    if not isinstance(values, dict):
        raise ConfigError(f"expected a section of `key: value` lines, got a {type(values).__name__}", str(path))
    return values


def _overrides(texts: Sequence[str]) -> dict[Any, Any]:
    """One layer out of `key.sub=value` texts."""
    layer: dict[Any, Any] = {}
    for text in texts:
        key, equals, _ = text.partition("=")
        if not equals or not re.fullmatch(r"[^\s.\[\]=]+(\.[^\s.\[\]=]+)*", key):
            raise ConfigError(f"override {text!r}: expected key=value or key.sub=value")
        try:
            one = OmegaConf.to_container(OmegaConf.from_dotlist([text]), resolve=False)
        except (YAMLError, OmegaConfBaseException) as error:
            problem = error.problem if isinstance(error, MarkedYAMLError) else _first_line(error)
            raise ConfigError(f"override {text!r}: the value is not YAML: {problem}") from error
        assert isinstance(one, dict)
        layer = _layered(layer, one)
    return layer


def _layered(earlier: dict[Any, Any], later: dict[Any, Any]) -> dict[Any, Any]:
    """`later` merged over `earlier`. Both are used up."""
    below, above = {"": earlier}, {"": later}
    _make_way(below, above)
    merged = OmegaConf.to_container(OmegaConf.merge(below.get("", {}), above[""]), resolve=False)
    assert isinstance(merged, dict)
    return merged


def _make_way(earlier: dict[Any, Any], later: dict[Any, Any]) -> None:
    """Spell out bare strings that meet sections, and drop from `earlier` what `later` does not merge with."""
    for key in [key for key in later if key in earlier]:
        if isinstance(earlier[key], dict):
            later[key] = _spelled_out(later[key])
        if isinstance(later[key], dict):
            earlier[key] = _spelled_out(earlier[key])
        old, new = earlier[key], later[key]
        if isinstance(old, dict) and isinstance(new, dict):
            if "kind" in old and "kind" in new and old["kind"] != new["kind"]:
                del earlier[key]
            else:
                _make_way(old, new)
        elif isinstance(old, list) and isinstance(new, dict):
            del earlier[key]  # OmegaConf refuses this pair; `build` names the key and what it expects


def _spelled_out(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) and "${" not in value else value


def _escaped(value: Any) -> Any:
    """`value` with every `${` in its strings marked as text."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
