"""The data module: batches as a function of (seed, step), so that a resumed run goes on where it stopped."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from hybrid.records import Batch, Example
from hybrid.tasks import Tokenizer, collate
from hybrid.train.settings import Train


class Stream(IterableDataset[Batch]):
    """Endless micro-batches of one rank, from micro-batch `start` on.

    Epoch after epoch, each a permutation keyed by (seed, epoch); made data, longer than any run, keeps its order.
    """

    def __init__(
        self, examples: Sequence[Example], tokenizer: Tokenizer, canvas: int, size: int, *,
        seed: int, rank: int = 0, world: int = 1, start: int = 0,
    ) -> None:  # fmt: skip
        self.examples, self.tokenizer, self.canvas, self.size = examples, tokenizer, canvas, size
        self.seed, self.rank, self.world, self.start = seed, rank, world, start
        self._epoch, self._order = -1, torch.empty(0)

    def __iter__(self) -> Iterator[Batch]:
        at = self.start
        while True:
            first = (at * self.world + self.rank) * self.size
            rows = [self.examples[self._index(i)] for i in range(first, first + self.size)]
            yield collate(rows, self.tokenizer, self.canvas)
            at += 1

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.examples))
        if len(self.examples) > 2**24:
            return offset
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self.seed + 1) * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.examples), generator=generator)
        return int(self._order[offset])


class Examples(pl.LightningDataModule):
    """Train stream and validation batches of one task."""

    def __init__(
        self,
        train: Sequence[Example],
        valid: Sequence[Example],
        tokenizer: Tokenizer,
        canvas: int,
        settings: Train,
        seed: int,
    ) -> None:
        super().__init__()
        self.train, self.valid, self.tokenizer = train, valid, tokenizer
        self.canvas, self.settings, self.seed = canvas, settings, seed

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer, settings = self.trainer, self.settings
        assert trainer is not None
        size = settings.batch_size // (settings.accumulate * trainer.world_size)
        start = trainer.global_step * settings.accumulate
        stream = Stream(
            self.train, self.tokenizer, self.canvas, size,
            seed=self.seed, rank=trainer.global_rank, world=trainer.world_size, start=start,
        )  # fmt: skip
        return DataLoader(stream, batch_size=None)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device) if isinstance(batch, Batch) else batch  # validation is on examples as text

    def val_dataloader(self) -> DataLoader[list[Example]]:
        rows = [self.valid[i] for i in range(min(self.settings.validate_examples, len(self.valid)))]
        return DataLoader(rows, batch_size=128, collate_fn=list)  # type: ignore[arg-type]
