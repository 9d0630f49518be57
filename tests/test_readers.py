"""Errors of the readers name file, line and field."""

import json

import pytest

from hybrid.tasks import Addition, Countdown, Gsm8k, JsonLines, Multiplication, ProntoQA, ProsQA, Sudoku

ROW = '{"prompt": "a", "sketch": "b", "answer": "c"}'


@pytest.mark.parametrize(
    "task, text, message",
    [
        (JsonLines(), ROW + '\n{"prompt": "a", "answer": "c"}', "line 2: field 'sketch' is missing"),
        (JsonLines(), '{"prompt": 1, "sketch": "b"}', "line 1: field 'prompt' must be a string, not int"),
        (JsonLines(), '{"prompt": "", "sketch": "b", "answer": "c"}', "line 1: field 'prompt' is empty"),
        (JsonLines(prompt_field="q"), '{"prompt": "a"}', "line 1: field 'q' is missing; the row has prompt"),
        (JsonLines(), "\n\n[1]", "line 3: must be a JSON object"),
        (JsonLines(), "{", "line 1: not JSON"),
        (JsonLines(), '{"prompt": ' + "[" * 100_000, "line 1: not readable as JSON"),
        (JsonLines(), '{"prompt": ' + "9" * 5000 + "}", "line 1: not readable as JSON"),
        (JsonLines(), '{"prompt": "\\ud83d", "sketch": "", "answer": "1"}', "line 1: half of a surrogate pair"),
        (ProsQA(), "[" * 100_000, "not readable as JSON"),
        (Multiplication(), "1 * 2||2", "line 1: not `a \\* b"),
        (Multiplication(), "1 * 2||2 0 #### 3 0", "line 1: product is 30, but 1\\*2 gives 20"),
        (Multiplication(), "1 * 2||3 0 #### 2 0", "line 1: sketch is 30"),
        (Countdown(), '{"input": "1,2", "output": "1+2=3"}', "line 1: field 'input' must be two or more"),
        (Countdown(), '{"input": "1,2,4", "output": "1+2=3"}', "line 1: field 'output' does not reach 4"),
        (Addition(), "1+2=3\n1+2=4", "line 2: sum is 4, but 1\\+2 gives 3"),
        (Addition(), "1-2=3", "line 1: not `a\\+b=c`"),
        (Addition(), "Input:\n1+2\nTarget:\nA->4 , C->0.\n3", "line 1: scratchpad of 1\\+2 writes 'A->4"),
        (Addition(), "Input:\n1+2", "line 1: not a block"),
        (Gsm8k(), '{"question": "q"}', "line 1: field 'answer' is missing"),
        (Gsm8k(), '{"question": "q", "answer": "<<1+1=2>> two"}', "line 1: field 'answer' must end in"),
        (Gsm8k(), "q <<1+1=2>> #### 2", "line 1: neither JSON nor"),
        (ProsQA(), '{"question": "q"}', "line 1: must hold one JSON list"),
        (ProsQA(), '[{"question": "Is Tom a lempus or gorpus?", "answer": "yes"}]', "entry 1: fields"),
        (ProntoQA(), '[{"question": "True or false: Tom is red.", "answer": "True"}]', "entry 1: field"),
        (Sudoku(), '{"input": "100", "output": ""}', "line 1: field 'input': not 4 rows"),
        (Sudoku(), "1" * 16, "line 1: the puzzle has nothing to fill in"),
        (Sudoku(), "11" + "." * 14, "line 1: the puzzle has no solution"),
        (Sudoku(), '{"input": "1000\\n0002\\n4003\\n0000", "output": "1"}', "line 1: field 'output' does"),
    ],
)  # fmt: skip
def test_malformed_rows_are_named(task, text, message, tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"rows.txt(, |: ){message}"):
        task.read(path)


def test_json_lines_scores_by_equality(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"q": "a", "cot": "b", "a": "c "}))
    task = JsonLines("q", "cot", "a")
    (row,) = task.read(path)
    assert task.score(row, "b", " c").answer_correct and not task.score(row, "b", "C").answer_correct
