"""A run that was stopped, killed, starved of disk or damaged goes on as if nothing had happened, or says why not."""

import csv
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from test_cli import Bomb, done, refused, write_config

from hybrid.cli import main
from hybrid.train import bad_step
from hybrid.train.checkpoints import AtomicCheckpoints, damage, newest
from hybrid.train.interrupt import locked
from hybrid.train.module import HybridReasoner

LONG = ("train.steps=9", "train.checkpoint_every=2", "train.validate_every=3", "train.validate_examples=2",
        "train.log_every=2", "train.ema=0.9", "train.accumulate=2")  # fmt: skip


def arguments(config, folder, *overrides):
    return ["train", str(config), f"run={folder}", *overrides, "--no-progress"]


def state_of(folder):
    """All that a finished run leaves and that another must equal."""
    kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return {
        "weights": (folder / "model.safetensors").read_bytes(),
        "curve": list(csv.DictReader((folder / "logs" / "metrics.csv").open())),
        "trained": json.loads((folder / "trained.json").read_text()),
        **{key: kept[key] for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states",
                                      "lr_schedulers", "positions", "global_step") if key in kept},
    }  # fmt: skip


def assert_same(a, b, path=""):
    """Bit by bit, through nested dicts, lists and tensors."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, f"{path}: {a} {b}"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A config, and what its run in one go left."""
    folder = tmp_path_factory.mktemp("unbroken")
    config = write_config(folder)
    assert main(arguments(config, folder / "run", *LONG)) == 0
    return config, state_of(folder / "run")


def at_step(monkeypatch, step, act):
    """Do something in the middle of a step: in the first of its parts."""
    inner = HybridReasoner.training_step

    def training_step(self, part, batch_idx):
        if self.global_step == step and part.at == 0:
            act()
        return inner(self, part, batch_idx)

    monkeypatch.setattr(HybridReasoner, "training_step", training_step)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
@pytest.mark.parametrize("step", [2, 4])
def test_a_signal_saves_and_the_same_command_goes_on_bit_by_bit(
    capsys, unbroken, tmp_path, monkeypatch, number, status, step
):
    """Step 3 is validated, step 4 saved anyway, step 5 neither. Weights, optimiser, average of weights, positions and
    curve are those of the run in one go. Under Slurm, SIGUSR1 asks for a requeue.
    """
    config, expected = unbroken
    told = tmp_path / "told"
    fake = tmp_path / "bin" / "scontrol"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" > {told}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    command = arguments(config, tmp_path / "run", *LONG)
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: os.kill(os.getpid(), number))
        assert main(command) == status
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith(f"hybrid: stopped at step {step + 1}; saved in ")
    assert told.exists() == (number == signal.SIGUSR1)
    if told.exists():
        assert told.read_text() == "requeue 123\n"
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step + 1
    assert main(command) == 0
    assert_same(state_of(tmp_path / "run"), expected)


