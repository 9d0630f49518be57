"""Wilson's interval against published values; tallies are additive; the schema of frontier.json holds."""

import csv
import io
import json
import math
from dataclasses import fields, replace

import pytest
import torch

from hybrid.frontier import FIELDS, HEAD, REQUIRED, Frontier, Row, read, write_csv, write_json
from hybrid.merging import merge
from hybrid.metrics import NAMES, TABLE, Tally, ignores, repairs, wilson
from hybrid.records import Score, Spent


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [  # the first four: Newcombe (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (0, 10, 0.0000, 0.2775),
        (8, 10, 0.4902, 0.9433),
        (10, 10, 0.7225, 1.0000),
    ],
)
def test_wilson_is_the_published_one(successes, total, low, high):
    assert wilson(successes, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_inverts_the_score_test():
    """Its ends are the shares whose z-score for 8 of 10 is exactly the quantile, at any level."""
    for level, z in ((0.90, 1.6448536), (0.95, 1.9599640), (0.99, 2.5758293)):
        for end in wilson(8, 10, level):
            assert abs(0.8 - end) / math.sqrt(end * (1 - end) / 10) == pytest.approx(z, rel=1e-6)


def test_wilson_at_the_edges():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 7)[0] == 0.0 and wilson(7, 7)[1] == 1.0
    low, high = wilson(3, 7)
    assert (1 - high, 1 - low) == pytest.approx(wilson(4, 7))
    for wrong in ((-1, 5), (6, 5), (1, -1)):
        with pytest.raises(ValueError, match="successes"):
            wilson(*wrong)
    with pytest.raises(ValueError, match="level=1"):
        wilson(1, 2, level=1)


COUNTS = [f.name for f in fields(Spent) if not f.kw_only]


