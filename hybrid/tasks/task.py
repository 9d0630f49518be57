"""A task makes or reads examples and checks results; `split` gives the examples of train, valid and test.

A kind is a frozen dataclass whose fields are its config, registered with `@register(Task, "name")`.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import ClassVar

from hybrid.records import Example, Score

SPLITS = ("train", "valid", "test")
NOTHING: frozenset[int] = frozenset()


def key_of(prompt: str) -> int:
    """Identity of a prompt, in [0, 2**63): the same in every process, split and run."""
    return int.from_bytes(blake2b(prompt.encode(), digest_size=8).digest(), "big") >> 1


def example(prompt: str, sketch: str, answer: str) -> Example:
    """An example under the key of its prompt."""
    return Example(key_of(prompt), prompt, sketch, answer)


@dataclass(frozen=True)
class Task:
    """Where the problems come from, and what a right result is.

    answer_is: what the answer adds to the sketch; results of a kind other than "derived" also report the
        draft alone.
    source: one line on how to obtain the data, quoted in errors.
    """

    answer_is: ClassVar[str] = "derived"
    source: ClassVar[str] = ""

    @property
    def prompt_form(self) -> tuple[str, str] | None:
        """What a prompt looks like: a regular expression for the whole of it, and the same in words; None where any
        text may be one. Others are answered too, with a warning."""
        return None

    def generate(self, split: str, seed: int, exclude: frozenset[int] = NOTHING) -> Sequence[Example]:
        """Made examples: row i is a function of (self, seed, split, i), no prompt is in two splits or in
        `exclude`.

        Raises:
            ValueError: this kind only reads files.
        """
        raise ValueError(
            f"data.{split} is not given, and task kind {type(self).__name__} does not make its own problems: "
            f"name a file in data.{split}. {self.source}"
        )

    def read(self, path: Path) -> Sequence[Example]:
        """The examples of a file in this task's format, `.gz` or plain.

        Raises:
            ValueError: a malformed row; the message names file, line and field.
        """
        raise ValueError(f"task kind {type(self).__name__} reads no files; remove {path} from the config's data")

    def read_set(self, name: str) -> Sequence[Example]:
        """The examples of a data set of the Hub.

        Raises:
            ValueError: this kind reads none.
        """
        raise ValueError(f"task kind {type(self).__name__} reads no data sets of the Hub; kind: rows does")

    def trained_on(self, rows: Sequence[Example]) -> Sequence[Example]:
        """The train split, given the rows of its file: these, unless a kind makes more of them."""
        return rows

    def score(self, example: Example, sketch: str, answer: str) -> Score:
        """What the task's rules say of one result."""
        raise NotImplementedError


@dataclass(frozen=True)
class Data:
    """The config's `data` section: where the splits come from. A split without a file is made by the task.

    train, valid, test: files in the task's format.
    exclude: files whose prompts are kept out of train, and of a carved or made valid split.
    holdout: prompts carved out of a train file as valid, where no valid file is given.
    limit: use the first so many rows of each split that comes from a file; None for all.
    rows: use only the first so many rows of a made train split, drawn at once; None for 2**31 - 1, drawn
        when asked for.
    """

    train: str | None = None
    valid: str | None = None
    test: str | None = None
    exclude: tuple[str, ...] = ()
    holdout: int = 500
    limit: int | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("holdout", 0), ("limit", 1), ("rows", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"data.{name} = {value}: must be at least {least}")
        if self.rows is not None and self.train is not None:
            raise ValueError(f"data.rows = {self.rows}: of a made train split alone; a file's are cut by data.limit")
        if self.limit is not None and (self.train, self.valid, self.test) == (None, None, None):
            raise ValueError(f"data.limit = {self.limit}: of files alone; a made train split's rows are data.rows")


def digests(data: Data) -> dict[str, str]:
    """What stands in the files on this machine that make the splits, by config key."""
    named = {f"data.{name}": getattr(data, name) for name in SPLITS}
    named |= {f"data.exclude[{i}]": path for i, path in enumerate(data.exclude)}
    found = {}
    for key, path in named.items():
        if path is not None and Path(path).is_file():
            with open(path, "rb") as file:
                found[key] = file_digest(file, "blake2b").hexdigest()
    return found


