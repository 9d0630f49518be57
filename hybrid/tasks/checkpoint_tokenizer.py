"""The tokenizer that a checkpoint was trained with, and its chat template, with the tokens that a reasoner needs."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tokenizers

from hybrid.kinds import register
from hybrid.records import Special
from hybrid.tasks.tokenizer import Tokenizer, TokenizerConfig

ADDED = {"pad": "<|pad|>", "mask": "<|mask|>", "sketch": "<|sketch|>", "answer": "<|answer|>"}
FORMAT = "checkpoint_tokenizer"


class CheckpointTokenizer(Tokenizer):
    """A checkpoint's tokenizer. Its ids are its own: `special` says which of them stand for what.

    Text never yields a control token: one spelled out in text is encoded as characters. In chat form, where the
    template itself writes control tokens, a prompt that spells one is refused.

    prefix: what the checkpoint expects before a text, such as its begin token. chat: prompts are a user's turn in
    the checkpoint's chat template. template, names_of: that template, and the tokens that it names.
    """

    def __init__(
        self, model: tokenizers.Tokenizer, special: Special, prefix: tuple[int, ...] = (), *,
        chat: bool = False, template: str | None = None, names_of: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.special, self.prefix = model, special, prefix
        self.chat, self.template, self.names_of = chat, template, dict(names_of or {})
        self.characters = None
        self.names = {i: t for t, i in model.get_vocab(with_added_tokens=True).items()}
        self.controls = {str(t.content): i for i, t in model.get_added_tokens_decoder().items() if t.special}
        model.encode_special_tokens = True

    def __len__(self) -> int:
        return max(self.names) + 1

    def encode_prompt(self, text: str) -> list[int]:
        """The prompt behind the checkpoint's begin token, or as the user's turn of its chat template.

        Raises:
            ValueError: a prompt that spells a control token, in chat form.
        """
        if not self.chat:
            ids = self.encode(text)
            return [*self.prefix, *ids] if ids else []
        if not text:
            return []
        if spelled := [name for name in self.controls if name in text]:
            raise ValueError(f"a chat prompt may not spell the control token {spelled[0]!r}: {text[:40]!r}")
        self.model.encode_special_tokens = False
        try:
            return list(self.model.encode(self.rendered(text), add_special_tokens=False).ids)
        finally:
            self.model.encode_special_tokens = True

    def rendered(self, text: str) -> str:
        """The chat template over one user's turn, open for the reply."""
        turn = [{"role": "user", "content": text}]
        return str(self.fast.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))

    @cached_property
    def fast(self) -> Any:
        return self.to_fast()

    def to_fast(self) -> Any:
        fast = super().to_fast()
        fast.chat_template = self.template
        if begin := self.names_of.get("bos_token"):
            fast.bos_token = begin
        return fast

    def difference(self, vocabulary: dict[str, int]) -> str | None:
        """Where a checkpoint's vocabulary is not this one; tokens that were added here aside."""
        for token, i in vocabulary.items():
            if self.names.get(i) != token:
                return f"token id {i} is {token!r} there and {self.names.get(i)!r} here"
        return None

    def to_json(self) -> str:
        special = {name: getattr(self.special, name) for name in ("pad", "end", "mask", "sketch", "answer")}
        head = {
            "special": special, "prefix": list(self.prefix), "chat": self.chat, "template": self.template,
            "names_of": self.names_of,
        }  # fmt: skip
        return json.dumps({FORMAT: head, "tokenizer": json.loads(self.model.to_str())}, ensure_ascii=False, indent=1)

    @classmethod
    def parsed(cls, data: dict[str, Any]) -> "CheckpointTokenizer":
        """The inverse of `to_json`, from its parsed text."""
        head = data[FORMAT]
        model = tokenizers.Tokenizer.from_str(json.dumps(data["tokenizer"]))
        return cls(
            model, Special(**head["special"]), tuple(head["prefix"]), chat=head["chat"], template=head["template"],
            names_of=head["names_of"],
        )  # fmt: skip


Tokenizer.formats[FORMAT] = CheckpointTokenizer.parsed