def rows_of(count: int, seed: int) -> tuple[list[Score], Spent, torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(seed)
    said = torch.randint(0, 3, (count, 4), generator=make).tolist()
    scores = [Score(a > 0, *(None if x == 2 else bool(x) for x in rest)) for a, *rest in said]
    spent = Spent.nothing(count)
    for name in COUNTS:
        getattr(spent, name).add_(torch.randint(0, 2**40, (count,), generator=make))
    spent.seconds = 0.25 * count
    drafted, gold = torch.randint(1, 60, (2, count), generator=make)
    return scores, spent, drafted, gold


def part(spent: Spent, rows: slice, seconds: float) -> Spent:
    cut = {name: getattr(spent, name)[rows] for name in COUNTS}
    return Spent(**cut, seconds=seconds)


def test_tallies_of_ranks_sum_to_the_tally_of_all():
    """Ragged parts: a mean of their means would differ, a sum of their totals may not."""
    scores, spent, drafted, gold = rows_of(23, seed=1)
    whole = Tally()
    whole.add(scores, spent, drafted, gold)
    ranks = []
    for cut in (slice(0, 1), slice(1, 4), slice(4, 23)):
        rank = Tally()
        rank.add(scores[cut], part(spent, cut, 0.25 * len(scores[cut])), drafted[cut], gold[cut])
        ranks.append(rank)
    assert sum(ranks, Tally()) == whole
    reduced = torch.stack([rank.vector() for rank in ranks]).sum(0)
    assert Tally.from_vector(reduced) == whole
    assert Row.counted(sum(ranks, Tally()), "hybrid") == Row.counted(whole, "hybrid")
    assert ranks[0].examples == 1, "adding tallies alters none of them"


def test_tally_means_are_of_the_rows():
    scores, spent, drafted, gold = rows_of(23, seed=2)
    tally = Tally()
    tally.add(scores, spent, drafted.tolist(), gold)
    assert tally.accuracy == sum(s.answer_correct for s in scores) / 23
    exact = [s.sketch_exact for s in scores if s.sketch_exact is not None]
    assert 0 < len(exact) < 23 and tally.sketch_exact == sum(exact) / len(exact)
    assert set(tally.spent) == {f.name for f in fields(Spent)}
    assert tally.spent["flops"] == pytest.approx(spent.flops.mean().item())
    assert tally.spent["seconds"] == 0.25
    errors = (drafted - gold).abs().double()
    assert tally.lengths == pytest.approx(
        {
            "drafted_length": drafted.double().mean().item(),
            "gold_length": gold.double().mean().item(),
            "length_error": errors.mean().item(),
        }
    )
    assert errors.mean() > (drafted - gold).double().mean().abs(), "signed errors would cancel"


def test_answer_by_sketch():
    """A sketch is right when valid; exactness decides only where validity is not judged."""
    scores = [
        Score(True, sketch_exact=False, sketch_valid=True),
        Score(True, sketch_exact=False),
        Score(True, sketch_exact=False, sketch_valid=False),
        Score(False, sketch_exact=True),
        Score(False, sketch_exact=True, sketch_valid=False),
        Score(True),
    ]
    tally = Tally()
    tally.add(scores, Spent.nothing(6))
    assert tally.table == dict(zip(TABLE, (1, 2, 1, 1), strict=True))
    assert tally.repairs == 2 / 3 and tally.ignores == 1 / 2
    assert repairs(None) is None and ignores(dict(zip(TABLE, (0, 1, 0, 1), strict=True))) is None


def test_an_empty_tally_says_nothing():
    tally = Tally()
    assert (tally.accuracy, tally.sketch_exact, tally.table, tally.repairs) == (None, None, None, None)
    assert tally.interval() == (0.0, 1.0) and set(tally.spent.values()) == {None}
    with pytest.raises(ValueError, match="no examples"):
        Row.counted(tally, "hybrid")


def test_tally_refuses_rows_that_do_not_match():
    tally = Tally()
    with pytest.raises(ValueError, match="1 rows, spent has 2"):
        tally.add([Score(True)], Spent.nothing(2))
    with pytest.raises(ValueError, match="both or neither"):
        tally.add([Score(True)], Spent.nothing(1), drafted_lengths=[3])
    with pytest.raises(ValueError, match=r"gold_lengths has shape \(2,\)"):
        tally.add([Score(True)], Spent.nothing(1), [3], [3, 4])
    with pytest.raises(ValueError, match=f"expected \\({len(NAMES)},\\)"):
        Tally.from_vector(torch.zeros(2))


def a_row(method: str = "hybrid", accuracy: float = 0.5, **settings) -> Row:
    low, high = wilson(100 * accuracy, 100)
    return Row(method, accuracy=accuracy, accuracy_low=low, accuracy_high=high, examples=100, **settings)


def a_frontier(**changes) -> Frontier:
    table = dict(zip(TABLE, (40, 10, 5, 45), strict=True))
    rows = [
        a_row("direct", 0.1, sequential_forwards=4.0),
        a_row(
            policy="confidence",
            steps=8,
            flops=1.5e9,
            table=table,
            extra={"note": "kept", "deep": [1, {"a": 2}]},
        ),
    ]
    return replace(Frontier("sums", "test", rows, {"layers": 4}, 3, {"config": {"steps": 9}}), **changes)


def test_row_counts_a_tally():
    tally = Tally()
    tally.add([Score(True, True), Score(False, False)], Spent.nothing(2), [3, 5], [4, 4])
    row = Row.counted(tally, "hybrid", policy="confidence", steps=4, seed=7)
    assert (row.accuracy, row.examples, row.sketch_exact, row.sketch_valid) == (0.5, 2, 0.5, None)
    assert (row.accuracy_low, row.accuracy_high) == wilson(1, 2)
    assert (row.drafted_length, row.gold_length, row.length_error, row.steps, row.seed) == (4, 4, 1, 4, 7)
    assert row.seconds_per_example == 0.0 and row.table is not None and row.table[TABLE[0]] == 1


def test_schema_is_stable():
    """The documented keys, in their order, all present; FIELDS, Row and the file cannot drift apart."""
    plain = a_frontier().plain()
    assert tuple(plain) == (*HEAD, "config")
    assert [f.name for f in fields(Row)] == [*FIELDS, "extra"]
    for row in plain["rows"]:
        assert tuple(row)[: len(FIELDS)] == tuple(FIELDS)
    assert " ".join(REQUIRED) == (
        "method pairing policy threshold block drafts steps batch accuracy accuracy_low accuracy_high "
        "sketch_exact examples parameters training_positions denoiser_forwards decoder_forwards "
        "sequential_forwards positions flops sketch_tokens answer_tokens seconds_per_example"
    )


def test_round_trip(tmp_path):
    frontier = a_frontier()
    path = write_json(frontier, tmp_path / "new" / "frontier.json")
    assert read(path) == frontier
    again = write_json(read(path), tmp_path / "again.json")
    assert again.read_bytes() == path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["frontier.json"], "nothing temporary is left"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_json(a_frontier(), tmp_path / "frontier.json")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_json(a_frontier(model={"not JSON": object()}), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_later_keys_may_be_missing(tmp_path):
    data = a_frontier().plain()
    for row in data["rows"]:
        for name in set(FIELDS) - set(REQUIRED):
            del row[name]
    (tmp_path / "old.json").write_text(json.dumps(data))
    assert read(tmp_path / "old.json").rows[1].table is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: d.update(schema=2), "schema=2: expected 1"),
        (lambda d: d.pop("schema"), "schema=None: expected 1"),
        (lambda d: d.pop("split"), "split is missing: expected text"),
        (lambda d: d.update(rows={}), "rows={}: expected a list"),
        (lambda d: d.update(seed="3"), "seed='3': expected a whole number or null"),
        (lambda d: d["rows"][1].pop("flops"), r"rows\[1\].flops is missing: expected Floating-point"),
        (
            lambda d: d["rows"][0].update(accuracy=None),
            r"rows\[0\].accuracy=None: expected a number, from 0 to 1",
        ),
        (
            lambda d: d["rows"][0].update(accuracy=98.0),
            r"rows\[0\].accuracy=98.0: expected a number, from 0 to 1",
        ),
        (lambda d: d["rows"][0].update(steps=1.5), r"rows\[0\].steps=1.5: expected a whole number or null"),
        (lambda d: d["rows"][0].update(steps=True), r"rows\[0\].steps=True: expected a whole number"),
        (lambda d: d["rows"][0].update(flops=-1), r"rows\[0\].flops=-1: expected .* not negative"),
        (lambda d: d["rows"][1].update(table={"a": 1}), r"rows\[1\].table=.*: expected a count for each"),
        (lambda d: d["rows"].append(4), r"rows\[2\]=4: expected an object"),
        (lambda d: d["rows"][0].update(flops=math.nan), "NaN is not a JSON number"),
    ],
)
def test_read_refuses_in_one_clear_line(tmp_path, damage, said):
    data = json.loads(json.dumps(a_frontier().plain()))
    damage(data)
    path = tmp_path / "frontier.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=said) as refusal:
        read(path)
    assert str(refusal.value).startswith(str(path)) and "\n" not in str(refusal.value)


