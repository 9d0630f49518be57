"""Where the figures of a run go besides metrics.csv, which is always written."""

import os
from collections.abc import Callable
from pathlib import Path

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger


def loggers_of(names: tuple[str, ...], folder: Path) -> list[Logger]:
    """Those named.

    Raises:
        ValueError: a named one's package is not installed.
    """
    made: list[Logger] = []
    others: dict[str, Callable[[], Logger]] = {
        "tensorboard": lambda: TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False),
        "wandb": lambda: WandbLogger(
            project="hybrid", name=folder.name, save_dir=folder, offline=os.environ.get("WANDB_MODE") != "online"
        ),
    }
    for name in dict.fromkeys(names):
        try:
            made.append(others[name]())
        except ImportError:
            raise ValueError(
                f"train.loggers: {name} needs its package: pip install 'hybrid-reasoning[{name}]'"
            ) from None
    return made
