"""Training against a bare loop, against this machine's matrix product, and on two ranks."""

import multiprocessing
import os
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from benchmark_setting import Figure, Setting, quiet, timed
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger

from hybrid.diffusion import noise as streams
from hybrid.diffusion.noise import Noise, low_discrepancy_times, uniform
from hybrid.feed import Gold
from hybrid.reasoner import Model, Reasoner
from hybrid.records import Batch
from hybrid.tasks import Character
from hybrid.train.checkpoints import AtomicCheckpoints
from hybrid.train.data import Examples, Stream
from hybrid.train.module import HybridReasoner
from hybrid.train.run import keep_memory
from hybrid.train.settings import Train
from hybrid.train.sharding import plugins, strategy

FLOP_FORMULA = (
    "per position and forward: 2 per weight of every matrix (tied head included) + 4 * layers * width * row length "
    "for attention; forward and backward: 3 forwards"
)


class Times(Callback):
    """When each training step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def step(self) -> float:
        """Seconds per step, the first two (warm-up) left out."""
        return (self.ends[-1] - self.ends[1]) / (len(self.ends) - 2)

    @property
    def median(self) -> float:
        """The median step, the first two left out."""
        return median(b - a for a, b in zip(self.ends[1:], self.ends[2:], strict=False))


class Training:
    """One training step's work, in a trainer and bare: same network, batches, times, noise and optimiser."""

    def __init__(self, setting: Setting, model: Model) -> None:
        self.setting, self.model, self.task = setting, model, setting.task
        self.steps = setting.train_steps + 2
        self.train = Train(
            steps=self.steps, batch_size=setting.train_batch, warmup=1, validate_every=0, learning_rate=1e-4
        )
        self.examples = self.task.generate("train", 0)
        self.tokenizer = Character().train(
            text for e in self.task.generate("test", 0)[:200] for text in (e.prompt, e.sketch, e.answer)
        )
        self.module = self._module()
        stream = iter(Stream(self.examples, self.tokenizer, setting.canvas, setting.train_batch, seed=0))
        self.batches = [next(stream).batch for _ in range(self.steps)]
        self.positions = self.module.reasoner.losses(self.batches[0]).positions

    def _module(self) -> HybridReasoner:
        torch.manual_seed(0)
        return HybridReasoner(Reasoner(self.model, self.tokenizer), self.task, self.train, 0)

    def in_trainer(self, median_of: bool = False, **changes: Any) -> float:
        """Seconds per step of the LightningModule under a trainer, batches made as they are needed.

        median_of: the median step instead of the mean. changes: to the settings of training, such as devices.
        """
        times, train = Times(), replace(self.train, **changes)
        data = Examples(self.examples, self.examples[:1], self.tokenizer, self.setting.canvas, train, 0)
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                max_steps=self.steps, max_epochs=-1, precision=self.train.precision, callbacks=[times],
                limit_val_batches=0, num_sanity_val_steps=0, logger=CSVLogger(folder), default_root_dir=folder,
                log_every_n_steps=self.train.log_every, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, devices=train.devices, strategy=strategy(train), plugins=plugins(),
            )  # fmt: skip
            trainer.fit(self._module(), data)
        return times.median if median_of else times.step

    def losses(self, batch: Batch, step: int) -> torch.Tensor:
        """The training loss, forward only, in the precision of training."""
        reasoner = self.module.reasoner
        slots = torch.arange(len(batch), device=reasoner.device)
        t = low_discrepancy_times(uniform(0, step, streams.TIME), slots, len(batch))
        with torch.autocast(reasoner.device.type, torch.bfloat16):
            return reasoner.loss(reasoner.losses(batch, Noise(0, batch.prompts.keys, step), t))

    def bare(self) -> float:
        """Seconds per step of a bare loop over batches made beforehand."""
        optimiser = self.module.configure_optimizers()["optimizer"]
        times = Times()
        for step, made in enumerate(self.batches):
            loss = self.losses(made.to(self.module.device), step)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.train.clip)
            optimiser.step()
            float(loss.detach())  # a device has finished, and the trainer looks at the loss too
            times.on_train_batch_end()
        return times.step

    def forward_and_backward(self) -> float:
        """Seconds of forward and backward alone."""
        batch = self.batches[0].to(self.module.device)
        began = time.perf_counter()
        loss = self.losses(batch, 0)
        loss.backward()
        float(loss.detach())
        return time.perf_counter() - began

    def flops(self) -> float:
        """Model operations of one step, by `FLOP_FORMULA`."""
        row = self.positions // self.setting.train_batch
        return 3 * self.setting.train_batch * self.module.reasoner.networks.decoder.flops(row, row)


def gemm_rate(rows: int, inner: int, outer: int, device: torch.device, calls: int = 10) -> float:
    """Operations per second of a bf16 product (rows, inner) x (inner, outer), the weights laid out as in a layer."""
    x = torch.randn(rows, inner, device=device, dtype=torch.bfloat16)
    weight = torch.randn(outer, inner, device=device, dtype=torch.bfloat16)

    def product() -> None:
        for _ in range(calls):
            y = torch.nn.functional.linear(x, weight)
        float(y[0, 0])

    product()
    return 2.0 * rows * inner * outer * calls / timed(product)


