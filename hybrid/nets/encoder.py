"""Networks that read both ways and keep no keys and values: masked language models, and LLaDA's kind."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from hybrid.nets.layout import Segment
from hybrid.nets.network import Memory, Network


class Encoder(Network):
    """Every segment reads itself both ways, and the segments that it names, as the model was trained to; where it is
    cut into blocks, each block does.

    The prompt still does not see the canvas: its states never depend on a draft.
    """

    can_write: ClassVar[bool] = False
    rereads: ClassVar[bool] = True
    can_compile: ClassVar[bool] = False

    def _states(self, segments: Sequence[Segment], memory: Memory | None) -> dict[str, Float[Tensor, "b _ d"]]:
        assert memory is None, "nothing is remembered"
        row = [dataclasses.replace(s, is_causal=s.is_causal and s.block is not None) for s in segments]
        return super()._states(row, None)

    def remember(
        self, segments: Sequence[Segment], memory: Memory | None = None
    ) -> tuple[dict[str, Float[Tensor, "b n d"]], Memory]:
        """Refused: there are no keys and values to keep."""
        raise ValueError(f"{type(self.model).__name__} reads both ways and keeps no memory; each forward reads all")
