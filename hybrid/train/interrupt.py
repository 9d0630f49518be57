"""Signals and locks: a run ends between two steps, on all ranks at the same one, and nobody else writes its folder."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from hybrid.build import ConfigError

ASKS_TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LOCK = ".lock"


class Interrupts(Callback):
    """Hears SIGTERM, Ctrl-C and SIGUSR1 (pre-emption under Slurm) and remembers the first; a second Ctrl-C is at once.

    `asked` is this rank's own wish; the module sums it over ranks with the losses, and all stop at the same step.
    """

    def __init__(self) -> None:
        self.asked = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear signals for as long as the block lasts; then whoever heard them before does."""
        before = {number: signal.getsignal(number) for number in ASKS_TO_STOP}
        self._listen()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._listen()  # the trainer has put its own handlers there, which talk to other ranks at any moment

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        owner = os.getpid()

        def hear(number: int, frame: FrameType | None) -> None:
            if os.getpid() != owner:  # a worker that makes batches: it is told by us, not by the terminal
                if number == signal.SIGTERM:
                    os._exit(128 + number)
                return
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = self.asked or number

        for number in ASKS_TO_STOP:
            signal.signal(number, hear)


def requeue() -> None:
    """Ask Slurm to start this job again. Says so where that fails, since nothing is lost: the run is saved."""
    job = os.environ.get("SLURM_JOB_ID")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is None:
        return
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
        why = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why:
        print(f"hybrid: scontrol requeue {job} failed ({why}); start the job again by hand", file=sys.stderr)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder: no other process trains in it meanwhile. The lock ends with the process, however that ends.

    Raises:
        ConfigError: another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise ConfigError(f"run={folder}: this folder cannot be written ({error.strerror}); name another") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read().strip() or "another process"
            raise ConfigError(
                f"run={folder}: {owner} is training in this folder; wait for it, or name another folder with run=DIR"
            ) from None
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        handle.flush()
        yield
