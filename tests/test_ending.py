"""How sketches end: certain pads are free, impossible ends impossible, what the data holds is allowed."""

from itertools import product

import pytest
import torch
from toy import Joint, RandomDenoiser

from hybrid.diffusion.bound import exact
from hybrid.diffusion.corruption import Absorbing, Alphabet
from hybrid.diffusion.draft import draft
from hybrid.diffusion.guidance import Ended, Ending, Predict
from hybrid.diffusion.noise import Noise
from hybrid.diffusion.policy import Policy
from hybrid.diffusion.schedule import Linear
from hybrid.kinds import look_up, names

PAD, END, TEXT, MASK = 0, 1, 2, 3
LENGTH = 4
ENDING = Ending(END, PAD, MASK)
# Everything that the data can hold: text, one end, pads; a text that fills the canvas has no end.
WHOLE = [[TEXT] * n + [END] + [PAD] * (LENGTH - n - 1) for n in range(LENGTH)]
INNER = RandomDenoiser(MASK, LENGTH)
ENDED = Ended(INNER, ENDING)


def hidden_ways(x):
    return [
        torch.tensor([MASK if h else y for h, y in zip(hide, x, strict=True)])
        for hide in product([0, 1], repeat=LENGTH)
    ]


@pytest.mark.parametrize("x", WHOLE, ids=str)
def test_what_the_data_holds_is_never_ruled_out(x):
    for z in hidden_ways(x):
        logp = ENDED(z[None], torch.ones(1)).log_softmax(-1)
        assert logp[0, torch.arange(LENGTH), torch.tensor(x)].isfinite().all(), z


def test_the_two_rules_written_out():
    """Against plain Python: after a visible end or pad only a pad; before a token or end no pad or end."""
    for z in product([PAD, END, TEXT, MASK], repeat=LENGTH):
        given = torch.tensor(z)[None]
        ruled_out = ENDED(given, torch.ones(1))[0].isneginf() & ~INNER(given, torch.ones(1))[0].isneginf()
        for i in range(LENGTH):
            over = any(y in (END, PAD) for y in z[:i])
            before_text = any(y in (END, TEXT) for y in z[i + 1 :])
            gone = {TEXT, END} if over else {PAD, END} if before_text else set()
            assert set(ruled_out[i].nonzero()[:, 0].tolist()) == gone, (z, i)


def test_pads_after_a_visible_end_cost_nothing():
    z = torch.tensor([[TEXT, END, MASK, MASK]])
    nll = -ENDED(z, torch.ones(1)).log_softmax(-1)[0, 2:, PAD]
    assert (nll == 0).all()
    hidden_end = torch.tensor([[TEXT, MASK, MASK, MASK]])
    assert (-ENDED(hidden_end, torch.ones(1)).log_softmax(-1)[0, 2:, PAD] > 0).all()


@pytest.mark.parametrize("x", WHOLE, ids=str)
def test_the_rules_only_lower_the_bound(x):
    x = torch.tensor(x)
    assert exact(ENDED, x, MASK) <= exact(INNER, x, MASK)


def test_the_rules_leave_the_oracle_as_it_is():
    """An exact denoiser of well-formed canvases obeys them already."""
    table = torch.zeros((3,) * LENGTH)
    for n, x in enumerate(WHOLE):
        table[tuple(x)] = n + 1.0
    oracle = Joint(table)
    for x in WHOLE:
        for z in hidden_ways(x):
            ruled = Ended(oracle, ENDING)(z[None], torch.ones(1)).softmax(-1)
            assert torch.allclose(ruled, oracle(z[None], torch.ones(1)).softmax(-1))


def test_the_bound_of_the_ruled_oracle_is_minus_log_p():
    table = torch.zeros((3,) * LENGTH)
    for n, x in enumerate(WHOLE):
        table[tuple(x)] = n + 1.0
    oracle = Joint(table)
    for n, x in enumerate(WHOLE):
        found = exact(Ended(oracle, ENDING), torch.tensor(x), MASK)
        assert float(found) == pytest.approx(-float(((n + 1) / table.sum()).log()), rel=1e-6)


def test_close_fills_open_positions_after_a_stop_and_no_others():
    z = torch.tensor([[MASK, END, MASK, MASK], [MASK, PAD, TEXT, MASK], [MASK, TEXT, MASK, TEXT]])
    given = z.clone()
    closed = torch.tensor([[MASK, END, PAD, PAD], [MASK, PAD, TEXT, PAD], [MASK, TEXT, MASK, TEXT]])
    assert torch.equal(ENDING.close(z), closed) and torch.equal(z, given)


@pytest.mark.parametrize("name", [name for name in names(Policy) if look_up(Policy, name)().always_commits])
def test_one_token_at_a_time_drafts_are_well_formed(name):
    """Whatever the order: after the first end or pad come pads only, and no end follows it."""
    rows = 300
    flat = Ended(Predict(lambda z, t: torch.tensor([0.0, 0, 0, -torch.inf]).expand(*z.shape, 4)), ENDING)
    z = list(
        draft(
            flat, torch.full((rows, LENGTH), MASK), look_up(Policy, name)(), torch.full((rows,), LENGTH),
            Noise(0, torch.arange(rows)), corruption=Absorbing(), schedule=Linear(), alphabet=Alphabet(MASK, 4),
            temperature=1.0, close=ENDING.close,
        )
    )[-1].z  # fmt: skip
    stops = ((z == END) | (z == PAD)).cumsum(-1) > 0
    first = stops & (stops.cumsum(-1) == 1)
    assert not (z == MASK).any() and (z[stops & ~first] == PAD).all()
    assert (z == END).any() and (z == TEXT).any()
