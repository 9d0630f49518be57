"""Proofs in small made-up ontologies: ProntoQA and ProsQA. "Tom is a terpus. Every terpus is a brimpus.
..." """

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

from hybrid.kinds import register
from hybrid.records import Example, Score
from hybrid.tasks.json_rows import json_list, text_of, texts_of
from hybrid.tasks.procedural import Draws, Made
from hybrid.tasks.task import Task, example

STATEMENT = re.compile(r"(each |every )?(\w+) (is|are) (not )?(?:an? )?(\w+)")
SENTENCE = re.compile(r"\S[^.?]*[.?]")
CONCEPT = re.compile(r"\b([A-Za-z]+pus)(es)?\b")
WORD = re.compile(r"\b([A-Za-z]+?)((?<=pus)es)?\b")
ARTICLE = re.compile(r"\b([Aa])n? (?=(\w))")
CHOICE = re.compile(r"is (\w+) an? (\w+) or (?:an? )?(\w+)\?")

Statement = tuple[bool, str, bool, str]
"""(rule or fact, subject, affirmed, property): "Wumpuses are not sour" is (True, "wumpus", False, "sour")."""


@dataclass(frozen=True)
class Ontology(Task):
    """A JSON list of `{"question": ..., "steps": [...], "answer": ...}`; the sketch is the steps, a blank
    between.

    sketch_valid: every sentence, or link of a path, stands in the prompt or follows from sentences written before it.
    draft_correct: such a sketch, and what it says entails the gold answer.
    Answers are compared without regard to case, blanks and the full stop.

    renamings: training examples stand under so many one-to-one renamings of their concepts ("wumpus") and properties
        ("happy") as well, their rules in another order each time, drawn by example and number; no logic depends on
        either, and a network that knows problems by heart is helped by none. Training goes through one renaming after
        another.
    curriculum: in the first so many passes, k = 0 and up, each rule that neither the proof nor the question speaks of
        (a distractor) stands in the prompt with probability (k / curriculum)² only; from then on all of them do. To
        look a rule up is learnt far sooner among few.
    order: "forward" keeps the steps as the file has them, from the facts to what is asked. "backward" begins with what
        is asked: the rules and facts of the prompt that prove it, last one first, and then the conclusion. Where each
        concept has one parent and many children, such a proof chooses once: among the rules about what is asked.
    style: "sentences" writes a proof as the file does, some 37 words for five rules. "path" names what the rules link,
        each once, the explicit compact chain: "not happy brimpus sterpus Alex" for Alex, who is a sterpus, which is a
        brimpus, which is not happy; under `order: forward` the same from Alex on.
    """

    renamings: int = 0
    curriculum: int = 0
    order: Literal["forward", "backward"] = "forward"
    style: Literal["sentences", "path"] = "sentences"

    def __post_init__(self) -> None:
        if self.renamings < 0:
            raise ValueError(f"renamings={self.renamings}: must be 0 (examples as they stand) or more")
        if not 0 <= self.curriculum <= self.renamings:
            raise ValueError(f"curriculum={self.curriculum}: must be from 0 to renamings, {self.renamings}")

    def trained_on(self, rows: Sequence[Example]) -> Sequence[Example]:
        if not self.renamings:
            return rows
        concepts = {found[1].lower() for row in rows for found in CONCEPT.finditer(row.prompt)}
        said = {one[3] for row in rows for one in premises(row.prompt) if one is not None}
        return Renamed(self, rows, tuple(sorted(concepts)), tuple(sorted(said - concepts)))

    def read(self, path: Path) -> list[Example]:
        rows = []
        for place, row in json_list(path):
            prompt, answer = (text_of(row, field, place) for field in ("question", "answer"))
            if self.conclusion(prompt, answer) is None:
                raise ValueError(f"{place}: fields 'question' and 'answer' do not fit together: {answer!r}")
            sketch = self._sketch(prompt, " ".join(texts_of(row, "steps", place)))
            if sketch is None:
                raise ValueError(f"{place}: field 'steps': must be one path of premises to what is asked")
            rows.append(example(prompt, sketch, answer))
        return rows

    def _sketch(self, prompt: str, steps: str) -> str | None:
        if self.style == "sentences":
            return backward(prompt, steps) if self.order == "backward" else steps
        found = path(prompt, backward(prompt, steps))
        return found if found is None or self.order == "backward" else _reversed(found)

    def said(self, sketch: str) -> list[Statement | None]:
        """The statements of a sketch."""
        if self.style == "sentences":
            return statements(sketch)
        return links(sketch if self.order == "backward" else _reversed(sketch))

    def conclusion(self, prompt: str, answer: str) -> Statement | None:
        """What the answer claims; None where it is no answer to the question."""
        raise NotImplementedError

    def score(self, example: Example, sketch: str, answer: str) -> Score:
        entailed = follows(example.prompt, self.said(sketch))
        return Score(
            answer_correct=_plain(answer) == _plain(example.answer),
            sketch_exact=sketch.strip() == example.sketch,
            sketch_valid=entailed is not None,
            draft_correct=entailed is not None and self.conclusion(example.prompt, example.answer) in entailed,
        )


