"""Readers and checkers: shipped data sets are reproduced and scored, cheating is not."""

import itertools
import os
import warnings
from fractions import Fraction
from pathlib import Path

import pytest

from hybrid.records import Example
from hybrid.tasks import Addition, Countdown, Gsm8k, Multiplication, ProntoQA, ProsQA, Sudoku
from hybrid.tasks.arithmetic import Unlawful, evaluate, holds, number
from hybrid.tasks.sudoku import solve
from hybrid.tasks.task import read_lines

DATA = Path(os.environ.get("HYBRID_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not here; set HYBRID_DATA to them")


@needs_data
def test_every_shipped_multiplication_row_is_reproduced():
    files = sorted(DATA.glob("mult_*/*.txt"))
    assert len(files) == 7
    for path in files:
        for _, line in read_lines(path):
            a, b = line.partition("||")[0].replace(" ", "").split("*")
            prompt, sketch, answer = Multiplication(spaces=True).work(a, b)
            assert f"{prompt}||{sketch} #### {answer}" == line.strip()
    assert [e.prompt for e in Multiplication().read(files[0])][0].count(" ") == 0


@needs_data
@pytest.mark.parametrize(
    "task, file, rows",
    [
        (Multiplication(spaces=True), "mult_4x4/valid.txt", 1000),
        (Countdown(), "countdown_3/test_first500.jsonl", 500),
        (Countdown(), "countdown_5/test_first500.jsonl", 500),
        (
            Addition(style="simplified"),
            "addition/simplified_scratchpad/add_examples_algorithmic_1000.txt",
            1000,
        ),
        (Addition(style="detailed"), "addition/detailed_scratchpad/add_examples_algorithmic_500.txt", 500),
        (Addition(style="reverse"), "addition/reverse/add_examples_500.txt", 500),
        (Addition(style="plain"), "addition/plain/train_3digit_500.txt", 500),
        (Addition(style="detailed"), "addition/multi_digit/test_10digit_1000.txt", 1000),
        (ProntoQA(), "prontoqa/prontoqa_valid.json", 200),
        (ProsQA(), "prosqa/prosqa_valid.json", 300),
        (Sudoku(), "sudoku_4x4/sudoku_4x4_4_first54.jsonl", 54),
        (Gsm8k(), "gsm8k_aug/valid.txt", 494),
        (Gsm8k(), "gsm8k/test_even.jsonl", 650),
        (Gsm8k(form="text"), "gsm8k/test_even.jsonl", 660),
    ],
)
def test_shipped_files_are_read_and_gold_is_right(task, file, rows):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        examples = task.read(DATA / file)
    assert len(examples) == rows
    if isinstance(task, Gsm8k):
        left_out = {494: "6 of 500", 650: "10 of 660"}.get(rows)
        assert [left_out in str(w.message) for w in caught] == [True] * (left_out is not None)
    for row in examples[:200]:
        score = task.score(row, row.sketch, row.answer)
        assert score.answer_correct and score.sketch_exact in (True, None) and score.sketch_valid in (True, None)
        assert score.draft_correct in (True, None) or isinstance(task, Gsm8k)
        assert not task.score(row, "", "").answer_correct and not task.score(row, row.prompt, row.prompt).answer_correct


@needs_data
def test_nine_by_nine_is_solved():
    lines = itertools.islice(read_lines(DATA / "sudoku_9x9" / "sudoku10k.txt.gz"), 20)
    for _, line in lines:
        grid = solve(line.replace(".", "0"))
        assert grid is not None
        rows = ["\n".join(text[i : i + 9] for i in range(0, 81, 9)) for text in (line.replace(".", "0"), grid)]
        assert Sudoku(size=9).score(Example(0, *rows, rows[1]), *rows[1:] * 2).answer_correct


def test_a_sketch_written_backward_is_the_same_text_from_its_end():
    """2365 * 4347, of which only the operands and the product stay as they were."""
    forward, backward = (Multiplication(order=order).work("5632", "7434") for order in ("forward", "backward"))
    assert forward[1].startswith("55561+006490(551111)+") and backward[1].endswith("+)111155(094600+16555")
    assert backward == (forward[0], forward[1][::-1], forward[2])


def test_multiplication_checks_the_product_and_every_part():
    task = Multiplication()
    row = Example(0, *task.work("5632", "7434"))
    assert row.sketch == "55561+006490(551111)+0059070(5560280)+00006490" and row.answer == "55608201"
    assert task.score(row, row.sketch.replace("551111", "551112"), row.answer).sketch_valid is False
    assert not task.score(row, row.sketch, "55608202").answer_correct
    wrong_gold = Example(0, row.prompt, row.sketch, "00000000")
    assert task.score(wrong_gold, "", row.answer).answer_correct and not task.score(wrong_gold, "", "0").answer_correct


COUNTDOWN = Example(0, "86,28,13,31,96", "86+28=114,31-13=18,114-18=96", "(86+28)-(31-13)")


@pytest.mark.parametrize(
    "answer, is_right",
    [
        ("(86+28)-(31-13)", True),
        ("86+28+13-31", True),
        ("96", False),  # the target echoed
        ("96+(86-86)*28*13*31", False),  # the target, and a number twice
        ("86+28-18", False),  # a number that is not given
        ("28+13+31+86-62", False),
        ("(86+28)-(31-13", False),
        ("86+28+13-31=96", False),
        ("86+28+13-31;", False),
        ("-(31-13)+86+28", False),
        ("86+28-(31-13)*1", False),
        ("__import__('os')", False),
        ("86.0+28+13-31", False),
        ("86+28", False),
    ],
)
def test_countdown_answers(answer, is_right):
    assert Countdown().score(COUNTDOWN, "", answer).answer_correct is is_right


@pytest.mark.parametrize(
    "sketch, is_valid, is_correct",
    [
        ("86+28=114,114+13=127,127-31=96", True, True),
        ("86+28=114", True, False),
        ("86+28=115,31-13=18,115-18=96", False, False),  # wrong arithmetic
        ("96+86=182,28-13=15", False, False),  # the target as a number
        ("86+28=114,86-13=73,114-18=96", False, False),  # a number twice
        ("13-31=-18,86+28=114,114-18=96", False, False),
        ("28/13=2", False, False),
        ("86/0=0", False, False),
        ("", False, False),
        ("96", False, False),
    ],
)
def test_countdown_sketches(sketch, is_valid, is_correct):
    score = Countdown().score(COUNTDOWN, sketch, "")
    assert score.sketch_valid is is_valid and score.draft_correct is is_correct


def test_countdown_given_the_target_still_needs_all_numbers():
    row = Example(0, "50,3,3,50", "3/3=1,50*1=50", "50*(3/3)")
    assert not Countdown().score(row, "", "50").answer_correct
    score = Countdown().score(Example(0, "50,46,3,96", "", ""), "50+46=96", "50+46")  # lawful, there, and a 3 too many
    assert score.sketch_valid and not score.draft_correct and not score.answer_correct
    assert Countdown().score(row, "", "50*(3/3)").answer_correct


def test_arithmetic_is_exact_and_safe():
    assert evaluate("1+2*3-(4-.5)/7")[0] == Fraction(13, 2)
    assert evaluate("2--3", whole=False)[0] == 5 and evaluate("1,000*2")[0] == 2000
    assert evaluate("6/3*2", whole=True) == (4, [6, 3, 2])
    for text in (
        "",
        "1+",
        "(1",
        "1)",
        "2**3",
        "1 2",
        "7/2",
        "x",
        "1/0",
        "1" * 501,
        "(" * 100 + "1" + ")" * 100,
    ):
        with pytest.raises(Unlawful):
            evaluate(text, whole=True)
    assert (
        holds("10/3=3.33") and holds("2/3=.66") and holds("2/3=0.67") and not holds("10/3=3") and not holds("5/2=2.9")
    )
    assert not holds("5") and not holds("1=1=1") and not holds("=5")
    no_numbers = "eighteen", "", "1 2", "1,8", "1,2,3", "0" * 498 + "18zzzz"
    assert [number(t) for t in ("1,080", "$18", "18.0", "-3.5", "18.", *no_numbers)] == [
        1080, 18, 18, Fraction(-7, 2), 18, *[None] * 6
    ]  # fmt: skip


def test_gsm8k_compares_numbers_and_checks_equations():
    row = Example(0, "How many?", "16-3-4=9;9*2=18", "18")
    score = Gsm8k().score(row, "16-3-4=9;9*2=18", " 18.0 ")
    assert score.answer_correct and score.sketch_valid and score.draft_correct
    score = Gsm8k().score(row, "16-3-4=9;9*2=19", "$18")
    assert score.answer_correct and not score.sketch_valid and not score.draft_correct
    assert not Gsm8k().score(row, "16-3-4=9;;9*2=18", "18 eggs").sketch_valid
    assert not any(Gsm8k().score(row, "", text).answer_correct for text in ("81", "eggs", ""))
    assert not Gsm8k().score(row, "1+1=3;9*2=18", "18").sketch_valid


def test_addition_scratchpads():
    assert Addition(style="simplified").work(859, 645)[1:] == (
        "A->4 , C->1\nA->0 , C->1\nA->5 , C->1.",
        "1504",
    )
    task = Addition(style="detailed")
    row = Example(0, *task.work(22, 1))
    assert row.sketch.split("\n")[2] == "[2,2] + [1] , A=[] , C=0 , 2+1+0=3 , A->3 , C->0"
    score = task.score(row, row.sketch.replace("A->3", "A->4"), "2 3")
    assert score.answer_correct and not score.sketch_valid and not score.draft_correct


PROMPT = "Every terpus is a brimpus. Each brimpus is a lempus. Lempuses are not red. Tom is a terpus. Sam is a lempus. "


@pytest.mark.parametrize(
    "sketch, is_valid, is_correct",
    [
        ("Tom is a terpus. Every terpus is a brimpus. Every brimpus is a lempus.", True, True),
        (
            "Tom is a terpus. Terpuses are brimpuses. Tom is a brimpus. Every brimpus is a lempus.",
            True,
            True,
        ),
        ("Tom is a terpus. Every terpus is a brimpus.", True, False),
        ("Tom is a terpus. Every terpus is a lempus.", False, False),  # a rule that is not given
        ("Tom is a lempus.", False, False),  # the answer, not derived
        ("Sam is a lempus.", True, False),  # someone else
        ("", False, False),
    ],
)
def test_proofs(sketch, is_valid, is_correct):
    row = Example(0, PROMPT + "Is Tom a lempus or gorpus?", "", "Tom is a lempus.")
    score = ProsQA().score(row, sketch, "tom is a lempus")
    assert score.answer_correct and score.sketch_valid is is_valid and score.draft_correct is is_correct
    row = Example(0, PROMPT + "True or false: Tom is red.", "", "False")
    score = ProntoQA().score(row, f"{sketch} Lempuses are not red.", "True")
    assert not score.answer_correct and score.draft_correct is is_correct


def test_sudoku_rules():
    puzzle, grid = "1000\n0002\n4003\n0000", "1234\n3412\n4123\n2341"
    task, row = Sudoku(), Example(0, puzzle, grid, grid)
    assert task.score(row, grid, grid).answer_correct
    for wrong in (
        puzzle,
        "2134\n3412\n4123\n1243",
        "1324\n3142\n4213\n2431",  # rows and columns are right, boxes are not
        grid.replace("\n", ""),
        grid[::-1],
        "1234\n" * 4,
        grid + "\n1",
    ):
        assert not task.score(row, wrong, wrong).answer_correct and not task.score(row, wrong, wrong).draft_correct
    assert not task.score(Example(0, grid, grid, grid), grid, grid).answer_correct
    assert solve(puzzle.replace("\n", "")) == grid.replace("\n", "")
    assert solve("11" + "0" * 14) is None
