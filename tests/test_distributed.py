"""The same numbers everywhere: any number of ranks, any split of a step, both strategies; and no rank left waiting."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import command, run_ranks
from test_cli import rows, write_config
from test_interrupt import assert_same, at_step, state_of

from hybrid.cli import main
from hybrid.experiment import read_experiment
from hybrid.shard import own_device
from hybrid.train.module import HybridReasoner
from hybrid.train.run import train

COMMON = ("train.steps=6", "train.batch_size=8", "train.validate_every=3", "train.validate_examples=40",
          "data.holdout=40", "train.log_every=1", "train.checkpoint_every=2", "--no-progress")  # fmt: skip
# Sums of float32 in another order differ by its rounding, 6e-8 relative; six steps of Adam carry that on. What is
# compared are losses of a few nats in single precision.
TOLERANCE = 5e-6
MUON = ("train.optimiser=muon",)
# Rows end in different blocks, so that their drafts take different numbers of steps; the bridge has weights of its own.
PARTS = ("model.drafter.attention_block=2", "model.drafter.self_condition=0.5", "model.bridge=latent")
TOLERANCE_OF_MUON = 1e-3  # which orthogonalises in bf16


def split(world, accumulate=1, strategy="ddp"):
    return (f"train.devices={world}", f"train.accumulate={accumulate}", f"train.strategy={strategy}")


def curve(state):
    """Figures of the learning curve by step and name."""
    return {(row["step"], k): float(v) for row in state["curve"] for k, v in row.items() if v and k != "step"}


def assert_close(a, b, within=TOLERANCE):
    a, b = curve(a), curve(b)
    assert a.keys() == b.keys() and len(a) > 30
    for key in a:
        # Each micro-batch is padded to its own longest prompt, and positions count what is sent, padding included.
        tolerance = 0.1 if key[1].endswith("positions") else within
        assert a[key] == pytest.approx(b[key], rel=tolerance, abs=tolerance), key


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a config whose valid split fills two batches, and its run in one process."""
    folder = tmp_path_factory.mktemp("ranks")
    config = write_config(folder, rows(60))
    assert main(["train", str(config), f"run={folder / '1x1'}", *COMMON]) == 0
    assert main(["train", str(config), f"run={folder / '1x2'}", *COMMON, *split(1, 2)]) == 0
    assert main(["train", str(config), f"run={folder / '1x1-muon'}", *COMMON, *MUON]) == 0
    assert main(["train", str(config), f"run={folder / '1x1-parts'}", *COMMON, *PARTS]) == 0
    return folder


