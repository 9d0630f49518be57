"""Backbones round another: frozen, or adapted by low-rank matrices."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hybrid.kinds import register
from hybrid.nets.backbone import Backbone
from hybrid.nets.network import Network


@dataclass(frozen=True)
class Adapted(Backbone):
    """A backbone round another one, `of`."""

    of: Backbone

    def adapt(self, network: Network) -> None:
        """Change which parameters train, or add some."""
        raise NotImplementedError

    def build(self, vocabulary: int) -> PreTrainedModel:
        return self.network(vocabulary).model

    def network(self, vocabulary: int) -> Network:
        network = self.of.network(vocabulary)
        self.adapt(network)
        return network

    def architecture(self, vocabulary: int) -> dict[str, Any] | None:
        return self.of.architecture(vocabulary)

    def saved(self, path: Path) -> Backbone:
        return dataclasses.replace(self, of=self.of.saved(path))


@register(Backbone, "frozen")
@dataclass(frozen=True)
class Frozen(Adapted):
    """None of its weights train."""

    def adapt(self, network: Network) -> None:
        network.model.requires_grad_(False)


def innermost(backbone: Backbone | None) -> Backbone | None:
    """The backbone that builds the model, under all that is put round it."""
    while isinstance(backbone, Adapted):
        backbone = backbone.of
    return backbone
