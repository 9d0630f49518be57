"""Examples to tensors: prompts padded on the left, canvas and answers on the right."""

from collections.abc import Sequence

import torch

from hybrid.records import Batch, Example, Prompts
from hybrid.tasks.task import key_of
from hybrid.tasks.tokenizer import Tokenizer


def collate(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    canvas: int,
    max_prompt: int | None = None,
    max_answer: int | None = None,
) -> Batch:
    """A batch: prompts as in `prompts`; sketch, end and pads to `canvas`; answer, end and pads.

    max_answer: pad answers to this many tokens, end included, for static shapes; None pads to the longest.

    Raises:
        ValueError: no examples, an empty or over-long prompt, or a sketch or answer that does not fit with
        its end token.
    """
    head = prompts([e.prompt for e in examples], tokenizer, [e.key for e in examples], max_prompt)
    pad, end = tokenizer.special.pad, tokenizer.special.end
    sketches = [[*tokenizer.encode(e.sketch), end] for e in examples]
    _fits(sketches, canvas, "canvas", "sketch", examples)
    reader = tokenizer.reader
    answers = [[*reader.encode(e.answer), reader.special.end] for e in examples]
    longest = max(map(len, answers)) if max_answer is None else max_answer
    _fits(answers, longest, "max_answer", "answer", examples)
    keep = [[True] * len(row) + [False] * (longest - len(row)) for row in answers]
    return Batch(
        prompts=head,
        sketch=torch.tensor([row + [pad] * (canvas - len(row)) for row in sketches]),
        answer=torch.tensor([row + [reader.special.pad] * (longest - len(row)) for row in answers]),
        answer_keep=torch.tensor(keep),
    )


def prompts(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    keys: Sequence[int] | None = None,
    max_prompt: int | None = None,
) -> Prompts:
    """Prompts padded on the left to the longest, or to `max_prompt` tokens for static shapes.

    keys: the prompts' identities; None derives them from the texts, as tasks do.

    Raises:
        ValueError: no prompts, an empty or over-long one, or keys of another number.
    """
    if isinstance(texts, str):
        raise ValueError(f"prompts={texts!r}: must be a list of prompts, one alone too: [{texts!r}]")
    if not texts:
        raise ValueError("no prompts: give at least one")
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"prompt {wrong[0]!r}: must be text")
    if keys is not None and len(keys) != len(texts):
        raise ValueError(f"{len(keys)} keys for {len(texts)} prompts: give one each")
    rows = [tokenizer.encode_prompt(text) for text in texts]
    if [] in rows:
        raise ValueError(f"prompt {rows.index([])} of {len(rows)} is empty: a prompt needs at least one token")
    width = max(map(len, rows)) if max_prompt is None else max_prompt
    longest = max(range(len(rows)), key=lambda i: len(rows[i]))
    if len(rows[longest]) > width:
        raise ValueError(
            f"prompt of {len(rows[longest])} tokens, but max_prompt = {width}; raise it or shorten "
            f"{_start(texts[longest])}"
        )
    tokens = [[tokenizer.special.pad] * (width - len(row)) + row for row in rows]
    keep = [[False] * (width - len(row)) + [True] * len(row) for row in rows]
    identities = [key_of(text) for text in texts] if keys is None else list(keys)
    other = None if tokenizer.reader is tokenizer else prompts(texts, tokenizer.reader, identities)
    return Prompts(torch.tensor(identities), torch.tensor(tokens), torch.tensor(keep), other)


def check_room(examples: Sequence[Example], tokenizer: Tokenizer, canvas: int, max_answer: int, most: int) -> None:
    """Refuse data that cannot be collated, before it is trained on: of the first `most` examples, all are tried.

    Raises:
        ValueError: as `collate`, for a sketch or an answer that does not fit, or an unknown character.
    """
    for first in range(0, min(len(examples), most), 500):
        rows = [examples[i] for i in range(first, min(first + 500, len(examples), most))]
        collate(rows, tokenizer, canvas, max_answer=max_answer)


def _fits(rows: list[list[int]], room: int, key: str, part: str, examples: Sequence[Example]) -> None:
    """Whether the rows, each closed by its end token, fit in `room`."""
    longest = max(range(len(rows)), key=lambda i: len(rows[i]))
    need = len(rows[longest])
    if need > room:
        raise ValueError(
            f"{part} of {need - 1} tokens, but {key} = {room} holds {max(room - 1, 0)} and an end token; "
            f"{key} = {need} would fit this one; prompt {_start(examples[longest].prompt)}"
        )


def _start(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
