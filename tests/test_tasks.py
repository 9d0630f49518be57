"""Splits, keys and the contract that every kind keeps."""

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hybrid.kinds import look_up, names
from hybrid.records import Example
from hybrid.sample import unlike
from hybrid.tasks import (
    Addition,
    BytePair,
    Chain,
    Character,
    Countdown,
    Data,
    Draws,
    JsonLines,
    Multiplication,
    Procedural,
    ProsQA,
    Sudoku,
    Task,
    key_of,
    split,
)
from hybrid.tasks.procedural import owner

MADE: list[Procedural] = [
    Chain(),
    Chain(length=5, modulus=97, format="equations"),
    Chain(length=4, operations="+", chains=3, least=1),
    Multiplication(3, 2),
    Multiplication(1, 1, spaces=True),
    Multiplication(4, 4, style="products"),
    Multiplication(3, 3, order="backward"),
    Countdown(3),
    Countdown(4),
    *(Addition(style=style) for style in ("plain", "reverse", "simplified", "detailed")),
    Sudoku(),
]


@pytest.fixture(params=MADE, ids=[f"{type(task).__name__}-{i}" for i, task in enumerate(MADE)])
def made(request) -> Procedural:
    return request.param


def test_kinds():
    kinds = "addition chain countdown gsm8k json_lines multiplication prontoqa prosqa rows sudoku"
    assert names(Task) == kinds.split()
    assert look_up(Task, "chain") is Chain


def test_made_prompts_have_the_form_of_their_task_and_others_have_not(made):
    prompts = [row.prompt for row in made.generate("test", 0)[:50]]
    assert unlike(made, prompts) is None
    for other in (prompts[0] + prompts[1], prompts[0][:-1] + "x", "", "1"):
        said = unlike(made, [*prompts, other])
        assert said is not None and repr(other) in said and made.prompt_form[1] in said


def test_gold_is_right(made):
    for row in made.generate("train", 0)[:40]:
        score = made.score(row, row.sketch, row.answer)
        assert score.answer_correct and row.prompt and row.answer
        assert score.sketch_exact in (True, None) and score.sketch_valid in (True, None)
        assert score.draft_correct in (True, None)
        assert row.key == key_of(row.prompt) and 0 <= row.key < 2**63


def test_neither_nothing_nor_the_prompt_nor_noise_is_right(made):
    for row in made.generate("train", 1)[:10]:
        *_, target = row.prompt.split(",")
        for wrong in ("", " ", "_", row.prompt, target, "²", "٣", "(" * 1000, "9" * 5000, "1/0", "\n", "nan"):
            if wrong == row.answer:
                continue
            score = made.score(row, wrong, wrong)
            assert not score.answer_correct, wrong
            assert not score.sketch_valid and not score.draft_correct


def test_a_row_is_a_function_of_seed_split_and_index(made):
    rows = made.generate("train", 3)
    assert rows[7] == made.generate("train", 3)[7] == rows[5:9][2]
    assert [rows[i] for i in (4, 2)] == [rows[2:5][2], rows[2:5][0]]
    if made != Multiplication(1, 1, spaces=True):
        assert rows[:5] != made.generate("train", 4)[:5] != made.generate("valid", 4)[:5]
    assert len(rows) == 2**31 - 1 and len(made.generate("test", 3)) == 2000
    with pytest.raises(IndexError):
        made.generate("test", 3)[2000]


def test_splits_share_no_prompt(made):
    seen: dict[str, set[str]] = {name: {r.prompt for r in made.generate(name, 0)[:40]} for name in ("valid", "test")}
    seen["train"] = {row.prompt for seed in (0, 1) for row in made.generate("train", seed)[:100]}
    assert not seen["train"] & seen["valid"] and not seen["train"] & seen["test"] and not seen["valid"] & seen["test"]
    assert all(owner(key_of(prompt)) == name for name, texts in seen.items() for prompt in texts)


def test_excluded_prompts_are_drawn_again():
    task = Multiplication(1, 1)
    first = task.generate("train", 0)[:200]
    gone = frozenset(row.key for row in first[:5])
    assert gone.isdisjoint(row.key for row in task.generate("train", 0, gone)[:200])
    everything = frozenset(row.key for row in first) | frozenset(
        key_of(f"{a}*{b}") for a in range(10) for b in range(10)
    )
    with pytest.raises(ValueError, match="no prompt is left for split 'train'"):
        task.generate("train", 0, everything)[0]


