#!/usr/bin/env python
"""Write docs/api.md from docstrings: entry points, and every kind of part with its fields. Run it when one changes."""

import inspect
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

from hybrid import kinds
from hybrid.describe import PARTS
from hybrid.diffusion.budget import Budget
from hybrid.evaluate import Evaluate, evaluate
from hybrid.experiment import Experiment, load_run
from hybrid.hub.export import export, push
from hybrid.hub.pipeline import HybridReasoningPipeline
from hybrid.reasoner import Model, Reasoner
from hybrid.records import Reasoned, Spent
from hybrid.tasks.task import Data
from hybrid.train.settings import Train

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
ENTRY = [
    load_run, Reasoner, Reasoner.reason, Reasoner.losses, Budget, Reasoned, Spent, evaluate, export, push,
    HybridReasoningPipeline, HybridReasoningPipeline.__call__, HybridReasoningPipeline.from_pretrained,
]  # fmt: skip
SECTIONS = [Experiment, Data, Model, Train, Evaluate]


def text(thing: object) -> str:
    return inspect.cleandoc(getattr(thing, "__doc__", None) or "")


def signature(thing: type) -> str:
    """A dataclass's fields with their defaults."""
    if not is_dataclass(thing):
        return ""
    listed = []
    for field in fields(thing):
        if not field.init:
            continue
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        said = type(default).__name__ if is_dataclass(default) and not isinstance(default, type) else repr(default)
        listed.append(field.name if default is MISSING else f"{field.name} = {said}")
    return f"Fields: `{', '.join(listed)}`\n" if listed else "No fields.\n"


def between(cls: type, base: type) -> list[type]:
    """The classes that a kind takes fields from, and that are no kind themselves."""
    named = {kinds.look_up(base, name) for name in kinds.names(base)}
    parents = cls.__mro__[1 : cls.__mro__.index(base)]
    own = [
        (parent, {f.name for f in fields(parent)} & {*vars(parent).get("__annotations__", ())}) for parent in parents
    ]
    return [parent for parent, its in own if its and parent not in named]


def page() -> str:
    """The whole page."""
    out = ["# API", "Written by `python scripts/api.py` from docstrings.", "## Entry points"]
    for thing in ENTRY:
        shown = thing.__qualname__.removesuffix(".__call__")
        out += [f"### {shown}", f"`{thing.__module__}`", "```text\n" + text(thing) + "\n```"]
    out.append("## Sections of a config")
    for section in SECTIONS:
        out += [f"### {section.__name__}", signature(section), "```text\n" + text(section) + "\n```"]
    out.append("## Kinds of parts")
    for key, base in PARTS.items():
        out += [f"### {key}: {base.__name__}", f"`{base.__module__}`", "```text\n" + text(base) + "\n```"]
        for name in kinds.names(base):
            cls = kinds.look_up(base, name)
            said = "\n\n".join(text(part) for part in (cls, *between(cls, base)))
            out += [f"#### {key} kind: {name}", signature(cls), f"```text\n{said}\n```"]
    return "\n\n".join(part.rstrip() for part in out) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}", file=sys.stderr)
