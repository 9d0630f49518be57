"""Loggers that the config names write beside metrics.csv, without a network."""

import pytest
from test_hub import SMALL

from hybrid.build import ConfigError, build
from hybrid.experiment import Experiment
from hybrid.train.run import train
from hybrid.train.settings import Train


@pytest.mark.parametrize(
    "name, pattern",
    [
        ("tensorboard", "tensorboard/events.*"),
        pytest.param("wandb", "wandb/offline-run-*", marks=pytest.mark.slow),
    ],
)
def test_a_named_logger_writes_its_files(name, pattern, tmp_path, monkeypatch):
    pytest.importorskip(name)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    settings = {"steps": 2, "batch_size": 4, "validate_every": 0, "log_every": 1, "loggers": [name], "warmup": 0}
    model = {"canvas": 9, "max_answer": 2, "backbone": SMALL}
    section = {"task": "chain", "model": model, "train": settings | {"precision": "32-true", "accelerator": "cpu"}}
    train(build(Experiment, section), tmp_path, progress=False)
    assert list(tmp_path.glob(pattern)) and (tmp_path / "logs" / "metrics.csv").is_file()


def test_an_unknown_logger_is_refused():
    with pytest.raises(ConfigError, match=r"loggers\[0\]: expected one of 'tensorboard', 'wandb'"):
        build(Train, {"loggers": ["mlflow"]})
