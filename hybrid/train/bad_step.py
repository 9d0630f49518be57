"""A step whose loss is not finite: said in one line, and kept so that it can be computed again."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybrid.diffusion.noise import Noise
from hybrid.experiment import TOKENIZER, kept_model, read_experiment
from hybrid.reasoner import Losses, Reasoner
from hybrid.records import Batch, Prompts
from hybrid.tasks import Tokenizer

FILE = "bad_step.pt"
TERMS = ("sketch", "answer")
PROMPTS = ("keys", "tokens", "keep")


def culprits(losses: Losses, keys: Tensor) -> dict[str, list[int]]:
    """For each term of the loss, the keys of the rows where it is not finite."""
    costs = {term: getattr(losses, term).detach() for term in TERMS}
    return {term: keys[~cost.isfinite()].tolist() for term, cost in costs.items()}


def part_of(batch: Batch, t: Tensor) -> dict[str, Tensor]:
    """A rank's batch and times as plain tensors."""
    prompts = {"": batch.prompts} | ({} if batch.prompts.other is None else {"other.": batch.prompts.other})
    tensors = {f"{of}{name}": getattr(those, name) for of, those in prompts.items() for name in PROMPTS}
    tensors |= {name: getattr(batch, name) for name in ("sketch", "answer", "answer_keep")}
    return {name: tensor.cpu() for name, tensor in (tensors | {"t": t}).items()}


def write(folder: Path, state: dict[str, Tensor], seed: int, step: int, precision: str, parts: list[Any]) -> Path:
    """Keep the weights before the step and every rank's batch, times and seed."""
    path = folder / FILE
    beside = path.with_name(f".{FILE}.new")
    kept = {"state_dict": state, "seed": seed, "step": step, "precision": precision, "parts": parts}
    torch.save(kept, beside)
    os.replace(beside, path)
    return path


def sentence(step: int, found: list[dict[str, list[int]]], path: Path) -> str:
    """What is said of such a step, given each rank's culprits."""
    bad = {term: [key for part in found for key in part[term]] for term in TERMS}
    told = [
        f"the {term} term of {len(keys)} examples (keys {', '.join(map(str, keys[:3]))}{', ...' if keys[3:] else ''})"
        for term, keys in bad.items()
        if keys
    ]
    which = " and ".join(told) or "the gradient, with every term of the loss finite,"
    return (
        f"step {step}: {which} is not finite; nothing of this step was saved, {path} computes it again; "
        "lower train.learning_rate or raise train.warmup"
    )


def replay(folder: Path, rank: int = 0) -> Losses:
    """The losses of one rank's part of the kept step, computed again with the same weights, noise and times."""
    kept = torch.load(Path(folder) / FILE, map_location="cpu", weights_only=True)
    reasoner = Reasoner(kept_model(folder, read_experiment(folder)), Tokenizer.load(Path(folder) / TOKENIZER))
    reasoner.load_state_dict(kept["state_dict"])
    part = dict(kept["parts"][rank])
    prompts = Prompts(**{name: part.pop(name) for name in PROMPTS})
    if "other.keys" in part:
        prompts = replace(prompts, other=Prompts(**{name: part.pop(f"other.{name}") for name in PROMPTS}))
    t = part.pop("t")
    with torch.autocast("cpu", torch.bfloat16, enabled=kept["precision"].startswith("bf16")):
        return reasoner.losses(Batch(prompts, **part), Noise(kept["seed"], prompts.keys, kept["step"]), t)
