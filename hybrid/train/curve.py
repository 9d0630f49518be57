"""The learning curve of a run: logs/metrics.csv, the same for a run in one go and one that was resumed."""

import csv
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from hybrid.frontier import write_atomically
from hybrid.train.checkpoints import unwritten


class Curve(Callback):
    """One row per `every` steps and one per validation, under the number of optimiser steps taken.

    Rows are on file before the checkpoint of their step is. A resumed run drops what came after its checkpoint,
    and writes it anew.
    """

    def __init__(self, file: Path, every: int) -> None:
        self.file, self.every = file, every
        self.names: list[str] = []
        self.step = -1

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.step = trainer.global_step
        if trainer.is_global_zero:
            self._write([row for row in self._read() if _is_whole(row) and int(row["step"]) <= self.step])

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        if trainer.global_step > self.step and trainer.global_step % self.every == 0:
            self._add(trainer, "train/")
        self.step = trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._add(trainer, "valid/")

    def _add(self, trainer: pl.Trainer, prefix: str) -> None:
        row = {"step": str(trainer.global_step)}
        row |= {k: repr(float(v)) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
        if not trainer.is_global_zero:
            return
        try:
            if set(row) <= set(self.names):
                with open(self.file, "a", encoding="utf-8", newline="") as file:
                    csv.DictWriter(file, self.names, lineterminator="\n").writerow(row)
            else:
                self._write([*self._read(), row])
        except OSError as error:
            raise unwritten(self.file, error) from error

    def _read(self) -> list[dict[str, str]]:
        if not self.file.is_file():
            return []
        with open(self.file, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, str]]) -> None:
        self.names = ["step", *sorted({name for row in rows for name in row} - {"step"})]
        lines = [self.names, *([row.get(name, "") for name in self.names] for row in rows)]
        write_atomically(self.file, "".join(",".join(line) + "\n" for line in lines).encode())


def _is_whole(row: dict[str, Any]) -> bool:
    """False for a line that a kill cut short."""
    return None not in row and None not in row.values() and str(row.get("step", "")).isdigit()