def rows_and_tokenizers() -> str:
    texts = ["a <mask> b 12", "hello hello <end>\n", "hello low lower"]
    tokenizers = [config.train(texts).to_json() for config in (Character(), BytePair(290))]
    return repr([[task.generate("train", 0)[:3], task.generate("test", 1)[:2]] for task in MADE]) + repr(tokenizers)


def test_the_same_in_every_process():
    code = "from tests.test_tasks import rows_and_tokenizers\nprint(rows_and_tokenizers())"
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert other.stdout.rstrip("\n") == rows_and_tokenizers()


def test_keys_and_draws_never_change():
    """They are part of every result's identity."""
    assert key_of("7+3") == 6957114533726009097
    draws = Draws("0/train/0/0")
    assert [draws.below(10) for _ in range(50)][-6:] == [6, 4, 9, 3, 8, 4]


def test_draws_are_uniform():
    """Chi-squared over 7 cells, 7,000 draws: 6 degrees of freedom exceed 33 once in 100,000."""
    draws = Draws("uniform")
    counts = [0] * 7
    for _ in range(7000):
        counts[draws.below(7)] += 1
    assert sum((n - 1000) ** 2 / 1000 for n in counts) < 33
    assert sorted(draws.order(9)) == list(range(9)) and len(draws.digits(40)) == 40
    orders = Counter(tuple(draws.order(3)) for _ in range(6000))  # 6 cells: 5 degrees exceed 31 once in 100,000
    assert len(orders) == 6 and sum((n - 1000) ** 2 / 1000 for n in orders.values()) < 31


