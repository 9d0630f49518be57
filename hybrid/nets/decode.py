"""Autoregressive decoding over a memory, in batches with ragged prompts, counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.nets.compiled import Pen, probability
from hybrid.nets.layout import Segment
from hybrid.nets.network import Memory, Network, Part
from hybrid.records import Spent


@dataclass(frozen=True)
class Written:
    """What was written: tokens up to and with the end token, then pads.

    keep: False on the pads. confidence: probability of each token, 0 on the pads. parts: memories of rows that ended
    together, and which rows those are.
    """

    tokens: Int[Tensor, "b n"]
    keep: Bool[Tensor, "b n"]
    confidence: Float[Tensor, "b n"]
    parts: list[Part]

    @cached_property
    def memory(self) -> Memory:
        """All that was read, the last token of each row not."""
        return Memory.joined(self.parts)


# Picks a token from each prediction, given the row of the batch that it is for, and the number of the token there.
Draw = Callable[[Float[Tensor, "*n k"], Int[Tensor, "*r"], int | Int[Tensor, "*n"]], Int[Tensor, "*n"]]


def greedy(logits: Float[Tensor, "*n k"], row: Int[Tensor, "*r"], number: int | Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The likeliest token."""
    return logits.argmax(-1)


@torch.no_grad()
def write(
    network: Network,
    prefix: Sequence[Segment],
    memory: Memory | None,
    max_tokens: int | Int[Tensor, "b"],
    *,
    end_id: int,
    pad_id: int,
    banned: tuple[int, ...],
    spent: Spent,
    part: str,
    agree: Callable[[bool], bool] = bool,
    draw: Draw = greedy,
    pace: Callable[[], int] | None = None,
) -> Written:
    """Decoding, by default greedy, of at most `max_tokens` tokens, 1 or more, of all rows or of each, after `prefix`,
    which ends in a kept token in every row.

    The memory given is used up. A row that has written its last token leaves the batch, and is charged nothing more.
    agree: whether all ranks are done when this one is; until then it keeps them company. pace: the tokens that still
    fit into the time left, asked before each but the first; at 0 all rows end.
    """
    device = prefix[-1].tokens.device
    everyone = rows = torch.arange(prefix[-1].tokens.shape[0])  # those that still write, on the host
    most = torch.as_tensor(max_tokens).cpu().expand(len(rows))
    tokens = torch.full((len(rows), int(most.max())), pad_id, device=device)
    keep, confidence = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros(tokens.shape, device=device)
    never = torch.zeros(network.config.vocab_size, device=device)
    never[list(banned)] = -torch.inf
    parts: list[Part] = []
    segments, count, pen = list(prefix), 0, None
    while not agree(len(rows) == 0):
        n = sum(s.tokens.shape[1] for s in segments)
        context = n + (0 if memory is None else memory.keep.shape[1] + (0 if pen is None else pen.count))
        spent.charge(part, positions=n, flops=network.flops(n, context), rows=slice(None) if rows is everyone else rows)
        at = slice(None) if rows is everyone else rows.to(device)
        if pen is None:
            hidden, memory = network.remember(segments, memory)
            logits = network.logits(hidden[segments[-1].name][:, -1]).float() + never
            token = draw(logits, rows.to(device), count)
            p = probability(logits, token)
        else:
            assert memory is not None  # what the pen began from
            token, p = pen.next(token)
        if len(rows):
            tokens[at, count], keep[at, count], confidence[at, count] = token, True, p
        count += 1
        ends = (token == end_id).cpu() | (count == most[rows])  # the one wait for the device in a step
        if pace is not None and pace() == 0:
            ends = torch.ones_like(ends)
        if ends.any():
            memory, pen = memory if pen is None else pen.memory(), None
            ended, going = (which.nonzero()[:, 0] for which in (ends, ~ends))
            parts.append((rows[ended], memory if ends.all() else memory.select(ended.to(device))))
            rows, token, memory = rows[going], token[going.to(device)], memory.select(going.to(device))
        if pen is None and network.compiled is not None and draw is greedy and len(rows):
            pen = Pen(network.compiled, memory, never, tokens.shape[1] - count)
        kept = torch.ones_like(token[:, None], dtype=torch.bool)
        segments = [Segment("next", token[:, None], kept, memory.next_position[:, None], is_causal=True)]
    return Written(tokens[:, :count], keep[:, :count], confidence[:, :count], parts)
