"""How an answer is made of a draft: written token by token, verified where the draft proposes it, or read off it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from hybrid.diffusion import noise as streams
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.sampling import Sampling
from hybrid.drafters import Drafted, Drafter
from hybrid.drafters.canvas import ending
from hybrid.drafters.causal import draws
from hybrid.nets.decode import Draw, Written, write
from hybrid.nets.layout import Segment
from hybrid.nets.network import Memory, Network
from hybrid.nets.verify import verify
from hybrid.records import Special, Spent

How = Literal["decode", "verify", "canvas"]


def how_of(asked: str | None, room: int, drafter: Drafter, decoder: Network) -> How:
    """How answers are made; None: verified where the canvas holds them, otherwise decoded.

    decode: the decoder writes the answer token by token. verify: it reads the answer that the canvas proposes in one
    forward, and writes on where it would have written otherwise. canvas: the answer is what the canvas holds, without
    any forward of the decoder, which is plain diffusion.

    Raises:
        ValueError: an answer that is to come from a canvas that has no room for it, a drafter that drafts none, or a
        decoder that cannot take tokens back.
    """
    can_verify = room > 0 and drafter.proposes and decoder.can_denoise
    if asked is None:
        return "verify" if can_verify else "decode"
    how = next((name for name in get_args(How) if name == asked), None)
    if how is None:
        raise ValueError(f"answer={asked!r}: must be one of {', '.join(get_args(How))}")
    if how != "decode" and not room:
        raise ValueError(
            f"answer={how!r}: this model's canvas holds the sketch alone; train one with canvas_holds: sketch+answer"
        )
    if how != "decode" and not drafter.proposes:
        raise ValueError(f"answer={how!r}: drafter {type(drafter).__name__} drafts no answer; take decode")
    if how == "verify" and not can_verify:
        raise ValueError(
            f"answer={how!r}: {type(decoder.model).__name__} carries a state, which takes no token back; take decode"
        )
    return how


@dataclass(frozen=True)
class Writing:
    """What a call says of its answers. temperature: of the decoder's draws, which are keyed by the example and the
    number of the token; 0: greedy.

    Raises:
        ValueError: a temperature that is none, or one for answers that nobody draws.
    """

    how: How
    temperature: float = 0.0

    def __post_init__(self) -> None:
        Sampling(self.temperature)  # refuses what makes no sense
        if self.how == "canvas" and self.temperature:
            raise ValueError(
                f"answer_temperature={self.temperature} with answer='canvas': its tokens are the drafter's draws; set 0"
            )

    def forwards(self, max_answer: int) -> int:
        """The decoder's forwards at most, which a call reserves: of a verified answer, all of whose proposed tokens may
        be wrong, as many as of a decoded one."""
        return 0 if self.how == "canvas" else max_answer

    def draw(self, noise: Noise, tokens: int) -> Draw:
        """How the decoder's tokens are picked. Decoded and verified answers come of the same draws."""
        return draws(Sampling(self.temperature), noise, streams.ANSWER, tokens)

    def written(
        self,
        network: Network,
        prefix: Sequence[Segment],
        memory: Memory | None,
        drafted: Drafted,
        max_answer: int,
        *,
        special: Special,
        noise: Noise,
        spent: Spent,
        agree: Callable[[bool], bool],
    ) -> Written:
        """The decoder's answers after `prefix`."""
        options: dict[str, Any] = dict(
            end_id=special.end, pad_id=special.pad, banned=special.never_written, spent=spent, part="decoder",
            agree=agree, draw=self.draw(noise, max_answer),
        )  # fmt: skip
        if self.how == "decode":
            return write(network, prefix, memory, max_answer, **options)
        assert drafted.answer is not None  # as `how_of` demands
        return verify(network, prefix, memory, drafted.answer, max_answer, **options)


def read_off(drafted: Drafted, special: Special) -> Written:
    """The answers as they stand on the canvas, up to their end tokens. Holes are left holes, and count for nothing."""
    assert drafted.answer is not None and drafted.answer_confidence is not None
    tokens = ending(special).read(drafted.answer)
    keep = (tokens != special.pad) & (tokens != special.mask)
    return Written(tokens, keep, torch.where(keep, drafted.answer_confidence, 0.0), [])


def log_of(written: Written) -> Float[Tensor, "b"]:
    """Log-probability of each answer, by whoever wrote it."""
    return torch.where(written.keep, written.confidence, 1.0).clamp(min=1e-30).log().sum(-1)