def lines(home):
    """What two ranks do in one go: train twice, evaluate, sample."""
    config, run = home / "config.yaml", home / "1x1"
    (home / "prompts.txt").write_text("".join(f"{a}+{a % 7}\n" for a in range(21)) + "1+1\n1+1\n")
    return [
        ["train", config, f"run={home / '2x1'}", *COMMON, *split(2)],
        ["train", config, f"run={home / 'fsdp2'}", *COMMON, *split(2, 1, "fsdp2"),
         "train.activation_checkpointing=true"],
        ["evaluate", run, "--steps", "0,3", "--controls", "shuffled", "--examples", "4", "--batch", "3", "--out",
         home / "frontier-2", "--no-progress"],
        ["sample", run, "--file", home / "prompts.txt", "--batch", "4", "--temperature", "1", "--json", "--out",
         home / "sample-2.jsonl"],
        ["train", config, f"run={home / 'fsdp2-muon'}", *COMMON, *split(2, 1, "fsdp2"), *MUON],
        ["train", config, f"run={home / 'fsdp2-parts'}", *COMMON, *split(2, 1, "fsdp2"), *PARTS],
        ["train", config, f"run={home / '2x1-parts'}", *COMMON, *split(2), *PARTS],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def two(home):
    """Two ranks have done all of `lines`."""
    codes, errors = run_ranks(2, command, *lines(home), folder=home)
    assert codes == [0, 0], errors
    return home


def test_two_ranks_give_the_numbers_of_one(two):
    """Equal bit by bit where the same micro-batches are summed in the same order, and to rounding elsewhere."""
    one, halves = state_of(two / "1x1"), state_of(two / "1x2")
    assert_same(state_of(two / "2x1"), halves)
    assert_close(state_of(two / "2x1"), one)


def test_a_sharded_network_gives_the_numbers_of_one(two):
    """FSDP2, with activations recomputed: the curve, the weights, and what the weights answer in validation."""
    assert_close(state_of(two / "fsdp2-muon"), state_of(two / "1x1-muon"), TOLERANCE_OF_MUON)
    for name in ("fsdp2-parts", "2x1-parts"):
        assert_close(state_of(two / name), state_of(two / "1x1-parts"))
    one, sharded = state_of(two / "1x1"), state_of(two / "fsdp2")
    assert_close(sharded, one)
    tensors = [s["state_dict"] for s in (one, sharded)]
    for name in tensors[0]:
        assert torch.allclose(tensors[0][name], tensors[1][name], atol=1e-4), name


def test_a_run_of_one_strategy_and_size_goes_on_as_another(two, tmp_path):
    """From the sharded run's checkpoint, two more steps in one process: a whole checkpoint fits all."""
    experiment = read_experiment(two / "fsdp2", ["train.steps=8", "train.devices=1", "train.strategy=ddp"])
    for file in ("checkpoints/last.ckpt", "tokenizer.json"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes((two / "fsdp2" / file).read_bytes())
    train(experiment, tmp_path, progress=False)
    assert json.loads((tmp_path / "trained.json").read_text())["steps"] == 8


def test_sharded_evaluation_counts_every_example_once(two):
    """Two ranks share three batches of 4 examples; all that is counted equals one process's, seconds aside."""
    assert main(["evaluate", str(two / "1x1"), *lines(two)[2][2:-2], str(two / "frontier-1"), "--no-progress"]) == 0
    found = [json.loads((two / f"frontier-{n}" / "frontier.json").read_text())["rows"] for n in (1, 2)]
    for row in (*found[0], *found[1]):
        for name in ("seconds_per_example", "draft_seconds", "answer_seconds"):
            row.pop(name)
    assert found[0] == found[1] and {row["examples"] for row in found[0]} == {4}


@pytest.mark.parametrize("batch", ["4", "1", "64"])
def test_sharded_sampling_answers_every_prompt_once_and_in_order(two, batch):
    """The same sketches and answers from two ranks and one, in batches of 4, of 1 and of all."""
    *rest, out = lines(two)[3]
    rest[rest.index("--batch") + 1] = batch
    assert main([str(part) for part in (*rest, two / f"sample-1-{batch}.jsonl")]) == 0
    texts = [(two / name).read_text().splitlines() for name in (f"sample-1-{batch}.jsonl", "sample-2.jsonl")]
    found = [[{k: row[k] for k in ("prompt", "sketch", "answer")} for row in map(json.loads, text)] for text in texts]
    assert found[0] == found[1]
    assert [row["prompt"] for row in found[0]] == (two / "prompts.txt").read_text().splitlines()
    assert not list(two.glob(".sample*"))


def stopped_and_spoiled(rank, stop, spoil):
    """A signal reaches rank 1 alone, and the run goes on; then, in another run, its loss alone is not finite."""
    patch = pytest.MonkeyPatch()
    at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM) if rank == 1 else None)
    environment = dict(os.environ)
    status = main(stop)
    patch.undo()
    os.environ.update(environment)
    if status != 143 or command(rank, stop) != 0:
        return 71
    os.environ.update(environment)
    inner = HybridReasoner.training_step

    def training_step(self, part, batch_idx):
        if rank == 1 and self.global_step == 2:
            with torch.no_grad():
                self.reasoner.networks.decoder.model.get_input_embeddings().weight[self.reasoner.special.answer] = (
                    torch.nan
                )
        return inner(self, part, batch_idx)

    patch.setattr(HybridReasoner, "training_step", training_step)
    return main(spoil)


