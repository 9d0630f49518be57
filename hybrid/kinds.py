"""Interchangeable parts: each base class keeps the names of its kinds.

A kind is chosen by registered name (`cosine`) or by dotted path (`my_fork.schedules.Sine`), so a
class from outside the package needs no edit inside it.
"""

import importlib
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T", bound=type)

_KINDS: dict[type, dict[str, type]] = {}


def register(base: type, name: str) -> Callable[[T], T]:
    """Class decorator: make a subclass of `base` selectable as `kind: name`.

    Raises:
        ValueError: the name is taken by another class, or the class does not derive from `base`.
    """

    def add(cls: T) -> T:
        kinds = _KINDS.setdefault(base, {})
        if not issubclass(cls, base):
            raise ValueError(f"{cls.__name__} is registered under {base.__name__} but does not derive from it")
        if kinds.get(name, cls) is not cls:
            raise ValueError(f"{base.__name__} kind {name!r} is already {kinds[name].__qualname__}")
        kinds[name] = cls
        return cls

    return add


def names(base: type) -> list[str]:
    """Registered kinds of `base`, sorted."""
    return sorted(_KINDS.get(base, {}))


def is_base(cls: object) -> bool:
    """Whether `cls` is a base class that has kinds."""
    return isinstance(cls, type) and cls in _KINDS


def look_up(base: type, name: str) -> type:
    """The class registered under `base` as `name`, or the class at the dotted path `name`.

    Raises:
        ValueError: unknown name, a path that does not import, or a class of another base.
    """
    kinds = _KINDS.get(base, {})
    if name in kinds:
        return kinds[name]
    known = f"known kinds: {', '.join(sorted(kinds))}; a dotted path to a {base.__name__} class also works"
    module_name, _, class_name = name.rpartition(".")
    if not module_name or name.startswith("."):
        raise ValueError(f"unknown {base.__name__} kind {name!r}; {known}")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import {base.__name__} kind {name!r} ({error}); {known}") from None
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ValueError(f"{name!r} is not a {base.__name__}; {known}")
    return cls


def kind_of(base: type, cls: type) -> str:
    """The name that `look_up` finds `cls` by: the registered one, else its dotted path."""
    for name, known in _KINDS.get(base, {}).items():
        if known is cls:
            return name
    return f"{cls.__module__}.{cls.__qualname__}"
