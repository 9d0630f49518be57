"""Feeds: what the decoder reads in training is keyed by the example, well-formed, and leaks no gold."""

from dataclasses import replace

import pytest
import torch
from toy import tiny_batch, tiny_reasoner

from hybrid.diffusion.guidance import Ending
from hybrid.diffusion.noise import Noise
from hybrid.feed import Blanks, Corrupted, Drafted, Feed, Fodder, Gold, Mixture, Nothing, Partial
from hybrid.kinds import look_up, names
from hybrid.records import Special

SPECIAL = Special()
PAD, END, MASK = SPECIAL.pad, SPECIAL.end, SPECIAL.mask
VOCABULARY, LENGTH, ROWS = 17, 8, 400
ENDING = Ending(END, PAD, MASK)
FEEDS = {name: look_up(Feed, name)() for name in names(Feed)}
every_feed = pytest.mark.parametrize("feed", FEEDS.values(), ids=list(FEEDS))


def gold_canvas(rows=ROWS):
    lengths = torch.arange(rows) % LENGTH
    at = torch.arange(LENGTH)
    text = 5 + (torch.arange(rows)[:, None] + at) % (VOCABULARY - 5)
    return torch.where(at < lengths[:, None], text, torch.where(at == lengths[:, None], END, PAD))


def fodder(rows=ROWS, seed=0):
    """`one_step` drafts a canvas that says which row it is for, in two tokens of its own."""
    keys = torch.arange(1000, 1000 + rows)

    def one_step(some):
        return torch.stack([100 + some] * LENGTH, dim=1)

    return Fodder(gold_canvas(rows), Noise(seed, keys), SPECIAL, VOCABULARY, one_step)


@every_feed
def test_gold_is_never_edited(feed):
    given = fodder()
    before = given.gold.clone()
    fed = feed.feed(given)
    assert torch.equal(given.gold, before) and fed.shape == before.shape and fed.dtype == before.dtype


@every_feed
def test_a_row_alone_is_fed_as_in_the_batch(feed):
    given = fodder(64)
    fed = feed.feed(given)
    for row in (0, 5, 17, 63):
        assert torch.equal(feed.feed(given.select(torch.tensor([row])))[0], fed[row])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(feed.feed(given.select(order)), fed[order])


@every_feed
def test_seed_and_epoch_decide_what_is_drawn(feed):
    given = fodder()
    assert torch.equal(feed.feed(given), feed.feed(given))
    if isinstance(feed, Corrupted | Partial | Mixture):
        for noise in (Noise(1, given.noise.keys), Noise(0, given.noise.keys, epoch=1)):
            assert not torch.equal(feed.feed(replace(given, noise=noise)), feed.feed(given))


def test_gold_and_nothing_are_what_they_say():
    given = fodder()
    assert torch.equal(Gold().feed(given), given.gold)
    assert (Nothing().feed(given) == PAD).all()


def test_corrupted_replaces_its_share_of_text_by_text():
    """Tolerance: 5 sigma of the share; a replacement is the same token one time in 12."""
    given = fodder()
    fed = Corrupted(0.3).feed(given)
    is_text = given.gold >= 5
    assert torch.equal(fed[~is_text], given.gold[~is_text]) and (fed[is_text] >= 5).all() and (fed < VOCABULARY).all()
    n = int(is_text.sum())
    expected = 0.3 * 11 / 12
    assert float((fed != given.gold)[is_text].double().mean()) == pytest.approx(expected, abs=5 * (expected / n) ** 0.5)
    assert torch.equal(Corrupted(0.0).feed(given), given.gold)
    everything = Corrupted(1.0).feed(given)[is_text]
    assert set(everything.tolist()) == set(range(5, VOCABULARY))


def test_partial_only_makes_holes_and_closes_them_after_the_end():
    given = fodder()
    fed = Partial().feed(given)
    hidden = fed == MASK
    assert ((fed == given.gold) | hidden).all() and hidden.any()
    assert not (hidden & ENDING.is_over(fed)).any()
    assert torch.equal(ENDING.close(fed), fed)


def test_the_share_of_holes_is_uniform():
    """Holes of long sketches: the mean share is a half and shares spread (5 sigma; and all tenths occur)."""
    rows = 2000
    gold = torch.full((rows, LENGTH), 7)
    fed = Partial().feed(replace(fodder(rows), gold=gold, noise=Noise(0, torch.arange(rows))))
    counts = torch.bincount((fed == MASK).sum(-1), minlength=LENGTH + 1).double()
    expected = rows / (LENGTH + 1)  # a uniform share mixed over a binomial: every count is equally likely
    assert (counts - expected).abs().max() < 5 * expected**0.5


