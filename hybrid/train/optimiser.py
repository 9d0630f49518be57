"""The optimiser, and its learning rate over a run."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from hybrid.reasoner import Reasoner
from hybrid.train.settings import Train


def optimiser_of(reasoner: Reasoner, train: Train) -> torch.optim.Optimizer:
    """AdamW, or Muon on the matrices and AdamW on the rest.

    Weight decay is on matrices only; embeddings, trained tokens under an adapter among them, and norms are spared.
    Muon (github.com/KellerJordan/Muon) steps by the orthogonalised momentum of each matrix but embeddings and heads,
    scaled to the root mean square of AdamW's steps (Moonlight, arXiv 2502.16982), so that one rate does for both.
    """
    models = [network.model for network in networks(reasoner)]
    embeddings = _all(model.get_input_embeddings() for model in models)
    heads = _all(model.get_output_embeddings() for model in models)
    groups: dict[str, list[torch.nn.Parameter]] = {"muon": [], "decayed": [], "spared": []}
    for p in (p for p in reasoner.parameters() if p.requires_grad):
        if p.ndim < 2 or id(p) in embeddings:
            groups["spared"].append(p)
        elif train.optimiser == "muon" and p.ndim == 2 and id(p) not in heads:
            groups["muon"].append(p)
        else:
            groups["decayed"].append(p)
    adamw = torch.optim.AdamW(
        [
            {"params": groups["decayed"], "weight_decay": train.weight_decay},
            {"params": groups["spared"], "weight_decay": 0.0},
        ],
        lr=train.learning_rate, betas=(0.9, train.beta2), fused=True,
    )  # fmt: skip
    if not groups["muon"]:
        return adamw
    muon = torch.optim.Muon(
        groups["muon"], lr=train.learning_rate, weight_decay=train.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return Together([muon, adamw])


class Together(torch.optim.Optimizer):
    """Optimisers of different parameters as one, which is scheduled, saved and loaded as a whole."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Groups and state of the whole are those of the parts, the same objects."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state, part.param_groups = self.state, [next(groups) for _ in part.param_groups]


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


def _all(modules: Iterable[torch.nn.Module | None]) -> set[int]:
    """Which parameters the modules have."""
    return {id(p) for module in modules if module is not None for p in module.parameters()}
