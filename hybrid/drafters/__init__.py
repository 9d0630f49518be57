"""Drafters: what puts a sketch on the canvas. Diffusion, autoregressive, and the controls, under one contract."""

from hybrid.drafters import autoregressive, controls, diffusion, internalised  # noqa: F401  (registers the kinds)
from hybrid.drafters.drafter import Drafted, Drafter, Plan, Request, finish

__all__ = ["Drafted", "Drafter", "Plan", "Request", "finish"]
