"""The LightningModule: a reasoner, an optimiser, and what is logged."""

import math
from collections import defaultdict
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from hybrid.diffusion import noise as streams
from hybrid.diffusion.noise import Noise, low_discrepancy_times, uniform
from hybrid.evaluate import validation_totals
from hybrid.nets.network import Network
from hybrid.reasoner import Reasoner
from hybrid.records import Batch, Example
from hybrid.tasks import Task
from hybrid.train.settings import Train


class HybridReasoner(pl.LightningModule):
    """Trains a reasoner on batches of a task, with noise and times that are functions of seed, step and example."""

    def __init__(self, reasoner: Reasoner, task: Task, train: Train, seed: int) -> None:
        super().__init__()
        self.reasoner, self.task, self.train_settings, self.seed = reasoner, task, train, seed
        self.positions = 0
        self.validated: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def progress(self) -> float:
        """Share of the run that is done, by steps or by positions, whichever is further."""
        limit = self.train_settings.positions
        by_positions = 0.0 if limit is None else self.positions / limit
        return max(self.global_step / self.train_settings.steps, by_positions)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        world, part = self.trainer.world_size, batch_idx % self.train_settings.accumulate
        total = len(batch) * world * self.train_settings.accumulate
        first = (part * world + self.global_rank) * len(batch)
        offset = uniform(self.seed, self.global_step, streams.TIME)
        t = low_discrepancy_times(offset, first + torch.arange(len(batch), device=self.device), total)
        losses = self.reasoner.losses(batch, Noise(self.seed, batch.prompts.keys, self.global_step), t)
        self.positions += losses.positions * world
        model = self.reasoner.config
        loss = torch.zeros((), device=self.device)
        for name, weight in (("sketch", model.sketch_weight), ("answer", model.answer_weight)):
            cost, count = getattr(losses, name).sum(), getattr(losses, f"{name}_count").sum()
            if world > 1:  # one mean over all ranks' tokens; the strategy averages gradients, hence times world
                count = self.trainer.strategy.reduce(count.float(), reduce_op="mean")
            if model.drafter.learns or name == "answer":
                mean = cost / count.clamp(min=1)
                loss = loss + weight * mean
                self.log(f"train/{name}", mean.detach(), prog_bar=True)
        if not math.isfinite(value := float(loss.detach())):
            raise ValueError(
                f"loss={value} at step {self.global_step}: lower train.learning_rate or raise train.warmup"
            )
        self.log("train/positions", float(self.positions))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        limit = self.train_settings.positions
        if limit is not None and self.positions >= limit:
            self.trainer.should_stop = True

    def validation_step(self, examples: list[Example], batch_idx: int) -> None:
        for name, (total, count) in validation_totals(self.reasoner, self.task, examples).items():
            self.validated[name][0] += total
            self.validated[name][1] += count

    def on_validation_epoch_end(self) -> None:
        for name, (total, count) in self.validated.items():
            self.log(f"valid/{name}", total / count, prog_bar=name.startswith("accuracy"))
        self.log("valid/positions", float(self.positions))
        self.validated.clear()

    def configure_optimizers(self) -> Any:
        """AdamW; weight decay on matrices only, embeddings and norms spared; warm-up, then decay by progress."""
        train = self.train_settings
        spared = {id(n.model.get_input_embeddings().weight) for n in self.networks()}
        parameters = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {
                "params": [p for p in parameters if p.ndim >= 2 and id(p) not in spared],
                "weight_decay": train.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim < 2 or id(p) in spared], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=train.learning_rate, betas=(0.9, train.beta2), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """By norm. Done here since the trainer refuses to clip for fused optimisers, which bf16 needs no scaler for."""
        if self.train_settings.clip:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.train_settings.clip)
            self.log("train/gradient_norm", norm)

    def networks(self) -> list[Network]:
        """The one or two networks that train."""
        pair = self.reasoner.networks
        return [pair.decoder] if pair.is_shared or pair.drafter is None else [pair.decoder, pair.drafter]

    def _rate(self, step: int) -> float:
        rise = min(1.0, (step + 1) / max(1, self.train_settings.warmup))
        done = min(1.0, self.progress()) if self._trainer is not None else 0.0
        fall = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
        return rise * fall[self.train_settings.decay]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["positions"] = self.positions

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.positions = checkpoint["positions"]
