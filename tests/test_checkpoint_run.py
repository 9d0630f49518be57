"""From a checkpoint and a file of rows to an exported pipeline, by the command line alone."""

import json
import os
import signal

import pytest
import torch
import yaml
from checkpoints import save
from test_interrupt import assert_same, at_step, state_of

from hybrid.cli import main


@pytest.mark.parametrize("lora", [False, True])
def test_train_evaluate_sample_and_export(lora, tmp_path, capsys):
    if lora:
        pytest.importorskip("peft")
    folder = save(tmp_path / "checkpoint", "gemma3")
    rows = [
        {"question": f"{a}+{b}", "work": f"{a}+{b}={a + b}", "label": str(a + b)} for a in range(4) for b in range(3)
    ]
    for name, part in (("train", rows[:8]), ("valid", rows[8:10]), ("test", rows[10:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    pretrained = {"kind": "pretrained", "name": folder}
    config = {
        "task": {"kind": "rows", "prompt": "{question}", "sketch": "{work}", "answer": "{label}", "check": "number"},
        "data": {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "valid", "test")},
        "tokenizer": {"kind": "pretrained", "chat": True},
        "model": {
            "canvas": 8, "max_answer": 4, "drafter": {"kind": "diffusion", "anneal": 2},
            "backbone": {"kind": "lora", "rank": 2, "of": pretrained} if lora else pretrained,
        },
        "train": {"steps": 3, "batch_size": 4, "validate_every": 2, "validate_examples": 2, "accelerator": "cpu",
                  "checkpoint_every": 2, "warmup": 1},
    }  # fmt: skip
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    own, run, out = str(tmp_path / "own.yaml"), str(tmp_path / "run"), str(tmp_path / "out")
    assert main(["check-data", own]) == 0
    assert "<|im_start|>" in capsys.readouterr().out  # rows are shown in the template
    assert main(["train", own, f"run={run}"]) == 0
    said = capsys.readouterr().out
    trained, whole = (int(x.replace(",", "")) for x in said.split("shared trunk")[1].split()[1::-1])
    assert trained < whole if lora else trained == whole
    (tmp_path / "checkpoint").rename(tmp_path / "gone")  # the run stands alone
    assert main(["evaluate", run, "--steps", "0,2", "--no-progress"]) == 0
    capsys.readouterr()
    assert main(["sample", run, "--prompt", "1+1", "--steps", "2", "--json"]) == 0
    sampled = json.loads(capsys.readouterr().out)
    assert main(["export", run, out]) == 0
    from hybrid.hub.pipeline import HybridReasoningPipeline

    result = HybridReasoningPipeline.from_pretrained(out)(["1+1"], num_inference_steps=2)
    assert result.results[0].sketch_tokens == sampled["sketch_tokens"]
    assert result.results[0].answer_tokens == sampled["answer_tokens"]
    assert "Split `test` of rows" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stopped_run_goes_on_without_its_checkpoint(dtype, tmp_path, monkeypatch):
    """To the very bits of a run in one go: weights of a checkpoint with dropout, in its precision, optimiser, curve."""
    folder = save(tmp_path / "checkpoint", "gpt2")
    assert json.loads((tmp_path / "checkpoint" / "config.json").read_text())["resid_pdrop"] == 0.1
    command = [
        "task=chain", "tokenizer=pretrained", "model.backbone.kind=pretrained", f"model.backbone.name={folder}",
        f"model.backbone.dtype={dtype}", "model.canvas=10", "model.max_answer=4", "train.steps=4", "train.batch_size=4",
        "train.validate_every=0", "train.log_every=1", "train.accelerator=cpu", "train.precision=32-true",
    ]  # fmt: skip
    empty = tmp_path / "empty.yaml"
    empty.write_text("{}")
    command = ["train", str(empty), *command, "--no-progress"]
    assert main([*command, f"run={tmp_path / 'whole'}"]) == 0
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert main([*command, f"run={tmp_path / 'run'}"]) == 143
    (tmp_path / "checkpoint").rename(tmp_path / "gone")
    assert main([*command, f"run={tmp_path / 'run'}"]) == 0
    assert_same(state_of(tmp_path / "run"), state_of(tmp_path / "whole"))
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {str(t.dtype) for t in kept.values()} == {f"torch.{dtype}"}
