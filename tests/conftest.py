"""Settings that all tests share."""

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes longer than a few seconds; leave out with -m 'not slow'")
    torch.set_num_threads(1)
