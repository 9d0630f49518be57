"""Drafter and decoder with a vocabulary each: the sketch crosses between them as text."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hybrid.kinds import register
from hybrid.tasks.tokenizer import Character, Tokenizer, TokenizerConfig

FORMAT = "two_tokenizers"


class TwoTokenizers(Tokenizer):
    """The drafter's tokenizer, whose ids prompts and canvas have; `reader` is the decoder's, which reads both anew and
    writes answers in ids of its own.
    """

    def __init__(self, drafter: Tokenizer, decoder: Tokenizer) -> None:
        self.drafter, self.decoder = drafter, decoder
        self.special, self.names = drafter.special, drafter.names

    def __len__(self) -> int:
        return len(self.drafter)

    @property
    def reader(self) -> Tokenizer:
        return self.decoder

    def encode(self, text: str) -> list[int]:
        return self.drafter.encode(text)

    def encode_prompt(self, text: str) -> list[int]:
        return self.drafter.encode_prompt(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self.drafter.decode(ids)

    def read(self, canvas: Int[Tensor, "b l"]) -> Int[Tensor, "b n"]:
        """The canvas in the decoder's ids: its text is encoded anew, a hole stays one hole, and the end an end."""
        rows = [self._read(ids) for ids in canvas.tolist()]
        width = max(1, *map(len, rows))
        padded = [row + [self.decoder.special.pad] * (width - len(row)) for row in rows]
        return torch.tensor(padded, device=canvas.device)

    def _read(self, ids: list[int]) -> list[int]:
        ours, theirs = self.special, self.decoder.special
        found: list[int] = []
        run: list[int] = []
        for token in (*ids, ours.pad):
            if token not in ours.reserved:
                run.append(token)
                continue
            if run:
                found += self._encoded(self.drafter.decode(run))
                run = []
            if token == ours.mask:
                found.append(theirs.mask)
            else:  # an end, or a pad where the canvas is full
                return [*found, theirs.end] if token == ours.end else found
        raise AssertionError("the last token is a pad")

    def _encoded(self, text: str) -> list[int]:
        """The decoder's ids of a text that was drafted; a character that it has none for is a hole."""
        try:
            return self.decoder.encode(text)
        except ValueError:
            known = self.decoder.characters or {}
            return [known.get(character, self.decoder.special.mask) for character in text]

    def to_fast(self) -> Any:
        return self.drafter.to_fast()

    def to_json(self) -> str:
        parts = {name: json.loads(getattr(self, name).to_json()) for name in ("drafter", "decoder")}
        return json.dumps({FORMAT: parts}, ensure_ascii=False, indent=1)

    @classmethod
    def parsed(cls, data: dict[str, Any]) -> "TwoTokenizers":
        """The inverse of `to_json`, from its parsed text."""
        return cls(*(Tokenizer.from_json(json.dumps(data[FORMAT][name])) for name in ("drafter", "decoder")))


Tokenizer.formats[FORMAT] = TwoTokenizers.parsed


@register(TokenizerConfig, "two")
@dataclass(frozen=True)
class Two(TokenizerConfig):
    """A vocabulary for each of two networks (pairing: separate); the sketch passes from one to the other as text.

    drafter, decoder: their tokenizers. A network from scratch may have any, a checkpoint has its own.
    """

    drafter: TokenizerConfig = field(default_factory=Character)
    decoder: TokenizerConfig = field(default_factory=Character)

    def train(self, texts: Iterable[str]) -> TwoTokenizers:
        texts = list(texts)
        return TwoTokenizers(self.drafter.train(texts), self.decoder.train(texts))
