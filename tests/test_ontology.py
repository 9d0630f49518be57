"""Proofs in made-up ontologies: what training makes of a file's problems."""

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import permutations, product

import pytest

from hybrid.tasks import Data, ProntoQA, ProsQA, example, split
from hybrid.tasks.ontology import statements


def ontology_rows(tmp_path, renamings, **data):
    path = tmp_path / "train.json"
    steps = ["Tom is a vumpus. Each vumpus is an impus.", "Tom is an impus. Impuses are not red.", "Tom is not red."]
    said = "Impuses are not red. Each vumpus is an impus. Every lempus is a vumpus. Lempuses are hot. "
    prompt = said + "{} is a vumpus. True or false: {} is red."
    rows = [
        {"question": prompt.format(who, who), "steps": [s.replace("Tom", who) for s in steps], "answer": "False"}
        for who in ("Tom", "Sam")
    ]
    path.write_text(json.dumps(rows))
    task = ProntoQA(renamings=renamings)
    return task, split(task, Data(train=str(path), holdout=0, **data), "train")


def test_renamings_leave_the_logic_and_the_language_as_they_were(tmp_path):
    """Concepts and properties change their names, each among its kind, and rules their order; facts stay last."""
    task, plain = ontology_rows(tmp_path, 0)
    _, rows = ontology_rows(tmp_path, 200)
    assert len(rows) == 402 and list(rows[:2]) == list(plain) and rows[-1] == rows[401]
    with pytest.raises(IndexError):
        rows[402]
    names, orders = set(), set()
    for i, row in enumerate(rows):
        score = task.score(row, row.sketch, row.answer)
        assert score.answer_correct and score.sketch_exact and score.sketch_valid and score.draft_correct
        assert row == example(row.prompt, row.sketch, row.answer) == rows[i]
        *rules, fact, asked = statements(row.prompt.replace("True or false: ", ""))
        who = ("tom", "sam")[i % 2]
        impus, red = next((rule[1], rule[3]) for rule in rules if not rule[2])
        vumpus, lempus = fact[3], next(rule[1] for rule in rules if rule[3] == fact[3])
        hot = next(rule[3] for rule in rules if rule[1] == lempus and rule[3] != vumpus)
        told = [(impus, False, red), (vumpus, True, impus), (lempus, True, vumpus), (lempus, True, hot)]
        assert sorted(rules) == sorted((True, *rule) for rule in told)
        assert (fact, asked) == ((False, who, True, vumpus), (False, who, True, red))
        assert all((a == "an") == (name == "impus") for a, name in re.findall(r"is (an?) (\w+)", row.prompt))
        names.add((impus, vumpus, lempus, red, hot))
        orders.add(tuple(told.index(rule[1:]) for rule in rules))
    concepts, properties = permutations(("impus", "vumpus", "lempus")), permutations(("red", "hot"))
    assert names == {(*some, *other) for some, other in product(concepts, properties)}
    assert orders == set(permutations(range(4)))


def test_a_backward_proof_goes_from_the_conclusion_to_the_facts(tmp_path):
    task, (row, _) = ontology_rows(tmp_path, 0)
    path, back = tmp_path / "train.json", replace(task, order="backward")
    found, _ = back.read(path)
    assert found.sketch == "Impuses are not red. Each vumpus is an impus. Tom is a vumpus. Tom is not red."
    assert (found.prompt, found.answer) == (row.prompt, row.answer)
    score = back.score(found, found.sketch, found.answer)
    assert score.sketch_exact and score.sketch_valid and score.draft_correct
    assert not back.score(found, found.sketch.replace("Tom is a vumpus. ", ""), "").sketch_valid


def test_a_backward_proof_without_a_conclusion_of_its_own_is_the_steps_reversed(tmp_path):
    path = tmp_path / "prosqa.json"
    steps = ["Tom is a terpus.", "Every terpus is a brimpus.", "Every brimpus is a lempus."]
    question = "Every terpus is a brimpus. Every brimpus is a lempus. Tom is a terpus. Is Tom a lempus or scrompus?"
    path.write_text(json.dumps([{"question": question, "steps": steps, "answer": "Tom is a lempus."}]))
    task = ProsQA(order="backward")
    (row,) = task.read(path)
    assert row.sketch == " ".join(reversed(steps))
    assert task.score(row, row.sketch, row.answer).draft_correct


