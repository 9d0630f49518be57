"""Verifying a proposed text: one forward reads all of it, and the decoder keeps what it would have written itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hybrid.nets.decode import Draw, Written, greedy
from hybrid.nets.layout import Segment
from hybrid.nets.network import Memory, Network, Part
from hybrid.records import Spent


@dataclass(frozen=True)
class Verified(Written):
    """What was written.

    accepted: tokens of each row that were proposed and confirmed. is_whole: every row came to its end. Where not, what
    stands as proposed, unread, has confidence 0, and there is no memory of all rows.
    """

    accepted: Int[Tensor, "b"]
    is_whole: bool


def proposed_length(proposed: Int[Tensor, "b n"], *, end_id: int, banned: tuple[int, ...]) -> Int[Tensor, "b"]:
    """Tokens that each row proposes: up to and with its first end token, or up to what is never written, as a hole."""
    is_end = proposed == end_id
    is_text = ~torch.isin(proposed, torch.tensor(banned, device=proposed.device))
    is_text &= is_end.cumsum(-1) - is_end.long() == 0
    return is_text.long().cumprod(-1).sum(-1)


@torch.no_grad()
def verify(
    network: Network,
    prefix: Sequence[Segment],
    memory: Memory | None,
    proposed: Int[Tensor, "b n"],
    max_tokens: int | Int[Tensor, "b"],
    *,
    end_id: int,
    pad_id: int,
    banned: tuple[int, ...],
    spent: Spent,
    part: str,
    agree: Callable[[bool], bool] = bool,
    draw: Draw = greedy,
    forwards: int | None = None,
) -> Verified:
    """What `write` writes, from the same draws, in as few forwards as the proposal is good.

    A forward reads the last token that is certain and behind it the proposed ones, and predicts each token and the one
    after the last but one. Every prediction is drawn from as if it stood alone; the draws count up to the first that
    differs from the proposal, that one included, since until there the decoder has read what it wrote. So whatever
    was proposed, the text is that of `write` token by token, and under a `draw` whose randomness is a function of row
    and number its law is the decoder's: a token x is accepted with probability p(x), and else replaced by one of p
    without x (speculative sampling, arXiv 2211.17192, for a proposal that is certain of itself).

    What is left of the proposal is verified again behind the token that replaced it. A forward that verifies writes one
    token at least, as a forward that decodes does, so that no text takes more of them than `write` takes.

    prefix: ends in a segment of one kept token in every row. proposed: as `proposed_length` reads it; what follows is
    arbitrary. forwards: at most; what is then left of a proposal stands unread. For other arguments see `write`.
    """
    (*read, last), device = prefix, proposed.device
    rows = torch.arange(len(proposed))  # those that still write, on the host
    most = torch.as_tensor(max_tokens, device=device).expand(len(rows))
    width = int(most.max())
    tokens = torch.full((len(rows), width), pad_id, device=device)
    keep, confidence = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros(tokens.shape, device=device)
    accepted = torch.zeros_like(tokens[:, 0])
    token, start = last.tokens[:, -1:], last.positions[:, -1:]
    number = torch.zeros_like(token)  # of each row's next token
    guesses = torch.nn.functional.pad(proposed[:, :width], (0, 1), value=pad_id)
    length = proposed_length(proposed, end_id=end_id, banned=banned).minimum(most)[:, None]
    asked = (length - number).clamp(min=1)
    n_asked = asked[:, 0].cpu()
    parts: list[Part] = []
    made = 0
    while made != forwards and not agree(len(rows) == 0):
        made += 1
        column = torch.arange(max(n_asked.tolist(), default=1), device=device)
        guess = guesses.gather(1, (number + column).clamp(max=guesses.shape[1] - 1))
        segment = Segment(
            last.name, torch.cat([token, guess[:, :-1]], dim=1), column < asked, start + column, True, last.sees
        )
        sent = sum(s.tokens.shape[1] for s in read) + n_asked
        context = int(sent.max()) if len(sent) else 0
        context += 0 if memory is None else memory.keep.shape[1]
        spent.charge(part, positions=sent, flops=sent.double() * network.flops(1, context), rows=rows)
        hidden, memory = network.remember([*read, segment], memory)
        logits = network.logits(hidden[last.name]).float()
        logits[..., list(banned)] = -torch.inf
        at = rows.to(device)
        own = draw(logits, at[:, None], (number + column).clamp(max=width - 1))
        agrees = (own == guess) & (number + column < length)
        run = agrees.long().cumprod(-1).sum(-1, keepdim=True)
        new = (run + 1).minimum(asked)  # tokens that this forward settles
        sure = logits.softmax(-1).gather(-1, own[..., None])[..., 0]

        place = torch.arange(width, device=device) - number
        is_new = (place >= 0) & (place < new)
        place = place.clamp(0, len(column) - 1)
        tokens[at] = torch.where(is_new, own.gather(1, place), tokens[at])
        confidence[at] = torch.where(is_new, sure.gather(1, place), confidence[at])
        keep[at] |= is_new
        accepted[at] += run[:, 0]

        token, number = own.gather(1, new - 1), number + new
        asked = (length - number).clamp(min=1)
        ends = (token == end_id) | (number >= most[at, None])
        told = torch.cat([ends.long(), new, asked], dim=1).cpu()  # the one wait for the device in a forward
        memory = _settled(memory, column < new, int(told[:, 1].max()) if len(told) else 0)
        if (ends := told[:, 0] > 0).any():
            ended, going = (which.nonzero()[:, 0] for which in (ends, ~ends))
            parts.append((rows[ended], memory if ends.all() else memory.select(ended.to(device))))
            here = going.to(device)
            rows, told, memory = rows[going], told[going], memory.select(here)
            token, number, asked, length, guesses = (x[here] for x in (token, number, asked, length, guesses))
        read, start, n_asked = [], memory.next_position[:, None], told[:, 2]
    if len(rows):
        at, place = rows.to(device), torch.arange(width, device=device)
        is_left = (place >= number) & (place < length)
        tokens[at] = torch.where(is_left, guesses[:, :width], tokens[at])
        keep[at] |= is_left
    count = int(keep.sum(-1).max())
    return Verified(tokens[:, :count], keep[:, :count], confidence[:, :count], parts, accepted, len(rows) == 0)


def _settled(memory: Memory, is_settled: Bool[Tensor, "r n"], most: int) -> Memory:
    """The memory without what was proposed in vain; columns that no row keeps are cut off."""
    before = memory.keep.shape[1] - is_settled.shape[1]
    keep = torch.cat([memory.keep[:, :before], is_settled], dim=1)
    return replace(memory, keep=keep).first(before + most)
