"""The command line: what it does, and how it refuses. A refusal is one line that starts with `hybrid: `."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from hybrid import cli_help
from hybrid.cli import _parser, main
from hybrid.config import add_fork_path
from hybrid.experiment import _looked_at, is_run, read_experiment
from hybrid.reasoner import Reasoner
from hybrid.records import Example
from hybrid.tasks import JsonLines

ROOT = Path(__file__).parents[1]
CONFIG = """\
task: json_lines
data: {train: FOLDER/rows.jsonl, test: FOLDER/test.jsonl, holdout: 2}
tokenizer: {kind: character, characters: "0123456789+=\\n"}
model: {canvas: 6, max_answer: 4, backbone: {kind: qwen3, width: 16, layers: 1, heads: 2}}
train: {steps: 3, batch_size: 4, warmup: 0, validate_every: 0, checkpoint_every: 1, precision: 32-true}
evaluate: {examples: 4, batch: 4, controls: []}
"""
DRAFTER_KINDS = ("autoregressive", "diffusion", "gold", "internalised", "none", "pause", "shuffled")


def rows(count=12):
    return [{"prompt": f"{a}+{a}\n=", "sketch": f"{a}", "answer": f"{2 * a}"} for a in range(count)]


def write_rows(path, some):
    path.write_text("".join(json.dumps(row) + "\n" for row in some))
    return path


def write_config(folder, some=None):
    """A config in `folder` over train rows `some`, and four test rows."""
    write_rows(folder / "rows.jsonl", some or rows())
    write_rows(folder / "test.jsonl", rows()[:4])
    config = folder / "config.yaml"
    config.write_text(CONFIG.replace("FOLDER", str(folder)))
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config and the folder of its finished run; tests leave both as they are."""
    folder = tmp_path_factory.mktemp("cli")
    config = write_config(folder)
    assert main(["train", str(config), f"run={folder / 'run'}", "--no-progress"]) == 0
    return config, folder / "run"


@pytest.fixture
def run(trained):
    return str(trained[1])


def copy_of(run, folder):
    for file in Path(run).rglob("*"):
        if file.is_file():
            (folder / file.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.relative_to(run)).write_bytes(file.read_bytes())
    return folder


