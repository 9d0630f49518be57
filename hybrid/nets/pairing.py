"""Pairings: one shared trunk, or separate networks for drafter and decoder, behind one interface."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from hybrid.nets.layout import Segment
from hybrid.nets.network import Network

Hidden = dict[str, Float[Tensor, "b _ _"]]  # the two networks may differ in width


class Pairing(nn.Module):
    """The networks of a reasoner. `drafter` is None where no network drafts; shared: both are one network."""

    def __init__(self, decoder: Network, drafter: Network | None) -> None:
        super().__init__()
        self.decoder = decoder
        self.is_shared = drafter is decoder
        if not self.is_shared:
            self.own_drafter = drafter

    @property
    def drafter(self) -> Network | None:
        return self.decoder if self.is_shared else self.own_drafter

    def forward(self, drafting: Sequence[Segment], decoding: Sequence[Segment]) -> tuple[Hidden, Hidden]:
        """Hidden states of both rows. A shared trunk runs them as one row, common segments once."""
        if self.is_shared:
            row = {s.name: s for s in (*drafting, *decoding)}
            hidden = self.decoder(list(row.values()))
            return hidden, hidden
        drafted = self.drafter(drafting) if self.drafter is not None and drafting else {}
        return drafted, self.decoder(decoding)
