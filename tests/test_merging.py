"""Runs of several seeds share their lines; runs of several configs are told apart by what differs in them."""

import pytest

from hybrid.frontier import Frontier, Row
from hybrid.merging import merge, told_apart
from hybrid.report import table
from hybrid.report_series import series


def a_run(accuracy, seed=0, rows=("chain",), **config):
    facts = dict(accuracy_low=0.0, accuracy_high=1.0, examples=10, sequential_forwards=10 * accuracy)
    drafted = dict(policy="confidence", steps=4)
    listed = [Row(name, accuracy=accuracy, **facts, **(drafted if name == "hybrid" else {})) for name in rows]
    config = {"seed": seed, "run": None, "style": "sums", "canvas": 9, "train": {}, "evaluate": {"batch": 1}} | config
    return Frontier("sums", "test", listed, {}, seed, extra={"config": config})


def points(*runs):
    drawn = series(merge(runs))
    return {line.label: [point.mean("accuracy") for point in line.points] for line in drawn}


def test_seeds_are_averaged_and_configs_are_not():
    assert points(a_run(0.4), a_run(0.6, seed=1)) == {"chain": [0.5]}
    several = (a_run(0.4), a_run(0.6, seed=1), a_run(0.9, canvas=18), a_run(0.7, seed=1, canvas=18))
    assert points(*several) == {"chain · canvas 9": [0.5], "chain · canvas 18": [pytest.approx(0.8)]}
    narrow, wide = ({"backbone": {"width": width}} for width in (4, 8))
    assert points(a_run(0.4, model=narrow), a_run(0.9, model=wide)) == {
        "chain · width 4": [0.4],
        "chain · width 8": [0.9],
    }


@pytest.mark.parametrize("free", [{"run": "elsewhere"}, {"train": {"clip": 1.0}}, {"evaluate": {"batch": 3}}])
def test_where_a_run_was_computed_and_what_it_did_not_know_is_no_difference(free):
    assert points(a_run(0.4), a_run(0.6, seed=1, **free)) == {"chain": [0.5]}


def test_only_rows_on_one_line_are_told_apart_and_by_as_few_keys_as_do():
    hybrid, short = (a_run(0.9, rows=("hybrid", "gold"), style=style, feed=style) for style in ("sums", "products"))
    chain, short_chain = (a_run(0.7, style=style, feed="gold") for style in ("sums", "products"))
    assert told_apart([hybrid, chain]) == [{}, {}]
    assert told_apart([hybrid, Frontier("sums", "test", hybrid.rows, {}, extra={"config": "elsewhere.yaml"})]) == [
        {},
        {},
    ]
    told = told_apart([hybrid, chain, short, short_chain, a_run(0.1, rows=("direct",), feed="none")])
    assert told == [{"style": "sums"}, {"style": "sums"}, {"style": "products"}, {"style": "products"}, {}]
    long = a_run(0.5, rows=("hybrid",), canvas=30)
    assert told_apart([hybrid, long, a_run(0.2, rows=("gold",), feed="none")]) == [
        {"canvas": "9", "feed": "sums"}, {"canvas": "30"}, {"feed": "none"}
    ]  # fmt: skip


def test_a_part_is_named_by_its_kind_and_what_it_was_told():
    stops = (None, {"kind": "stable", "steps": 2}, {"kind": "prophet", "early": 7.5})
    told = told_apart([a_run(0.5, model={"stop": stop}) for stop in stops])
    assert told == [{"model.stop": "null"}, {"model.stop": "stable, steps 2"}, {"model.stop": "prophet, early 7.5"}]
    labels = points(*(a_run(0.5, model={"stop": stop}) for stop in stops))
    assert [*labels] == ["chain", "chain · stop prophet, early 7.5", "chain · stop stable, steps 2"]


def test_the_table_names_what_differs():
    said = table(merge([a_run(0.4, style="sums"), a_run(0.9, style="products")]))
    assert "style sums" in said and "style products" in said


def test_what_tells_runs_apart_stays_when_they_are_merged_again():
    once = merge([a_run(0.4, style="sums"), a_run(0.9, style="products")])
    assert sorted(row.extra["style"] for row in merge([once]).rows) == ["products", "sums"]
