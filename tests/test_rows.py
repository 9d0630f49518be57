"""One's own data: every format and template gives the same examples, and faults are named by place."""

import csv
import gzip
import json
import re

import pytest
import yaml

from hybrid.cli import main
from hybrid.tasks import Data, Rows, split
from hybrid.tasks.task import example

ROWS = [
    {"question": "2+3", "work": "2+3=5", "label": "5", "context": "sum"},
    {"question": '4 "x", 5\n?', "work": "", "label": "20", "context": "product"},
]
TASK = Rows(prompt="{context}: {question}", sketch="{work}", answer="{label}")
EXAMPLES = [example("sum: 2+3", "2+3=5", "5"), example('product: 4 "x", 5\n?', "", "20")]


def write(path, rows):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        from pyarrow import Table, parquet

        parquet.write_table(Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="") as file:
            table = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_examples(ending, tmp_path):
    assert TASK.read(write(tmp_path / f"rows.{ending}", ROWS)) == EXAMPLES


def test_a_data_set_of_the_library_gives_the_same_examples(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", ROWS)
    name = f"hub:{tmp_path / 'set'}:train"
    assert list(split(TASK, Data(train=name, holdout=0), "train")) == EXAMPLES
    with pytest.raises(ValueError, match="hub:x: expected hub:NAME:SPLIT"):
        split(TASK, Data(train="hub:x"), "train")
    with pytest.raises(ValueError, match="hub:.*:tost cannot be loaded") as error:
        split(TASK, Data(train=name.replace("train", "tost")), "train")
    assert "\n" not in str(error.value)


def test_chats_give_their_turns(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1"}]
    row = {"id": 7, "messages": [*turns, {"role": "assistant", "content": "1+1=2\n#### 2"}]}
    task = Rows(prompt="{system} {user}", sketch="{assistant}", messages="messages", divider="####")
    assert task.read(write(tmp_path / "a.jsonl", [row])) == [example("Be brief. 1+1", "1+1=2", "2")]
    plain = Rows(prompt="{q[text]}", sketch="", answer="{a[0]}")
    assert plain.read(write(tmp_path / "b.jsonl", [{"q": {"text": "x"}, "a": ["y"]}])) == [example("x", "", "y")]


@pytest.mark.parametrize(
    "row, options, said",
    [
        ({"question": "q", "label": "1"}, {}, "line 1: task.sketch='{work}': no field 'work'; the row has label, q"),
        ({"question": "q", "work": "", "label": " "}, {}, "line 1: the answer is empty"),
        ({"question": " ", "work": "", "label": "1"}, {}, "line 1: the prompt is empty"),
        ({"question": "q", "work": "1", "label": ""}, {"divider": "####"}, "the sketch has no '####'"),
        ({"messages": "hi"}, {"messages": "messages"}, "field 'messages' must be a list of turns"),
        ({"question": "q", "work": "", "label": None}, {}, "line 1: task.answer='{label}': field label is null"),
        ({"question": ["q"], "work": "", "label": "1"}, {}, "field question is no text but ['q']; expected text"),
        ({"question": "q", "work": "", "label": "18 apples"}, {"check": "number"}, "answer '18 apples' is no number"),
    ],
)
def test_rows_that_do_not_fit_are_named_by_place(row, options, said, tmp_path):
    task = Rows(**{"prompt": "{question}", "sketch": "{work}", "answer": "{label}"} | options)
    with pytest.raises(ValueError, match=re.escape(said)):
        task.read(write(tmp_path / "a.jsonl", [row]))


def test_bad_files_and_templates(tmp_path):
    with pytest.raises(ValueError, match="its ending must be .jsonl"):
        TASK.read(tmp_path / "a.txt")
    (tmp_path / "a.csv").write_text("question,work\n1,2,3\n")
    with pytest.raises(ValueError, match="line 2: expected 2 columns"):
        TASK.read(tmp_path / "a.csv")
    (tmp_path / "long.csv").write_text(f"context,question,work,label\nc,q,{'1' * 200_000},2\n")
    assert len(TASK.read(tmp_path / "long.csv")[0].sketch) == 200_000
    packed = gzip.compress(b"{}")
    (tmp_path / "a.jsonl.gz").write_bytes(packed[:10] + b"\x07" + packed[11:])  # no such kind of block
    with pytest.raises(ValueError, match="a.jsonl.gz: not readable as text"):
        TASK.read(tmp_path / "a.jsonl.gz")
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(ValueError, match="no parquet file"):
        TASK.read(tmp_path / "a.parquet")
    for template in ("{", "{}", "{a.b}", "{a!r.x}"):
        with pytest.raises(ValueError, match="prompt="):
            Rows(prompt=template)


@pytest.mark.parametrize(
    "check, gold, right, wrong",
    [
        ("text", "a b", [" a b"], ["a  b", "ab", "a b c", "a", ""]),
        ("number", "1,200", ["1200", "1200.0"], ["120", "x", ""]),
        ("math", "\\frac{1}{2}", ["0.5", "1/2", "$\\boxed{\\frac{2}{4}}$"], ["2", "", "\\frac{1}{3}"]),
    ],
)
def test_answers_are_checked_as_asked(check, gold, right, wrong):
    if check == "math":
        pytest.importorskip("math_verify")
    task, row = Rows(check=check), example("p", "s", gold)
    assert all(task.score(row, "s", text).answer_correct for text in right)
    assert not any(task.score(row, "s", text).answer_correct for text in wrong)


def config(folder, train, valid, test, **model):
    files = {"train": train, "valid": valid, "test": test}
    rows = {
        name: [{"prompt": p, "sketch": s, "answer": a} for p, s, a in (line.split("|") for line in lines)]
        for name, lines in files.items()
    }
    data = {name: str(write(folder / f"{name}.jsonl", part)) for name, part in rows.items()}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"task": "rows", "data": data, "model": {"canvas": 6, "max_answer": 3} | model}))
    return str(path)


