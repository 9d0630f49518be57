"""Plain data <-> frozen dataclasses, by their type hints.

A class that has kinds is a *part*: its section names the class as `kind: cosine`, and the bare string
`cosine` is short for a section that says nothing else. A field's default is the lowest layer of its section:
a section that names no kind, or the default's own, keeps the default's value of every key it leaves out.
Tuples and dicts are values: they replace the default whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from reprlib import Repr
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from hybrid.kinds import is_base, kind_of, look_up, names

T = TypeVar("T")

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class ConfigError(ValueError):
    """What is wrong with a config, in one line that starts with the dotted path where there is one."""

    def __init__(self, message: object, path: str = "") -> None:
        super().__init__((f"{path}: " if path else "") + " ".join(str(message).split()))


def build(cls: type[T], section: object, path: str = "") -> T:
    """The `cls` that `section` describes; `path` is where the section lies in the config, for messages.

    Raises:
        ConfigError: an unknown or missing key, an unknown kind, a value of the wrong type, or one that a
            dataclass's own `__post_init__` refuses with a ValueError.
    """
    return cast(T, _value(cls, section, path, MISSING))


def plain(value: Any) -> Any:
    """The inverse of `build`: dicts, lists and scalars, with the `kind` of every part spelled out."""
    if is_dataclass(value) and not isinstance(value, type):
        base = _base(type(value))
        kind = {} if base is None else {"kind": kind_of(base, type(value))}
        return kind | {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a config holds no {type(value).__name__}: {_SHORT.repr(value)}")


def _value(hint: Any, value: object, path: str, default: object) -> object:
    """`value` as `hint` wants it. `default`: of the field it is for, or MISSING."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _union(hint, value, path, default)
    if origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in inner):
            return value
    elif isinstance(hint, type) and (is_dataclass(hint) or _base(hint) is not None):
        return _dataclass(hint, value, path, default)
    elif origin is tuple:
        if isinstance(value, list | tuple) and (inner[-1] is Ellipsis or len(value) == len(inner)):
            hints = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
            pairs = enumerate(zip(hints, value, strict=True))
            return tuple(_value(each, item, f"{path}[{i}]", MISSING) for i, (each, item) in pairs)
    elif origin in (dict, Mapping):
        if isinstance(value, Mapping):
            keys = [_value(inner[0], key, f"a key of {path or 'the config'}", MISSING) for key in value]
            values = [_value(inner[1], item, _join(path, key), MISSING) for key, item in value.items()]
            return dict(zip(keys, values, strict=True))
    elif hint is Any or hint is object:
        return value
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif hint in (bool, int, str, NoneType):
        if type(value) is hint:
            return value
    else:
        raise TypeError(f"{path}: no config value can be a {hint}")
    raise ConfigError(f"expected {_name(hint)}, got {_SHORT.repr(value)}", path)


def _union(hint: Any, value: object, path: str, default: object) -> object:
    """The first member of `hint` that takes `value`. Where only one could, the complaint is its own."""
    members = [member for member in get_args(hint) if member is not NoneType]
    if value is None and NoneType in get_args(hint):
        return None
    structured = [m for m in members if m not in (bool, int, float, str) and get_origin(m) is not Literal]
    if len(members) > 1 and len(structured) == 1 and isinstance(value, Mapping | list):
        members = structured
    if len(members) == 1 and value is not None:
        return _value(members[0], value, path, default)
    for member in members:
        try:
            return _value(member, value, path, default)
        except ConfigError:
            continue
    raise ConfigError(f"expected {_name(hint)}, got {_SHORT.repr(value)}", path)


def _dataclass(cls: type, value: object, path: str, default: object) -> object:
    section = {"kind": value} if isinstance(value, str) and _base(cls) is not None else value
    if not isinstance(section, Mapping):
        raise ConfigError(f"expected {_name(cls)}, got {_SHORT.repr(value)}", path)
    chosen = _chosen(cls, section, path, default)
    if not is_dataclass(chosen):
        raise ConfigError(f"{chosen.__qualname__} is no dataclass, so no config can build it", path)
    known = {field.name: field for field in fields(chosen) if field.init}
    for key, item in section.items():
        if key not in known and not (key == "kind" and _base(cls) is not None):
            raise ConfigError(_unknown(key, item, chosen, list(known), path))
    hints, values = get_type_hints(chosen), {}
    for name, field in known.items():
        fallback = getattr(default, name) if type(default) is chosen else _default(field)
        if name in section:
            values[name] = _value(hints[name], section[name], _join(path, name), fallback)
        elif fallback is MISSING:
            raise ConfigError(f"missing required key {_join(path, name)}: {_name(hints[name])}")
        else:
            values[name] = fallback
    try:
        return cast(type, chosen)(**values)
    except ValueError as error:
        raise ConfigError(error, path) from error


def _chosen(cls: type, section: Mapping[Any, object], path: str, default: object) -> type:
    """The class a section is for: its `kind`, else that of the field's default."""
    base, where = _base(cls), _join(path, "kind")
    if base is None:
        return cls
    if "kind" not in section:
        if isinstance(default, cls):
            return type(default)
        if cls is base:
            raise ConfigError(f"missing required key {where}: {_name(cls)}")
        return cls
    kind = section["kind"]
    if not isinstance(kind, str):
        raise ConfigError(f"expected {_name(cls)}, got {_SHORT.repr(kind)}", where)
    try:
        chosen = look_up(base, kind)
    except ValueError as error:
        raise ConfigError(f"{error}{_closest(kind, names(base))}", where) from error
    if not issubclass(chosen, cls):
        raise ConfigError(f"{kind!r} is no {cls.__name__}", where)
    return chosen


def _base(cls: type) -> type | None:
    """The nearest class with kinds that `cls` is or derives from; None where it is no part."""
    return next((parent for parent in cls.__mro__ if is_base(parent)), None)


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _unknown(key: object, value: object, cls: type, known: Sequence[str], path: str) -> str:
    of_kind = "" if (base := _base(cls)) is None else f" for kind {kind_of(base, cls)}"
    guess = _closest(str(key), known, path) or ";"
    listed = ", ".join(known) or "none"
    return f"unknown key {_join(path, key)} (={_SHORT.repr(value)}){of_kind}{guess} known: {listed}"


def _closest(name: str, known: Sequence[str], path: str = "") -> str:
    found = get_close_matches(name, known, 1)
    return f"; did you mean {_join(path, found[0])}?" if found else ""


def _name(hint: Any) -> str:
    """A type in words, with what is allowed."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_name(member) for member in inner)
    if origin is Literal:
        return f"one of {', '.join(repr(choice) for choice in inner)}"
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return f"a list (each {_name(inner[0])})"
        return f"a list ({', '.join(_name(item) for item in inner)})"
    if origin in (dict, Mapping):
        return f"a section (each value {_name(inner[1])})"
    if isinstance(hint, type) and (base := _base(hint)) is not None:
        return f"a {hint.__name__} (kinds: {', '.join(names(base))})"
    if is_dataclass(hint):
        return f"a section (keys: {', '.join(field.name for field in fields(hint) if field.init)})"
    words = {NoneType: "null", bool: "bool (true or false)"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))