def split(task: Task, data: Data, name: str, seed: int = 0) -> Sequence[Example]:
    """The examples of split `name`, one of "train", "valid", "test".

    Train never holds a prompt of a valid, test or exclude file; a valid split without a file of its own never
    holds one of a test or exclude file; a made test split holds none of a train or valid file. Which rows
    are carved as valid depends on the train file alone, not on `seed`.

    Raises:
        ValueError: an unknown split, a split that is neither given nor made, or a malformed file.
        FileNotFoundError: a file of the config is not there.
    """
    if name not in SPLITS:
        raise ValueError(f"split {name!r}: must be one of {', '.join(SPLITS)}")
    own = {"train": data.train, "valid": data.valid, "test": data.test}[name]
    if own is None and not (name == "valid" and data.train is not None):
        made = task.generate(name, seed, _kept_out(task, data, name))
        return made if name != "train" or data.rows is None else made[: data.rows]
    if name == "test" or (name == "valid" and own is not None):
        return _read(task, own or "", f"data.{name}")[: data.limit]
    kept_out = _kept_out(task, data, name)
    rows = [row for row in _read(task, data.train or "", "data.train") if row.key not in kept_out]
    if data.valid is None:
        by_hash = sorted({row.key for row in rows}, key=lambda key: key_of(f"holdout {key}"))
        carved = set(by_hash[: data.holdout])
        if name == "valid":
            rows = list({row.key: row for row in rows if row.key in carved}.values())
        else:
            rows = [row for row in rows if row.key not in carved]
    if not rows:
        raise ValueError(
            f"data.train = {data.train}: no rows are left for {name} with data.holdout = {data.holdout} "
            f"and the prompts of {len(data.exclude)} exclude files, valid and test kept out"
        )
    return task.trained_on(rows[: data.limit]) if name == "train" else rows[: data.limit]


def _kept_out(task: Task, data: Data, name: str) -> frozenset[int]:
    """Keys that split `name` must not hold."""
    others = {"train": ("valid", "test"), "valid": ("test",), "test": ("train", "valid")}[name]
    files = [(getattr(data, other), f"data.{other}") for other in others]
    if name != "test":
        files += [(path, f"data.exclude[{i}]") for i, path in enumerate(data.exclude)]
    return frozenset(row.key for path, where in files if path is not None for row in _read(task, path, where))


def _read(task: Task, path: str, where: str) -> Sequence[Example]:
    if path.startswith("hub:"):
        return _read_set_once(_Reader(task), path.removeprefix("hub:"))
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{where} = {path}: no plain file")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{where} = {path}: no such file. {task.source}".rstrip())
    rows = _read_once(_Reader(task), Path(path), Path(path).stat().st_mtime_ns)
    if not rows:
        raise ValueError(f"{where} = {path}: the file holds no examples")
    return rows


@dataclass(frozen=True)
class _Reader:
    """A task as it is remembered by: a field may be a dict, which has no hash of its own."""

    task: Task

    def __hash__(self) -> int:
        return hash(repr(self.task))


@lru_cache(maxsize=8)
def _read_once(reader: _Reader, path: Path, changed: int) -> Sequence[Example]:
    """The splits of one config share their files; `changed` makes a rewritten file a new one."""
    return tuple(reader.task.read(path))


@lru_cache(maxsize=8)
def _read_set_once(reader: _Reader, name: str) -> Sequence[Example]:
    return tuple(reader.task.read_set(name))


def read_text(path: Path) -> str:
    """The text of a file, unpacked where its name ends in `.gz`.

    Raises:
        ValueError: not UTF-8 text, or not gzip where the name says so.
    """
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: not readable as text ({error})") from None


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Non-blank lines as (place, line), where place is "file, line 3" for errors."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if line.strip():
            yield f"{path}, line {number}", line
