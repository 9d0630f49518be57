"""The config's `train` section."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Train:
    """How long, on what, and how fast.

    steps: optimiser steps at most. positions: token positions at most, over all networks; null: no such limit.
        Whichever ends first ends the run, and the learning rate decays towards it.
    start_from: folder of a run whose weights this one begins with: of the same network and tokenizer, as trained on
        another task, drafter or feed. Null: weights drawn anew. Tables count the positions of both.
    batch_size: examples per step over all devices and accumulated micro-batches.
    accumulate: micro-batches per step.
    optimiser: adamw, or muon: Muon on the matrices but embeddings and heads, AdamW on the rest, at one rate. From
        scratch, Muon learns from fewer examples; what AdamW has pretrained, AdamW tunes.
    learning_rate, warmup, decay: peak, steps of linear rise, and the course after it down to zero.
    weight_decay: on matrices other than embeddings. beta2: of AdamW. clip: of the gradient's norm; 0: none.
    ema: decay of the average of weights that is evaluated and saved; null: the weights themselves.
    precision: "bf16-mixed" or "32-true", as the trainer names them.
    validate_every, checkpoint_every, log_every: in steps; validate_every 0: never.
    validate_examples: from the valid split.
    compile: fuse the training step by torch.compile: half a minute first, then about 1.6 times as fast; needs a C++
        compiler on CPUs.
    loggers: beside metrics.csv, which is always written. wandb stays offline unless WANDB_MODE=online.
    devices, accelerator: as the trainer names them; devices are per node. num_nodes: machines, under torchrun or srun.
    strategy: of several devices. ddp: each holds the whole network. fsdp2: each holds a share of its weights,
        gradients and optimiser state, layer by layer.
    timeout: seconds that a rank waits for another before it gives up with an error.
    workers: processes that make batches ahead of time; 0: made between steps.
    activation_checkpointing: recompute each layer's activations in the backward pass instead of keeping them.
    """

    steps: int = 2000
    positions: int | None = None
    start_from: str | None = None
    batch_size: int = 128
    accumulate: int = 1
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 2e-3
    warmup: int = 100
    decay: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = 0.05
    beta2: float = 0.98
    clip: float = 1.0
    ema: float | None = None
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed"
    validate_every: int = 500
    validate_examples: int = 256
    checkpoint_every: int = 500
    log_every: int = 20
    compile: bool = False
    devices: int = 1
    num_nodes: int = 1
    accelerator: str = "auto"
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    timeout: float = 1800.0
    workers: int = 0
    activation_checkpointing: bool = False
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()

    def __post_init__(self) -> None:
        for part in dataclasses.fields(self):
            if isinstance(value := getattr(self, part.name), float) and not math.isfinite(value):
                raise ValueError(f"{part.name}={value}: must be a finite number")
        for name in ("steps", "batch_size", "accumulate", "checkpoint_every", "log_every", "devices", "num_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more")
        for name in ("warmup", "validate_every", "validate_examples", "clip", "weight_decay", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be 0 or more")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate}: must be above 0")
        if not 0 < self.beta2 < 1:
            raise ValueError(f"beta2={self.beta2}: must be between 0 and 1")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema={self.ema}: must be between 0 and 1, or null")
        if self.positions is not None and self.positions < 1:
            raise ValueError(f"positions={self.positions}: must be 1 or more, or null")
        if not self.timeout > 0:
            raise ValueError(f"timeout={self.timeout}: must be above 0 seconds")
        if self.batch_size % (self.accumulate * self.world):
            raise ValueError(
                f"batch_size={self.batch_size} must divide by accumulate={self.accumulate} times the "
                f"{self.world} ranks of devices={self.devices} and num_nodes={self.num_nodes}"
            )
        if self.ema is not None and self.strategy == "fsdp2":
            raise ValueError(
                f"ema={self.ema}: strategy=fsdp2 keeps no average of weights; use strategy=ddp or ema=null"
            )

    @property
    def world(self) -> int:
        """Ranks altogether."""
        return self.devices * self.num_nodes
