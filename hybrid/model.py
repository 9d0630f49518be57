"""The config of a reasoner: which parts it is made of."""

from dataclasses import dataclass, field
from typing import Literal

from hybrid.bridge import Bridge, Latent, Tokens
from hybrid.drafters import Drafter
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.drafters.controls import Given, NoSketch
from hybrid.drafters.diffusion import Diffusion
from hybrid.drafters.internalised import Internalised
from hybrid.feed import Feed, Gold, Mixture, Nothing
from hybrid.kinds import kind_of
from hybrid.nets.backbone import Backbone, Qwen3


@dataclass(frozen=True)
class Model:
    """The config of a reasoner.

    pairing: shared: one trunk drafts and decodes. separate: two networks, each of its own backbone.
    backbone: the trunk, or the decoder's. drafter_backbone: the separate drafter's; null: like `backbone`.
    canvas: positions for the sketch and its end token. max_answer: answer tokens reserved in every call.
    canvas_holds: the sketch alone, or behind it the answer too, in max_answer positions more: the drafter learns and
        drafts both, and the decoder verifies the answer it finds there in one forward (TiDAR, arXiv 2511.08923).
    sketch_weight, answer_weight: of the two means in the training loss.
    """

    pairing: Literal["shared", "separate"] = "shared"
    drafter: Drafter = field(default_factory=Diffusion)
    backbone: Backbone = field(default_factory=Qwen3)
    drafter_backbone: Backbone | None = None
    bridge: Bridge = field(default_factory=Tokens)
    feed: Feed = field(default_factory=Mixture)
    canvas: int = 32
    canvas_holds: Literal["sketch", "sketch+answer"] = "sketch"
    max_answer: int = 16
    sketch_weight: float = 1.0
    answer_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("canvas", "max_answer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more")
        if self.pairing == "shared" and self.drafter_backbone is not None:
            raise ValueError("drafter_backbone is for pairing: separate; a shared trunk is `backbone`")
        if self.pairing == "shared" and isinstance(self.drafter, Autoregressive) and not isinstance(self.feed, Gold):
            raise ValueError("an autoregressive drafter that shares its trunk trains on the gold sketch: feed: gold")
        if isinstance(self.bridge, Latent) and isinstance(self.drafter, Autoregressive):
            raise ValueError("bridge: latent reads a canvas that was denoised; an autoregressive drafter takes tokens")
        if self.pairing == "shared" and isinstance(self.drafter, Autoregressive) and type(self.bridge) is not Tokens:
            raise ValueError(
                f"bridge: {kind_of(Bridge, type(self.bridge))}: an autoregressive drafter that shares its trunk reads "
                "what it writes: take bridge: tokens, or pairing: separate"
            )
        if isinstance(self.bridge, Latent) and isinstance(self.feed, Nothing) and self.drafter.learns:
            raise ValueError("bridge: latent with feed: none: no sketch, so that nothing would train the bridge")
        self.check_verify(self.drafter)
        if self.answer_room and not self.drafter.proposes:
            name = type(self.drafter).__name__
            raise ValueError(
                f"canvas_holds={self.canvas_holds!r}: {name} drafts no answer on it; take drafter: diffusion"
            )

    def check_verify(self, drafter: Drafter) -> None:
        """Refuse to verify drafts whose hidden states the decoder reads."""
        if isinstance(self.bridge, Latent) and isinstance(drafter, Diffusion) and drafter.verify:
            raise ValueError(
                f"verify={drafter.verify}: bridge: latent reads the states of a canvas as it was denoised, and a "
                "verified sketch is another; take bridge: tokens, or verify: 0"
            )

    @property
    def answer_room(self) -> int:
        """Positions of the canvas for the answer."""
        return self.max_answer if self.canvas_holds == "sketch+answer" else 0

    @property
    def positions(self) -> int:
        """Positions of the whole canvas: the most steps of a policy that commits in each."""
        return self.canvas + self.answer_room

    @property
    def method(self) -> str:
        """The name of this arrangement in every table."""
        if isinstance(self.drafter, Internalised):
            return "internalised"
        if isinstance(self.drafter, Autoregressive):
            return "chain" if self.pairing == "shared" else "ar_drafter"
        if isinstance(self.drafter, NoSketch):
            return "direct"
        if self.drafter.learns and isinstance(self.bridge, Latent):
            return self.bridge.title
        if isinstance(self.drafter, Diffusion):
            return "hybrid"
        kind = kind_of(Drafter, type(self.drafter))
        return f"{kind}, in training too" if isinstance(self.drafter, Given) else kind
