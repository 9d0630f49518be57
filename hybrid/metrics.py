"""Totals and counts of what was answered, drafted and spent; means are taken once, at the end."""

from collections.abc import Sequence
from dataclasses import fields
from math import sqrt
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hybrid.records import Score, Spent

SPENT = tuple(f.name for f in fields(Spent))
TABLE = (
    "answer_right_sketch_right",
    "answer_right_sketch_wrong",
    "answer_wrong_sketch_right",
    "answer_wrong_sketch_wrong",
)
JUDGED = ("sketch_exact", "sketch_valid", "draft_correct")
LENGTHS = ("drafted_length", "gold_length", "length_error")
DRAFTS = ("pass_at_k", "distinct")
NAMES = (
    "examples",
    "answer_correct",
    *(name for judged in JUDGED for name in (judged, f"{judged}_asked")),
    *TABLE,
    "drafts_asked",
    *DRAFTS,
    "lengths_asked",
    *LENGTHS,
    *SPENT,
)


def wilson(successes: float, total: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share: the `p` whose z-test does not reject `successes` of `total`.

    (p̂ + z²/2n ± z √(p̂(1-p̂)/n + z²/4n²)) / (1 + z²/n), from E. B. Wilson, "Probable inference, the law of
    succession, and statistical inference", JASA 22 (1927); method 3 of R. G. Newcombe, Statistics in Medicine
    17 (1998), whose worked values the tests use. Nothing observed (`total` 0) says nothing: (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level!r}: a confidence level lies strictly between 0 and 1")
    if not 0 <= successes <= total:
        raise ValueError(f"successes={successes!r}, total={total!r}: needs 0 <= successes <= total")
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1.0 + level) / 2.0)
    share, z2n = successes / total, z * z / total
    centre = share + z2n / 2.0
    half = z * sqrt(share * (1.0 - share) / total + z2n / (4.0 * total))
    # The ends at no success and at no failure are exactly 0 and 1; rounding must not say otherwise.
    low = 0.0 if successes == 0 else (centre - half) / (1.0 + z2n)
    high = 1.0 if successes == total else (centre + half) / (1.0 + z2n)
    return low, high


