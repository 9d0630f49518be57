"""Parts from outside the package that differ from those within it: each is asked, or refused, and never passed over."""

import sys
from dataclasses import dataclass

import pytest
import torch
from toy import tiny_batch, tiny_reasoner

from hybrid.config import add_fork_path
from hybrid.diffusion.corruption import Absorbing
from hybrid.drafters.diffusion import Diffusion
from hybrid.feed import Gold


def test_parts_are_found_beside_the_config_and_where_one_is(tmp_path, monkeypatch):
    """As for `hybrid train fork.yaml run=runs/fork`, whose run lies elsewhere than the config."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    before = len(sys.path)
    add_fork_path(tmp_path / "runs" / "fork")
    assert sys.path[before:] == [str(tmp_path / "runs"), str(tmp_path)]


@dataclass(frozen=True)
class Tilted(Absorbing):
    """Masks the right of a canvas sooner; every masked token costs `nats`."""

    nats: float = 7.0

    def corrupt(self, x, alpha, u, alphabet):
        power = 1 + torch.arange(x.shape[1], device=x.device)
        return torch.where(u < alpha[:, None] ** power, x, alphabet.mask_id)

    def cost(self, logits, x, z, t, schedule, alphabet):
        return torch.full(x.shape, self.nats)


@pytest.mark.parametrize("block", [None, 2])
def test_a_corruption_with_masks_trains_by_its_own_law_and_cost(block):
    drafter = Diffusion(corruption=Tilted(), times="continuous", attention_block=block)
    reasoner, batch = tiny_reasoner(drafter=drafter, feed=Gold()), tiny_batch()
    cost = reasoner.losses(batch, t=torch.full((len(batch),), 0.5)).sketch
    assert (cost % 7 == 0).all() and (cost > 0).any()


@pytest.mark.parametrize("setting", [{"times": "counts"}, {"train_weight": 0.5}, {"focal": 2.0}])
def test_what_stands_for_absorbing_masks_is_refused_for_others(setting):
    with pytest.raises(ValueError, match="Tilted corruption has a law or cost of its own"):
        Diffusion(corruption=Tilted(), **{"times": "continuous"} | setting)
    Diffusion(corruption=Tilted(), times="continuous", self_condition=0.5)
