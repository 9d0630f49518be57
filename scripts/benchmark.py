"""Speed on this machine, as ratios within one run: `python scripts/benchmark.py [--json FILE] [--only KEY]`.

train_vs_bare_loop     training positions per second, LightningModule and data module over a bare loop
train_flops_vs_gemm    model FLOP/s of forward and backward over this machine's own matrix product, same precision
draft_time_in_network  share of the time of drafting that is spent inside the network
two_ranks_scaling      positions per second of two ranks over twice those of one, as much work each, a thread per rank
step_not_awaiting_data share of a training step that does not wait for its batch to be made
checkpoint_in_steps    time to save a checkpoint, flushed to disk, in training steps
doubling               growth of a step's time over growth of its operations, as parameters, batch or length double:
                       the largest of the three
peak_memory_mb         of this process, over all the measurements made

Every figure is the median of several repeats; the two sides of a ratio take turns, so that a machine that is busy
meanwhile slows both. Network, shapes and formulas are fixed and printed; a goal that is missed says so.
"""

import argparse
import json
import logging
import multiprocessing
import os
import platform
import resource
import socket
import string
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger

from hybrid.diffusion import noise as streams
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.noise import Noise, low_discrepancy_times, uniform
from hybrid.drafters import Request, finish
from hybrid.drafters.diffusion import Diffusion
from hybrid.feed import Gold
from hybrid.nets.backbone import Qwen3
from hybrid.reasoner import Model, Reasoner
from hybrid.records import Batch, Spent
from hybrid.tasks import Character
from hybrid.tasks.chain import Chain
from hybrid.tasks.collate import prompts
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


@dataclass(frozen=True)
class Setting:
    """What is measured: fixed, so that figures of two versions compare."""

    width: int = 256
    layers: int = 4
    heads: int = 4
    canvas: int = 64
    operations: int = 30
    train_batch: int = 16
    train_steps: int = 5
    draft_batch: int = 16
    draft_steps: int = 32
    repeats: int = 5

    @property
    def model(self) -> Model:
        backbone = Qwen3(width=self.width, layers=self.layers, heads=self.heads)
        return Model(backbone=backbone, drafter=Diffusion(), canvas=self.canvas, max_answer=4)

    @property
    def task(self) -> Chain:
        return Chain(length=self.operations)


