"""Feeds: which sketch the decoder trains on, so that it survives the drafts it will meet."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from hybrid.diffusion import noise as streams
from hybrid.diffusion.guidance import Ending
from hybrid.diffusion.noise import Noise
from hybrid.kinds import register
from hybrid.records import Special


@dataclass(frozen=True)
class Fodder:
    """What feeds draw from: gold sketches, noise, and the drafter's own one-step drafts of some rows."""

    gold: Int[Tensor, "b l"]
    noise: Noise
    special: Special
    vocabulary: int
    one_step: Callable[[Int[Tensor, "r"]], Int[Tensor, "r l"]] | None = None

    def select(self, rows: Int[Tensor, "r"]) -> "Fodder":
        one_step = self.one_step
        inner = None if one_step is None else lambda some: one_step(rows[some])
        return Fodder(self.gold[rows], self.noise.select(rows), self.special, self.vocabulary, inner)


@dataclass(frozen=True)
class Feed:
    """Chooses the canvas that each row's decoder reads in training."""

    def feed(self, fodder: Fodder) -> Int[Tensor, "b l"]:
        raise NotImplementedError


@register(Feed, "gold")
@dataclass(frozen=True)
class Gold(Feed):
    """The data's own sketch."""

    def feed(self, fodder: Fodder) -> Int[Tensor, "b l"]:
        return fodder.gold


@register(Feed, "none")
@dataclass(frozen=True)
class Nothing(Feed):
    """No sketch, so that budget 0 is answered too."""

    def feed(self, fodder: Fodder) -> Int[Tensor, "b l"]:
        return torch.full_like(fodder.gold, fodder.special.pad)


@register(Feed, "pause")
@dataclass(frozen=True)
class Blanks(Feed):
    """As many blanks as the gold sketch has tokens of text: with `drafter: pause`, a decoder trained on pause tokens
    (arXiv 2310.02226)."""

    def feed(self, fodder: Fodder) -> Int[Tensor, "b l"]:
        return blanked(fodder.gold, fodder.special)


def blanked(sketch: Int[Tensor, "b l"], special: Special) -> Int[Tensor, "b l"]:
    """Masks in place of text."""
    is_text = (sketch != special.pad) & (sketch != special.end)
    return torch.where(is_text, special.mask, sketch)


@register(Feed, "corrupted")
@dataclass(frozen=True)
class Corrupted(Feed):
    """The gold sketch with each token of text replaced, with probability `share`, by another row-keyed draw."""

    share: float = 0.15

    def __post_init__(self) -> None:
        _check_share("share", self.share)

    def feed(self, fodder: Fodder) -> Int[Tensor, "b l"]:
        length = fodder.gold.shape[1]
        is_text = (fodder.gold != fodder.special.pad) & (fodder.gold != fodder.special.end)
        u = fodder.noise.uniform(streams.FEED, 1, length)
        drawn = fodder.noise.uniform(streams.FEED, 2, length)
        other = (drawn * (fodder.vocabulary - len(fodder.special.reserved))).long()
        for token in fodder.special.reserved:  # ascending: number the tokens of text past each of them
            other = other + (other >= token)
        return torch.where(is_text & (u < self.share), other, fodder.gold)


@register(Feed, "partial")
@dataclass(frozen=True)
class Partial(Feed):
    """The gold sketch with holes, as a draft cut short leaves them; the share of holes is uniform per row."""

    def feed(self, fodder: Fodder) -> Int[Tensor, "b l"]:
        length, special = fodder.gold.shape[1], fodder.special
        share = fodder.noise.uniform(streams.FEED, 3)
        is_hole = fodder.noise.uniform(streams.FEED, 4, length) < share
        ending = Ending(special.end, special.pad, special.mask)
        return ending.close(torch.where(is_hole, special.mask, fodder.gold))


@register(Feed, "drafted")
@dataclass(frozen=True)
class Drafted(Feed):
    """The drafter's own draft in one step, drawn from its prediction at t = 1.

    Drafts from a half-revealed canvas would still contain gold tokens; this one contains none.
    """

    def feed(self, fodder: Fodder) -> Int[Tensor, "b l"]:
        if fodder.one_step is None:
            raise ValueError("feed 'drafted' needs a drafter that drafts in one step, such as kind: diffusion")
        return fodder.one_step(torch.arange(len(fodder.gold), device=fodder.gold.device))


@register(Feed, "mixture")
@dataclass(frozen=True)
class Mixture(Feed):
    """Each row takes one of the feeds, by its share. The default makes one checkpoint answer at any budget."""

    gold: float = 0.4
    drafted: float = 0.25
    partial: float = 0.15
    corrupted: float = 0.1
    none: float = 0.1
    corruption: Corrupted = field(default_factory=Corrupted)

    def __post_init__(self) -> None:
        for name, share in self._shares().items():
            _check_share(name, share)
        if abs(sum(self._shares().values()) - 1) > 1e-6:
            raise ValueError(
                f"shares of a mixture must sum to 1, not {sum(self._shares().values()):g}: {self._shares()}"
            )

    def _shares(self) -> dict[str, float]:
        names = ("gold", "drafted", "partial", "corrupted", "none")
        return {name: getattr(self, name) for name in names}

    def feed(self, fodder: Fodder) -> Int[Tensor, "b l"]:
        parts: dict[str, Feed] = {
            "gold": Gold(), "drafted": Drafted(), "partial": Partial(), "corrupted": self.corruption, "none": Nothing(),
        }  # fmt: skip
        u = fodder.noise.uniform(streams.FEED, 0)[:, 0]
        fed, upper = fodder.gold.clone(), 0.0
        for name, share in self._shares().items():
            rows = ((u >= upper) & (u < upper + share)).nonzero()[:, 0]
            upper += share
            if share and name != "gold":  # with no rows too: ranks that share weights must make the same calls
                fed[rows] = parts[name].feed(fodder.select(rows))
        return fed


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{name}={share}: must be between 0 and 1")
