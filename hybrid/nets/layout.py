"""Rows of segments: who attends to whom, and at which position.

A row is laid out as segments, such as prompt, canvas, sketch and answer. A segment is causal or bidirectional
within itself and sees the whole of the segments that it names. One boolean mask follows from that.
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
    is_causal: attends within itself only to the left. sees: names of other segments it attends to in full.
    vectors: read instead of the tokens' embeddings; None: the tokens.
    ahead: which later positions each sees, in a segment that is not causal; None: all of them.
    """

    name: str
    tokens: Int[Tensor, "b n"]
    keep: Bool[Tensor, "b n"]
    positions: Int[Tensor, "b n"]
    is_causal: bool
    sees: tuple[str, ...] = ()
    vectors: Float[Tensor, "b n d"] | None = None
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


@lru_cache(maxsize=64)
def _pattern(shape: tuple[tuple[str, int, bool, tuple[str, ...]], ...], device: torch.device) -> Bool[Tensor, "n n"]:
    """Attention between segments of (name, length, is_causal, sees), padding aside."""
    rows = []
    for name, length, is_causal, sees in shape:
        blocks = []
        for other, width, _, _ in shape:
            block = torch.ones(length, width, dtype=torch.bool, device=device)
            if other == name:
                blocks.append(block.tril() if is_causal else block)
            else:
                blocks.append(block if other in sees else ~block)
        rows.append(torch.cat(blocks, dim=1))
    return torch.cat(rows, dim=0)


def attention(segments: Sequence[Segment], memory_keep: Bool[Tensor, "b m"] | None = None) -> Bool[Tensor, "b 1 n _"]:
    """Mask for the row of `segments`, after `m` remembered positions that all of them see; True attends.

    Padding attends to itself alone, so that no row of the softmax is empty.
    """
    shape = tuple((s.name, s.tokens.shape[1], s.is_causal, s.sees) for s in segments)
    if len({s.name for s in segments}) < len(segments):
        raise ValueError(f"segments of one row need different names, not {[s.name for s in segments]}")
    keep = torch.cat([s.keep for s in segments], dim=1)
    pattern = _pattern(shape, keep.device)
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
