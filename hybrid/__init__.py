"""Hybrid diffusion–autoregressive reasoning: draft a sketch in parallel, then answer.

The names below load when first used, so that `hybrid --help` does not wait for torch.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Budget": "hybrid.diffusion.budget",
    "Model": "hybrid.reasoner",
    "Reasoner": "hybrid.reasoner",
    "load_run": "hybrid.experiment",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hybrid' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