def train_vs_bare_loop(setting: Setting) -> Figure:
    training = Training(setting, setting.model())
    training.bare()
    pairs = [(training.in_trainer(), training.bare()) for _ in range(setting.repeats)]
    rates = [median(training.positions / seconds for seconds in side) for side in zip(*pairs, strict=True)]
    ratio = median(bare / trained for trained, bare in pairs)
    return Figure(ratio, 0.95, f"{rates[0]:,.0f} positions/s in the trainer, {rates[1]:,.0f} in the bare loop")


def train_flops_vs_gemm(setting: Setting) -> Figure:
    # With the gold feed, every position that is sent forward is sent backward too.
    training = Training(setting, replace(setting.model(), feed=Gold()))
    network = training.module.reasoner.networks.decoder
    inner, outer = setting.width, network.model.config.intermediate_size
    training.forward_and_backward()
    pairs = []
    for _ in range(setting.repeats):
        rate = gemm_rate(training.positions, inner, outer, training.module.device)
        pairs.append((training.flops() / training.forward_and_backward(), rate))
    model, gemm = (median(side) / 1e9 for side in zip(*pairs, strict=True))
    shape = f"({training.positions}, {inner}) x ({inner}, {outer})"
    return Figure(
        median(a / b for a, b in pairs), 0.7, f"model {model:,.1f} GFLOP/s, product {shape} {gemm:,.1f} GFLOP/s, bf16"
    )


def two_ranks_scaling(setting: Setting) -> Figure:
    """Each rank trains on `train_batch` examples a step: linear scaling is a step that takes as long."""
    turns = []
    for _ in range(min(3, setting.repeats)):
        turns.append([in_ranks(setting, world) for world in (1, 2)])
    one, two = (median(side) for side in zip(*turns, strict=True))
    ratio = median(a / b for a, b in turns)
    cores = os.cpu_count() or 1
    return Figure(ratio, 0.9, f"{one * 1e3:,.0f} ms a step alone, {two * 1e3:,.0f} ms as one of two, {cores} cores")


def in_ranks(setting: Setting, world: int) -> float:
    """Seconds per step of the slowest of `world` ranks, one thread each."""
    context = multiprocessing.get_context("spawn")
    found: Any = context.Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [context.Process(target=one_rank, args=(setting, world, rank, port, found)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    seconds = [found.get(timeout=600) for _ in ranks]
    for rank in ranks:
        rank.join()
    return max(seconds)


def one_rank(setting: Setting, world: int, rank: int, port: int, found: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ["WORLD_SIZE"] = str(world)
    quiet()
    keep_memory()
    torch.set_num_threads(1)
    setting = replace(setting, train_steps=max(setting.train_steps, 10) if setting.repeats > 1 else 1)
    train = {"devices": world, "batch_size": setting.train_batch * world}
    found.put(Training(setting, setting.model()).in_trainer(median_of=True, **train))


def step_not_awaiting_data(setting: Setting) -> Figure:
    """Batches are made between steps: what making one takes is what a step waits. `train.workers` hides it."""
    training = Training(setting, setting.model())
    stream = iter(Stream(training.examples, training.tokenizer, setting.canvas, setting.train_batch, seed=0))
    next(stream)
    turns = [(timed(lambda: next(stream)), training.in_trainer()) for _ in range(setting.repeats)]
    making, step = (median(side) * 1e3 for side in zip(*turns, strict=True))
    share = 1 - median(a / b for a, b in turns)
    return Figure(share, 0.98, f"{making:,.2f} ms to make a batch, {step:,.0f} ms a step")


def checkpoint_in_steps(setting: Setting) -> Figure:
    training = Training(setting, setting.model())
    optimiser = training.module.configure_optimizers()["optimizer"]
    for parameter in training.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    state = {"state_dict": training.module.state_dict(), "optimizer_states": [optimiser.state_dict()]}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "last.ckpt")
        turns = [
            (timed(lambda: AtomicCheckpoints().save_checkpoint(state, path)), training.in_trainer())
            for _ in range(setting.repeats)
        ]
        size = path.stat().st_size / 2**20
    saving, step = (median(side) * 1e3 for side in zip(*turns, strict=True))
    ratio = median(a / b for a, b in turns)
    return Figure(ratio, None, f"{saving:,.0f} ms for {size:,.1f} MiB, {step:,.0f} ms a step")


def doubling(setting: Setting) -> Figure:
    """Parameters double with the layers, and the row with sketch and prompt."""
    plain = replace(setting, layers=max(1, setting.layers // 2))
    larger = {
        "parameters": replace(plain, layers=2 * plain.layers),
        "batch": replace(plain, train_batch=2 * plain.train_batch),
        "length": replace(plain, canvas=2 * plain.canvas, operations=2 * plain.operations),
    }
    trainings = {name: Training(s, replace(s.model(), feed=Gold())) for name, s in {"": plain, **larger}.items()}
    times: dict[str, list[float]] = {name: [] for name in trainings}
    for training in trainings.values():
        training.forward_and_backward()
    for _ in range(setting.repeats):
        for name, training in trainings.items():
            times[name].append(training.forward_and_backward())
    flops = {name: training.flops() for name, training in trainings.items()}
    growth = {name: (median(times[name]) / median(times[""]), flops[name] / flops[""]) for name in larger}
    told = ", ".join(f"{name}: time x{time:.2f}, operations x{work:.2f}" for name, (time, work) in growth.items())
    return Figure(max(time / work for time, work in growth.values()), None, told)