@pytest.mark.parametrize(
    ("order", "whole"), [("backward", "not red impus vumpus Tom"), ("forward", "Tom vumpus impus not red")]
)
def test_a_path_names_what_the_premises_link(tmp_path, order, whole):
    ontology_rows(tmp_path, 0)
    task = ProntoQA(order=order, style="path", renamings=9)
    data = Data(train=str(tmp_path / "train.json"), holdout=0)
    first, second, *renamed = split(task, data, "train")
    assert first.sketch == whole and second.sketch == whole.replace("Tom", "Sam")
    for row in (first, second, *renamed):
        score = task.score(row, row.sketch, row.answer)
        assert score.sketch_exact and score.sketch_valid and score.draft_correct
    words = whole.split()
    shorter = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    for sketch in (*shorter, "", "not", "Tom", "not red", "Tom not", "Tom vumpus impus not not red"):
        assert not task.score(first, sketch, "").sketch_valid, sketch
    score = task.score(first, " ".join(word for word in words if word not in ("not", "red")), "")
    assert score.sketch_valid and not score.draft_correct, "Tom is an impus, which is not what was asked"


@pytest.mark.parametrize("place", [0, 1])
def test_steps_that_are_no_path_are_refused(tmp_path, place):
    ontology_rows(tmp_path, 0)
    path = tmp_path / "train.json"
    rows = json.loads(path.read_text())
    rows[1]["steps"].insert(place, "Every lempus is a vumpus.")
    path.write_text(json.dumps(rows))
    assert len(ProntoQA(order="backward").read(path)) == 2
    with pytest.raises(ValueError, match=r"train\.json.*'steps': must be one path"):
        ProntoQA(style="path").read(path)


def test_only_training_is_renamed_and_only_so_often(tmp_path):
    task, _ = ontology_rows(tmp_path, 3)
    data = Data(train=str(tmp_path / "train.json"), holdout=1)
    assert len(split(task, data, "valid")) == 1 and len(split(task, data, "train")) == 4
    assert "Impuses are not red. Each vumpus" in split(task, data, "valid")[0].prompt
    with pytest.raises(ValueError, match="renamings=-1: must be 0"):
        ProntoQA(renamings=-1)


def test_rules_that_lead_nowhere_come_in_by_and_by(tmp_path):
    """What the proof needs and what speaks of what is asked are never left out; in the last pass nothing is."""
    path = tmp_path / "train.json"
    needed = ["Impuses are not red.", "Each vumpus is an impus."]
    spare = [f"Every lempus is {what}." for what in "hot cold shy loud sweet sour".split()]
    other = "Every lempus is red."
    prompt = " ".join(
        [*spare[:3], needed[0], other, *spare[3:], needed[1], "Tom is a vumpus. True or false: Tom is red."]
    )
    steps = ["Tom is a vumpus.", *reversed(needed), "Tom is not red."]
    path.write_text(json.dumps([{"question": prompt, "steps": steps, "answer": "False"}]))
    for style in ("sentences", "path"):
        task = ProntoQA(renamings=60, curriculum=40, style=style)
        rows = split(task, Data(train=str(path), holdout=0), "train")
        counts = []
        for row in rows:
            assert task.score(row, row.sketch, row.answer).draft_correct
            said = Counter(rule[3] for rule in statements(row.prompt.replace("True or false: ", "")))
            assert max(said.values()) == 3, "both rules about what is asked, and the question"
            counts.append(row.prompt.count(".") - 5)
        assert counts[0] == 0 and set(counts[40:]) == {6}
        early, late = sum(counts[:20]), sum(counts[20:40])  # expected: 6 * 20 / 12 = 10 and 6 * 20 * 7 / 12 = 70
        assert 1 <= early <= 20 and 58 <= late <= 82
    for wrong in (-1, 61):
        with pytest.raises(ValueError, match=rf"curriculum={wrong}: must be from 0 to renamings, 60"):
            ProntoQA(renamings=60, curriculum=wrong)
