"""Autoregressive decoding over a memory, in batches with ragged prompts, counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.nets.layout import Segment
from hybrid.nets.network import Memory, Network
from hybrid.records import Spent


@dataclass(frozen=True)
class Written:
    """What was written: tokens up to and with the end token, then pads.

    keep: False on the pads. confidence: probability of each token. memory: all that was read, the end token not.
    """

    tokens: Int[Tensor, "b n"]
    keep: Bool[Tensor, "b n"]
    confidence: Float[Tensor, "b n"]
    memory: Memory


@torch.no_grad()
def write(
    network: Network,
    prefix: Sequence[Segment],
    memory: Memory | None,
    max_tokens: int,
    *,
    end_id: int,
    pad_id: int,
    banned: tuple[int, ...],
    spent: Spent,
    part: str,
    agree: Callable[[bool], bool] = bool,
) -> Written:
    """Greedy decoding of at most `max_tokens` tokens after `prefix`, which ends in a kept token in every row.

    The memory given is used up. A row that has written its end token is charged nothing more.
    agree: whether all ranks are done when this one is; until then it writes pads.
    """
    rows = prefix[-1].tokens.shape[0]
    alive = torch.ones(rows, dtype=torch.bool, device=prefix[-1].tokens.device)
    tokens, keeps, confidences = [], [], []
    segments = list(prefix)
    for _ in range(max_tokens):
        n = sum(s.tokens.shape[1] for s in segments)
        context = n + (0 if memory is None else memory.keep.shape[1])
        spent.charge(part, positions=n, flops=network.flops(n, context), rows=alive.nonzero()[:, 0].cpu())
        hidden, memory = network.remember(segments, memory)
        logits = network.logits(hidden[segments[-1].name][:, -1]).float()
        logits[:, list(banned)] = -torch.inf
        token = torch.where(alive, logits.argmax(-1), pad_id)
        tokens.append(token)
        keeps.append(alive)
        confidences.append(logits.softmax(-1).gather(-1, token[:, None])[:, 0])
        alive = alive & (token != end_id)
        if agree(not alive.any()):
            break
        segments = [Segment("next", token[:, None], alive[:, None], memory.next_position[:, None], is_causal=True)]
    assert memory is not None  # max_tokens >= 1
    return Written(torch.stack(tokens, 1), torch.stack(keeps, 1), torch.stack(confidences, 1), memory)
