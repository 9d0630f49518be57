"""The goals that each task has, and how far its best hybrid is from them."""

from collections.abc import Iterator
from dataclasses import dataclass

from measured import Entry, Measured, chain_forwards, chosen, frontier_run, kinds_of, mean, rows_of

# Shares of the chain's sequential forwards, and of its time at batch 1, that a hybrid may take at the chain's accuracy.
FORWARDS, FORWARDS_OF_LONG, SECONDS = 1 / 2, 1 / 8, 1 / 2
LEARNT = 0.9  # goals are of convergence: a chain right less often on validation has not learnt its task
LONG = 10  # a sketch so many times its answer is held to the smaller share, as a drafted and verified answer is


@dataclass(frozen=True)
class Goal:
    """A task's chain, its direct baseline, and its best hybrid within a share of the chain's sequential forwards.

    chain: of the sketch that the best hybrid drafts; of its seeds those under which it has learnt the task, where there
    is one. best: chosen on validation, over methods and ways; None where none
    is within the share.
    """

    task: str
    share: float
    chain: Entry
    direct: Entry | None
    best: Entry | None

    def missed(self) -> list[str]:
        """What is missing, on test."""
        if self.best is None:
            return ["no hybrid within it"]
        own, chain = self.best.plain(), self.chain.plain()
        said = [] if chain["accuracy"] >= LEARNT else ["the chain has not learnt it"]
        if (points := 100 * (chain["accuracy"] - own["accuracy"])) > 0:
            said.append(f"{points:.1f} points")
        if (forwards := own["sequential_forwards"] / chain["sequential_forwards"]) > self.share:
            said.append(f"{forwards:.2f} of the forwards")
        if (seconds := self.seconds()) is None:
            said.append("time not measured")
        elif seconds > SECONDS:
            said.append(f"{seconds:.2f} of the time")
        return said

    def seconds(self) -> float | None:
        """Of the chain's, at batch 1."""
        name = "seconds_per_example_b1"
        own, chain = self.best.plain()[name] if self.best else None, self.chain.plain()[name]
        return None if own is None or chain is None else own / chain


def goals(found: dict[tuple[str, str], list[Measured]]) -> Iterator[Goal]:
    """One for each task with a chain, or two: the half of all, and the eighth of what is drafted to that end."""
    for task in dict.fromkeys(task for task, _ in found):
        chains = {name: _only(task, name, _learnt(found.get((task, name), []))) for name in ("chain", "chain_short")}
        if (chain := chains["chain"]) is None:
            continue
        direct = _only(task, "direct", found.get((task, "direct")))
        rows = rows_of([run.valid for run in chain.runs], chain.way)
        is_long = (mean(rows, "gold_length") or 0.0) >= LONG * (mean(rows, "answer_tokens") or 0.0)
        hybrids = [
            method
            for method in frontier_run.METHODS
            if method.startswith("hybrid") and (task, method) in found and chains[_chain_of(method)] is not None
        ]
        fast = [method for method in hybrids if is_long or method.startswith("hybrid_verified")]
        for share, methods in ((FORWARDS, hybrids), (FORWARDS_OF_LONG, fast)):
            if methods or share == FORWARDS:
                best = _best(task, methods, found, share)
                yield Goal(task, share, chain if best is None else chains[_chain_of(best.method)], direct, best)


def _chain_of(method: str) -> str:
    """The chain that writes the sketch which the method drafts."""
    return "chain_short" if "_short" in method else "chain"


def _learnt(runs: list[Measured]) -> list[Measured]:
    """The runs of a chain that have learnt their task, by validation; the others would lower the bar."""
    return [run for run in runs if run.valid.rows[0].accuracy >= LEARNT] or runs


def _only(task: str, method: str, runs: list[Measured] | None) -> Entry | None:
    """The line of a baseline, which has one way."""
    if not runs:
        return None
    way = chosen(runs, float("inf"))
    return None if way is None else Entry(task, method, runs, way)


def _best(task: str, methods: list[str], found: dict[tuple[str, str], list[Measured]], share: float) -> Entry | None:
    """Of the methods with the most seeds, the best way on validation; of equals the cheapest."""
    best, taken = (0, 0.0, 0.0), None
    for method in methods:
        runs, limit = found[task, method], share * (chain_forwards(found, task, _chain_of(method)) or 0.0)
        for kind, apart in kinds_of(method, runs).items():
            if (way := chosen(runs, limit, apart=apart)) is None:
                continue
            rows = rows_of([run.valid for run in runs], way)
            quality = len(runs), mean(rows, "accuracy") or 0.0, -(mean(rows, "sequential_forwards") or 0.0)
            if quality > best:
                best, taken = quality, Entry(task, method + kind, runs, way)
    return taken