def refused(capsys, *arguments):
    """The one line on stderr with which a command is refused."""
    capsys.readouterr()
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as stop:  # how the argument parser refuses
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2, f"exit code {code}: {err}"
    assert err.startswith("hybrid: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert "Traceback" not in out + err
    return err


def done(capsys, *arguments):
    """What a command prints when it goes well."""
    capsys.readouterr()
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


BAD_CONFIG = {
    "model.canvass=3": ("model.canvass", "3", "canvas"),
    "train.step=3": ("train.step", "3", "steps"),
    "model.drafter=difusion": ("model.drafter.kind", "'difusion'", *DRAFTER_KINDS),
    "model.drafter.policy=confidense": ("model.drafter.policy.kind", "'confidense'", "confidence", "threshold"),
    "task=chian": ("task.kind", "'chian'", "chain", "json_lines"),
    "train.steps=-1": ("train", "steps=-1", "1 or more"),
    "train.steps=many": ("train.steps", "'many'", "int"),
    "model.canvas=0": ("model", "canvas=0", "1 or more"),
    "evaluate.controls=[silver]": ("evaluate", "'silver'", "gold, shuffled, pause"),
    "model.drafter=no_such_module.Drafter": ("model.drafter.kind", "no_such_module", *DRAFTER_KINDS),
    "model.drafter=.module.Drafter": ("model.drafter.kind", "'.module.Drafter'", *DRAFTER_KINDS),
    "train.weight_decay=.nan": ("train", "weight_decay=nan", "finite"),
    "train.timeout=.inf": ("train", "timeout=inf", "finite"),
    "seed=99999999999999999999": ("seed=99999999999999999999", "64 bits"),
    "canvas": ("'canvas'", "key=value"),
}


@pytest.mark.parametrize(("override", "says"), BAD_CONFIG.items(), ids=list(BAD_CONFIG))
def test_bad_overrides_are_refused_by_name(capsys, trained, tmp_path, override, says):
    err = refused(capsys, "train", trained[0], override, f"run={tmp_path / 'run'}", "--no-progress")
    for word in says:
        assert word in err
    assert not (tmp_path / "run").exists()


def test_a_config_that_is_not_there_is_refused(capsys, tmp_path):
    assert "no such config file" in refused(capsys, "train", tmp_path / "none.yaml")
    assert "not a run folder" in refused(capsys, "evaluate", tmp_path)
    assert "not a run folder" in refused(capsys, "sample", tmp_path, "--prompt", "1")


def test_a_wrong_command_line_is_refused_in_one_line(capsys, run):
    assert "invalid choice" in refused(capsys, "trian")
    assert "--steps" in refused(capsys, "sample", run, "--prompt", "1", "--steps", "two")


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_steps_and_policies_that_make_no_sense_are_refused(capsys, run, command):
    prompt = ["--prompt", "1+1"] if command == "sample" else ["--no-progress"]
    policy = "--policy" if command == "sample" else "--policies"
    err = refused(capsys, command, run, *prompt, "--steps", "-1")
    assert "steps=-1" in err and "0 (no sketch) or more" in err
    err = refused(capsys, command, run, *prompt, "--steps", "7")
    assert "steps=7" in err and "Confidence" in err and "at most 6" in err
    err = refused(capsys, command, run, *prompt, policy, "confidense")
    assert "'confidense'" in err and "threshold" in err


def test_zero_steps_and_many_steps_of_a_patient_policy_are_fine(capsys, run):
    result = json.loads(done(capsys, "sample", run, "--prompt", "1+1", "--steps", "0", "--json"))
    assert result["sketch"] == "" and result["spent"]["denoiser_forwards"] == 0
    done(capsys, "sample", run, "--prompt", "1+1", "--steps", "9", "--policy", "ancestral")


def test_prompts_of_another_form_are_answered_with_a_warning(capsys, run, monkeypatch):
    def warned(*prompts: str) -> str:
        assert main(["sample", str(run), "--steps", "0", *(word for p in prompts for word in ("--prompt", p))]) == 0
        out, err = capsys.readouterr()
        assert out.count("answer  ") == len(prompts)
        return err

    trained_on = read_experiment(run).examples("test")[0].prompt
    assert "warning" not in warned(trained_on, "1+1")
    monkeypatch.setattr(JsonLines, "prompt_form", (r"[0-9]+\+[0-9]+\n=", "a+b="))
    assert "warning" not in warned(trained_on)
    assert "prompt '1+1' is not of the form" in warned(trained_on, "1+1")
    assert "prompt '1' and 1 more are not of the form" in warned("1", trained_on, "1+1")


def test_prompts_that_cannot_be_read_are_refused(capsys, run, monkeypatch, tmp_path):
    assert "empty" in refused(capsys, "sample", run, "--prompt", "")
    err = refused(capsys, "sample", run, "--prompt", "1" * 5000)
    assert "prompt of 5000 tokens" in err and "at most" in err
    err = refused(capsys, "sample", run, "--prompt", "1+x")
    assert "'x'" in err and "position 2" in err and "0123456789" in err
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n"))
    assert "no prompts" in refused(capsys, "sample", run)
    assert "none.txt" in refused(capsys, "sample", run, "--file", tmp_path / "none.txt")
    assert "--file" in refused(capsys, "sample", run, "--file", "x", "--prompt", "1")


def test_prompts_of_a_file_are_read_as_data_are(capsys, run, tmp_path, monkeypatch):
    """With a byte order mark, or not as UTF-8, which names the file; a closed standard input is said."""
    marked, latin = tmp_path / "marked.txt", tmp_path / "latin.txt"
    marked.write_bytes(b"\xef\xbb\xbf1+1\r\n2+2\r\n")
    latin.write_bytes(b"1+1\xe9\n")
    assert done(capsys, "sample", run, "--file", marked, "--steps", "1").count("prompt") == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeff1+1\n"))
    assert done(capsys, "sample", run, "--steps", "1").count("prompt") == 1
    assert f"{latin}: not readable as text" in refused(capsys, "sample", run, "--file", latin)
    monkeypatch.setattr("sys.stdin", None)
    assert "standard input is closed" in refused(capsys, "sample", run)


def test_a_sketch_longer_than_the_canvas_is_refused_and_a_longer_canvas_then_works(capsys, tmp_path):
    config = write_config(tmp_path, [*rows(), *({**row, "sketch": "1234567"} for row in rows(20))])
    arguments = ["train", config, f"run={tmp_path / 'run'}", "--no-progress"]
    err = refused(capsys, *arguments)
    assert "split train" in err and "sketch of 7 tokens" in err and "canvas = 6" in err and "8 would fit" in err
    assert not (tmp_path / "run" / "checkpoints").exists(), "refused before training, not in the midst of it"
    done(capsys, *arguments, "model.canvas=8")


@pytest.mark.parametrize("field", ["prompt", "sketch", "answer"])
def test_a_row_without_a_field_is_named_by_file_line_and_field(capsys, tmp_path, field):
    some = rows()
    del some[2][field]
    config = write_config(tmp_path, some)
    err = refused(capsys, "train", config, f"run={tmp_path / 'run'}", "--no-progress")
    assert "rows.jsonl, line 3" in err and repr(field) in err and "missing" in err


def test_missing_data_are_named_with_their_key(capsys, trained, tmp_path):
    err = refused(capsys, "train", trained[0], "data.train=none.jsonl", f"run={tmp_path / 'run'}", "--no-progress")
    assert "data.train = none.jsonl" in err and "no such file" in err


def test_a_checkpoint_of_another_config_is_refused(capsys, trained, run):
    err = refused(capsys, "evaluate", run, "model.backbone.width=32", "--no-progress")
    assert "model.safetensors is from another config" in err and "embed_tokens" in err
    err = refused(capsys, "evaluate", run, "model.backbone.layers=2", "--no-progress")
    assert "it lacks" in err and "layers.1" in err
    err = refused(capsys, "train", trained[0], f"run={run}", "train.learning_rate=1", "--no-progress")
    assert "another config" in err and "train.learning_rate: 0.002 there, 1.0 now" in err and "run=DIR" in err


def test_a_run_begun_before_a_key_existed_goes_on_at_its_default(capsys, trained, run, tmp_path):
    folder = copy_of(run, tmp_path / "copy")
    config = (folder / "config.yaml").read_text()
    assert "  clip: 1.0\n" in config
    (folder / "config.yaml").write_text(config.replace("  clip: 1.0\n", ""))
    assert main(["train", str(trained[0]), f"run={folder}", "--no-progress"]) == 0
    assert (folder / "config.yaml").read_text() == config.replace(str(run), str(folder))
    (folder / "config.yaml").write_text(config.replace("  clip: 1.0\n", "  gone: 3\n"))
    err = refused(capsys, "train", trained[0], f"run={folder}", "train.clip=2", "--no-progress")
    assert "another config" in err and "train.gone: 3 there, (absent) now" in err and "2.0 now" in err


def test_a_file_where_a_folder_should_be_is_refused(capsys, trained, run, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for place in (file, file / "inside"):
        err = refused(capsys, "train", trained[0], f"run={place}", "--no-progress")
        assert f"run={place}" in err and "folder" in err
    assert str(file) in refused(capsys, "evaluate", run, "--out", file, "--no-progress", "--steps", "0")
    assert file.read_text() == "mine"


def test_answers_are_kept_where_a_call_is_interrupted(capsys, run, tmp_path, monkeypatch):
    """In a file that says that it is not whole; a call that goes well leaves none."""
    prompts, out, calls = tmp_path / "p.txt", tmp_path / "a.txt", []
    prompts.write_text("1+1\n2+2\n3+3\n")
    line = ["sample", run, "--file", prompts, "--batch", "1", "--steps", "1", "--out", out]
    reason = Reasoner.reason

    def once(self, *given, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return reason(self, *given, **options)

    monkeypatch.setattr(Reasoner, "reason", once)
    assert main([str(a) for a in line]) == 130
    partial = tmp_path / "a.txt.partial"
    assert str(partial) in capsys.readouterr().err
    assert partial.read_text().count("prompt") == 1 and not out.exists()
    done(capsys, *line)
    assert out.read_text().count("prompt") == 3 and not partial.exists()


def test_data_that_cannot_be_evaluated_is_said_before_training(capsys, tmp_path):
    config = write_config(tmp_path)
    write_rows(tmp_path / "test.jsonl", [*rows()[:3], {"prompt": "9\u22129\n=", "sketch": "0", "answer": "0"}])
    assert main(["train", str(config), f"run={tmp_path / 'run'}", "--no-progress"]) == 0
    err = capsys.readouterr().err
    assert "warning" in err and "not evaluated: data, split test: unknown character '\u2212'" in err


def test_no_row_of_a_file_holds_an_unknown_character(capsys, tmp_path):
    """However late it comes: the tokenizer has read all of them."""
    late = [*rows(), *({"prompt": f"{i}=", "sketch": "", "answer": "0"} for i in range(20_000))]
    config = write_config(tmp_path, [*late, {"prompt": "\u00e9=", "sketch": "", "answer": "0"}])
    assert "\u00e9" in read_experiment(config, ["tokenizer={kind: character}"]).make_tokenizer().names.values()


def test_rows_that_are_made_as_they_are_read_are_not_all_looked_at():
    """A file's are; those that a task makes out of them may be millions."""
    some = [Example(i, "1=", "", "1") for i in range(30_000)]
    made = type("Made", (), {"__len__": lambda _: 9_000_000})()
    assert _looked_at(some, len(some)) == 30_000 and _looked_at(made, len(made)) == 20_000


def test_a_run_goes_on_with_the_rows_that_it_was_begun_with(capsys, tmp_path):
    config, run = write_config(tmp_path), tmp_path / "run"
    train = ("train", config, f"run={run}", "--no-progress")
    done(capsys, *train)
    (run / "trained.json").unlink()  # as of a run that was stopped
    write_rows(tmp_path / "rows.jsonl", rows(20))
    assert refused(capsys, *train).startswith(f"hybrid: data.train: not what {run} was begun with")
    write_rows(tmp_path / "rows.jsonl", rows())
    done(capsys, *train)
    (run / "trained.json").unlink()
    (run / "data.json").unlink()  # a run of before it was kept
    write_rows(tmp_path / "rows.jsonl", rows(20))
    done(capsys, *train)


def test_weights_that_are_gone_come_back_from_the_checkpoint(capsys, trained, tmp_path):
    config, run = trained
    folder = copy_of(run, tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    done(capsys, "train", config, f"run={folder}", "--no-progress")
    assert (folder / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_options_that_do_nothing_are_said(capsys, tmp_path):
    config, run = write_config(tmp_path), tmp_path / "run"
    done(capsys, "train", config, f"run={run}", "model.drafter=none", "model.feed=none", "--no-progress")
    assert main(["evaluate", str(run), "--steps", "1", "--drafts", "5", "--controls", "gold", "--no-progress"]) == 0
    assert "warning: --controls, --drafts, --steps: of diffusion drafters alone" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "trained.json", "config.yaml"])
def test_damaged_files_of_a_run_are_refused_by_name(capsys, run, tmp_path, name):
    folder = copy_of(run, tmp_path / "copy")
    (folder / name).write_bytes((folder / name).read_bytes()[:-20] + b"\x00{")
    assert name in refused(capsys, "sample", folder, "--prompt", "1+1")
    for content in ("[1]", "3", "{}") if name == "trained.json" else ():
        (folder / name).write_text(content)
        assert f"{name} is damaged" in refused(capsys, "sample", folder, "--prompt", "1+1")


class Bomb:
    """Pickled, it creates a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("content", ["bomb", "junk"])
def test_loading_a_checkpoint_executes_nothing(capsys, trained, tmp_path, content):
    folder, hole = copy_of(trained[1], tmp_path / "copy"), tmp_path / "exploded"
    checkpoint = folder / "checkpoints" / "last.ckpt"
    (folder / "checkpoints" / "before.ckpt").unlink()
    if content == "bomb":
        torch.save({"state_dict": {}, "callbacks": Bomb(hole)}, checkpoint)
    else:
        checkpoint.write_bytes(b"junk")
    before = (folder / "model.safetensors").read_bytes()
    err = refused(capsys, "train", trained[0], f"run={folder}", "--no-progress")
    assert str(checkpoint) in err and "checkpoint" in err
    assert not hole.exists() and checkpoint.is_file()
    assert (folder / "model.safetensors").read_bytes() == before
    done(capsys, "sample", folder, "--prompt", "1+1")  # reads the weights only
    assert not hole.exists()


def test_ctrl_c_saves_the_run_and_the_same_command_finishes_it(capsys, tmp_path):
    """A real SIGINT, sent once the first checkpoint is there."""
    config, folder = write_config(tmp_path), tmp_path / "run"
    checkpoint = folder / "checkpoints" / "last.ckpt"
    arguments = ["train", str(config), f"run={folder}", "train.steps=100000", "--no-progress"]

    def interrupt():
        until = time.monotonic() + 60
        while not checkpoint.is_file() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert main(arguments) == 130
    finally:
        thread.join()
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    (line,) = err.strip().split("\n")
    assert line.startswith("hybrid: stopped at step ") and str(checkpoint) in line and "same command" in line
    stopped = int(line.split()[4].rstrip(";"))
    saved = json.loads((folder / "trained.json").read_text())
    assert saved["steps"] == stopped == torch.load(checkpoint, weights_only=True)["global_step"] > 0
    done(capsys, "sample", folder, "--prompt", "1+1")

    # The config of the stopped run, cut short so that the test ends: a run may be edited where it lies.
    kept = folder / "config.yaml"
    kept.write_text(kept.read_text().replace("steps: 100000", f"steps: {stopped + 2}"))
    arguments[3] = f"train.steps={stopped + 2}"
    assert "trained: " in done(capsys, *arguments)
    assert json.loads((folder / "trained.json").read_text())["steps"] == stopped + 2


def test_sample_reads_arguments_files_standard_input_and_paragraphs(capsys, run, tmp_path, monkeypatch):
    def prompts_of(*arguments):
        out = done(capsys, "sample", run, "--json", "--steps", "2", *arguments)
        return [json.loads(line)["prompt"] for line in out.splitlines()]

    assert prompts_of("--prompt", "1+1", "--prompt", r"2+2\n=") == ["1+1", "2+2\n="]
    file = tmp_path / "prompts.txt"
    file.write_text("1+1\n=\n\n2+2\n=\n")
    assert prompts_of("--file", file) == ["1+1", "=", "2+2", "="]
    assert prompts_of("--file", file, "--paragraphs") == ["1+1\n=", "2+2\n="]
    for arguments in ((), ("--file", "-")):
        monkeypatch.setattr("sys.stdin", io.StringIO("3+3\r\n4+4"))
        assert prompts_of(*arguments) == ["3+3", "4+4"]


def test_sample_prints_sketch_answer_and_what_was_spent(capsys, run):
    text = done(capsys, "sample", run, "--prompt", "1+1", "--steps", "2", "--policy", "threshold", "--threshold", "0.5")
    for word in ("prompt  1+1", "sketch  ", "answer  ", "spent   ", "denoiser", "decoder forwards"):
        assert word in text
    result = json.loads(done(capsys, "sample", run, "--prompt", "1+1", "--steps", "2", "--json"))
    assert result["allowed"] == {"steps": 2, "tokens": 6, "max_answer": 4} and result["spent"]["denoiser_forwards"] <= 2
    draws = [done(capsys, "sample", run, "--prompt", "1+1", "--temperature", "1", "--seed", "3") for _ in range(2)]
    assert draws[0].split("spent")[0] == draws[1].split("spent")[0]
    assert "temperature" in refused(capsys, "sample", run, "--prompt", "1+1", "--temperature", "-1")
    assert "threshold" in refused(capsys, "sample", run, "--prompt", "1+1", "--threshold", "2")
    policy = "{kind: threshold, threshold: %s}"
    assert "spent" in done(capsys, "sample", run, "--prompt", "1+1", "--policy", policy % 0.5)
    assert "threshold" in refused(capsys, "sample", run, "--prompt", "1+1", "--policy", policy % 2)


def test_a_draft_is_seen_traced_and_reported(capsys, run, tmp_path):
    """Live to a pipe, a trace file, its page alone, and its page beside the frontier's."""
    film, both = tmp_path / "films" / "trace.json", tmp_path / "both"
    arguments = ("sample", run, "--prompt", r"1+1\n=", "--steps", "2", "--live", "--trace", film)
    text = done(capsys, *arguments)
    assert "\x1b" not in text and text.index("step 2 ") < text.index("\n1   final") < text.index("\nanswer  ")
    (trace,) = json.loads(film.read_text())["traces"]
    assert [state["step"] for state in trace["states"]] == [0, 1, 2] and trace["prompt"] == "1+1\n="
    assert str(tmp_path / "page" / "trace.html") in done(capsys, "report", film, "--out", tmp_path / "page")
    assert [file.name for file in (tmp_path / "page").iterdir()] == ["trace.html"]

    done(capsys, "evaluate", run, "--steps", "0", "--controls", "", "--out", tmp_path / "a", "--no-progress")
    done(capsys, "report", tmp_path / "a", film, "--out", both)
    assert 'href="frontier.html"' in (both / "trace.html").read_text()
    assert 'href="trace.html"' in (both / "frontier.html").read_text()

    assert "--live" in refused(capsys, *arguments, "--json")
    assert "delay=-1.0" in refused(capsys, *arguments, "--delay", "-1")
    assert "is for --live" in refused(capsys, "sample", run, "--prompt", "1", "--delay", "1")
    film.write_text(film.read_text()[:-9])
    assert f"{film}: expected the JSON of a trace, whole" in refused(capsys, "report", film, "--out", both)


def test_show_prints_the_config_its_sizes_and_the_other_kinds(capsys, trained):
    for place in trained:
        text = done(capsys, "show", place)
        for word in ("canvas: 6", "kind: qwen3", "method: hybrid", "shared trunk", "model.drafter.policy"):
            assert word in text
        assert all(kind in text for kind in DRAFTER_KINDS)
        assert len(re.findall(r"^  (?:prompt|sketch|answer) +\S.*$", text, re.M)) == 3
    assert "direct" in done(capsys, "show", trained[0], "model.drafter=none")
    text = done(capsys, "show", trained[0], "model.pairing=separate")
    assert "drafter  " in text and "decoder  " in text
    assert "unknown key" in refused(capsys, "show", trained[0], "modle.canvas=1")


def test_a_run_is_shown_without_its_data(capsys, trained, tmp_path):
    moved = shutil.copytree(trained[1], tmp_path / "moved")
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace("valid: null", f"valid: {tmp_path / 'gone.jsonl'}"))
    assert f"example: data.valid = {tmp_path / 'gone.jsonl'}" in done(capsys, "show", moved)


def test_what_is_no_file_or_not_there_yet_is_said(capsys, trained, tmp_path):
    (tmp_path / "empty.yaml").touch()
    assert "empty.yaml: holds no" in refused(capsys, "show", tmp_path / "empty.yaml")
    (tmp_path / "run").mkdir()
    assert "`hybrid evaluate` of a run writes it" in refused(capsys, "report", tmp_path / "run", "--out", tmp_path)
    for option in ("--trace", "--out"):
        said = refused(capsys, "sample", trained[1], "--prompt", "1+2=", option, tmp_path)
        assert f"{option} {tmp_path}: is a folder" in said


def test_evaluate_writes_a_frontier_and_report_merges_them(capsys, run, tmp_path):
    first, second, both = tmp_path / "a", tmp_path / "b", tmp_path / "both"
    text = done(capsys, "evaluate", run, "--steps", "0,2", "--controls", "gold", "--out", first, "--no-progress")
    assert "accuracy" in text and str(first / "frontier.html") in text
    done(capsys, "evaluate", run, "--steps", "4", "--policies", "threshold,entropy", "--controls", "",
         "--examples", "2", "--batch", "1", "--out", second, "--no-progress", "seed=7")  # fmt: skip
    done(capsys, "report", first, second / "frontier.json", "--out", both)
    found = json.loads((both / "frontier.json").read_text())
    assert found["schema"] == 1
    assert [(r["method"], r["policy"], r["steps"]) for r in found["rows"]] == [
        ("hybrid", None, 0), ("hybrid", "confidence", 2), ("gold", None, None),
        ("hybrid", "threshold", 4), ("hybrid", "entropy", 4),
    ]  # fmt: skip
    for suffix in ("csv", "png", "html"):
        assert (both / f"frontier.{suffix}").stat().st_size > 0
    assert "none" in refused(capsys, "report", tmp_path / "none", "--out", both)


def test_a_run_is_evaluated_on_another_file_of_the_tasks_format(capsys, run, tmp_path):
    other = write_rows(tmp_path / "other.jsonl", rows(30)[20:])
    done(capsys, "evaluate", run, f"data.test={other}", "--steps", "1", "--out", tmp_path, "--no-progress")
    found = json.loads((tmp_path / "frontier.json").read_text())
    assert {row["examples"] for row in found["rows"]} == {4}  # evaluate.examples


def test_training_again_changes_nothing_and_a_run_folder_is_a_config(capsys, trained, tmp_path):
    config, folder = trained
    assert is_run(folder) and read_experiment(folder).model == read_experiment(config).model
    before = (folder / "model.safetensors").read_bytes()
    assert "trained: " in done(capsys, "train", folder, "--no-progress")
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_run_folder_that_was_moved_goes_on_where_it_lies(capsys, run, tmp_path, monkeypatch):
    """Its config still names the folder that it was begun in; an override says otherwise."""
    moved = copy_of(run, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert f"trained: {moved}\n" in done(capsys, "train", moved, "--no-progress")
    assert "trained: moved\n" in done(capsys, "train", "moved", "--no-progress")
    assert "trained: other\n" in done(capsys, "train", moved, "run=other", "--no-progress")


def test_a_run_at_its_end_needs_no_checkpoints(capsys, run, tmp_path):
    """As shipped weights have none: trained again, they would be written over from step 0."""
    folder = copy_of(run, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    (folder / "model.safetensors").write_bytes(b"mine")
    assert "trained: " in done(capsys, "train", folder, "--no-progress")
    assert (folder / "model.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("option", ["--out", "--trace"])
def test_a_pipe_is_written_and_never_replaced(run, tmp_path, option):
    """As /dev/null is, which root could replace by a file of that name."""
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    assert main(["sample", run, "--prompt", "1+1", "--steps", "1", option, str(pipe)]) == 0
    reader.join(10)
    assert pipe.is_fifo() and "1+1" in read[0] and [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_what_a_terminal_cannot_show_is_escaped(run, monkeypatch):
    written = io.BytesIO()
    terminal = io.TextIOWrapper(written, encoding="ascii", write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        assert main(["sample", run, "--prompt", "1+1", "--steps", "1", "--live"]) == 0
    assert b"\\u2591" in written.getvalue()


def test_weights_may_be_read_by_whom_the_other_files_may(capsys, run, tmp_path, monkeypatch):
    assert {path.stat().st_mode for path in Path(run).glob("*.*") if path.name != ".lock"} == {
        (Path(run) / "config.yaml").stat().st_mode
    }
    folder = copy_of(run, tmp_path / "run")
    (folder / "model.safetensors").chmod(0)
    if os.getuid():  # root may read it
        said = refused(capsys, "sample", folder, "--prompt", "1+1")
        assert "model.safetensors: Permission denied" in said


def test_what_was_measured_is_shown_where_it_cannot_be_written(capsys, run, tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    line = ["evaluate", run, "--steps", "0", "--out", str(tmp_path), "--no-progress"]
    with monkeypatch.context() as patch:
        patch.setattr("hybrid.report.write", full)
        assert main(line) == 2
    said = capsys.readouterr()
    assert "accuracy" in said.out and "No space left" in said.err
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr("hybrid.evaluate.evaluate", None)  # not asked
    assert f"{tmp_path}: this folder cannot be written" in refused(capsys, *line)


def test_a_report_does_not_write_over_what_it_merges(capsys, run, tmp_path):
    for name in ("a", "b"):
        done(capsys, "evaluate", run, "--steps", "0", "--out", tmp_path / name, "--no-progress")
    before = (tmp_path / "a" / "frontier.json").read_bytes()
    said = refused(capsys, "report", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "a")
    assert f"--out {tmp_path / 'a'}: " in said and (tmp_path / "a" / "frontier.json").read_bytes() == before
    done(capsys, "report", tmp_path / "a", "--out", tmp_path / "a")  # its page made anew


def test_a_reader_that_is_gone_is_no_error(run):
    """Nor is it one where all that was printed waits in a buffer for the end."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "hybrid.cli", "sample", run, "--prompt", "1+1", "--steps", "0"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_worker_says_is_said_without_its_traceback(capsys, monkeypatch, run):
    def torn(*given, **options):
        raise ValueError("Caught ValueError in DataLoader worker process 0.\nTraceback:\nValueError: row 3: torn\n")

    monkeypatch.setattr("hybrid.sample.answers", torn)
    assert refused(capsys, "sample", run, "--prompt", "1+1") == "hybrid: row 3: torn\n"
    monkeypatch.setattr("hybrid.sample.answers", lambda *given, **options: _raise(KeyboardInterrupt()))
    assert main(["sample", run, "--prompt", "1+1"]) == 130
    assert capsys.readouterr().err == "\nhybrid: stopped\n"


def _raise(error):
    raise error


def test_no_command_prints_the_help(capsys):
    assert main([]) == 2
    assert "hybrid train" in capsys.readouterr().out


HELP = [line.partition(" #")[0] for text in (cli_help.ALL, *cli_help.OF.values()) for line in text.splitlines()]


@pytest.mark.parametrize("line", [line.strip() for line in HELP if "hybrid " in line and line.startswith("  ")])
def test_the_lines_that_help_shows_are_command_lines_that_work(line):
    """They parse, the files that they name are there, and their overrides make a config."""
    if line.endswith("COMMAND --help"):
        return
    words = shlex.split(line.rpartition("| ")[2])[1:]
    options, rest = _parser().parse_known_args(words)
    assert not [word for word in rest if "=" not in word]
    assert "examples:" in cli_help.OF[words[0]]
    for word in (word for word in words if word.startswith(("configs/", "experiments/", "docs/"))):
        assert (ROOT / word).exists(), word
    named = getattr(options, "config", None) or getattr(options, "run", None)
    if named and (ROOT / named).exists() and words[0] != "sweep":
        overrides = [*getattr(options, "overrides", []), *rest]
        add_fork_path(ROOT / named)
        read_experiment(ROOT / named, overrides)