@register(Task, "prontoqa")
@dataclass(frozen=True)
class ProntoQA(Ontology):
    """ "... True or false: Alex is happy."; the answer is True or False, so guessing scores 50 %."""

    answer_is: ClassVar[str] = "a rewriting of the sketch"
    source: ClassVar[str] = (
        "Made by github.com/asaparov/prontoqa run_experiment.py with the command of "
        "github.com/facebookresearch/coconut."
    )

    def conclusion(self, prompt: str, answer: str) -> Statement | None:
        asked = statement(prompt.rpartition("True or false:")[2])
        if asked is None or _plain(answer) not in ("true", "false"):
            return None
        return asked if _plain(answer) == "true" else (*asked[:2], not asked[2], asked[3])


@register(Task, "prosqa")
@dataclass(frozen=True)
class ProsQA(Ontology):
    """ "... Is Tom a lempus or scrompus?"; the answer is "Tom is a lempus.", so guessing scores 50 %."""

    answer_is: ClassVar[str] = "a rewriting of the sketch"
    source: ClassVar[str] = "Files: github.com/facebookresearch/coconut, data/prosqa_{train,valid,test}.json."

    def conclusion(self, prompt: str, answer: str) -> Statement | None:
        asked, claimed = CHOICE.search(prompt.lower()), statement(answer)
        if asked is None or claimed is None or claimed[1] != asked[1] or claimed[3] not in asked.groups()[1:]:
            return None
        return claimed


@dataclass(frozen=True)
class Renamed(Made):
    """All rows under their own names, then all of them renamed, again and again, the first passes by the curriculum;
    made when asked for."""

    task: Ontology
    rows: Sequence[Example]
    concepts: tuple[str, ...]
    properties: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows) * (1 + self.task.renamings)

    def row(self, index: int) -> Example:
        number, place = divmod(index, len(self.rows))
        row = self.rows[place]
        prompt = row.prompt
        if number < self.task.curriculum:
            draws = Draws(f"distractors/{row.key}/{number}")
            needed = self.task.said(row.sketch)
            prompt = fewer(prompt, needed, lambda: draws.below(self.task.curriculum**2) < number**2)
        if number == 0:
            return example(prompt, row.sketch, row.answer)
        draws = Draws(f"renaming/{row.key}/{number}")
        new: dict[str, str] = {}
        for names in (self.concepts, self.properties):
            new |= zip(names, (names[i] for i in draws.order(len(names))), strict=True)
        return example(*(renamed(text, new) for text in (shuffled(prompt, draws), row.sketch, row.answer)))


def shuffled(prompt: str, draws: Draws) -> str:
    """The prompt with its rules in another order, and all else in its place."""
    sentences = SENTENCE.findall(prompt)
    places = [i for i, said in enumerate(map(statement, sentences)) if said is not None and said[0]]
    order = [sentences[places[i]] for i in draws.order(len(places))]
    for place, sentence in zip(places, order, strict=True):
        sentences[place] = sentence
    return " ".join(sentences)


