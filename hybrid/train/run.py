"""One training run in its folder: started, resumed or interrupted, nothing lost."""

import ctypes
import json
import logging
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging

from hybrid.build import ConfigError, build, plain
from hybrid.config import FREE_TO_CHANGE, differences, load
from hybrid.experiment import (
    CONFIG,
    TOKENIZER,
    TRAINED,
    WEIGHTS,
    Experiment,
    check_run,
    kept_model,
    load_weights,
    positions_in_all,
    read_trained,
    save_config,
    save_run,
)
from hybrid.frontier import write_atomically
from hybrid.reasoner import Reasoner
from hybrid.shard import rank_and_world
from hybrid.sizes import sizes_table
from hybrid.tasks import Tokenizer
from hybrid.tasks.task import digests
from hybrid.train.bar import Bar
from hybrid.train.checkpoints import AtomicCheckpoints, Saver, Stopped, Weights, newest
from hybrid.train.curve import Curve
from hybrid.train.data import Examples
from hybrid.train.interrupt import Interrupts, locked, requeue
from hybrid.train.loggers import loggers_of
from hybrid.train.module import HybridReasoner
from hybrid.train.optimiser import networks, optimiser_of
from hybrid.train.sharding import ShardedReasoner, check_ranks, plugins, strategy

CHECKPOINTS, METRICS, DATA = "checkpoints", Path("logs", "metrics.csv"), "data.json"


def train(experiment: Experiment, folder: Path, *, progress: bool = True) -> Path:
    """Train to the end, from the folder's newest whole checkpoint where there is one. Returns the folder.

    Raises:
        ConfigError: the folder holds a run of another config, or another process is at it; a file cannot be written.
        KeyboardInterrupt, SystemExit: Ctrl-C, or a signal that asks for an end (status 143 for SIGTERM); all is saved.
        ConnectionError: another rank is gone.
    """
    _quiet()
    keep_memory()
    check_ranks(experiment.train)
    rank, world = rank_and_world() or (0, 1)
    with locked(folder) if rank == 0 else nullcontext():
        tokenizer, checkpoint = _prepared(experiment, folder, rank)
        if is_trained(folder, experiment):
            return folder  # the trainer knows an end by steps alone, and would take one more
        torch.manual_seed(experiment.seed)
        model = experiment.model if checkpoint is None else kept_model(folder, experiment)
        kind = ShardedReasoner if experiment.train.strategy == "fsdp2" else HybridReasoner
        module = kind(Reasoner(model, tokenizer), experiment.task, experiment.train, experiment.seed, Interrupts())
        if checkpoint is None and experiment.train.start_from is not None:
            module.positions_before = _start_from(Path(experiment.train.start_from), module.reasoner)
        if progress and rank == 0:
            print(sizes_table(module.reasoner, optimiser_of(module.reasoner, experiment.train)))
        if experiment.train.activation_checkpointing:
            for network in networks(module.reasoner):
                network.model.activation_checkpointing_enable({"use_reentrant": False})
        if experiment.train.compile:
            for network in networks(module.reasoner):
                network.compile_training()
        data = Examples(
            experiment.examples("train"), experiment.examples("valid"), tokenizer, experiment.model.canvas,
            experiment.train, experiment.seed,
        )  # fmt: skip
        saver = Saver(
            folder / CHECKPOINTS, experiment.train.checkpoint_every,
            experiment.train.validate_every if experiment.train.validate_examples else 0,
        )  # fmt: skip
        trainer = _trainer(experiment, folder, module, saver, progress and rank == 0)
        try:
            with module.interrupts.listening(), _peers(world, rank, experiment.train.timeout):
                trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
                saver.save(trainer)
        except Stopped as stop:
            _end(stop, saver.path, rank)
        except SystemExit:  # how the trainer ends on a second Ctrl-C
            raise KeyboardInterrupt(f"stopped at once; the same command goes on from {saver.path}") from None
    return folder


def check(experiment: Experiment, folder: Path) -> None:
    """Refuse what training in this folder would: for whoever starts its processes.

    Raises:
        ConfigError: as `train`.
    """
    check_ranks(experiment.train)
    with locked(folder):
        _check_same(experiment, folder)


def _prepared(experiment: Experiment, folder: Path, rank: int) -> tuple[Tokenizer, Path | None]:
    """The run's tokenizer, and the checkpoint to go on from; a folder without one is begun, unless it is at its end."""
    _check_same(experiment, folder)
    checkpoint, is_over = newest(folder / CHECKPOINTS), is_trained(folder, experiment)
    if checkpoint is None and not is_over:
        tokenizer = experiment.make_tokenizer()
        if rank == 0:
            experiment.check_data(tokenizer)
            if said := experiment.check_evaluation(tokenizer):
                print(f"hybrid: warning: {said}", file=sys.stderr)
            save_run(folder, experiment, tokenizer)
            write_atomically(folder / DATA, (json.dumps(digests(experiment.data), indent=1) + "\n").encode())
    elif (folder / TOKENIZER).is_file():
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        if not is_over:
            _check_files(experiment, folder)
    else:
        raise ConfigError(f"{folder} has weights but no {TOKENIZER}; put it back, or name another folder with run=DIR")
    if rank == 0:
        save_config(folder, experiment)
    return tokenizer, checkpoint


