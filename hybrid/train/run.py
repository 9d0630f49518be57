"""One training run in its folder: started, resumed or interrupted, nothing lost."""

import ctypes
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.plugins.io import TorchCheckpointIO

from hybrid.build import ConfigError, plain
from hybrid.config import differences, load
from hybrid.experiment import CONFIG, TOKENIZER, TRAINED, WEIGHTS, Experiment, read_trained, save_run, save_weights
from hybrid.reasoner import Reasoner
from hybrid.sizes import sizes_table
from hybrid.tasks import Tokenizer
from hybrid.train.data import Examples
from hybrid.train.loggers import loggers_of
from hybrid.train.module import HybridReasoner

CHECKPOINT = "last.ckpt"
FREE_TO_CHANGE = (
    "evaluate.", "run", "train.log_every", "train.checkpoint_every", "train.accelerator", "train.compile",
    "train.loggers",
)  # fmt: skip


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints written beside their target, flushed to disk and renamed: a kill leaves the old or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.new")
        with open(beside, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Reads tensors and plain data, and executes nothing.

        Raises:
            ConfigError: a file that holds anything else, or is cut short.
        """
        try:
            return super().load_checkpoint(path, *args, **options | {"weights_only": True})
        except Exception as error:  # a damaged file fails wherever the reader happens to stand
            raise ConfigError(
                f"{path} is damaged or no checkpoint of ours ({type(error).__name__}); "
                "put a copy back, or name another folder with run=DIR"
            ) from error


class Weights(Callback):
    """Keeps model.safetensors beside the newest checkpoint: what evaluation and sampling read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.began = folder, time.perf_counter()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            state = {k.removeprefix("reasoner."): v for k, v in checkpoint["state_dict"].items()}
            trained = {"steps": trainer.global_step, "positions": getattr(module, "positions", 0)}
            save_weights(self.folder, state, trained)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Ctrl-C loses nothing. After a fault nothing is saved: the state may be the fault."""
        if isinstance(exception, KeyboardInterrupt):
            trainer.save_checkpoint(self.folder / "checkpoints" / CHECKPOINT)


def train(experiment: Experiment, folder: Path, *, progress: bool = True) -> Path:
    """Train to the end, from the folder's checkpoint where there is one. Returns the folder.

    Raises:
        ConfigError: the folder holds a run of another config.
        KeyboardInterrupt: after the checkpoint was saved.
    """
    _quiet()
    keep_memory()
    checkpoint = folder / "checkpoints" / CHECKPOINT
    _check_same(experiment, folder)
    if checkpoint.is_file() and (folder / TOKENIZER).is_file():
        tokenizer = Tokenizer.load(folder / TOKENIZER)
    else:
        checkpoint.unlink(missing_ok=True)
        tokenizer = experiment.make_tokenizer()
        experiment.check_data(tokenizer)
    save_run(folder, experiment, tokenizer)
    torch.manual_seed(experiment.seed)
    settings = experiment.train
    reasoner = Reasoner(experiment.model, tokenizer)
    if progress:
        print(sizes_table(reasoner))
    module = HybridReasoner(reasoner, experiment.task, settings, experiment.seed)
    if settings.compile:
        for network in module.networks():
            network.compile_training()
    data = Examples(
        experiment.examples("train"), experiment.examples("valid"), tokenizer, experiment.model.canvas, settings,
        experiment.seed,
    )  # fmt: skip
    # Weights stands last, so that it sees the state that the average of weights has put into the checkpoint.
    saver = ModelCheckpoint(
        checkpoint.parent, filename="last", every_n_train_steps=settings.checkpoint_every,
        enable_version_counter=False,
    )  # fmt: skip
    average = [EMAWeightAveraging(decay=settings.ema)] if settings.ema else []
    callbacks: list[Callback] = [saver, *average, Weights(folder)]
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        precision=settings.precision,
        max_steps=settings.steps,
        max_epochs=-1,
        accumulate_grad_batches=settings.accumulate,
        val_check_interval=settings.validate_every * settings.accumulate if settings.validate_every else None,
        limit_val_batches=None if settings.validate_every else 0,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every,
        callbacks=callbacks,
        plugins=[AtomicCheckpoints()],
        logger=loggers_of(settings.loggers, folder),
        enable_progress_bar=progress,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    try:
        trainer.fit(module, data, ckpt_path=checkpoint if checkpoint.is_file() else None, weights_only=True)
    except SystemExit:  # how the trainer ends on Ctrl-C, its checkpoint saved
        raise KeyboardInterrupt(
            f"stopped at step {trainer.global_step}; saved in {checkpoint}; the same command goes on from there"
        ) from None
    trainer.save_checkpoint(checkpoint)
    return folder


def is_trained(folder: Path, experiment: Experiment) -> bool:
    """Whether the folder's run has reached its end."""
    if not (folder / TRAINED).is_file():
        return False
    trained = read_trained(folder)
    limit = experiment.train.positions
    return trained["steps"] >= experiment.train.steps or (limit is not None and trained["positions"] >= limit)


def _check_same(experiment: Experiment, folder: Path) -> None:
    """Refuse to go on with a run of another config; what only affects evaluation may differ.

    A folder without a checkpoint or weights has nothing to lose: its training never got that far.
    """
    has_work = (folder / "checkpoints" / CHECKPOINT).is_file() or (folder / WEIGHTS).is_file()
    if not has_work or not (folder / CONFIG).is_file():
        return
    found = differences(load(folder / CONFIG), plain(experiment))
    changed = {k: v for k, v in found.items() if not k.startswith(FREE_TO_CHANGE)}
    if changed:
        listed = "; ".join(f"{key}: {old} there, {new} now" for key, (old, new) in list(changed.items())[:4])
        more = f"; and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise ConfigError(f"{folder} holds a run of another config ({listed}{more}); name another folder with run=DIR")


def keep_memory() -> None:
    """Have glibc keep freed memory instead of giving it back: on CPUs, page faults else cost up to half the step."""
    if sys.platform == "linux" and not torch.cuda.is_available():
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except (OSError, AttributeError):  # another C library
            return
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 64 * 2**20)


def _quiet() -> None:
    """Leave the terminal to progress and results; the trainer's notices are not about our users' doing."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        "does not have many workers", "IterableDataset", "isinstance.treespec", "Checkpoint directory", "LeafSpec",
        "Starting from v1.9.0", "Experiment logs directory", "lr_scheduler.step", "transfer_batch_to_device",
    ):  # fmt: skip
        warnings.filterwarnings("ignore", message=f".*{message}.*")