def fewer(prompt: str, needed: Collection[Statement | None], keep: Callable[[], bool]) -> str:
    """The prompt, and of its rules that neither are needed nor speak of what is asked those to `keep`."""
    sentences = SENTENCE.findall(prompt)
    asked = re.findall(r"\w+", sentences[-1].lower())
    said = [statement(sentence) for sentence in sentences]
    distracts = [s is not None and s[0] and s not in needed and s[3] not in asked for s in said]
    return " ".join(text for text, is_spare in zip(sentences, distracts, strict=True) if not is_spare or keep())


def renamed(text: str, names: Mapping[str, str]) -> str:
    """The text with other names for its concepts and properties, in the case and number of the old ones; articles
    agree."""

    def name(found: re.Match[str]) -> str:
        new = names.get(found[1].lower(), found[1])
        return (new.capitalize() if found[1][0].isupper() else new) + (found[2] or "")

    return ARTICLE.sub(lambda a: a[1] + ("n " if a[2].lower() in "aeiou" else " "), WORD.sub(name, text))


def statement(sentence: str) -> Statement | None:
    """Read one sentence, plurals made singular; None where it is no statement."""
    match = STATEMENT.fullmatch(_plain(sentence))
    if match is None or (match[1] and match[3] == "are"):
        return None
    subject, what = (word.removesuffix("es") if word.endswith("uses") else word for word in (match[2], match[5]))
    return bool(match[1]) or match[3] == "are", subject, not match[4], what


def statements(text: str) -> list[Statement | None]:
    """The statements of a text, sentence by sentence."""
    return [statement(sentence) for sentence in re.split(r"[.?]", text) if sentence.strip()]


def premises(prompt: str) -> set[Statement | None]:
    """What the prompt states."""
    question = prompt.find("True or false:")
    return set(statements(prompt if question < 0 else prompt[:question]))


def backward(prompt: str, sketch: str) -> str:
    """The premises that a proof names, last one first, and its conclusion, where that is none of them."""
    given, sentences = premises(prompt), re.findall(r"\S[^.]*\.", sketch)
    named = [sentence for sentence in sentences if statement(sentence) in given]
    return " ".join([*reversed(named), *(s for s in sentences[-1:] if s not in named)])


def path(prompt: str, proof: str) -> str | None:
    """What the premises of a backward proof link, from what is asked to whom; None where they are no one path."""
    given = premises(prompt)
    proved = [said for said in statements(proof) if said in given and said is not None]
    if not proved or not all(a[1] == b[3] and b[2] for a, b in pairwise(proved)) or proved[-1][0]:
        return None
    who = re.search(rf"\b{proved[-1][1]}\b", prompt, re.IGNORECASE)
    assert who is not None
    return " ".join(["not"] * (not proved[0][2]) + [said[3] for said in proved] + [who[0]])


def links(path: str) -> list[Statement | None]:
    """The statements that a backward path stands for: every word says of the next one what it is."""
    affirmed, words = not path.startswith("not "), path.lower().removeprefix("not ").split()
    rules = [(True, subject, i > 0 or affirmed, what) for i, (what, subject) in enumerate(pairwise(words))]
    return [*rules[:-1], *((False, *fact[1:]) for fact in rules[-1:])]


def follows(prompt: str, written: Sequence[Statement | None]) -> set[Statement] | None:
    """Facts that statements entail; None where there are none or one neither stands in the prompt nor follows from
    those before it."""
    given = premises(prompt)
    rules: set[Statement] = set()
    facts: set[Statement] = set()
    for said in written:
        if said is None or (said not in given and said not in facts):
            return None
        (rules if said[0] else facts).add(said)
        _close(facts, rules)
    return facts if written else None


def _close(facts: set[Statement], rules: Iterable[Statement]) -> None:
    """Add to `facts` all that it and `rules` entail."""
    added = True
    while added:
        new = {
            (False, name, yes, what)
            for _, kind, yes, what in rules
            for _, name, is_a, of in facts
            if is_a and of == kind
        }
        added = not new <= facts
        facts |= new


def _reversed(path: str) -> str:
    """A path from its other end; "not" stays before what it negates."""
    return " ".join(reversed(re.findall(r"(?:\bnot )?\S+", path)))


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".").strip()
