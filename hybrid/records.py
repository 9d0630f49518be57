"""What the parts exchange: plain records, no behaviour beyond bookkeeping.

Axis letters everywhere: `b` batch, `q` prompt, `l` sketch (canvas), `a` answer, `k` vocabulary, `d` width.
"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One problem as text. `key` is its identity: noise, corruption and draws are keyed by it."""

    key: int
    prompt: str
    sketch: str
    answer: str


@dataclass(frozen=True)
class Score:
    """What a task's checker says of one result. `None`: the question makes no sense for this task.

    answer_correct: the answer obeys the task's rules; never granted for what stands in the prompt.
    sketch_exact: the sketch equals the gold sketch, character for character.
    sketch_valid: the sketch is a correct derivation by the task's rules, whether or not it is the gold one.
    draft_correct: the sketch alone, without the decoder, solves the problem.
    """

    answer_correct: bool
    sketch_exact: bool | None = None
    sketch_valid: bool | None = None
    draft_correct: bool | None = None


@dataclass(frozen=True)
class Special:
    """Ids of the tokens that are not text. `sketch` and `answer` open those parts; `mask` is a hole."""

    pad: int = 0
    end: int = 1
    mask: int = 2
    sketch: int = 3
    answer: int = 4

    @property
    def reserved(self) -> tuple[int, ...]:
        """All five ids, ascending."""
        return tuple(sorted((self.pad, self.end, self.mask, self.sketch, self.answer)))

    @property
    def never_drafted(self) -> tuple[int, ...]:
        """Tokens that never stand on a finished canvas."""
        return (self.mask, self.sketch, self.answer)

    @property
    def never_written(self) -> tuple[int, ...]:
        """Tokens that autoregressive writing never emits: all but text and the end."""
        return (self.pad, self.mask, self.sketch, self.answer)


@dataclass(frozen=True)
class Prompts:
    """Tokenised prompts, padded on the left so that every prompt ends at the same column.

    other: the same prompts in the vocabulary of a decoder that has one of its own.
    """

    keys: Int[Tensor, "b"]
    tokens: Int[Tensor, "b q"]
    keep: Bool[Tensor, "b q"]
    other: "Prompts | None" = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def as_read(self) -> "Prompts":
        """As the decoder reads them."""
        return self if self.other is None else self.other

    def select(self, rows: Int[Tensor, "r"]) -> "Prompts":
        other = None if self.other is None else self.other.select(rows)
        return Prompts(self.keys[rows], self.tokens[rows], self.keep[rows], other)

    def to(self, device: torch.device | str) -> "Prompts":
        other = None if self.other is None else self.other.to(device)
        return Prompts(self.keys.to(device), self.tokens.to(device), self.keep.to(device), other)


@dataclass(frozen=True)
class Batch:
    """Tokenised examples for training and controls.

    sketch: canvas of fixed length: the sketch, one end token, then pads to the canvas length.
    answer: the answer, one end token, then pads, in the decoder's ids; `answer_keep` is False on the pads.
    answer_room: positions of the canvas after the sketch's, for the answer too; 0: it holds the sketch alone.
    """

    prompts: Prompts
    sketch: Int[Tensor, "b l"]
    answer: Int[Tensor, "b a"]
    answer_keep: Bool[Tensor, "b a"]
    answer_room: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def parts(self) -> tuple[int, ...]:
        """Lengths of what stands on the canvas one after the other; empty: the sketch alone."""
        return (self.sketch.shape[1], self.answer_room) if self.answer_room else ()

    def canvas(self, pad: int) -> Int[Tensor, "b l"]:
        """All that the canvas holds: the sketch, and where it has room the answer, its end token, and pads.

        Raises:
            ValueError: answers that are wider than the room.
        """
        if not self.answer_room:
            return self.sketch
        free = self.answer_room - self.answer.shape[1]
        if free < 0:
            raise ValueError(f"answers of {self.answer.shape[1]} tokens: the canvas has room for {self.answer_room}")
        return torch.cat([self.sketch, F.pad(self.answer, (0, free), value=pad)], dim=1)

    def to(self, device: torch.device | str) -> "Batch":
        sketch, answer, keep = (x.to(device) for x in (self.sketch, self.answer, self.answer_keep))
        return replace(self, prompts=self.prompts.to(device), sketch=sketch, answer=answer, answer_keep=keep)


@dataclass
class Spent:
    """What a call spent, counted where it is spent, per row. Added to in place; never derived from a formula.

    All fields are float64 tensors of shape (b,):
        denoiser_forwards, decoder_forwards: network calls the row took part in. The first one of each reads the
            prompt too, where nobody has: a draft of n steps takes n, or 2 n under guidance.
        sequential_forwards: dependent network calls on the row's critical path, prefill and end token included.
        positions: token positions the row sent through a network.
        flops: floating-point operations of those positions by the network's own formula.
        sketch_tokens, answer_tokens: tokens written, end token included, pads excluded.
        accepted_tokens: those of the answer that stood on the canvas and that the decoder, asked, would write itself.
    seconds: of the whole call; draft_seconds, answer_seconds: of its two parts.
    """

    denoiser_forwards: Float[Tensor, "b"]
    decoder_forwards: Float[Tensor, "b"]
    sequential_forwards: Float[Tensor, "b"]
    positions: Float[Tensor, "b"]
    flops: Float[Tensor, "b"]
    sketch_tokens: Float[Tensor, "b"]
    answer_tokens: Float[Tensor, "b"]
    accepted_tokens: Float[Tensor, "b"]
    seconds: float = field(default=0.0, kw_only=True)
    draft_seconds: float = field(default=0.0, kw_only=True)
    answer_seconds: float = field(default=0.0, kw_only=True)

    @classmethod
    def nothing(cls, rows: int) -> "Spent":
        return cls(*torch.zeros(8, rows, dtype=torch.float64).unbind())

    def charge(
        self,
        part: str,
        positions: int | Int[Tensor, "r"],
        flops: float | Float[Tensor, "r"],
        rows: Int[Tensor, "r"] | slice = slice(None),  # noqa: B008
    ) -> None:
        """One network call on `rows`, each sending `positions` positions, alike or its own; `part` is "denoiser" or
        "decoder"."""
        getattr(self, f"{part}_forwards")[rows] += 1
        self.sequential_forwards[rows] += 1
        self.positions[rows] += positions
        self.flops[rows] += flops


@dataclass(frozen=True)
class Reasoned:
    """One prompt's result: the text, and what its call was allowed and spent.

    allowed: steps and sketch tokens, max_answer, and what else the budget said; `note` where it could not be met.
    spent: counts per row, as `Spent`. timing: its share of the batch's seconds, for draft and answer.
    answer_by: decode (token by token), verify (proposed on the canvas, and checked) or canvas (read off it).
    complete: False where the sketch still has holes (a draft cut short) or the answer ran out of tokens.
    answer_logp: log-probability of the answer given prompt and sketch, in nats; of one read off the canvas, that of
    its tokens when they were committed. sketch_logp: mean log-probability of the sketch's tokens, its end included,
    when they were committed; None without a sketch of one's own.
    drafts: all drafts of the prompt where there were several, this one among them.
    """

    sketch: str
    answer: str
    sketch_tokens: list[int]
    answer_tokens: list[int]
    allowed: dict[str, object]
    spent: dict[str, float]
    timing: dict[str, float]
    complete: bool
    answer_logp: float
    sketch_logp: float | None = None
    answer_by: str = "decode"
    drafts: tuple["Reasoned", ...] = ()
