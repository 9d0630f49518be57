"""What the benchmarks measure, and how a figure is told."""

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from hybrid.drafters.diffusion import Diffusion
from hybrid.nets.backbone import Qwen3
from hybrid.reasoner import Model
from hybrid.tasks.chain import Chain


@dataclass(frozen=True)
class Setting:
    """What is measured: fixed, so that figures of two versions compare.

    answer: tokens written. prompt, wide: prompt tokens and width where answers are written. compile: whether our
    sampling is compiled, which the others may be, too, and are not: diffusers' pipeline and `generate` as they come.
    """

    width: int = 256
    layers: int = 4
    heads: int = 4
    canvas: int = 64
    operations: int = 30
    train_batch: int = 16
    train_steps: int = 5
    draft_batch: int = 16
    draft_steps: int = 32
    answer: int = 64
    prompt: int = 64
    wide: int = 512
    compile: bool = True
    repeats: int = 5

    def model(self, width: int | None = None, **changes: object) -> Model:
        backbone = Qwen3(width=width or self.width, layers=self.layers, heads=self.heads)
        options: dict = {"drafter": Diffusion(), "canvas": self.canvas, "max_answer": 4} | changes
        return Model(backbone=backbone, **options)

    @property
    def task(self) -> Chain:
        return Chain(length=self.operations)


QUICK = Setting(
    width=32, layers=1, heads=2, operations=6, canvas=8, train_batch=4, train_steps=1, draft_batch=2, draft_steps=2,
    answer=3, prompt=16, wide=32, compile=False, repeats=1,
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One measurement. value: None where this machine cannot make it. goal: at least this much; None: there is none."""

    value: float | None
    goal: float | None
    detail: str

    @property
    def is_met(self) -> bool | None:
        if self.value is None:
            return None
        return self.goal is None or self.value >= self.goal

    def __str__(self) -> str:
        if self.value is None:
            return f"{'-':>9}  {self.detail}"
        goal = "" if self.goal is None else f"  goal {self.goal}: {'met' if self.is_met else 'MISSED'}"
        return f"{self.value:>9.3f}{goal:<22}  {self.detail}"


def timed(work: Callable[[], object]) -> float:
    """Seconds, until a device has finished too."""
    _wait()
    began = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - began


def turns(repeats: int, *works: Callable[[], object]) -> list[tuple[float, ...]]:
    """Seconds of each work, which take turns, so that whatever else runs slows all; one turn before is not counted."""
    for work in works:
        work()
    return [tuple(timed(work) for work in works) for _ in range(repeats)]


def ratio(seconds: list[tuple[float, ...]]) -> float:
    """The median over turns of the second's time over the first's: how much faster the first is."""
    return median(theirs / ours for ours, theirs, *_ in seconds)


def medians(seconds: list[tuple[float, ...]]) -> list[float]:
    return [median(side) for side in zip(*seconds, strict=True)]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def quiet() -> None:
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    for library in ("pytorch_lightning", "lightning_fabric", "diffusers", "transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)
