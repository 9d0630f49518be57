"""Networks: nothing leaks, padding shifts nothing, cached equals uncached, decoding equals transformers'."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from toy import tiny_backbone, tiny_batch, tiny_reasoner, tiny_tokenizer

from hybrid.bridge import Tokens
from hybrid.diffusion.blocks import Blocks
from hybrid.drafters.canvas import Canvas
from hybrid.nets.backbone import GPTNeoX, Qwen3
from hybrid.nets.decode import write
from hybrid.nets.layout import Segment, attention, running
from hybrid.nets.network import Network, prompt_segment
from hybrid.nets.pairing import Pairing
from hybrid.records import Prompts, Special, Spent

VOCABULARY = len(tiny_tokenizer())
BACKBONES = {
    "qwen3": tiny_backbone(),
    "gpt_neox": GPTNeoX(width=16, layers=2, heads=2, initial_scale=0.4),
}
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SPECIAL = Special()


@pytest.fixture(params=list(BACKBONES))
def network(request):
    torch.manual_seed(1)
    return Network(BACKBONES[request.param].build(VOCABULARY)).eval()


def canvas_segment(z, start):
    length = z.shape[1]
    return Canvas(Blocks(length, length), True, SPECIAL).noisy(z, z, start, "canvas")


def rows(batch):
    """Prompt, canvas, sketch and answer as a shared trunk reads them in training."""
    start = batch.prompts.keep.sum(-1)
    sketch = Tokens().segment(batch.sketch, start, SPECIAL)
    at = running(batch.answer_keep, start + sketch.keep.sum(-1))
    tokens = F.pad(batch.answer[:, :-1], (1, 0), value=SPECIAL.answer)
    answer = Segment("answer", tokens, batch.answer_keep, at, True, ("prompt", "sketch"))
    noisy = torch.where(torch.arange(batch.sketch.shape[1]) % 2 == 0, SPECIAL.mask, batch.sketch)
    return [prompt_segment(batch.prompts), canvas_segment(noisy, start), sketch, answer]


def replaced(segment, column):
    """The segment with other tokens in one column."""
    tokens = segment.tokens.clone()
    tokens[:, column] = 5 + (tokens[:, column] + 1 - 5) % (VOCABULARY - 5)
    return replace(segment, tokens=tokens)


# Who may change when one column of a segment changes; within a segment see `within`.
REACHES = {
    "prompt": {"canvas", "sketch", "answer"},
    "canvas": set(),
    "sketch": {"answer"},
    "answer": set(),
}


def may_change(source, column, target, at):
    if source != target:
        return target in REACHES[source]
    return True if source == "canvas" else at >= column


def test_every_reach_and_no_other_by_perturbation(network):
    """Change one token; exactly the positions that may see it change. Rows are ragged."""
    segments = rows(tiny_batch(4))
    before = network(segments)
    for i, segment in enumerate(segments):
        for column in range(segment.tokens.shape[1]):
            after = network([*segments[:i], replaced(segment, column), *segments[i + 1 :]])
            for other in segments:
                moved = (after[other.name] - before[other.name]).detach().abs().amax(-1)
                for at in range(other.tokens.shape[1]):
                    for row in range(4):
                        if not other.keep[row, at]:
                            continue
                        seen = segment.keep[row, column] and may_change(segment.name, column, other.name, at)
                        value = float(moved[row, at])
                        where = f"{segment.name}[{column}] -> {other.name}[{at}], row {row}: {value}"
                        assert value > 1e-5 if seen else value == 0, where


def test_no_gradient_reaches_what_may_not_be_seen(network):
    """Row by row of the Jacobian, against the same table."""
    segments = rows(tiny_batch(2))
    names = [(s.name, j) for s in segments for j in range(s.tokens.shape[1])]
    keep = torch.cat([s.keep for s in segments], dim=1)
    embedded = []
    hook = network.model.get_input_embeddings().register_forward_hook(
        lambda module, args, out: embedded.append(out.detach().requires_grad_()) or embedded[-1]
    )
    hidden = network(segments)
    hook.remove()
    states = torch.cat([hidden[s.name] for s in segments], dim=1)
    for target, (name, at) in enumerate(names):
        (gradient,) = torch.autograd.grad(
            states[:, target].pow(2).sum() + states[:, target].sum(), embedded[0], retain_graph=True
        )
        reached = gradient.abs().amax(-1) > 0
        for source, (other, column) in enumerate(names):
            for row in range(2):
                if keep[row, target] and not (keep[row, source] and may_change(other, column, name, at)):
                    assert not reached[row, source], f"{other}[{column}] -> {name}[{at}], row {row}"


def test_the_mask_of_a_small_row_written_out():
    def segment(name, keep, is_causal, sees=()):
        keep = torch.tensor([keep], dtype=torch.bool)
        return Segment(name, keep.long(), keep, running(keep), is_causal, sees)

    mask = attention(
        [segment("a", [0, 1, 1], True), segment("b", [1, 1], False, ("a",)), segment("c", [1], True, ("b",))]
    )
    expected = [
        [1, 0, 0, 0, 0, 0],  # padding: itself alone
        [0, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 0, 0, 1, 1, 1],
    ]
    assert mask[0, 0].int().tolist() == expected
    with pytest.raises(ValueError, match="different names"):
        attention([segment("a", [1], True), segment("a", [1], True)])


def test_a_sketch_is_read_up_to_its_end_and_holes_as_holes():
    """A marker, then text, holes and one end; nothing after a first end or pad, or of pads alone."""
    end, pad, mask = SPECIAL.end, SPECIAL.pad, SPECIAL.mask
    canvas = torch.tensor(
        [
            [7, 8, end, pad],
            [7, pad, 8, end],
            [mask, 7, mask, 8],
            [end, 7, 7, 7],
            [pad] * 4,
            [pad, 7, end, pad],
        ]
    )
    sketch = Tokens().segment(canvas, torch.arange(6), SPECIAL)
    read = [row[keep].tolist() for row, keep in zip(sketch.tokens, sketch.keep, strict=True)]
    marker = SPECIAL.sketch
    assert read == [[marker, 7, 8, end], [marker, 7], [marker, mask, 7, mask, 8], [marker, end], [], []]
    assert sketch.positions[2].tolist() == [2, 3, 4, 5, 6]
    assert sketch.is_causal and sketch.sees == ("prompt",)


def test_positions_count_kept_tokens_only():
    keep = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
    assert running(keep).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]
    assert running(keep, torch.tensor([5, 7])).tolist() == [[5, 5, 5, 6], [7, 8, 9, 9]]


def test_canvas_and_clean_sketch_share_positions():
    segments = {s.name: s for s in rows(tiny_batch(4))}
    sketch, canvas = segments["sketch"], segments["canvas"]
    assert torch.equal(sketch.positions[sketch.keep], canvas.positions[sketch.keep])
    assert (canvas.tokens[:, 0] == SPECIAL.sketch).all() and (sketch.tokens[:, 0] == SPECIAL.sketch).all()
    last = segments["prompt"].positions[:, -1]
    assert torch.equal(sketch.positions[:, 0], last + 1)
    ends = torch.where(sketch.keep, sketch.positions, 0).amax(-1)
    assert torch.equal(segments["answer"].positions[:, 0], ends + 1)


def test_a_row_alone_equals_that_row_in_a_ragged_batch(network):
    batch = tiny_batch(5)
    together = network(rows(batch))
    for row in range(5):
        at = torch.tensor([row])
        n = int(batch.prompts.keep[row].sum())
        alone = Prompts(batch.prompts.keys[at], batch.prompts.tokens[at, -n:], batch.prompts.keep[at, -n:])
        one = type(batch)(alone, batch.sketch[at], batch.answer[at], batch.answer_keep[at])
        segments = rows(one)
        hidden = network(segments)
        for s in segments:
            found, expected = hidden[s.name][0], together[s.name][row][-s.tokens.shape[1] :]
            assert torch.allclose(found[s.keep[0]], expected[s.keep[0]], **CLOSE), s.name


@pytest.mark.parametrize("wider", [1, 3, 9])
def test_the_width_of_padding_does_not_matter(network, wider):
    batch = tiny_batch(4)
    padded = Prompts(
        batch.prompts.keys,
        F.pad(batch.prompts.tokens, (wider, 0), value=0),
        F.pad(batch.prompts.keep, (wider, 0), value=False),
    )
    segments = rows(batch)
    before, after = (
        network(segments),
        network(rows(type(batch)(padded, batch.sketch, batch.answer, batch.answer_keep))),
    )
    for s in segments:
        found = after[s.name][:, -s.tokens.shape[1] :]
        assert torch.allclose(found[s.keep], before[s.name][s.keep], **CLOSE)


def test_what_stands_on_padding_does_not_matter(network):
    batch = tiny_batch(4)
    segments = rows(batch)
    dirty = [
        Segment(
            s.name,
            torch.where(s.keep, s.tokens, 7),
            s.keep,
            torch.where(s.keep, s.positions, 3),
            s.is_causal,
            s.sees,
        )
        for s in segments
    ]
    before, after = network(segments), network(dirty)
    for s in segments:
        assert torch.equal(before[s.name][s.keep], after[s.name][s.keep])


def test_cached_equals_uncached(network):
    """The prompt remembered, then canvas over it, twice, then sketch and answer; against one full pass."""
    segments = rows(tiny_batch(4))
    prompt, canvas, sketch, answer = segments
    full = network(segments)
    with torch.no_grad():
        hidden, memory = network.remember([prompt])
        assert torch.allclose(hidden["prompt"][prompt.keep], full["prompt"][prompt.keep], **CLOSE)
        reading = memory.read_only()
        for _ in range(2):  # a read-only memory is as it was after a forward
            assert torch.allclose(network([canvas], reading)["canvas"], full["canvas"], **CLOSE)
        some = torch.tensor([3, 1])
        part = Segment("canvas", canvas.tokens[some], canvas.keep[some], canvas.positions[some], False, ("prompt",))
        for selected in (reading.select(some), reading.select(torch.arange(4)).select(some)):
            for _ in range(2):  # and so is a selection of its rows
                assert torch.allclose(network([part], selected)["canvas"], full["canvas"][some], **CLOSE)
        apart = memory.fork()
        hidden, grown = network.remember([sketch], apart)
        assert torch.allclose(hidden["sketch"][sketch.keep], full["sketch"][sketch.keep], **CLOSE)
        hidden, _ = network.remember([answer], grown)
        assert torch.allclose(hidden["answer"][answer.keep], full["answer"][answer.keep], **CLOSE)
        hidden, _ = network.remember([sketch, answer], memory)  # the fork left its origin alone
        assert torch.allclose(hidden["answer"][answer.keep], full["answer"][answer.keep], **CLOSE)


def test_memory_knows_where_each_row_goes_on(network):
    batch = tiny_batch(4)
    prompt, _, sketch, _ = rows(batch)
    _, memory = network.remember([prompt])
    assert torch.equal(memory.next_position, batch.prompts.keep.sum(-1))
    _, memory = network.remember([sketch], memory)
    assert torch.equal(memory.next_position, batch.prompts.keep.sum(-1) + sketch.keep.sum(-1))
    assert memory.keep.shape[1] == prompt.tokens.shape[1] + sketch.tokens.shape[1]


def test_a_shared_trunk_in_one_pass_equals_two_passes(network):
    prompt, canvas, sketch, answer = rows(tiny_batch(4))
    shared, separate = Pairing(network, network), Pairing(network, Network(network.model))
    assert shared.is_shared and not separate.is_shared and separate.drafter is not separate.decoder
    one, two = (
        shared([prompt, canvas], [prompt, sketch, answer]),
        separate([prompt, canvas], [prompt, sketch, answer]),
    )
    assert torch.allclose(one[0]["canvas"], two[0]["canvas"], **CLOSE)
    assert torch.allclose(one[1]["answer"][answer.keep], two[1]["answer"][answer.keep], **CLOSE)


def test_a_shared_trunk_has_its_parameters_once():
    shared, separate = tiny_reasoner(), tiny_reasoner(pairing="separate")
    count = [sum(p.numel() for p in r.parameters()) for r in (shared, separate)]
    assert count[1] == 2 * count[0]


def written(network, prompts, max_tokens, spent=None):
    return write(
        network, [prompt_segment(prompts)], None, max_tokens, end_id=SPECIAL.end, pad_id=SPECIAL.pad,
        banned=SPECIAL.never_written, spent=spent or Spent.nothing(len(prompts)), part="decoder",
    )  # fmt: skip


def test_greedy_writing_equals_generate_of_transformers(network):
    """Token by token, for a batch of ragged prompts; those that end early are padded with our pad."""
    prompts = tiny_batch(5).prompts
    found = written(network, prompts, 12)
    model = network.model
    expected = model.generate(
        input_ids=prompts.tokens, attention_mask=prompts.keep.long(), max_new_tokens=12, do_sample=False,
        eos_token_id=SPECIAL.end, pad_token_id=SPECIAL.pad, suppress_tokens=list(SPECIAL.never_written),
    )[:, prompts.tokens.shape[1] :]  # fmt: skip
    assert torch.equal(found.tokens, expected)
    assert not (found.tokens[found.keep][:, None] == torch.tensor(SPECIAL.never_written)).any()


def test_writing_a_row_alone_equals_writing_it_in_a_batch(network):
    prompts = tiny_batch(5).prompts
    together = written(network, prompts, 6)
    for row in range(5):
        n = int(prompts.keep[row].sum())
        one = Prompts(prompts.keys[row : row + 1], prompts.tokens[row : row + 1, -n:], prompts.keep[row : row + 1, -n:])
        alone = written(network, one, 6)
        width = alone.tokens.shape[1]
        assert torch.equal(alone.tokens[0], together.tokens[row, :width]) and not together.keep[row, width:].any()
        assert torch.allclose(
            alone.confidence[0][alone.keep[0]], together.confidence[row, :width][alone.keep[0]], **CLOSE
        )


class Scripted(Network):
    """Writes given tokens whatever it reads: row r ends at its own time."""

    def __init__(self, network, script):
        super().__init__(network.model)
        self.script, self.at, self.rows = script, -1, torch.arange(len(script))

    def logits(self, hidden):
        if self.at >= 0:
            self.rows = self.rows[self.script[self.rows, self.at] != SPECIAL.end]
        assert len(hidden) == len(self.rows)  # no more: what has ended is not computed
        self.at += 1
        return F.one_hot(self.script[self.rows, self.at], VOCABULARY).float()


def test_a_row_that_has_ended_leaves_the_batch_and_is_charged_and_remembered_no_more(network):
    """Ends at 1, 3 and never: charged 1, 3 and 4 forwards; memory holds all but the last token."""
    prompts = tiny_batch(3).prompts
    script = torch.tensor([[1, 9, 9, 9], [8, 8, 1, 9], [7, 7, 7, 7]])
    spent = Spent.nothing(3)
    found = written(Scripted(network, script), prompts, 4, spent)
    assert found.tokens.tolist() == [[1, 0, 0, 0], [8, 8, 1, 0], [7, 7, 7, 7]]
    assert found.keep.sum(-1).tolist() == [1, 3, 4]
    assert spent.decoder_forwards.tolist() == spent.sequential_forwards.tolist() == [1, 3, 4]
    q = prompts.tokens.shape[1]
    assert spent.positions.tolist() == [q, q + 2, q + 3]
    assert torch.equal(found.memory.next_position, prompts.keep.sum(-1) + torch.tensor([0, 2, 3]))
    assert torch.equal(found.memory.keep.sum(-1), found.memory.next_position)


def test_flops_count_every_matrix_and_pair(network):
    """Twice the weights of each layer's matrices and of the head, and the attended pairs, written out."""
    layers = [m.weight.numel() for n, m in network.model.named_modules() if isinstance(m, torch.nn.Linear)]
    expected = 2 * sum(layers) + 4 * 2 * 16 * 10
    assert network.flops(3, 10) == pytest.approx(3 * expected)


def test_a_tied_head_is_counted_though_a_matrix_has_its_shape():
    """Where the vocabulary is as large as a layer is wide, one token more costs no more than its row of the head."""
    backbone = Qwen3(width=32, layers=1, heads=2)
    wide = backbone.build(8).config.intermediate_size
    one, more = (Network(backbone.build(vocabulary)).flops(1, 0) for vocabulary in (wide, wide + 1))
    assert more - one == 2 * 32