def _start_from(folder: Path, reasoner: Reasoner) -> float:
    """A run's weights into this one's reasoner; the positions that they were trained on."""
    try:
        check_run(folder)
        if Tokenizer.load(folder / TOKENIZER).to_json() != reasoner.tokenizer.to_json():
            raise ConfigError(f"{folder} has another tokenizer than this run")
        load_weights(reasoner, folder)
    except ConfigError as error:
        raise ConfigError(f"train.start_from: {error}") from None
    return positions_in_all(read_trained(folder))


def _trainer(experiment: Experiment, folder: Path, module: HybridReasoner, saver: Saver, progress: bool) -> pl.Trainer:
    settings = experiment.train
    # Buffers are copied: an average of rotary frequencies with themselves is off by their rounding.
    average = [EMAWeightAveraging(decay=settings.ema, use_buffers=False)] if settings.ema else []
    curve = Curve(folder / METRICS, settings.log_every)
    # In this order a checkpoint holds the step's average of weights, and its weights file that average; and the
    # step's row of the curve is on file before it.
    callbacks: list[Callback] = [module.interrupts, *average, Weights(folder), curve, saver]
    if progress:
        callbacks.append(Bar())
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=strategy(settings),
        precision=settings.precision,
        max_steps=settings.steps,
        max_epochs=-1,
        accumulate_grad_batches=settings.accumulate,
        val_check_interval=settings.validate_every * settings.accumulate if settings.validate_every else None,
        limit_val_batches=None if settings.validate_every else 0,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # our loaders deal by rank themselves
        callbacks=callbacks,
        plugins=[AtomicCheckpoints(), *plugins()],
        log_every_n_steps=settings.log_every,
        logger=loggers_of(settings.loggers, folder) or False,  # the curve writes metrics.csv itself
        enable_progress_bar=progress,
        enable_model_summary=False,
        default_root_dir=folder,
    )


@contextmanager
def _peers(world: int, rank: int, timeout: float) -> Iterator[None]:
    """What a rank says when another is gone, in place of its library's words."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).partition("\n")[0]
        is_theirs = isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text
        if world > 1 and is_theirs:
            raise ConnectionError(
                f"rank {rank} lost another rank, or waited for it longer than train.timeout={timeout:g} s ({text})"
            ) from error
        raise


def _end(stop: Stopped, path: Path, rank: int) -> None:
    """Leave as the signal asked: status 130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1, which also requeues."""
    line = f"stopped at step {stop.step}; saved in {path}; the same command goes on from there"
    if stop.signal == signal.SIGINT:
        raise KeyboardInterrupt(line if rank == 0 else "")
    if rank == 0:
        print(f"hybrid: {line}", file=sys.stderr)
        if stop.signal == signal.SIGUSR1:
            requeue()
    raise SystemExit(128 + stop.signal)


def is_trained(folder: Path, experiment: Experiment) -> bool:
    """Whether the folder's run has reached its end. Its weights are enough, as of those that are shipped."""
    if not ((folder / TRAINED).is_file() and (folder / WEIGHTS).is_file()):
        return False
    trained = read_trained(folder)
    limit = experiment.train.positions
    return trained["steps"] >= experiment.train.steps or (limit is not None and trained["positions"] >= limit)


def _check_same(experiment: Experiment, folder: Path) -> None:
    """Refuse to go on with a run of another config; what only affects evaluation may differ.

    A folder without a checkpoint or weights has nothing to lose: its training never got that far.
    """
    has_work = any((folder / CHECKPOINTS).glob("*.ckpt")) or (folder / WEIGHTS).is_file()
    if not has_work or not (folder / CONFIG).is_file():
        return
    found = differences(_begun_with(folder), plain(experiment))
    changed = {k: v for k, v in found.items() if not k.startswith(FREE_TO_CHANGE)}
    if changed:
        listed = "; ".join(f"{key}: {old} there, {new} now" for key, (old, new) in list(changed.items())[:8])
        more = f"; and {len(changed) - 8} more" if len(changed) > 8 else ""
        raise ConfigError(f"{folder} holds a run of another config ({listed}{more}); name another folder with run=DIR")


def _check_files(experiment: Experiment, folder: Path) -> None:
    """Refuse to go on with other rows than a run was begun with. Runs of before this was kept are not checked."""
    if not (folder / DATA).is_file():
        return
    begun, now = json.loads((folder / DATA).read_text(encoding="utf-8")), digests(experiment.data)
    if changed := [key for key in now if begun.get(key, now[key]) != now[key]]:
        raise ConfigError(
            f"{', '.join(changed)}: not what {folder} was begun with; put the old file back, or begin another run with "
            "run=DIR"
        )


def _begun_with(folder: Path) -> Mapping[str, Any]:
    """The config of a folder's run; keys that came after it was begun stand at their defaults, as for evaluation."""
    config = load(folder / CONFIG)
    try:
        return plain(build(Experiment, config))
    except ConfigError:  # it has keys that are gone since
        return config


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
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for message in (
        "does not have many workers", "IterableDataset", "isinstance.treespec", "Checkpoint directory", "LeafSpec",
        "Starting from v1.9.0", "lr_scheduler.step", "transfer_batch_to_device",
        "sync_dist=True",  # figures are summed over ranks before they are logged
        "returned a view tensor",  # nothing of ours writes to hidden states in place
        "num_workers",
    ):  # fmt: skip
        warnings.filterwarnings("ignore", message=f".*{message}.*")
