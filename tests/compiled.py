"""What test_compiled.py runs in a process of its own, whose functions are not wrapped to check types: graphs cannot be
made of the wrappers. `python compiled.py NAME ...`"""

import sys
import warnings

import torch
from torch._dynamo.testing import CompileCounter
from toy import tiny_batch, tiny_reasoner

from hybrid.diffusion.budget import Budget
from hybrid.nets.backbone import GPTNeoX

PROMPTS = ["1+2=", "12+3=", "7=", "123+45="]
SAME = ("sketch_tokens", "answer_tokens", "allowed", "spent", "complete")


def assert_same(plain, compiled, calls):
    for prompts, budget in calls:
        for one, two in zip(plain.reason(prompts, budget), compiled.reason(prompts, budget), strict=True):
            one.spent.pop("seconds"), two.spent.pop("seconds")
            assert [getattr(one, name) for name in SAME] == [getattr(two, name) for name in SAME]
            assert abs(one.answer_logp - two.answer_logp) < 1e-4


def drafts_and_answers_are_the_same_in_few_graphs():
    """Ragged batches, rows that end early, other numbers of rows and of columns: traced, not yet translated."""
    plain, compiled, counter = (*(tiny_reasoner(seed=1, max_answer=6) for _ in range(2)), CompileCounter())
    compiled.compile_sampling(counter)
    calls = [(PROMPTS, Budget(3)), (PROMPTS[:3], Budget(2)), (PROMPTS[2:], Budget(6)), (PROMPTS, Budget(0))]
    calls += [(PROMPTS[:1], Budget(2)), (PROMPTS[3:], Budget(3))]
    assert_same(plain, compiled, calls)
    made = counter.frame_count

    def forward(*args, **options):
        raise AssertionError("run plainly")

    compiled.networks.decoder.model.base_model.forward = forward  # prompts too are read in graphs by now
    assert_same(plain, compiled, calls[:2])
    assert 2 <= made == counter.frame_count  # nothing is made twice
    lengths = {len([t for t in r.answer_tokens if t]) for r in plain.reason(PROMPTS, Budget(3))}
    assert len(lengths) > 1  # rows did leave


def training_goes_on_in_between():
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


def what_cannot_be_compiled_runs_plainly():
    def broken(graph, inputs):
        raise NotImplementedError("no such shapes")

    plain, compiled = (tiny_reasoner() for _ in range(2))
    compiled.compile_sampling(broken)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert_same(plain, compiled, [(PROMPTS, Budget(3))])
    assert any("not compiled" in str(w.message) and "no such shapes" in str(w.message) for w in told)


def translated_graphs_give_the_same():
    """By the compiler itself: a shared trunk, two networks, another family."""
    for options in ({}, {"pairing": "separate"}, {"backbone": GPTNeoX(16, 2, 2, initial_scale=0.4)}):
        plain, compiled = (tiny_reasoner(max_answer=6, **options) for _ in range(2))
        compiled.load_state_dict(plain.state_dict())
        compiled.compile_sampling()
        assert_same(plain, compiled, [(PROMPTS, Budget(3)), (PROMPTS[:1], Budget(4)), (PROMPTS[1:], Budget(2))])


if __name__ == "__main__":
    for name in sys.argv[1:]:
        globals()[name]()