def test_drafted_is_the_one_step_draft_of_the_right_rows():
    given = fodder(32)
    assert torch.equal(Drafted().feed(given)[:, 0], 100 + torch.arange(32))
    some = torch.tensor([7, 3])
    assert torch.equal(Drafted().feed(given.select(some))[:, 0], 100 + some)
    assert torch.equal(Drafted().feed(given.select(torch.arange(10, 20)).select(some))[:, 0], 110 + some)


def test_drafted_needs_a_drafter_that_drafts():
    with pytest.raises(ValueError, match="feed 'drafted' needs"):
        Drafted().feed(replace(fodder(), one_step=None))


def test_drafted_holds_nothing_of_gold():
    """Two batches that differ in their sketches alone are drafted alike; the prompt still matters."""
    reasoner, batch = tiny_reasoner(), tiny_batch(8)
    noise, rows = Noise(0, batch.prompts.keys), torch.arange(8)
    drafter, network = reasoner.config.drafter, reasoner.networks.drafter
    drafts = drafter.one_step(network, batch, rows, noise, reasoner.special)
    other = replace(batch, sketch=batch.sketch.flip(0), answer=batch.answer.flip(0))
    assert torch.equal(drafter.one_step(network, other, rows, noise, reasoner.special), drafts)
    assert not torch.isin(drafts, torch.tensor(SPECIAL.never_drafted)).any()
    assert torch.equal(ENDING.close(drafts), drafts) and not (ENDING.is_over(drafts) & (drafts != PAD)).any()
    assert len({tuple(row) for row in drafts.tolist()}) > 1


def test_one_step_drafts_rows_as_asked():
    """Some rows, in any order, are drafted as in the whole batch."""
    reasoner, batch = tiny_reasoner(), tiny_batch(8)
    noise = Noise(0, batch.prompts.keys)
    drafter, network = reasoner.config.drafter, reasoner.networks.drafter
    whole = drafter.one_step(network, batch, torch.arange(8), noise, reasoner.special)
    some = torch.tensor([6, 1, 3])
    assert torch.equal(drafter.one_step(network, batch, some, noise, reasoner.special), whole[some])


def test_a_mixture_feeds_each_kind_its_share():
    """Tolerance: 5 sigma of 4,000 rows."""
    rows = 4000
    gold = torch.full((rows, LENGTH), 7)
    mixture = Mixture(corruption=Corrupted(1.0))
    fed = mixture.feed(replace(fodder(rows), gold=gold, noise=Noise(0, torch.arange(rows))))
    is_none, is_drafted = (fed == PAD).all(-1), (fed >= 100).all(-1)
    is_corrupted = ((fed >= 5) & (fed < 100)).all(-1) & (fed != 7).any(-1)
    for found, share in ((is_none, 0.1), (is_drafted, 0.25), (is_corrupted, 0.1)):
        assert float(found.double().mean()) == pytest.approx(share, abs=5 * (share / rows) ** 0.5)
    assert torch.equal(fed[is_drafted][:, 0], 100 + is_drafted.nonzero()[:, 0])
    is_plain = (fed == 7).all(-1)  # gold, or a partial one without holes: one in 9 of them
    assert float(is_plain.double().mean()) == pytest.approx(0.4 + 0.15 / 9, abs=0.04)


def test_a_mixture_of_one_is_that_one():
    given = fodder()
    zero = {"gold": 0.0, "drafted": 0.0, "partial": 0.0, "corrupted": 0.0, "none": 0.0}
    for name, feed in (("gold", Gold()), ("drafted", Drafted()), ("partial", Partial()), ("none", Nothing())):
        assert torch.equal(Mixture(**(zero | {name: 1.0})).feed(given), feed.feed(given))


@pytest.mark.parametrize("shares", [{"gold": 0.5}, {"gold": -0.1, "drafted": 0.75}])
def test_shares_that_are_no_law_are_refused(shares):
    with pytest.raises(ValueError, match="must"):
        Mixture(**shares)
    with pytest.raises(ValueError, match="share=1.5"):
        Corrupted(1.5)


def test_pauses_are_blanks_as_long_as_the_gold_sketch():
    fed, gold = Blanks().feed(fodder()), gold_canvas()
    is_text = gold > MASK
    assert is_text.any() and (fed[is_text] == MASK).all() and torch.equal(fed[~is_text], gold[~is_text])
