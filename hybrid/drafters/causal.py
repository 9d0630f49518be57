"""Sketches in causal order: written token by token by a network, or drafted otherwise and verified by it."""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from hybrid.diffusion import noise as streams
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.sampling import Sampling
from hybrid.drafters.drafter import Drafted, Request
from hybrid.nets.decode import Draw, Written, greedy
from hybrid.nets.layout import Segment
from hybrid.nets.network import Memory, Network, prompt_segment
from hybrid.nets.verify import verify
from hybrid.records import Spent


def draws(sampling: Sampling, noise: Noise, stream: int, tokens: int) -> Draw:
    """Draws keyed by the example and the number of the token: whoever writes or verifies a text by them comes to the
    same one."""
    if not sampling.temperature:
        return greedy
    u = noise.uniform(stream, 0, tokens)
    return lambda logits, row, number: sampling.draw(logits, lambda: u[row, number])


def opening(request: Request, memory: Memory | None = None) -> list[Segment]:
    """What stands before a sketch: the prompt, where the memory does not hold it, and the sketch's marker."""
    start = request.prompts.keep.sum(-1, keepdim=True)
    everyone = torch.ones_like(start, dtype=torch.bool)
    marker = Segment("open", torch.full_like(start, request.special.sketch), everyone, start, True, ("prompt",))
    return [marker] if memory is not None else [prompt_segment(request.prompts), marker]


def room(request: Request) -> int | Int[Tensor, "b"]:
    """Tokens that each sketch may have."""
    return request.canvas if request.room is None else request.room


def drafted(network: Network, request: Request, written: Written, is_whole: bool = True) -> Drafted:
    """A written sketch on its canvas.

    is_whole: whether the network has read all of it, so that its memory is that of the sketch.
    """
    missing = request.canvas - written.tokens.shape[1]
    z = F.pad(written.tokens, (0, missing), value=request.special.pad)
    confidence = F.pad(written.confidence, (0, missing))
    is_kept = network.can_denoise and is_whole  # a running state is of no use to others
    return Drafted(z, confidence, written.memory if is_kept else None, holds_sketch=is_kept)


def check_verify(verify: int, next_token: float) -> None:
    """Refuse to verify by predictions that nobody taught."""
    if verify < 0:
        raise ValueError(f"verify={verify}: must be 0 (drafts stand as they are) or more forwards")
    if verify and not next_token:
        raise ValueError(
            f"verify={verify}: a network verifies by the causal predictions that next_token teaches, and this one "
            "learns none; train with next_token above 0"
        )


def verified(
    network: Network,
    request: Request,
    draft: Drafted,
    forwards: int,
    sampling: Sampling,
    noise: Noise,
    spent: Spent,
) -> Drafted:
    """The draft as the network's causal predictions correct it, in so many forwards at most: see `verify`.

    Where they suffice, the sketch is the one that the network writes token by token, at a temperature in law
    (speculative decoding of a diffusion draft: SpecDiff, arXiv 2408.05636; within one network: TiDAR, arXiv
    2511.08923). Each forward settles one token at least, so that as many as the canvas has positions always do.
    """
    special = request.special
    found = verify(
        network, opening(request, draft.memory), draft.memory, draft.sketch, room(request), end_id=special.end,
        pad_id=special.pad, banned=special.never_written, spent=spent, part="denoiser", agree=request.agree,
        draw=draws(sampling, noise, streams.VERIFY, request.canvas), forwards=forwards,
    )  # fmt: skip
    own = drafted(network, request, found, found.is_whole)
    assert draft.confidence is not None and own.confidence is not None
    is_unread = (own.sketch != special.pad) & (own.confidence == 0)
    confidence = torch.where(is_unread, draft.confidence, own.confidence)
    return dataclasses.replace(
        own, confidence=confidence, answer=draft.answer, answer_confidence=draft.answer_confidence
    )
