"""AdamW and its learning rate over a run."""

import math
from typing import Any

import torch

from hybrid.reasoner import Reasoner
from hybrid.train.settings import Train


def adamw(reasoner: Reasoner, train: Train) -> torch.optim.AdamW:
    """Weight decay on matrices only; embeddings, trained tokens under an adapter among them, and norms are spared."""
    spared = {id(p) for network in networks(reasoner) for p in network.model.get_input_embeddings().parameters()}
    parameters = [p for p in reasoner.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2 and id(p) not in spared], "weight_decay": train.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2 or id(p) in spared], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=(0.9, train.beta2), fused=True)


def rate(train: Train, step: int, done: float) -> float:
    """Share of the peak learning rate: a linear rise over the first steps, then the fall as `done` goes to 1."""
    rise = min(1.0, (step + 1) / max(1, train.warmup))
    done = min(1.0, done)
    fall = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
    return rise * fall[train.decay]


def networks(reasoner: Reasoner) -> list[Any]:
    """The networks of a reasoner, each once."""
    pair = reasoner.networks
    return [pair.decoder] + ([pair.drafter] if pair.drafter is not None and not pair.is_shared else [])
