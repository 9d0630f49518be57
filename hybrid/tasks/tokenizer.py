"""Text to token ids and back: one token a character, or byte pairs trained on the task's texts. Works
offline."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import tokenizers
from jaxtyping import Int
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from hybrid.kinds import register
from hybrid.records import Special

PAD, END, MASK, SKETCH, ANSWER = range(5)
SPECIAL = ("<pad>", "<end>", "<mask>", "<sketch>", "<answer>")


class Tokenizer:
    """A tokenizer of the `tokenizers` library whose first five ids are PAD, END, MASK, SKETCH and ANSWER.

    SKETCH opens a sketch and ANSWER opens an answer. Text never yields one of the five: a prompt that says
    "<mask>" is six characters. `special` names the five ids.
    """

    special: Special = Special(PAD, END, MASK, SKETCH, ANSWER)
    formats: ClassVar[dict[str, Callable[[dict[str, Any]], "Tokenizer"]]] = {}
    """Readers of files that are not the library's own, by the key that such a file has."""

    def __init__(self, model: tokenizers.Tokenizer) -> None:
        found = tuple(model.id_to_token(i) for i in range(len(SPECIAL)))
        if found != SPECIAL:
            raise ValueError(f"not a tokenizer of this project: ids 0 to 4 are {found}, not {SPECIAL}")
        if model.get_added_tokens_decoder():
            raise ValueError("not a tokenizer of this project: it has added tokens, which text could spell out")
        self.model = model
        vocabulary = model.get_vocab(with_added_tokens=False)
        by_character = isinstance(model.model, models.WordLevel)
        self.characters = {t: i for t, i in vocabulary.items() if i >= len(SPECIAL)} if by_character else None
        self.names = {i: t for t, i in vocabulary.items()}

    def __len__(self) -> int:
        return self.model.get_vocab_size()

    @property
    def reader(self) -> "Tokenizer":
        """The decoder's tokenizer, which writes answers: this one, unless the decoder has a vocabulary of its own."""
        return self

    def read(self, canvas: Int[Tensor, "b l"]) -> Int[Tensor, "b n"]:
        """A canvas in the reader's ids."""
        return canvas

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, nothing added.

        Raises:
            ValueError: a character that a character tokenizer was not made with.
        """
        if self.characters is None:
            return self.model.encode(text, add_special_tokens=False).ids
        try:
            return [self.characters[c] for c in text]
        except KeyError:
            at = next(i for i, c in enumerate(text) if c not in self.characters)
            start = text if len(text) <= 40 else text[:40] + "..."
            raise ValueError(
                f"unknown character {text[at]!r} at position {at} of {start!r}; this tokenizer knows "
                f"{''.join(sorted(self.characters))!r}"
            ) from None

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt, with whatever the tokenizer's model expects round it: here nothing."""
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids` up to the first end token: pads are left out, a mask shows as "_", the markers of sketch
        and answer by name.

        Raises:
            ValueError: an id beyond the vocabulary.
        """
        texts: list[str] = []
        run: list[int] = []
        special = self.special
        for token in (*map(int, ids), special.end):
            if not 0 <= token < len(self):
                raise ValueError(f"token id {token}: the vocabulary has ids 0 to {len(self) - 1}")
            if token not in special.reserved:
                run.append(token)
                continue
            if token != special.pad and run:
                texts.append(self._text(run))
                run = []
            if token == special.end:
                break
            texts.append({special.pad: "", special.mask: "_"}.get(token, self.names[token]))
        return "".join(texts)

    def _text(self, ids: list[int]) -> str:
        if self.characters is not None:
            return "".join(map(self.names.__getitem__, ids))
        return self.model.decode(ids, skip_special_tokens=False)

    def to_fast(self) -> Any:
        """The tokenizer as transformers has them, for others' tools: text that spells a special token becomes it."""
        from transformers import PreTrainedTokenizerFast

        roles = {"pad_token": "pad", "eos_token": "end", "mask_token": "mask"}
        names = {role: self.names[getattr(self.special, part)] for role, part in roles.items()}
        marks = [self.names[self.special.sketch], self.names[self.special.answer]]
        return PreTrainedTokenizerFast(tokenizer_object=self.model, additional_special_tokens=marks, **names)

    def to_json(self) -> str:
        """The whole tokenizer as text in the library's format; `from_json` reads it."""
        return self.model.to_str(pretty=True)

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The tokenizer of a file's text, of the class that wrote it. Reads data and runs no code.

        Raises:
            ValueError: not the library's format, or not a tokenizer of this project.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a tokenizer file ({error})") from None
        for key, read in cls.formats.items():
            if isinstance(data, dict) and key in data:
                return read(data)
        try:
            model = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"not a tokenizer file ({error})") from None
        return cls(model)

    def save(self, path: Path | str) -> None:
        """Write the file, usually named `tokenizer.json`; its folder must exist."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a file that `save` wrote; runs no code.

        Raises:
            ValueError: the file is not a tokenizer of this project.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


@dataclass(frozen=True)
class TokenizerConfig:
    """How to make a tokenizer from the texts of a task. The same texts give the same tokenizer."""

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """A tokenizer for these texts, read once."""
        raise NotImplementedError


@register(TokenizerConfig, "character")
@dataclass(frozen=True)
class Character(TokenizerConfig):
    """One token a character.

    characters: known besides those of the texts.
    """

    characters: str = ""

    def train(self, texts: Iterable[str]) -> Tokenizer:
        known = set(self.characters).union(*texts)
        if not known:
            raise ValueError("the texts to make a tokenizer from hold no characters")
        vocabulary = {token: i for i, token in enumerate((*SPECIAL, *sorted(known)))}
        model = tokenizers.Tokenizer(models.WordLevel(vocabulary))
        model.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        model.decoder = decoders.Fuse()
        return Tokenizer(model)


@register(TokenizerConfig, "byte_pair")
@dataclass(frozen=True)
class BytePair(TokenizerConfig):
    """Byte pairs trained on the texts. Every text can be written: the 256 bytes are tokens.

    Digits stay single tokens, since arithmetic on merged digits is harder to learn; and `<` stays single,
    so that no merge can spell a special token.

    size: tokens in all; fewer where the texts offer no more merges.
    """

    size: int = 1024

    def __post_init__(self) -> None:
        least = len(SPECIAL) + 256
        if self.size < least:
            raise ValueError(f"size = {self.size}: must be at least {least}, the special tokens and the 256 bytes")

    def train(self, texts: Iterable[str]) -> Tokenizer:
        model = tokenizers.Tokenizer(models.BPE())
        splits = (pre_tokenizers.Split("<", "isolated"), pre_tokenizers.Digits(individual_digits=True))
        model.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        model.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=self.size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        )
        model.train_from_iterator(texts, trainer)
        # The trainer makes the five match in text, too: keep their ids, drop the matching.
        return Tokenizer.from_json(json.dumps(json.loads(model.to_str()) | {"added_tokens": []}))
