"""Settings that all tests share."""

import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
# Where tensors are; the rest states no shapes.
SHAPED = "records bridge feed reasoner writing evaluate diffusion nets drafters".split()
jaxtyping.install_import_hook([f"hybrid.{part}" for part in SHAPED], "typecheck.checked")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes longer than a few seconds; leave out with -m 'not slow'")
    torch.set_num_threads(1)


@pytest.fixture
def unchecked():
    """For tests of what a caller without types meets: shapes and types are not checked while it runs."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