@register(TokenizerConfig, "pretrained")
@dataclass(frozen=True)
class PretrainedTokenizer(TokenizerConfig):
    """The tokenizer of a checkpoint. Tokens it lacks (pad, mask, sketch, answer) are added behind its own.

    name: folder or Hub name; null: that of the pretrained backbone. revision: a Hub branch, tag or commit.
    chat: prompts are turns of its chat template. mask: its mask token, where it has one but does not say so.
    """

    name: str | None = None
    revision: str | None = None
    chat: bool = False
    mask: str | None = None

    def train(self, texts: Iterable[str]) -> CheckpointTokenizer:
        """Reads the checkpoint; the texts are not looked at.

        Raises:
            ValueError: no tokenizer there, no end token, no such mask token, or no chat template for `chat`.
        """
        if self.name is None:
            raise ValueError("tokenizer.name is not given, and no pretrained backbone names one")
        fast = read_fast(self.name, self.revision)
        model = tokenizers.Tokenizer.from_str(fast.backend_tokenizer.to_str())
        end = fast.eos_token or fast.sep_token
        if end is None:
            raise ValueError(f"{self.name}: its tokenizer declares no end token (eos_token or sep_token)")
        if self.chat and not fast.chat_template:
            raise ValueError(f"{self.name}: its tokenizer has no chat template; set tokenizer.chat=false")
        if self.mask is not None and model.token_to_id(self.mask) is None:
            raise ValueError(f"tokenizer.mask={self.mask!r}: {self.name} has no such token")
        names = {
            "pad": fast.pad_token if fast.pad_token != end else None,
            "mask": self.mask or fast.mask_token or self._mask_by_id(model),
        }
        chosen = {part: names.get(part) or added for part, added in ADDED.items()}
        model.add_special_tokens([text for text in chosen.values() if model.token_to_id(text) is None])
        vocabulary = model.get_vocab(with_added_tokens=True)
        special = Special(end=vocabulary[end], **{part: vocabulary[text] for part, text in chosen.items()})
        first = {fast.bos_token_id, fast.cls_token_id} - {None}
        opened = fast("a").input_ids
        prefix = tuple(opened[:1]) if opened and opened[0] in first else ()
        names_of = {k: v for k in ("bos_token", "eos_token") if (v := getattr(fast, k))}
        return CheckpointTokenizer(
            model, special, prefix, chat=self.chat, template=_template(fast), names_of=names_of
        )  # fmt: skip

    def _mask_by_id(self, model: tokenizers.Tokenizer) -> str | None:
        """The mask token of checkpoints that name it by id in config.json, as diffusion models do."""
        from transformers import PreTrainedConfig

        try:
            config, _ = PreTrainedConfig.get_config_dict(self.name, revision=self.revision)
        except OSError:
            return None
        if (token := config.get("mask_token_id")) is None:
            return None
        if (text := model.id_to_token(token)) is None:
            raise ValueError(
                f"{self.name}: its config.json has mask_token_id={token}, which its tokenizer does not know; "
                "name the token in tokenizer.mask"
            )
        return str(text)


def read_fast(name: str, revision: str | None = None) -> Any:
    """A checkpoint's tokenizer as transformers reads it, without code of the checkpoint's own.

    Raises:
        ValueError: nothing there that can be read, in one line that says what was looked for.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from hybrid.reach import check_reachable

    check_reachable(name, revision, "tokenizer.json, or tokenizer_config.json with a known class and its files,")
    problems = []
    for reader in (AutoTokenizer, PreTrainedTokenizerFast):  # the second needs tokenizer.json and nothing else
        try:
            return reader.from_pretrained(name, revision=revision)
        except Exception as error:  # the library raises many kinds for one cause
            problems.append(str(error).partition("\n")[0])
    raise ValueError(
        f"no tokenizer can be read from {name!r}: looked for tokenizer.json, or tokenizer_config.json with a known "
        f"class and its files, in that folder, the local cache and on the Hub ({problems[0]})"
    )


def _template(fast: Any) -> str | None:
    """The chat template; of several, the one named default."""
    template = fast.chat_template
    return template.get("default") if isinstance(template, dict) else template