def test_a_clean_data_set_passes(tmp_path, capsys):
    path = config(
        tmp_path, ["12|1212|3", "13|13|4"], ["21|2|1"], ["22|3|2"], backbone={"kind": "qwen3", "width": 16, "heads": 2}
    )
    assert main(["check-data", path]) == 0
    said = capsys.readouterr().out
    assert "train: 2 rows, 2 different prompts" in said and "vocabulary: 5 of 9 tokens occur" in said
    assert "sketch  tokens: 3 in the middle, 5 at 99 %, 5 at most; room for 6" in said
    assert "sample: 1 2 | <sketch> 1 2 1 2 <end> | <answer> 3 <end>" in said and "room for 4085" in said


def test_faults_of_a_data_set_are_listed(tmp_path, capsys):
    """Too long, not writable, in two splits, and answered twice; the exit status tells scripts."""
    path = config(tmp_path, ["12|121212|3", "13|13|4", "13|13|3"], ["13|2|1"], ["2x|3|2", "21|2|1231"])
    assert main(["check-data", path]) == 2
    said = capsys.readouterr()
    assert "train: 1 of 1 sketches need more than model.canvas = 6: 7" in said.out
    assert "test: 1 rows cannot be written: unknown character 'x'" in said.out
    assert "test: 1 of 1 answers need more than model.max_answer = 3: 5" in said.out
    assert "faults in the data, listed above" in said.err


def test_shared_prompts_of_valid_and_test_are_a_fault(tmp_path, capsys):
    path = config(tmp_path, ["12|12|3", "14|1|3", "14|1|2"], ["13|2|1"], ["13|2|1"])
    assert main(["check-data", path]) == 2
    said = capsys.readouterr().out
    assert "fault: valid and test share 1 prompts" in said and "1 prompts occur with different answers" in said