def test_read_refuses_what_is_no_json(tmp_path):
    (tmp_path / "a.json").write_text('{"schema": 1,')
    with pytest.raises(ValueError, match=r"a\.json: expected the JSON of a frontier"):
        read(tmp_path / "a.json")


def test_csv_has_one_line_per_row(tmp_path):
    text = write_csv(a_frontier(task="a, task"), tmp_path / "frontier.csv").read_text()
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["method"] for line in lines] == ["direct", "hybrid"]
    assert lines[0]["task"] == "a, task" and lines[0][TABLE[0]] == "" and lines[1][TABLE[0]] == "40"
    assert float(lines[1]["flops"]) == 1.5e9 and json.loads(lines[1]["deep"]) == [1, {"a": 2}]


def test_merge_keeps_seeds_and_refuses_other_tasks():
    first, second = (
        a_frontier(),
        a_frontier(seed=4, model={"layers": 8}, extra={"config": {"steps": 9}, "x": 1}),
    )
    both = merge([first, second])
    assert [row.seed for row in both.rows] == [3, 3, 4, 4]
    assert both.seed is None and both.model == {"runs": [{"layers": 4}, {"layers": 8}]}
    assert both.extra == {"config": {"steps": 9}} and first.rows[0].seed is None
    assert merge([first]).seed == 3 and merge([first, first]).model == {"layers": 4}
    with pytest.raises(ValueError, match="task differs: 'sums', 'other'"):
        merge([first, a_frontier(task="other")])
    with pytest.raises(ValueError, match="split differs"):
        merge([first, a_frontier(split="train")])
    with pytest.raises(ValueError, match="at least one"):
        merge([])
