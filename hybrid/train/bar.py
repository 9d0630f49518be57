"""The progress bar of training."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from hybrid.train.module import HybridReasoner


class Bar(TQDMProgressBar):
    """Batches, of as many as the run will take: by the pace so far where `train.positions` ends it."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)
        self._first: tuple[int, float] | None = None  # batch of this epoch, and share of the run done before it

    def on_train_epoch_start(self, trainer: pl.Trainer, *rest: Any) -> None:
        super().on_train_epoch_start(trainer, *rest)
        self.train_progress_bar.set_description("training")
        self._first = None

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        assert isinstance(module, HybridReasoner)
        self._first = self._first or (batch_idx, module.progress())

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self._first is not None
        (first, before), done, n = self._first, module.progress(), batch_idx + 1
        if done > before:
            left = (n - first) * (1 - done) / (done - before)
            self.train_progress_bar.total = n + max(0, round(left))
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)