def test_what_happens_to_one_rank_ends_all_at_the_same_step(two):
    arguments = [["train", str(two / "config.yaml"), f"run={two / name}", *COMMON, *split(2)] for name in ("t", "nan")]
    codes, errors = run_ranks(2, stopped_and_spoiled, *arguments, folder=two)
    assert codes == [2, 2], errors
    assert_same(state_of(two / "t"), state_of(two / "2x1"))
    assert "stopped at step 4; saved in" in errors[0] and "stopped" not in errors[1]
    said = [re.findall("hybrid: step 2: .*the answer term of .*", error) for error in errors]
    assert len(said[0]) == 1 and not said[1]
    kept = torch.load(two / "nan" / "bad_step.pt", weights_only=True)
    keys = [set(part["keys"].tolist()) for part in kept["parts"]]
    named = int(re.search(r"keys (\d+)", said[0][0])[1])
    assert named in keys[1] and named not in keys[0]


def lonely(rank, arguments, number=signal.SIGKILL):
    """Rank 1 is killed, or stands still, in the middle of a step; rank 0 is left."""
    patch = pytest.MonkeyPatch()
    at_step(patch, 3, lambda: os.kill(os.getpid(), number) if rank == 1 else None)
    return main(arguments)


def test_a_rank_that_dies_leaves_no_other_waiting(two):
    arguments = ["train", str(two / "config.yaml"), f"run={two / 'dead'}", *COMMON, *split(2), "train.timeout=20"]
    codes, errors = run_ranks(2, lonely, arguments, folder=two, timeout=60)
    assert codes == [2, -signal.SIGKILL]
    (line,) = [line for line in errors[0].splitlines() if line.startswith("hybrid: ")]
    assert "rank 0 lost another rank" in line and "train.timeout=20" in line
    assert torch.load(two / "dead" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.slow
def test_a_rank_that_stands_still_is_waited_for_as_long_as_the_time_out(two):
    arguments = ["train", str(two / "config.yaml"), f"run={two / 'still'}", *COMMON, *split(2), "train.timeout=5"]
    began = time.monotonic()
    codes, errors = run_ranks(2, lonely, arguments, signal.SIGSTOP, folder=two, timeout=40)
    assert codes == [2, -signal.SIGKILL] and time.monotonic() - began > 40  # the one that stands still is killed here
    (line,) = [line for line in errors[0].splitlines() if line.startswith("hybrid: ")]
    assert "waited for it longer than train.timeout=5 s" in line


@pytest.mark.slow
def test_four_ranks_give_the_numbers_of_one_for_any_split_of_a_step(two):
    one = state_of(two / "1x1")
    for world, accumulate, strategy in ((4, 1, "ddp"), (2, 2, "ddp"), (4, 2, "ddp"), (4, 2, "fsdp2")):
        run = two / f"{world}x{accumulate}-{strategy}"
        line = ["train", two / "config.yaml", f"run={run}", *COMMON, *split(world, accumulate, strategy)]
        codes, errors = run_ranks(world, command, line, folder=two)
        assert not any(codes), errors
        assert_close(state_of(run), one)


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["killed", "asked to stop"])
def test_the_launcher_ends_all_ranks_and_names_the_one_that_died(two, fate):
    """The command line starts two ranks itself. SIGKILL to one of them ends the command with a line that names it;
    SIGTERM to the command saves, and ends it with status 143.
    """
    run = two / f"launched-{fate.split()[0]}"
    line = ["train", two / "config.yaml", f"run={run}", *COMMON, *split(2), "train.steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hybrid.cli", *map(str, line)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(
        int(children[1]) if fate == "killed" else process.pid, signal.SIGKILL if fate == "killed" else signal.SIGTERM
    )
    _, err = process.communicate(timeout=60)
    if fate == "killed":
        assert process.returncode == 137 and "rank 1 of 2 was killed by SIGKILL" in err
    else:
        assert process.returncode == 143 and err.count("stopped at step") == 1, err
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_process_computes_on_the_gpu_of_its_local_rank_where_there_is_one(monkeypatch):
    assert own_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device() == torch.device("cuda", 3)
    assert own_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["cuda:4", "gpu", "meta"])
def test_a_device_that_is_not_there_is_refused_by_name(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ValueError, match=f"device={name}: must be auto, cpu, or cuda.*4 GPUs"):
        own_device(name)
