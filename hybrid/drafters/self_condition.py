"""Self-conditioning: a mask is read together with what the network last predicted there.

Chen, Zhang and Hinton, "Analog Bits" (arXiv 2208.04202): without it, a step forgets all that the step before
knew of the positions that it left open. Here the prediction enters as its mean embedding, added to the mask's own, so
that no parameter is new and a checkpoint may begin without.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.diffusion import noise as streams
from hybrid.diffusion.corruption import Corruption
from hybrid.diffusion.guidance import spread
from hybrid.diffusion.noise import Noise
from hybrid.nets.layout import Segment
from hybrid.nets.network import Network


def check_self_condition(share: float, attention_block: int | None, shift: bool, corruption: Corruption) -> None:
    """Refuse shares that are none, and canvases on which no mask is ever read."""
    if not 0 <= share <= 1:
        raise ValueError(f"self_condition={share}: must be between 0 (never) and 1, a share of the rows")
    if share and attention_block == 1 and shift:
        raise ValueError(
            f"self_condition={share} with attention_block=1: a canvas that is read as plain text has no mask to read "
            "anything with; set self_condition: 0"
        )
    if share and not corruption.marks_noise:
        raise ValueError(
            f"self_condition={share}: is about the masks of a canvas, and {type(corruption).__name__} corruption has "
            "none, so it must be 0"
        )


def mean_embedding(network: Network, logits: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
    """The embeddings of all tokens, weighed by the prediction."""
    table = network.embed(torch.arange(logits.shape[-1], device=logits.device))
    return logits.float().softmax(-1).to(table.dtype) @ table


def carrying(segment: Segment, hints: Float[Tensor, "b l d"], start: Int[Tensor, "b"], mask_id: int) -> Segment:
    """A canvas segment whose masks are read with the hint of their token. Slot i + 1, at position start + i + 1, is
    token i's; what is no mask is read as it is."""
    slot = (segment.positions - start[:, None])[..., None].expand(-1, -1, hints.shape[-1])
    own = F.pad(hints, (0, 0, 1, 0)).gather(1, slot)
    is_mask = (segment.tokens == mask_id)[..., None]
    return replace(segment, added=torch.where(is_mask, own, 0.0))


@dataclass
class Carried:
    """What one call's denoiser last predicted of each mask, for all rows of the batch: mean embeddings, zero at first.
    A position that is committed keeps its own, and carries it if it is returned to noise.

    Shared by all selections of the denoiser's rows, so that a row finds its own however many are asked with it.
    """

    hints: Float[Tensor, "b l d"] | None = None

    def read(self, rows: Int[Tensor, "r"], view: list[Segment], start: Int[Tensor, "r"], mask_id: int) -> list[Segment]:
        """The view of some rows, with what is carried; nothing is before the first prediction."""
        if self.hints is None:
            return view
        own = self.hints[rows.to(self.hints.device)]
        return [carrying(segment, own, start, mask_id) for segment in view]

    def write(
        self,
        network: Network,
        rows: Int[Tensor, "r"],
        batch: int,
        where: Bool[Tensor, "r l"],
        is_mask: Bool[Tensor, "r l"],
        logits: Float[Tensor, "n k"],
    ) -> None:
        """Keep the predictions, which are those at `where`, of what is a mask."""
        means = mean_embedding(network, logits)
        if self.hints is None:
            self.hints = means.new_zeros(batch, where.shape[1], means.shape[-1])
        at = rows.to(means.device)
        self.hints[at] = torch.where(is_mask[..., None], spread(means, where, 0.0), self.hints[at])


def conditioned(
    network: Network,
    logits: Callable[[Float[Tensor, "r _ d"], Bool[Tensor, "r l"]], Float[Tensor, "n k"]],
    segments: Sequence[Segment],
    masks: Sequence[Bool[Tensor, "b l"]],
    start: Int[Tensor, "b"],
    share: float,
    noise: Noise,
    mask_id: int,
) -> tuple[list[Segment], int]:
    """A training row in which a share of the examples carry what a first forward, without gradient, predicts on the
    same canvases; and the positions that it took.

    logits: predictions from the hidden states of a canvas. masks: of each canvas, its positions that are predicted;
    the canvases are the last of the segments. Whose turn it is, is a function of example and step.
    """
    if not share:
        return list(segments), 0
    rows = (noise.uniform(streams.CARRY)[:, 0] < share).nonzero()[:, 0]
    some = [segment.select(rows) for segment in segments]
    with torch.no_grad():  # with no rows too: ranks that share weights must make the same calls
        hidden = network(some)
        hints = [
            spread(mean_embedding(network, logits(hidden[segment.name], where[rows])), where[rows], 0.0)
            for segment, where in zip(segments[-len(masks) :], masks, strict=True)
        ]
    first = len(segments) - len(masks)
    canvases = [
        carrying(segment, own.new_zeros(len(start), *own.shape[1:]).index_copy(0, rows, own), start, mask_id)
        for segment, own in zip(segments[first:], hints, strict=True)
    ]
    return [*segments[:first], *canvases], len(rows) * sum(s.tokens.shape[1] for s in segments)
