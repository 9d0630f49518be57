"""Several drafts of one prompt: which answer to give."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from hybrid.drafters import Drafter
from hybrid.records import Reasoned

Choice = Literal["vote", "likelihood", "confidence"]


def check_drafts(drafts: int, choose: str, drafter: Drafter, answer_temperature: float = 0.0) -> None:
    """Refuse what no choice can be made of. Answers differ where drafts do, or where the decoder draws.

    Raises:
        ValueError: no drafts, an unknown choice, or drafts that must come out alike.
    """
    if isinstance(drafts, bool) or not isinstance(drafts, int) or drafts < 1:
        raise ValueError(f"drafts={drafts!r}: must be a whole number, 1 or more")
    if choose not in get_args(Choice):
        raise ValueError(f"choose={choose!r}: must be one of {', '.join(get_args(Choice))}")
    if drafts > 1 and not drafter.draws and not answer_temperature:
        raise ValueError(
            f"drafts={drafts}: this drafter draws nothing by chance, so they would be one and the same; "
            "give a temperature above 0, or a policy such as random"
        )


def chosen(drafts: Sequence[Reasoned], choose: Choice) -> Reasoned:
    """One of the drafts, with what all of them spent: forwards and positions summed, dependent ones the longest.

    vote: the commonest answer, by its likeliest draft (self-consistency, arXiv 2203.11171). likelihood: the answer
    that the decoder finds likeliest. confidence: the sketch whose tokens were committed most confidently.
    """
    if len(drafts) == 1:
        return drafts[0]
    if choose == "vote":
        votes = Counter(d.answer for d in drafts)
        best = max(drafts, key=lambda d: (votes[d.answer], d.answer_logp))
    elif choose == "likelihood":
        best = max(drafts, key=lambda d: d.answer_logp)
    else:
        best = max(drafts, key=lambda d: float("-inf") if d.sketch_logp is None else d.sketch_logp)
    spent = {name: sum(d.spent[name] for d in drafts) for name in best.spent}
    spent["sequential_forwards"] = max(d.spent["sequential_forwards"] for d in drafts)
    timing = {name: sum(d.timing[name] for d in drafts) for name in best.timing}
    return replace(best, spent=spent, timing=timing, drafts=tuple(drafts))
