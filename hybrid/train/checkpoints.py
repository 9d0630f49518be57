"""Checkpoints that outlive kills, full disks and damage; and the weights beside them."""

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from hybrid.build import ConfigError
from hybrid.experiment import save_weights
from hybrid.shard import rank_and_world

NEWEST, BEFORE = "last.ckpt", "before.ckpt"


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints written beside their target, flushed to disk and renamed; the one before is kept.

    A kill at any point leaves at least one whole checkpoint: the old ones, or one old under its second name, or both.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Raises:
        ConfigError: it cannot be written; what was saved before is as it was.
        """
        path = Path(path)
        beside = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(beside, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.exists():
                os.replace(path, path.with_name(BEFORE))
            os.replace(beside, path)
            _flush_folder(path.parent)
        except (OSError, RuntimeError) as error:  # torch wraps what its stream raises
            raise unwritten(path, error) from error
        finally:
            beside.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Reads tensors and plain data, and executes nothing."""
        return super().load_checkpoint(path, *args, **options | {"weights_only": True})


def _flush_folder(folder: Path) -> None:
    """Put the renames themselves on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritten(path: Path, error: Exception) -> ConfigError:
    """What to say of a file that could not be written."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    why = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error).partition("\n")[0]
    return ConfigError(
        f"{path} cannot be written ({why}); what was saved before is intact: make room, and the same command goes on"
    )


def newest(folder: Path) -> Path | None:
    """The newest checkpoint of a folder that is whole; None where there is none at all.

    Says so where a damaged one is passed over.

    Raises:
        ConfigError: there are checkpoints, and all are damaged.
    """
    found = [path for name in (NEWEST, BEFORE) if (path := folder / name).is_file()]
    complaints: list[str] = []
    for path in found:
        why = damage(path)
        if why is None:
            if complaints and (rank_and_world() or (0, 1))[0] == 0:
                print(f"hybrid: warning: {complaints[0]}; going on from the one before, {path}", file=sys.stderr)
            return path
        complaints.append(f"{path} is damaged or no checkpoint of ours ({why})")
    if found:
        raise ConfigError(
            f"{complaints[0]}, and there is no other; put a copy back, or name another folder with run=DIR"
        )
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is whole. Every byte is checked, and nothing is executed."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (name := archive.testzip()) is not None:
                return f"its part {name} does not match its checksum"
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        missing = {"state_dict", "global_step", "optimizer_states"} - set(found)
        return f"it lacks {', '.join(sorted(missing))}" if missing else None
    except Exception as error:  # a damaged file fails wherever the reader happens to stand
        return type(error).__name__


class Saver(Checkpoint):
    """Saves every so many steps, and when asked to; after validation where that is due at the same step.

    So a checkpoint of step n comes after everything that step n logs, and no resumed run lacks a point of its curve.
    """

    def __init__(self, folder: Path, every: int, validate_every: int) -> None:
        self.path, self.every, self.validate_every = folder / NEWEST, every, validate_every
        self.saved = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.saved = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if not (self.validate_every and step % self.validate_every == 0):
            self._step_is_over(trainer, module)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._step_is_over(trainer, module)

    def _step_is_over(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.global_step % self.every == 0 or (module.stop is not None and module.part_is_last):
            self.save(trainer)
        if module.stop is not None and module.part_is_last:
            raise Stopped(module.stop, trainer.global_step)

    def save(self, trainer: pl.Trainer) -> None:
        if trainer.global_step > self.saved:
            trainer.save_checkpoint(self.path)
            self.saved = trainer.global_step


class Stopped(Exception):
    """Training ended at `step` because a signal asked for it, everything saved."""

    def __init__(self, signal: int, step: int) -> None:
        super().__init__(signal, step)
        self.signal, self.step = signal, step


class Weights(Callback):
    """Keeps model.safetensors beside the newest checkpoint: what evaluation and sampling read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            state = {k.removeprefix("reasoner."): v for k, v in checkpoint["state_dict"].items()}
            trained = {"steps": trainer.global_step, "positions": getattr(module, "positions", 0)}
            if before := getattr(module, "positions_before", 0.0):
                trained["positions_before"] = before
            try:
                save_weights(self.folder, state, trained)
            except Exception as error:  # the library raises its own bare Exceptions
                raise unwritten(self.folder / "model.safetensors", error) from error
