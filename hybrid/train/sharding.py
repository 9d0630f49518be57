"""What several devices share: the strategies, and the network split layer by layer (FSDP2)."""

import os
from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard

from hybrid.build import ConfigError
from hybrid.shard import rank_and_world
from hybrid.train.module import HybridReasoner
from hybrid.train.optimiser import networks
from hybrid.train.settings import Train


class ShardedReasoner(HybridReasoner):
    """Each rank holds a share of every weight, its gradient and its optimiser state.

    A layer's weights are gathered when it runs and let go afterwards; embedding, head and last norm stay from the
    network's forward to its backward, since the head is applied to hidden states after the forward.
    """

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for network in networks(self.reasoner):
            names = network.model._no_split_modules or ()
            for layer in [m for m in network.model.modules() if type(m).__name__ in names]:
                fully_shard(layer, mesh=mesh)
            fully_shard(network, mesh=mesh, reshard_after_forward=False)
        if self.reasoner.bridge is not None:
            fully_shard(self.reasoner.bridge, mesh=mesh)


def strategy(train: Train) -> Any:
    """The trainer's strategy. Both exchange gradients only, so both give the numbers of one device."""
    timeout = timedelta(seconds=train.timeout)
    if train.strategy == "fsdp2":
        # Checkpoints in one file of whole tensors: any strategy and any number of ranks can go on from them.
        return ModelParallelStrategy(
            data_parallel_size=train.world, tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout
        )
    return DDPStrategy(timeout=timeout, gradient_as_bucket_view=True) if train.world > 1 else "auto"


def plugins() -> list[Any]:
    """Who started us: ourselves or torchrun, also inside a Slurm job; or srun, without the trainer's own requeueing,
    since ours resumes from the run folder.
    """
    if "RANK" in os.environ:
        return [TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()]
    return [SLURMEnvironment(auto_requeue=False)] if rank_and_world() is not None else [LightningEnvironment()]


def check_ranks(train: Train) -> None:
    """Refuse what the machine or whoever started us does not offer.

    Raises:
        ConfigError: more devices than exist, or another number of processes than the config asks for.
    """
    if train.accelerator in ("gpu", "cuda") or (train.accelerator == "auto" and torch.cuda.is_available()):
        if train.devices > torch.cuda.device_count():
            raise ConfigError(f"train.devices={train.devices}: this machine has {torch.cuda.device_count()} GPUs")
    elif train.devices > (cores := os.cpu_count() or 1) * 4:
        raise ConfigError(
            f"train.devices={train.devices}: this machine has {cores} cores; at most {cores * 4} processes"
        )
    me = rank_and_world()
    if me is not None and me[1] != train.world:
        raise ConfigError(
            f"started as {me[1]} processes, but train.devices={train.devices} times train.num_nodes={train.num_nodes} "
            f"are {train.world}: set them to what torchrun or srun starts"
        )
    if me is None and train.num_nodes > 1:
        raise ConfigError(
            f"train.num_nodes={train.num_nodes}: torchrun or srun must start the processes of several machines; "
            "see scripts/slurm.sh"
        )
