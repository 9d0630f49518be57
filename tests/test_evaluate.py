"""An evaluation's rows: what its controls read, what is judged, what its validation figures are sums of."""

import pytest
from toy import tiny_reasoner

from hybrid.diffusion.budget import Budget
from hybrid.drafters.controls import ShuffledSketch
from hybrid.evaluate import Evaluate, Way, answer, evaluate, validation_totals
from hybrid.records import Example
from hybrid.tasks import Chain

TASK = Chain(length=2, operations="+")
PROBLEMS = [("123", "36", "6"), ("111", "23", "3"), ("205", "27", "7"), ("430", "77", "7"), ("012", "13", "3")]
EXAMPLES = [Example(i, *problem) for i, problem in enumerate(PROBLEMS)]


def rows_of(**settings):
    settings = Evaluate(**({"steps": (0, 3), "controls": ("gold", "shuffled", "pause"), "batch": 2} | settings))
    rows = evaluate(tiny_reasoner(), TASK, EXAMPLES, settings, name="toy", progress=False).rows
    return {(row.method, row.steps): row for row in rows}


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_shuffled_sketch_is_the_next_example_s_across_batches(batch):
    """The last one's is the first one's; in a batch of one, too, it is another's."""
    reasoner, way = tiny_reasoner(), Way("shuffled", ShuffledSketch(), Budget(), {})
    sketches = []
    for at in range(0, len(EXAMPLES), batch):
        results, _ = answer(reasoner, way, EXAMPLES[at : at + batch], EXAMPLES, seed=0, at=at)
        sketches += [r.sketch for r in results]
    assert sketches == [e.sketch for e in (*EXAMPLES[1:], EXAMPLES[0])]


def test_the_shuffled_row_is_the_same_in_any_batches():
    alike = ("accuracy", "sketch_exact", "sequential_forwards", "sketch_tokens")
    one, all_at_once = (rows_of(steps=(0,), batch=n)["shuffled", None] for n in (1, 5))
    assert [getattr(one, name) for name in alike] == [getattr(all_at_once, name) for name in alike]


def test_only_sketches_are_judged():
    """Nothing and blanks are none: None, which is not wrong in 0 %."""
    rows = rows_of()
    assert set(rows) == {("hybrid", 0), ("hybrid", 3), ("gold", None), ("shuffled", None), ("pause", None)}
    exact = {name: row.sketch_exact for name, row in rows.items()}
    assert exact["hybrid", 0] is None and exact["pause", None] is None
    assert exact["gold", None] == 1.0 and exact["shuffled", None] == 0.0 and exact["hybrid", 3] is not None
    assert rows["gold", None].table is not None and rows["pause", None].table is None


def test_joint_is_the_bound_and_the_answer_after_the_gold_sketch():
    reasoner = tiny_reasoner()
    totals = validation_totals(reasoner, TASK, EXAMPLES)
    (bound, drafted), (written, tokens) = totals["bound"], totals["answer_gold"]
    assert totals["joint"] == pytest.approx((bound + written, drafted + tokens))
    assert (drafted, tokens) == (sum(len(e.sketch) + 1 for e in EXAMPLES), sum(len(e.answer) + 1 for e in EXAMPLES))