def write(path, count, start=0):
    rows = [{"prompt": f"q{i}", "sketch": "s", "answer": str(i)} for i in range(start, start + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts(rows) -> list[str]:
    return [row.prompt for row in rows]


def test_valid_is_carved_out_of_train(tmp_path):
    train, test = write(tmp_path / "train.jsonl", 100), write(tmp_path / "test.jsonl", 10, start=95)
    data = Data(train=train, test=test, holdout=20)
    parts = {name: set(texts(split(JsonLines(), data, name, seed=5))) for name in ("train", "valid", "test")}
    assert [len(parts[name]) for name in ("train", "valid", "test")] == [75, 20, 10]
    assert not parts["train"] & parts["valid"] and not (parts["train"] | parts["valid"]) & parts["test"]
    assert texts(split(JsonLines(), data, "valid", 5)) == texts(split(JsonLines(), data, "valid", 6))
    assert len(split(JsonLines(), Data(train=train, holdout=20, limit=7), "train")) == 7
    with pytest.raises(ValueError, match="no rows are left for train with data.holdout = 500"):
        split(JsonLines(), Data(train=train), "train")


def test_repeated_prompts_are_carved_together(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text((write(path, 30), path.read_text() * 3)[1])
    data = Data(train=str(path), holdout=10)
    train, valid = (texts(split(JsonLines(), data, name)) for name in ("train", "valid"))
    assert len(valid) == 10 and len(train) == 60 and not set(train) & set(valid)


def test_files_are_kept_out_of_train(tmp_path):
    train, valid = write(tmp_path / "a", 30), write(tmp_path / "b", 5, start=3)
    gone = write(tmp_path / "c", 5, start=10)
    data = Data(train=train, valid=valid, exclude=(gone,))
    kept = {f"q{i}" for i in range(30)} - {f"q{i}" for i in (*range(3, 8), *range(10, 15))}
    assert set(texts(split(JsonLines(), data, "train"))) == kept
    assert len(split(JsonLines(), data, "valid")) == 5


def test_made_train_keeps_clear_of_files(tmp_path):
    task = Multiplication(1, 1)
    row = task.generate("train", 0)[0]
    path = tmp_path / "test.txt"
    spaced = Multiplication(1, 1, spaces=True).work(*row.prompt.split("*"))
    path.write_text(f"{spaced[0]}||{spaced[1]} #### {spaced[2]}\n")
    data = Data(test=str(path), rows=300)
    rows = split(task, data, "train")
    assert len(rows) == 300 and row.prompt not in texts(rows)
    assert texts(split(task, data, "test")) == [row.prompt]


def test_made_test_keeps_clear_of_a_train_file(tmp_path):
    task = Addition(digits=1)
    seen = {row.prompt for row in task.generate("test", 0)[:3]}
    path = tmp_path / "train.txt"
    path.write_text("".join(f"{prompt}=\n" for prompt in seen))
    assert seen.isdisjoint(texts(split(task, Data(train=str(path)), "test")[:50]))


def test_gz_is_read_like_the_plain_file(tmp_path):
    plain = write(tmp_path / "test.jsonl", 4)
    packed = tmp_path / "test.jsonl.gz"
    packed.write_bytes(gzip.compress(open(plain, "rb").read()))
    assert split(JsonLines(), Data(test=str(packed)), "test") == split(JsonLines(), Data(test=plain), "test")
    packed.write_bytes(b"not gzip")
    with pytest.raises(ValueError, match="test.jsonl.gz: not readable"):
        split(JsonLines(), Data(test=str(packed)), "test")


def test_missing_data_is_one_clear_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^data.test = nowhere/x.txt: no such file. Files: github.com/[^\n]*$"):
        split(Multiplication(), Data(test="nowhere/x.txt"), "test")
    with pytest.raises(ValueError, match=r"^data.train is not given, and task kind ProsQA does not make [^\n]*coconut"):
        split(ProsQA(), Data(), "train")
    with pytest.raises(ValueError, match="data.train is not given"):
        split(Sudoku(size=9), Data(), "train")
    with pytest.raises(ValueError, match="must be one of train, valid, test"):
        split(Chain(), Data(), "dev")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="data.valid = .*holds no examples"):
        split(JsonLines(), Data(valid=str(tmp_path / "empty")), "valid")
    with pytest.raises(ValueError, match="data.limit = 0"):
        Data(limit=0)
    with pytest.raises(ValueError, match=r"data.rows = 5: .* data.limit"):
        Data(train="x.txt", rows=5)
    with pytest.raises(ValueError, match=r"data.limit = 5: .* data.rows"):
        Data(limit=5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Chain(length=0), "length = 0"),
        (lambda: Chain(chains=0), "chains = 0"),
        (lambda: Chain(chains=2), "chains = 2 with operations"),
        (lambda: Chain(modulus=101), "modulus = 101"),
        (lambda: Chain(operations="/"), "operations = '/'"),
        (lambda: Chain(format="words"), "format = 'words'"),
        (lambda: Chain(modulus=2), r"modulus = 2: no digit is a multiplier"),
        (lambda: Multiplication(0), "digits_a = 0"),
        (lambda: Multiplication(style="full"), "style = 'full'"),
        (lambda: Multiplication(order="sideways"), "order = 'sideways': must be forward or backward"),
        (lambda: Countdown(7), "numbers = 7"),
        (lambda: Addition(style="slow"), "style = 'slow'"),
        (lambda: Sudoku(size=6), "size = 6"),
        (lambda: Sudoku(fewest=5, most=4), "fewest = 5, most = 4"),
    ],
)
def test_fields_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_chain_law():
    assert Chain().work("7+3*7-5") == ("005", "5")
    assert Chain(format="equations").work("7+3*7-5") == ("7+3=0;0*7=0;0-5=5", "5")
    assert Chain(modulus=100).work("7-9*3") == ("9894", "94")
    for modulus in (2, 7, 10, 64, 100):
        task = Chain(modulus=modulus, operations="+-" if modulus == 2 else "+-*")
        for step in set(task.steps):
            moved = {task.moves[f"{state}{step}"] for state in range(modulus)}
            assert len(moved) == modulus, "an operation forgets the state"
    task = Chain(operations="+", length=3, chains=2)
    assert task.work("732,514") == ("702,560", "2")
    score = task.score(Example(0, "732,514", "702,560", "2"), "702,560", "0")
    assert score.sketch_valid and score.draft_correct is None and not score.answer_correct
    row = Example(0, "7+3*7-5", "005", "5")
    score = Chain().score(row, "015", "5")
    assert score.answer_correct and score.draft_correct and not score.sketch_valid and not score.sketch_exact
