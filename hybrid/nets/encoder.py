"""Networks that read both ways and keep no keys and values: masked language models, and LLaDA's kind."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from hybrid.nets.layout import Segment
from hybrid.nets.network import Memory, Network


@dataclass(frozen=True)
class Reread(Memory):
    """What was read, to be read again by every forward."""

    segments: tuple[Segment, ...] = ()

    def select(self, rows: Int[Tensor, "r"]) -> "Reread":
        return Reread(
            self.cache, self.keep[rows], self.next_position[rows], tuple(s.select(rows) for s in self.segments)
        )

    def read_only(self) -> "Reread":
        return self

    def forgotten(self) -> "Reread":
        blank = tuple(dataclasses.replace(s, keep=torch.zeros_like(s.keep)) for s in self.segments)
        return dataclasses.replace(self, keep=torch.zeros_like(self.keep), segments=blank)

    def fork(self) -> "Reread":
        return self


class Encoder(Network):
    """Every segment reads itself both ways, and the segments that it names, as the model was trained to.

    The prompt still does not see the canvas: its states never depend on a draft.
    """

    can_write: ClassVar[bool] = False
    rereads: ClassVar[bool] = True

    def forward(self, segments: Sequence[Segment], memory: Memory | None = None) -> dict[str, Float[Tensor, "b n d"]]:
        earlier = memory.segments if isinstance(memory, Reread) else ()
        names = tuple(s.name for s in earlier)
        row = [dataclasses.replace(s, is_causal=False) for s in earlier]
        row += [dataclasses.replace(s, is_causal=False, sees=(*names, *s.sees)) for s in segments]
        hidden = super().forward(row)
        return {s.name: hidden[s.name] for s in segments}

    def remember(
        self, segments: Sequence[Segment], memory: Memory | None = None
    ) -> tuple[dict[str, Float[Tensor, "b n d"]], Memory]:
        """Keeps the segments; nothing is computed before someone reads them, so there are no hidden states yet."""
        earlier = memory.segments if isinstance(memory, Reread) else ()
        row = (*earlier, *segments)
        keep = torch.cat([s.keep for s in row], dim=1)
        return {}, Reread(Cache(layers=[]), keep, keep.sum(-1), row)
