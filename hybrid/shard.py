"""Several processes, one result: batches are dealt whole, and results come back in order.

Who computes a batch never changes what is in it, so every figure and every sample is the same for any number of
ranks. No rank waits for another inside a batch.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """This process among `world` that work together."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank={self.rank}: must be from 0 to world - 1 = {self.world - 1}")

    def deal(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's items: one in `world`, so that each has an owner and only one."""
        return items[self.rank :: self.world]

    def rounds(self, count: int) -> list[int]:
        """This rank's places among `count` items, as many for every rank: a rank with none left repeats the last.

        For loops in which all ranks must take part each round; results under one place are the same, and count once.
        """
        if count < 1:
            raise ValueError(f"count={count}: must be 1 or more")
        return [min(first + self.rank, count - 1) for first in range(0, count, self.world)]

    def gather(self, mine: T) -> list[T]:
        """Everybody's value, by rank, on every rank."""
        if self.world == 1:
            return [mine]
        found: list[T | None] = [None] * self.world
        dist.all_gather_object(found, mine)
        return found  # type: ignore[return-value]

    def union(self, mine: Mapping[int, T]) -> list[T]:
        """Everybody's values in the order of their keys; a key that several ranks hold counts once."""
        merged = {key: value for part in self.gather(dict(mine)) for key, value in part.items()}
        return [merged[key] for key in sorted(merged)]

    def sum(self, vector: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The sum over ranks, added in the order of ranks."""
        return torch.stack(self.gather(vector)).sum(0)

    def agree(self, is_done: bool) -> bool:
        """Whether every rank is done. All ranks must ask."""
        if self.world == 1:
            return is_done
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        told = torch.tensor(int(is_done), device=device)
        dist.all_reduce(told, op=dist.ReduceOp.MIN)
        return bool(told)


ALONE = Shard()


def rank_and_world(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Who we are, by torchrun's words or Slurm's; None for a process that nobody started as one of several."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return int(environment["RANK"]), int(environment["WORLD_SIZE"])
    is_batch = environment.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if is_batch and "SLURM_PROCID" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1:
        return int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"])
    return None


def own_device(name: str = "auto") -> torch.device:
    """Where this process computes. auto: the GPU of its local rank where there is one, else the CPU.

    Raises:
        ValueError: a device that this machine lacks.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
        return torch.device("cuda", local % gpus) if gpus else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= gpus):
        raise ValueError(f"device={name}: must be auto, cpu, or cuda[:N] for one of this machine's {gpus} GPUs")
    return device


@contextmanager
def joined(timeout: float = 1800.0) -> Iterator[Shard]:
    """This process's shard, connected to the others for as long as the block lasts.

    timeout: seconds that a rank waits for another before it gives up with an error.
    """
    me = rank_and_world()
    if me is None or me[1] == 1:
        yield ALONE
        return
    rank, world = me
    if dist.is_initialized():  # by whoever called us
        yield Shard(rank, world)
        return
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=timeout))
    try:
        yield Shard(rank, world)
    finally:
        dist.destroy_process_group()


def batches(count: int, size: int) -> list[range]:
    """Places of `count` items in batches of `size`, the last one shorter."""
    return [range(at, min(at + size, count)) for at in range(0, count, size)]
