"""Compiled sampling: the same tokens, the same counts, few graphs."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from toy import tiny_batch, tiny_reasoner

from hybrid.diffusion.budget import Budget
from hybrid.nets.backbone import GPTNeoX
from hybrid.nets.encoder import Encoder

PROMPTS = ["1+2=", "12+3=", "7=", "123+45="]
SAME = ("sketch_tokens", "answer_tokens", "allowed", "spent", "complete")


def assert_same(plain, compiled, calls):
    for prompts, budget in calls:
        for one, two in zip(plain.reason(prompts, budget), compiled.reason(prompts, budget), strict=True):
            one.spent.pop("seconds"), two.spent.pop("seconds")
            assert [getattr(one, name) for name in SAME] == [getattr(two, name) for name in SAME]
            assert one.answer_logp == pytest.approx(two.answer_logp, abs=1e-4)


def test_drafts_and_answers_are_the_same_in_four_graphs_at_most():
    """Ragged batches, rows that end early, other numbers of rows and of columns: traced, not yet translated."""
    plain, compiled, counter = (*(tiny_reasoner(max_answer=6) for _ in range(2)), CompileCounter())
    compiled.compile_sampling(counter)
    calls = [(PROMPTS, Budget(3)), (PROMPTS[:3], Budget(2)), (PROMPTS[2:], Budget(6)), (PROMPTS, Budget(0))]
    calls += [(PROMPTS[:1], Budget(2)), (PROMPTS[3:], Budget(3))]
    assert_same(plain, compiled, calls)
    assert 2 <= counter.frame_count <= 4
    lengths = {len([t for t in r.answer_tokens if t]) for r in plain.reason(PROMPTS, Budget(3))}
    assert len(lengths) > 1  # rows did leave


def test_training_goes_on_in_between():
    """Weights that change, and a network that is in training mode, are those of the next call."""
    plain, compiled = (tiny_reasoner() for _ in range(2))
    compiled.compile_sampling("eager")
    assert_same(plain, compiled, [(PROMPTS, Budget(2))])
    for reasoner in (plain, compiled):
        reasoner.train()
        reasoner.loss(reasoner.losses(tiny_batch())).backward()
        with torch.no_grad():
            for p in reasoner.parameters():
                p -= 0.1 * p.grad if p.grad is not None else 0.0
    before = [t.clone() for t in compiled.state_dict().values()]
    assert_same(plain, compiled, [(PROMPTS, Budget(2))])
    assert compiled.networks.decoder.model.training
    assert all(torch.equal(a, b) for a, b in zip(before, compiled.state_dict().values(), strict=True))


def test_what_keeps_no_keys_and_values_is_refused():
    model = tiny_reasoner().networks.decoder.model
    with pytest.raises(ValueError, match="Qwen3ForCausalLM: only what keeps keys and values alone"):
        Encoder(model).compile_sampling()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"pairing": "separate"}, {"backbone": GPTNeoX(16, 2, 2, initial_scale=0.4)}])
def test_translated_graphs_give_the_same(options):
    plain = tiny_reasoner(max_answer=6, **options)
    compiled = tiny_reasoner(max_answer=6, **options)
    compiled.load_state_dict(plain.state_dict())
    compiled.compile_sampling()
    assert_same(plain, compiled, [(PROMPTS, Budget(3)), (PROMPTS[:1], Budget(4)), (PROMPTS[1:], Budget(2))])
