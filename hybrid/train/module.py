"""The LightningModule: a reasoner, an optimiser, and what is logged."""

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from hybrid.diffusion import noise as streams
from hybrid.diffusion.noise import Noise, low_discrepancy_times, uniform
from hybrid.evaluate import validation_totals
from hybrid.reasoner import Losses, Reasoner
from hybrid.records import Batch, Example
from hybrid.shard import Shard
from hybrid.tasks import Task
from hybrid.train import bad_step
from hybrid.train.data import Part
from hybrid.train.interrupt import Interrupts
from hybrid.train.optimiser import optimiser_of, rate
from hybrid.train.settings import Train


class HybridReasoner(pl.LightningModule):
    """Trains a reasoner on batches of a task, with noise and times that are functions of seed, step and example.

    positions: sent through networks so far, on all ranks; positions_before: by the run that this one began with. stop:
    the signal for which all ranks stop after this step."""

    def __init__(
        self, reasoner: Reasoner, task: Task, train: Train, seed: int, interrupts: Interrupts | None = None
    ) -> None:
        super().__init__()
        self.reasoner, self.task, self.train_settings, self.seed = reasoner, task, train, seed
        self.interrupts = interrupts or Interrupts()
        self.positions, self.positions_before = 0, 0.0
        self.stop: int | None = None
        self.part_is_last = False
        self._costs = [0.0, 0.0]
        self._validated: dict[int, dict[str, tuple[float, float]]] = {}
        self._now: tuple[Losses, Batch, Tensor] | None = None

    @property
    def shard(self) -> Shard:
        return Shard(self.global_rank, self.trainer.world_size)

    def progress(self) -> float:
        """Share of the run that is done, by steps or by positions, whichever is further."""
        limit = self.train_settings.positions
        by_positions = 0.0 if limit is None else self.positions / limit
        return max(self.global_step / self.train_settings.steps, by_positions)

    def training_step(self, part: Part, batch_idx: int) -> Tensor:
        batch, world, parts = part.batch, self.trainer.world_size, self.train_settings.accumulate
        torch.manual_seed(hash((self.seed, self.global_step, part.at, self.global_rank)))  # for dropout, if any
        total = len(batch) * world * parts
        first = (part.at * world + self.global_rank) * len(batch)
        offset = uniform(self.seed, self.global_step, streams.TIME)
        t = low_discrepancy_times(offset, first + torch.arange(len(batch), device=self.device), total)
        losses = self.reasoner.losses(batch, Noise(self.seed, batch.prompts.keys, self.global_step), t)
        self._now = losses, batch, t
        # One mean over the tokens of the whole step. The trainer divides by parts, and the strategy by ranks.
        costs = [losses.sketch.sum(), losses.answer.sum()]
        told = torch.stack(costs).detach().tolist()
        *told, sketches, answers, positions, asked = self._over_ranks([*told, *part.supervised, losses.positions])
        self.positions += int(positions)
        if not math.isfinite(sum(told)):
            self._refuse()
        self.part_is_last = part.at == parts - 1
        self.stop = int(asked) or None
        model, loss = self.reasoner.config, torch.zeros((), device=self.device)
        weights, pads = (model.sketch_weight, model.answer_weight), model.drafter.supervises_pads
        drafted = total * model.positions if pads else sketches + answers * bool(model.answer_room)
        for i, (name, count) in enumerate((("sketch", drafted), ("answer", answers))):
            self._costs[i] = told[i] + (self._costs[i] if part.at else 0.0)
            if model.drafter.learns or name == "answer":
                loss = loss + weights[i] * costs[i] * (world * parts / max(1.0, count))
                if self.part_is_last:
                    self.log(f"train/{name}", self._costs[i] / max(1.0, count), prog_bar=True)
        self.log("train/positions", float(self.positions))
        return loss

    def _over_ranks(self, figures: list[float]) -> list[float]:
        """Their sums over ranks in float64, and a signal that any rank was sent; one exchange for everything."""
        asked = float(self.interrupts.asked)
        if self.trainer.world_size == 1:
            return [*figures, asked]
        told = torch.zeros(self.trainer.world_size, len(figures) + 1, dtype=torch.float64, device=self.device)
        told[self.global_rank] = torch.tensor([*figures, asked], dtype=torch.float64)
        told = self.trainer.strategy.reduce(told, reduce_op="sum")  # a row each: added up in the same order everywhere
        return [*told[:, :-1].sum(0).tolist(), float(told[:, -1].max())]

    def _refuse(self) -> None:
        """Keep the step, and end."""
        assert self._now is not None
        losses, batch, t = self._now
        mine = bad_step.culprits(losses, batch.prompts.keys), bad_step.part_of(batch, t)
        found, parts = zip(*self.shard.gather(mine), strict=True)
        state = self.trainer.strategy.lightning_module_state_dict()
        state = {name.removeprefix("reasoner."): tensor for name, tensor in state.items()}
        path = folder = Path(self.trainer.default_root_dir)
        if self.trainer.is_global_zero:
            path = bad_step.write(
                folder, state, self.seed, self.global_step, self.train_settings.precision, list(parts)
            )
        self.trainer.strategy.barrier()
        # All ranks end here, and one says why.
        raise ValueError(bad_step.sentence(self.global_step, list(found), path) if self.trainer.is_global_zero else "")

    def on_train_batch_end(self, outputs: Any, batch: Part, batch_idx: int) -> None:
        limit = self.train_settings.positions
        if limit is not None and self.positions >= limit and self.part_is_last:
            self.trainer.should_stop = True

    def validation_step(self, batch: tuple[int, list[Example]], batch_idx: int) -> None:
        place, examples = batch
        agree = self.shard.agree if self.train_settings.strategy == "fsdp2" else bool
        self._validated[place] = validation_totals(self.reasoner, self.task, examples, agree)

    def on_validation_epoch_end(self) -> None:
        found = self.shard.union(self._validated)  # by place: what several ranks computed counts once
        for name in found[0] if found else ():
            total, count = (sum(figures[name][i] for figures in found) for i in (0, 1))
            self.log(f"valid/{name}", total / count, prog_bar=name.startswith("accuracy"))
        self.log("valid/positions", float(self.positions))
        self._validated.clear()

    def configure_optimizers(self) -> Any:
        optimiser = optimiser_of(self.reasoner, self.train_settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        return rate(self.train_settings, step, self.progress() if self._trainer is not None else 0.0)

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **options: Any) -> None:
        """By norm. Done here since the trainer refuses to clip for fused optimisers, which bf16 needs no scaler for."""
        limit = self.train_settings.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), limit)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of sharded gradients
        self.log("train/gradient_norm", norm)
        if not math.isfinite(float(norm)):
            self._refuse()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"positions": self.positions, "positions_before": self.positions_before}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.positions, self.positions_before = checkpoint["positions"], checkpoint.get("positions_before", 0)
