"""Rows of segments: who attends to whom, and at which position.

A row is laid out as segments, such as prompt, canvas, sketch and answer. A segment is cut into blocks, which are
bidirectional within: causal, each sees those before it too. It sees the whole of the segments that it names, or of
each only the blocks before its own. One boolean mask follows from that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """A stretch of a row.

    keep: False on padding, which nobody attends to. positions: for the rotary embedding.
    is_causal: attends within itself to its own block and those to the left; otherwise to its own block alone.
    sees: names of other segments it attends to in full.
    block: columns of a block; None: one if causal, else all of them, so that blocks are no matter.
    before: names of other segments of which its block number j attends to the blocks before number j.
    vectors: read instead of the tokens' embeddings; None: those. added: to them; None: nothing. Whoever adds leaves the
        embedding to the network's forward: where ranks share its weights, no gradient reaches them from outside.
    ahead: which later positions each sees, in a segment that is not causal; None: all of them.
    """

    name: str
    tokens: Int[Tensor, "b n"]
    keep: Bool[Tensor, "b n"]
    positions: Int[Tensor, "b n"]
    is_causal: bool
    sees: tuple[str, ...] = ()
    block: int | None = None
    before: tuple[str, ...] = ()
    vectors: Float[Tensor, "b n d"] | None = None
    added: Float[Tensor, "b n d"] | None = None
    ahead: Bool[Tensor, "b n n"] | None = None

    def select(self, rows: Int[Tensor, "r"]) -> "Segment":
        """The segment of some of its rows."""
        chosen: dict[str, Any] = {
            f.name: value[rows] for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **chosen)


def running(keep: Bool[Tensor, "b n"], start: Int[Tensor, "b"] | int = 0) -> Int[Tensor, "b n"]:
    """Positions that count kept tokens only, from `start`: padding on either side shifts nothing."""
    begin = start[:, None] if isinstance(start, Tensor) else start
    return begin + (keep.cumsum(-1) - 1).clamp(min=0)


# Of a segment: name, length, is_causal, columns of a block, sees, before.
Shape = tuple[str, int, bool, int, tuple[str, ...], tuple[str, ...]]


@lru_cache(maxsize=64)
def _pattern(shapes: tuple[Shape, ...], device: torch.device) -> Bool[Tensor, "n n"]:
    """Attention between segments, padding aside."""
    block_of = {name: torch.arange(n, device=device) // max(block, 1) for name, n, _, block, _, _ in shapes}
    rows = []
    for name, _, is_causal, _, sees, before in shapes:
        mine, parts = block_of[name][:, None], []
        for other, its in block_of.items():
            if other == name:
                parts.append(mine >= its if is_causal else mine == its)
            elif other in before:
                parts.append(mine > its)
            else:
                parts.append(torch.full((len(mine), len(its)), other in sees, device=device))
        rows.append(torch.cat(parts, dim=1))
    return torch.cat(rows, dim=0)


def _shape(segment: Segment) -> Shape:
    n = segment.tokens.shape[1]
    block = segment.block or (1 if segment.is_causal else n)
    return segment.name, n, segment.is_causal, block, segment.sees, segment.before


def attention(segments: Sequence[Segment], memory_keep: Bool[Tensor, "b m"] | None = None) -> Bool[Tensor, "b 1 n _"]:
    """Mask for the row of `segments`, after `m` remembered positions that all of them see; True attends.

    Padding attends to itself alone, so that no row of the softmax is empty.
    """
    if len({s.name for s in segments}) < len(segments):
        raise ValueError(f"segments of one row need different names, not {[s.name for s in segments]}")
    keep = torch.cat([s.keep for s in segments], dim=1)
    pattern = _pattern(tuple(_shape(s) for s in segments), keep.device)
    own = torch.eye(keep.shape[1], dtype=torch.bool, device=keep.device)
    mask = (pattern & rearrange(keep, "b n -> b 1 1 n")) | own
    start = 0
    for segment in segments:
        here = slice(start, start + segment.tokens.shape[1])
        start = here.stop
        if segment.ahead is not None:
            behind = torch.ones_like(segment.ahead[0]).tril()
            mask[:, 0, here, here] &= behind | segment.ahead
    if memory_keep is not None:
        seen = rearrange(memory_keep, "b m -> b 1 1 m").expand(-1, -1, keep.shape[1], -1)
        mask = torch.cat([seen, mask], dim=-1)
    return mask


def near(queries: Int[Tensor, "b n"], keys: Int[Tensor, "b m_n"], distance: int) -> Bool[Tensor, "b 1 n m_n"]:
    """Pairs of positions at most `distance` apart: what a layer with a sliding window may attend to."""
    apart = rearrange(queries, "b n -> b 1 n 1") - rearrange(keys, "b m -> b 1 1 m")
    return apart.abs() <= distance
