"""A canvas cut into blocks, each conditioned on the clean ones before it: block diffusion's bound, block by block."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """`length` positions in w blocks of `width`; the last is shorter where the width does not divide the length.

    log p(x) = sum over blocks of log p(x_block | x before it), and each term has the bound of plain diffusion over
    its own positions (BD3-LM, arXiv 2503.09573, eq. 4 and 8). So every pair of row and block is a row of its own,
    (b w, l): clean before its block, corrupted in it, all mask after it. Nothing later is known, to no rule either.
    One block is the whole canvas: plain diffusion.
    """

    length: int
    width: int

    @property
    def count(self) -> int:
        return -(-self.length // self.width)

    def of(self, device: torch.device) -> Int[Tensor, "l"]:
        """The block of each position."""
        return torch.arange(self.length, device=device) // self.width

    def rows(self, values: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "bw ..."]:
        """The values of each row, once for each of its blocks."""
        return values.repeat_interleave(self.count, dim=0)

    def is_own(self, rows: int, device: torch.device) -> Bool[Tensor, "bw l"]:
        """Positions of the block that a row stands for."""
        of = self.of(device)
        return (of == torch.arange(self.count, device=device)[:, None]).repeat(rows, 1)

    def known(self, x: Int[Tensor, "bw l"], z: Int[Tensor, "bw l"], mask_id: int) -> Int[Tensor, "bw l"]:
        """What a block may know: `x` before it, `z` in it, nothing after it."""
        own = torch.arange(self.count, device=x.device)[:, None]
        of = self.of(x.device)
        is_before, is_after = (mask.repeat(len(x) // self.count, 1) for mask in (of < own, of > own))
        return torch.where(is_before, x, torch.where(is_after, mask_id, z))

    def joined(self, values: Shaped[Tensor, "bw l"]) -> Shaped[Tensor, "b l"]:
        """Every position's value from the row of its own block."""
        per_block = values.unflatten(0, (-1, self.count))
        return per_block.gather(1, self.of(values.device).expand(len(per_block), 1, -1))[:, 0]

    def summed(self, values: Float[Tensor, "bw"]) -> Float[Tensor, "b"]:
        """The sum over the blocks of each row."""
        return values.unflatten(0, (-1, self.count)).sum(-1)

    def times(self, t: Float[Tensor, "b"], copy: int, copies: int) -> Float[Tensor, "bw"]:
        """A time in (0, 1] for each block of one of `copies` copies. Each alone is uniform where t is; together the
        copies of a block, and the blocks between them, cover the times evenly."""
        place = (copy + torch.arange(self.count, device=t.device) / self.count) / copies
        return (1 - (1 - t[:, None] + place) % 1.0).flatten()