class Tally:
    """Additive totals over examples. Tallies of parts (ranks, batches) sum to the tally of the whole.

    `totals` maps each of `NAMES` to a float64 sum (exact for counts). For a judgement that a task may leave
    out (`sketch_exact`, …) the total `<name>_asked` counts the examples it was asked of; the share divides by
    that.
    To sum over ranks: all-reduce `vector()` (float64, one call) and rebuild with `Tally.from_vector`.
    """

    def __init__(self) -> None:
        self.totals: dict[str, float] = dict.fromkeys(NAMES, 0.0)

    def add(
        self,
        scores: Sequence[Score],
        spent: Spent,
        drafted_lengths: Sequence[float] | Tensor | None = None,
        gold_lengths: Sequence[float] | Tensor | None = None,
    ) -> None:
        """Count one call's rows: a score each, what they spent, and (both or neither) the sketches' lengths.

        Lengths are tokens, end token included, pads excluded. `spent.seconds` is the whole call's.
        """
        rows = len(scores)
        if len(spent.positions) != rows:
            raise ValueError(f"scores has {rows} rows, spent has {len(spent.positions)}: they must be equal")
        if (drafted_lengths is None) != (gold_lengths is None):
            raise ValueError("drafted_lengths and gold_lengths: give both or neither")
        for score in scores:
            self._judge(score)
        if drafted_lengths is not None and gold_lengths is not None:
            self._measure(torch.as_tensor(drafted_lengths), torch.as_tensor(gold_lengths), rows)
        for name in SPENT:
            counted = getattr(spent, name)
            self.totals[name] += float(counted.sum()) if isinstance(counted, Tensor) else float(counted)

    def _judge(self, score: Score) -> None:
        self.totals["examples"] += 1
        self.totals["answer_correct"] += score.answer_correct
        for name in JUDGED:
            judged = getattr(score, name)
            self.totals[name] += bool(judged)
            self.totals[f"{name}_asked"] += judged is not None
        right = score.sketch_exact if score.sketch_valid is None else score.sketch_valid
        if right is not None:
            said = {True: "right", False: "wrong"}
            self.totals[f"answer_{said[bool(score.answer_correct)]}_sketch_{said[bool(right)]}"] += 1

    def add_drafts(self, right: Sequence[Sequence[bool]], answers: Sequence[Sequence[str]]) -> None:
        """Count the drafts of examples that have several: which are right, and what they answer."""
        for row, said in zip(right, answers, strict=True):
            self.totals["drafts_asked"] += 1
            self.totals["pass_at_k"] += any(row)
            self.totals["distinct"] += len({a for a, is_right in zip(said, row, strict=True) if is_right})

    def _measure(self, drafted: Tensor, gold: Tensor, rows: int) -> None:
        for name, lengths in (("drafted_lengths", drafted), ("gold_lengths", gold)):
            if lengths.shape != (rows,):
                raise ValueError(f"{name} has shape {tuple(lengths.shape)}: expected ({rows},)")
        drafted, gold = drafted.double(), gold.double().to(drafted.device)
        self.totals["lengths_asked"] += rows
        self.totals["drafted_length"] += float(drafted.sum())
        self.totals["gold_length"] += float(gold.sum())
        self.totals["length_error"] += float((drafted - gold).abs().sum())

    def __add__(self, other: Any) -> "Tally":
        if not isinstance(other, Tally):
            return NotImplemented
        both = Tally()
        both.totals = {name: self.totals[name] + other.totals[name] for name in NAMES}
        return both

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and self.totals == other.totals

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Tally({ {name: total for name, total in self.totals.items() if total} })"

    def vector(self) -> Float[Tensor, "..."]:
        """The totals in the order of `NAMES`, for one all-reduce over ranks."""
        return torch.tensor([self.totals[name] for name in NAMES], dtype=torch.float64)

    @classmethod
    def from_vector(cls, vector: Float[Tensor, "..."]) -> "Tally":
        if vector.shape != (len(NAMES),):
            raise ValueError(f"vector has shape {tuple(vector.shape)}: expected ({len(NAMES)},)")
        tally = cls()
        tally.totals = dict(zip(NAMES, vector.tolist(), strict=True))
        return tally

    def _share(self, part: str, whole: str) -> float | None:
        return self.totals[part] / self.totals[whole] if self.totals[whole] else None

    @property
    def examples(self) -> int:
        return int(self.totals["examples"])

    @property
    def accuracy(self) -> float | None:
        """Share of examples whose answer is right."""
        return self._share("answer_correct", "examples")

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Wilson's interval of the accuracy."""
        return wilson(self.totals["answer_correct"], self.totals["examples"], level)

    @property
    def sketch_exact(self) -> float | None:
        return self._share("sketch_exact", "sketch_exact_asked")

    @property
    def sketch_valid(self) -> float | None:
        return self._share("sketch_valid", "sketch_valid_asked")

    @property
    def draft_accuracy(self) -> float | None:
        """Share of examples that the sketch alone solves."""
        return self._share("draft_correct", "draft_correct_asked")

    @property
    def table(self) -> dict[str, int] | None:
        """Examples by answer right or wrong × sketch right or wrong; None where no sketch was judged.

        A sketch is right when it is valid, or, where the task has no rule for that, when it is the gold one.
        """
        counts = {name: int(self.totals[name]) for name in TABLE}
        return counts if sum(counts.values()) else None

    @property
    def repairs(self) -> float | None:
        """Of the examples with a wrong sketch, the share the decoder still answers right."""
        return repairs(self.table)

    @property
    def ignores(self) -> float | None:
        """Of the examples with a right sketch, the share the decoder still answers wrong."""
        return ignores(self.table)

    @property
    def lengths(self) -> dict[str, float | None]:
        """Mean drafted length, mean gold length and mean |drafted - gold|, in tokens."""
        return {name: self._share(name, "lengths_asked") for name in LENGTHS}

    @property
    def drafts(self) -> dict[str, float | None]:
        """Share of examples that some draft answers right, and right answers that differ, mean per example."""
        return {name: self._share(name, "drafts_asked") for name in DRAFTS}

    @property
    def spent(self) -> dict[str, float | None]:
        """Mean per example of every field of `records.Spent`.

        `seconds` is the calls' wall-clock time over their examples, so it falls with the batch; summed over
        ranks it is seconds of one rank's time per example.
        """
        return {name: self._share(name, "examples") for name in SPENT}


def repairs(table: dict[str, int] | None) -> float | None:
    """Share answered right among the examples of a `Tally.table` whose sketch is wrong."""
    return _among(table, "answer_right_sketch_wrong", "answer_wrong_sketch_wrong")


def ignores(table: dict[str, int] | None) -> float | None:
    """Share answered wrong among the examples of a `Tally.table` whose sketch is right."""
    return _among(table, "answer_wrong_sketch_right", "answer_right_sketch_right")


def _among(table: dict[str, int] | None, part: str, rest: str) -> float | None:
    if table is None or table[part] + table[rest] == 0:
        return None
    return table[part] / (table[part] + table[rest])
