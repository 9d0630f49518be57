"""Stepwise internalisation: what training leaves of a sketch, and that nothing else changes."""

import dataclasses
import math

import pytest
import torch
from toy import tiny_batch, tiny_reasoner

from hybrid.diffusion.noise import Noise
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.drafters.internalised import Internalised
from hybrid.feed import Gold
from hybrid.records import Batch, Special

SPECIAL = Special()
DRAFTER = Internalised(after=5, over=20)


def batch_of(lengths, canvas=12):
    """Sketches of those lengths, whose tokens are numbered from 5."""
    batch = tiny_batch(len(lengths))
    sketch = torch.full((len(lengths), canvas), SPECIAL.pad)
    for row, n in enumerate(lengths):
        sketch[row, :n] = 5 + torch.arange(n)
        sketch[row, n] = SPECIAL.end
    return dataclasses.replace(batch, sketch=sketch)


def text(row):
    return [token for token in row.tolist() if token != SPECIAL.pad]


@pytest.mark.parametrize("epoch", range(0, 30))
def test_what_is_left_is_the_sketch_without_its_first_tokens(epoch):
    lengths = list(range(12))
    batch = batch_of(lengths)
    share = min(1.0, max(0.0, (epoch - 5) / 20))
    taught = DRAFTER.taught(batch, Noise(3, torch.arange(12), epoch), SPECIAL)
    for row, n in zip(taught.sketch, lengths, strict=True):
        gone = n + 1 - len(text(row))
        assert abs(gone - share * n) < 1
        assert text(row) == [*range(5 + gone, 5 + n), SPECIAL.end]
        assert row.tolist()[: len(text(row))] == text(row)  # from the first position on
    assert taught.sketch.shape[1] == math.ceil((1 - share) * 11) + 1
    assert torch.equal(taught.answer, batch.answer) and taught.prompts is batch.prompts


def test_the_share_that_is_left_out_is_met_on_average():
    batch = batch_of([7] * 6)
    gone = [
        8 - len(text(row))
        for first in range(0, 6000, 6)
        for row in DRAFTER.taught(batch, Noise(0, torch.arange(first, first + 6), 12), SPECIAL).sketch
    ]
    assert sum(gone) / len(gone) == pytest.approx(7 * 7 / 20, abs=0.03)  # 4.4 standard errors


def test_a_row_alone_is_left_what_it_is_left_in_a_batch():
    batch, keys = batch_of([3, 11, 6]), torch.tensor([5, 6, 7])
    together = DRAFTER.taught(batch, Noise(0, keys, 13), SPECIAL).sketch
    for row in range(3):
        one = slice(row, row + 1)
        prompts = batch.prompts.select(torch.tensor([row]))
        alone = Batch(prompts, batch.sketch[one], batch.answer[one], batch.answer_keep[one])
        assert torch.equal(DRAFTER.taught(alone, Noise(0, keys[one], 13), SPECIAL).sketch, together[one])


def test_before_it_begins_it_is_the_chain_and_at_the_end_a_decoder_of_empty_sketches():
    torch.manual_seed(0)
    reasoner = tiny_reasoner(drafter=DRAFTER, feed=Gold(), canvas=12)
    batch = batch_of([3, 11, 6])

    def cost(drafter, batch, epoch):
        found = reasoner.losses(batch, Noise(0, batch.prompts.keys, epoch), drafter=drafter)
        return torch.stack([found.sketch, found.answer]), found.positions

    whole, positions = cost(Autoregressive(), batch, 0)
    assert torch.equal(cost(DRAFTER, batch, 5)[0], whole)
    empty, fewest = cost(Autoregressive(), batch_of([0, 0, 0], canvas=1), 0)
    later, left = cost(DRAFTER, batch, 25)
    assert torch.equal(later, empty) and left == fewest == positions - 3 * 11
    assert torch.equal(cost(DRAFTER.honest(), batch, 25)[0], whole)  # validation speaks of whole sketches


@pytest.mark.parametrize(("key", "value"), [("after", -1), ("over", 0)])
def test_refused(key, value):
    with pytest.raises(ValueError, match=f"{key}={value}: must be"):
        Internalised(**{key: value})