QUICK = Setting(
    width=32, layers=1, heads=2, operations=6, canvas=8, train_batch=4, train_steps=1, draft_batch=2, draft_steps=2,
    repeats=1,
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One measurement. goal: at least this much; None where there is none."""

    value: float
    goal: float | None
    detail: str

    @property
    def is_met(self) -> bool:
        return self.goal is None or self.value >= self.goal


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


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def train_vs_bare_loop(setting: Setting) -> Figure:
    training = Training(setting, setting.model)
    training.bare()
    pairs = [(training.in_trainer(), training.bare()) for _ in range(setting.repeats)]
    rates = [median(training.positions / seconds for seconds in side) for side in zip(*pairs, strict=True)]
    ratio = median(bare / trained for trained, bare in pairs)
    return Figure(ratio, 0.95, f"{rates[0]:,.0f} positions/s in the trainer, {rates[1]:,.0f} in the bare loop")


def train_flops_vs_gemm(setting: Setting) -> Figure:
    # With the gold feed, every position that is sent forward is sent backward too.
    training = Training(setting, replace(setting.model, feed=Gold()))
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


def draft_time_in_network(setting: Setting) -> Figure:
    torch.manual_seed(0)
    tokenizer = Character(string.printable).train([])
    reasoner = Reasoner(setting.model, tokenizer).eval()
    network, special = reasoner.networks.drafter, reasoner.special
    assert network is not None
    with torch.no_grad():  # their logits are 0 and thus never the likeliest of 100: no row ends its sketch early
        network.model.get_input_embeddings().weight[[special.pad, special.end]] = 0.0
    problems = prompts(["1234567890+1234567890="] * setting.draft_batch, tokenizer).to(reasoner.device)
    request = Request(problems, setting.canvas, special)
    inside = 0.0

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            nonlocal inside
            began = time.perf_counter()
            result = call(*args, **options)
            if reasoner.device.type == "cuda":
                torch.cuda.synchronize()
            inside += time.perf_counter() - began
            return result

        return run

    network.forward, network.logits = watched(network.forward), watched(network.logits)  # type: ignore[method-assign]
    shares, seconds = [], []
    for repeat in range(setting.repeats + 1):
        inside, spent = 0.0, Spent.nothing(setting.draft_batch)
        noise = Noise(repeat, request.prompts.keys)
        drafting = reasoner.config.drafter.draft(network, request, Budget(setting.draft_steps), noise, spent)
        seconds.append(timed(lambda drafting=drafting: finish(drafting)))
        shares.append(inside / seconds[-1])
        assert (spent.denoiser_forwards == setting.draft_steps).all()
    outside = median(s * (1 - share) for s, share in zip(seconds[1:], shares[1:], strict=True)) / setting.draft_steps
    return Figure(
        median(shares[1:]), 0.95,
        f"{median(seconds[1:]) * 1e3:,.0f} ms a draft, {outside * 1e6:,.0f} us a step outside the network, fp32",
    )  # fmt: skip


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
    found.put(Training(setting, setting.model).in_trainer(median_of=True, **train))


def step_not_awaiting_data(setting: Setting) -> Figure:
    """Batches are made between steps: what making one takes is what a step waits. `train.workers` hides it."""
    training = Training(setting, setting.model)
    stream = iter(Stream(training.examples, training.tokenizer, setting.canvas, setting.train_batch, seed=0))
    next(stream)
    turns = [(timed(lambda: next(stream)), training.in_trainer()) for _ in range(setting.repeats)]
    making, step = (median(side) * 1e3 for side in zip(*turns, strict=True))
    share = 1 - median(a / b for a, b in turns)
    return Figure(share, 0.98, f"{making:,.2f} ms to make a batch, {step:,.0f} ms a step")


def checkpoint_in_steps(setting: Setting) -> Figure:
    training = Training(setting, setting.model)
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
    trainings = {name: Training(s, replace(s.model, feed=Gold())) for name, s in {"": plain, **larger}.items()}
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


def peak_memory_mb(setting: Setting) -> Figure:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Figure(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, None, "resident set of this process")


MEASUREMENTS = {
    f.__name__: f
    for f in (
        train_vs_bare_loop, train_flops_vs_gemm, draft_time_in_network, two_ranks_scaling, step_not_awaiting_data,
        checkpoint_in_steps, doubling, peak_memory_mb,
    )
}  # fmt: skip


def quiet() -> None:
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--only", action="append", choices=list(MEASUREMENTS), help="measure this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="tiny, once: does it run? Its figures mean nothing")
    options = parser.parse_args(arguments)
    keep_memory()
    quiet()
    setting = QUICK if options.quick else Setting()
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"machine  {machine}" + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""))
    print("setting  " + ", ".join(f"{name} {value}" for name, value in asdict(setting).items()))
    print(f"flops    {FLOP_FORMULA}")
    figures = {}
    for name in options.only or MEASUREMENTS:
        figure = figures[name] = MEASUREMENTS[name](setting)
        goal = "" if figure.goal is None else f"  goal {figure.goal}: {'met' if figure.is_met else 'MISSED'}"
        print(f"{name:<22}{figure.value:>9.3f}{goal:<22}  {figure.detail}", flush=True)
    if options.json:
        found = {name: {**asdict(f), "met": f.is_met} for name, f in figures.items()}
        whole = {"machine": machine, "setting": asdict(setting), "flops": FLOP_FORMULA, "figures": found}
        Path(options.json).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