class Crash(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.mark.parametrize("place", ["write", "fsync", "first rename", "second rename"])
def test_a_crash_inside_a_checkpoint_write_loses_nothing(unbroken, tmp_path, monkeypatch, place):
    """In the third checkpoint, that of step 6: half written, not flushed, before and between the renames."""
    config, expected = unbroken
    command = arguments(config, tmp_path / "run", *LONG)
    checkpoints = tmp_path / "run" / "checkpoints"
    save, fsync, replace, step = torch.save, os.fsync, os.replace, [0]

    def crash(at, target=""):
        if place == at and step[0] == 5 and "last.ckpt" in str(target):
            raise Crash

    def saving(value, file):
        save(value, file)
        file.truncate(file.tell() // 2)
        crash("write", file.name)
        file.seek(0)
        save(value, file)

    def flushing(handle):
        crash("fsync", os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def renaming(old, new):
        crash("first rename" if str(new).endswith("before.ckpt") else "second rename", old)
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", saving)
        patch.setattr(os, "fsync", flushing)
        patch.setattr(os, "replace", renaming)
        patch.setattr(Path, "unlink", lambda *args, **options: None)  # a killed process cleans nothing up
        at_step(patch, 5, lambda: step.__setitem__(0, 5))
        with pytest.raises(Crash):
            main(command)
    assert (checkpoints / ".last.ckpt.new").exists() and newest(checkpoints) is not None
    assert (checkpoints / "last.ckpt").exists() == (place != "second rename")
    assert main(command) == 0
    assert not (checkpoints / ".last.ckpt.new").exists()
    assert_same(state_of(tmp_path / "run"), expected)


def test_a_damaged_newest_checkpoint_falls_back_with_a_warning(capsys, unbroken, tmp_path, monkeypatch):
    """Cut short, or one byte changed in a tensor; a hostile one is passed over too, and executes nothing."""
    config, expected = unbroken
    command = arguments(config, tmp_path / "run", *LONG)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert main(command) == 143
    whole = last.read_bytes()
    flipped = bytearray(whole)
    at = whole.index(next(iter(torch.load(last, weights_only=True)["state_dict"].values())).numpy().tobytes()[:32])
    flipped[at] ^= 1
    for content in (whole[: len(whole) // 2], bytes(flipped), b""):
        last.write_bytes(content)
        assert damage(last) and newest(last.parent) == last.with_name("before.ckpt")
    torch.save({"state_dict": Bomb(tmp_path / "exploded")}, last)
    assert damage(last) and not (tmp_path / "exploded").exists()
    last.write_bytes(bytes(flipped))
    capsys.readouterr()
    assert main(command) == 0
    err = capsys.readouterr().err
    assert err.startswith("hybrid: warning: ") and "checksum" in err and "before.ckpt" in err and err.count("\n") == 1
    assert_same(state_of(tmp_path / "run"), expected)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("name", ["last.ckpt", "model.safetensors", "metrics.csv"])
def test_a_full_disk_is_said_and_what_was_saved_is_intact(capsys, unbroken, tmp_path, monkeypatch, name):
    config, expected = unbroken
    command = arguments(config, tmp_path / "run", *LONG)
    place = {"last.ckpt": "checkpoints/.last.ckpt.new", "model.safetensors": ".model.safetensors.new",
             "metrics.csv": "logs/metrics.csv"}[name]  # fmt: skip
    file = tmp_path / "run" / place

    def fill():
        file.unlink(missing_ok=True)
        file.symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        if name == "model.safetensors":  # the library writes through a file of its own making
            patch.setattr("hybrid.experiment.save_file", lambda *_: open("/dev/full", "wb").write(b"x" * 2**20))
            fill_at = 99
        else:
            fill_at = 4
        at_step(patch, fill_at, fill)
        capsys.readouterr()
        assert main(command) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("hybrid: ") and "No space left on device" in err and name in err
    if name == "last.ckpt":
        assert torch.load(file.with_name("last.ckpt"), weights_only=True)["global_step"] == 4
        assert "intact" in err and "same command" in err
    if name == "metrics.csv":
        file.unlink()
        return  # what the disk took with it is gone from the curve, not from the weights
    assert main(command) == 0
    assert_same(state_of(tmp_path / "run"), expected)


@pytest.mark.parametrize("term", ["sketch", "answer", "gradient"])
def test_a_loss_that_is_not_finite_stops_with_a_dump_that_computes_it_again(
    capsys, unbroken, tmp_path, monkeypatch, term
):
    config, _ = unbroken
    command = arguments(config, tmp_path / "run", *LONG)
    inner = HybridReasoner.training_step

    def training_step(self, part, batch_idx):
        if self.global_step == 4:  # weights that overflow in one place only
            with torch.no_grad():
                embedding = self.reasoner.networks.decoder.model.get_input_embeddings().weight
                row = {"sketch": self.reasoner.special.mask, "answer": self.reasoner.special.answer}.get(term)
                if row is not None:
                    embedding[row] = float("nan")
        loss = inner(self, part, batch_idx)
        return loss * float("inf") if term == "gradient" and self.global_step == 4 else loss

    with monkeypatch.context() as patch:
        patch.setattr(HybridReasoner, "training_step", training_step)
        capsys.readouterr()
        assert main(command) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("hybrid: step 4: ") and "bad_step.pt" in err
    assert f"the {term}" in err
    assert newest(tmp_path / "run" / "checkpoints") is not None
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    again = bad_step.replay(tmp_path / "run")
    kept = torch.load(tmp_path / "run" / "bad_step.pt", weights_only=True)
    if term != "gradient":
        keys = bad_step.culprits(again, kept["parts"][0]["keys"])[term]
        assert keys and str(keys[0]) in err
    else:
        assert torch.isfinite(again.sketch.sum() + again.answer.sum())


def test_a_changed_config_is_refused_where_it_matters_and_goes_on_where_not(capsys, unbroken, tmp_path, monkeypatch):
    config, expected = unbroken
    command = arguments(config, tmp_path / "run", *LONG)
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert main(command) == 143
    err = refused(capsys, *command, "train.learning_rate=0.5", "model.canvas=7", "seed=3", "train.workers=1")
    for word in ("train.learning_rate: 0.002 there, 0.5 now", "model.canvas: 6 there, 7 now", "seed: 0 there, 3 now"):
        assert word in err
    assert "workers" not in err
    done(capsys, *command, "train.workers=1", "train.checkpoint_every=4", "evaluate.batch=2", "train.timeout=60")
    found = state_of(tmp_path / "run")
    assert_same({k: found[k] for k in ("weights", "curve")}, {k: expected[k] for k in ("weights", "curve")})


def test_a_run_folder_holds_one_process_and_must_be_writable(capsys, unbroken, tmp_path):
    config, _ = unbroken
    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder):
        err = refused(capsys, *arguments(config, folder))
        assert f"process {os.getpid()} on " in err and "run=DIR" in err
        assert not (folder / "checkpoints").exists()
    if os.geteuid() == 0:
        place = Path("/proc/self")  # nobody can make files here, not even root
    else:
        place = tmp_path / "shut"
        place.mkdir(mode=0o555)
    err = refused(capsys, *arguments(config, place))
    assert f"run={place}" in err and "cannot be written" in err


def test_a_second_ctrl_c_does_not_wait(capsys, unbroken, tmp_path, monkeypatch):
    config, _ = unbroken
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda: (os.kill(os.getpid(), signal.SIGINT), os.kill(os.getpid(), signal.SIGINT)))
        assert main(arguments(config, tmp_path / "run", *LONG)) == 130
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert signal.getsignal(signal.SIGINT) is before


def test_a_file_that_lacks_what_a_run_needs_is_no_checkpoint(tmp_path):
    AtomicCheckpoints().save_checkpoint({"state_dict": {}, "global_step": 1}, tmp_path / "last.ckpt")
    assert damage(tmp_path / "last.ckpt") == "it lacks optimizer_states"


def test_checkpoints_fall_between_steps_only(unbroken, tmp_path, monkeypatch):
    """Never inside a step of several parts, nor before the first one; and once per step, the last one included."""
    config, _ = unbroken
    saved = []
    inner = AtomicCheckpoints.save_checkpoint

    def save(self, checkpoint, path, **options):
        parts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"]
        saved.append((checkpoint["global_step"], parts))
        inner(self, checkpoint, path, **options)

    monkeypatch.setattr(AtomicCheckpoints, "save_checkpoint", save)
    assert main(arguments(config, tmp_path / "run", *LONG, "train.validate_every=0")) == 0
    assert saved == [(step, 2 * step) for step in (2, 4, 6, 8, 9)]
