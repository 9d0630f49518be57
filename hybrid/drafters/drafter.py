"""The contract of a drafter."""

import dataclasses
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from hybrid.diffusion.budget import Budget
from hybrid.diffusion.draft import State
from hybrid.diffusion.noise import Noise
from hybrid.nets.layout import Segment
from hybrid.nets.network import Memory, Network
from hybrid.nets.pairing import Hidden
from hybrid.records import Batch, Prompts, Special, Spent


@dataclass(frozen=True)
class Request:
    """What a drafter is asked: prompts and canvas length. Controls also read the gold sketch, or another's.

    canvas: positions for the sketch. answer_room: positions after them for the answer; 0: the sketch alone is drafted.
    room: positions that each row's sketch may use, (b,); None: all. pace: the steps that the time left allows.
    agree: whether all ranks are done when this one is; whoever stops early asks first.
    """

    prompts: Prompts
    canvas: int
    special: Special
    gold: Int[Tensor, "b l"] | None = None
    other: Int[Tensor, "b l"] | None = None
    room: Int[Tensor, "b"] | None = None
    pace: Callable[[], int] | None = None
    agree: Callable[[bool], bool] = bool
    answer_room: int = 0

    @property
    def length(self) -> int:
        """Positions of the whole canvas."""
        return self.canvas + self.answer_room

    @property
    def parts(self) -> tuple[int, ...]:
        """Lengths of what stands on the canvas one after the other; empty: the sketch alone."""
        return (self.canvas, self.answer_room) if self.answer_room else ()

    def select(self, rows: Int[Tensor, "r"]) -> "Request":
        def of(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[rows]

        return dataclasses.replace(
            self, prompts=self.prompts.select(rows), gold=of(self.gold), other=of(self.other), room=of(self.room)
        )


@dataclass(frozen=True)
class Drafted:
    """A finished draft.

    confidence: probability of each token when it was committed; 0 where none was drawn, as on the pads.
    memory: the prompt as the drafting network remembers it, for a decoder that shares the network.
    holds_sketch: that memory also holds the sketch, all but its end token, as a decoder would have read it.
    answer: what the canvas holds after the sketch, where it has room for the answer; and its confidence.
    """

    sketch: Int[Tensor, "b l"]
    confidence: Float[Tensor, "b l"] | None = None
    memory: Memory | None = None
    holds_sketch: bool = False
    answer: Int[Tensor, "b a"] | None = None
    answer_confidence: Float[Tensor, "b a"] | None = None


@dataclass(frozen=True)
class Plan:
    """A drafter's part of a training step: its row of segments, and the cost of their hidden states.

    cost: hidden states -> nats per row, (b,). count: supervised tokens per row, (b,): of all that is drafted, ends too,
        and pads where the drafter's cost is over them.
    positions: sent through the network for it already.
    """

    segments: list[Segment]
    cost: Callable[[Hidden], Float[Tensor, "b"]]
    count: Int[Tensor, "b"]
    positions: int = 0


Drafting = Generator[State, None, Drafted]


@dataclass(frozen=True)
class Drafter:
    """Puts a sketch on the canvas. Stateless: a network is handed in, and randomness too.

    learns: has a network and a training cost. steps_matter: a budget in steps changes what it does.
    proposes: drafts the answer too, and learns to, where it is given room for it.
    blanks: masks in its sketches are meant, and no holes that a draft left.
    forwards_besides, forwards_per_step: network calls that a draft takes besides its steps, and in each of them.
    """

    learns: ClassVar[bool] = False
    steps_matter: ClassVar[bool] = False
    proposes: ClassVar[bool] = False
    blanks: ClassVar[bool] = False

    @property
    def forwards_besides(self) -> int:
        return 0

    @property
    def forwards_per_step(self) -> int:
        return 1

    @property
    def supervises_pads(self) -> bool:
        """Whether its training cost is over every position of the canvas, and not over text and ends alone."""
        return False

    @property
    def draws(self) -> bool:
        """Whether two drafts of one prompt can differ."""
        return False

    @property
    def has_one_step(self) -> bool:
        """Whether a decoder can train on its drafts of one step."""
        return type(self).one_step is not Drafter.one_step

    def taught(self, batch: Batch, noise: Noise, special: Special) -> Batch:
        """The examples as training shows them to drafter and decoder."""
        return batch

    def plan(
        self, network: Network, batch: Batch, t: Float[Tensor, "b"], noise: Noise, special: Special
    ) -> Plan | None:
        """Its part of a training step at times t; None where it learns nothing."""
        return None

    def one_step(
        self,
        network: Network,
        batch: Batch,
        rows: Int[Tensor, "r"],
        noise: Noise,
        special: Special,
        spent: Spent | None = None,
    ) -> Int[Tensor, "r l"] | None:
        """Drafts of some rows by a single forward, or one per block, without gradient; None where it has none, as
        `has_one_step` tells.

        `spent`, one entry per row of `rows`, is charged for them.
        """
        return None

    def least_steps(self, canvas: int) -> int:
        """Fewest steps, other than none, that it can draft such a canvas in."""
        return 1

    def honest(self) -> "Drafter":
        """The same drafter with the true bound as its cost, whatever it trains on."""
        return self

    def draft(self, network: Network | None, request: Request, budget: Budget, noise: Noise, spent: Spent) -> Drafting:
        """Yields the canvas state by state and returns the draft; all forwards are charged to `spent`."""
        raise NotImplementedError


def finish(drafting: Drafting, watch: Callable[[State], None] | None = None) -> Drafted:
    """Run a drafting to its end; `watch` sees every state."""
    while True:
        try:
            state = next(drafting)
        except StopIteration as stop:
            return stop.value
        if watch is not None:
            watch(state)
