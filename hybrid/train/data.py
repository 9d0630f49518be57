"""The data module: batches as a function of (seed, step), so that a resumed run goes on where it stopped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hybrid.records import Batch, Example
from hybrid.shard import Shard, batches
from hybrid.tasks import Tokenizer, collate
from hybrid.tasks.procedural import Made
from hybrid.train.settings import Train

VALIDATION_BATCH = 32


@dataclass(frozen=True)
class Part:
    """One micro-batch of a step.

    at: its place among the step's parts on this rank. supervised: tokens of sketches (each with its end) and of
    answers in all of those parts, so that a mean over the step's tokens is known before its first backward pass.
    """

    batch: Batch
    at: int = 0
    supervised: tuple[int, int] = (0, 0)


class Stream(IterableDataset[Part]):
    """Endless micro-batches of one rank, from step `start` on. Step s holds the same examples for any number of ranks
    and parts: rows s * n to (s + 1) * n of all epochs, for n examples per step.

    Epoch after epoch, each a permutation keyed by (seed, epoch); made data keeps its order.
    """

    def __init__(
        self, examples: Sequence[Example], tokenizer: Tokenizer, canvas: int, size: int, *,
        seed: int, rank: int = 0, world: int = 1, start: int = 0, parts: int = 1,
    ) -> None:  # fmt: skip
        self.examples, self.tokenizer, self.canvas, self.size = examples, tokenizer, canvas, size
        self.seed, self.rank, self.world, self.start, self.parts = seed, rank, world, start, parts
        self._epoch, self._order = -1, torch.empty(0)

    def __iter__(self) -> Iterator[Part]:
        worker = get_worker_info()  # of several, each makes every so-manieth step
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for step in count(self.start + first, stride):
            yield from self.step(step)

    def step(self, step: int) -> list[Part]:
        """This rank's parts of a step."""
        batches = []
        for part in range(self.parts):
            first = ((step * self.parts + part) * self.world + self.rank) * self.size
            rows = [self.examples[self._index(i)] for i in range(first, first + self.size)]
            batches.append(collate(rows, self.tokenizer, self.canvas))
        pad = self.tokenizer.special.pad
        tokens = sum(int((b.sketch != pad).sum()) for b in batches), sum(int(b.answer_keep.sum()) for b in batches)
        return [Part(batch, at, tokens) for at, batch in enumerate(batches)]

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.examples))
        if isinstance(self.examples, Made):
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

    def train_dataloader(self) -> DataLoader[Part]:
        trainer, settings = self.trainer, self.settings
        assert trainer is not None
        size = settings.batch_size // (settings.accumulate * trainer.world_size)
        stream = Stream(
            self.train, self.tokenizer, self.canvas, size, seed=self.seed, rank=trainer.global_rank,
            world=trainer.world_size, start=trainer.global_step, parts=settings.accumulate,
        )  # fmt: skip
        if not settings.workers:
            return DataLoader(stream, batch_size=None)
        # One worker: several take turns by item, and a step's parts are several items.
        workers = settings.workers if settings.accumulate == 1 else 1
        return DataLoader(stream, batch_size=None, num_workers=workers, prefetch_factor=4)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return replace(batch, batch=batch.batch.to(device)) if isinstance(batch, Part) else batch  # or examples as text

    def val_dataloader(self) -> DataLoader[tuple[int, list[Example]]]:
        """Whole batches with their place, as many for every rank: figures do not depend on the number of ranks."""
        assert self.trainer is not None
        rows = [self.valid[i] for i in range(min(self.settings.validate_examples, len(self.valid)))]
        parts = batches(len(rows), VALIDATION_BATCH)
        shard = Shard(self.trainer.global_rank, self.trainer.world_size)
        mine = [(place, [rows[i] for i in parts[place]]) for place in (shard.rounds(len(parts)) if parts else [])]
        return DataLoader(mine, batch_size=None)  # type: ignore[arg-type]
