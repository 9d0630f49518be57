"""Families of transformers models, read as segments: nothing leaks, nothing depends on padding, memory is exact."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from checkpoints import ATTENTION, MASKED, RECURRENT, model_of
from toy import tiny_batch, tiny_tokenizer

from hybrid.bridge import Tokens
from hybrid.diffusion.blocks import Blocks
from hybrid.drafters.canvas import Canvas, CanvasDenoiser, Prefix
from hybrid.nets.decode import write
from hybrid.nets.encoder import Encoder
from hybrid.nets.family import check_reading, network_of
from hybrid.nets.layout import Segment, running
from hybrid.nets.network import Memory, Network, prompt_segment
from hybrid.nets.recurrent import Recurrent
from hybrid.records import Prompts, Special, Spent

K, SPECIAL = len(tiny_tokenizer()), Special()
CLOSE = {"atol": 5e-5, "rtol": 5e-4}
DRAFTS = [*ATTENTION, *MASKED, "diffusion_gemma"]
WRITES = [*ATTENTION, *RECURRENT, "diffusion_gemma"]
_NETWORKS = {}


def network(family):
    if family not in _NETWORKS:
        _NETWORKS[family] = network_of(model_of(family, K))
    return _NETWORKS[family]


def every(families):
    return pytest.mark.parametrize("family", families)


def row(batch, canvas=True, sketch=True):
    """Prompt, canvas, sketch and answer. Answers see no canvas."""
    start = batch.prompts.keep.sum(-1)
    read = Tokens().segment(batch.sketch, start, SPECIAL)
    at = running(batch.answer_keep, start + read.keep.sum(-1))
    tokens = F.pad(batch.answer[:, :-1], (1, 0), value=SPECIAL.answer)
    answer = Segment("answer", tokens, batch.answer_keep, at, True, ("prompt", "sketch"))
    noisy = torch.where(torch.arange(batch.sketch.shape[1]) % 2 == 0, SPECIAL.mask, batch.sketch)
    length = noisy.shape[1]
    middle = [Canvas(Blocks(length, length), True, SPECIAL).noisy(noisy, noisy, start, "canvas")] if canvas else []
    return [prompt_segment(batch.prompts), *middle, *([read, answer] if sketch else [])]


def segments_of(family, batch):
    net = network(family)
    return row(batch, canvas=net.can_denoise, sketch=net.can_write)


def test_each_family_is_read_by_its_kind_of_network():
    kinds = {family: type(network(family)) for family in (*ATTENTION, *MASKED, *RECURRENT)}
    assert {kinds[f] for f in ATTENTION} == {Network}
    assert {kinds[f] for f in MASKED} == {Encoder}
    assert {kinds[f] for f in RECURRENT} == {Recurrent}


@every([*ATTENTION, *MASKED, *RECURRENT])
def test_predictions_are_the_models_own_beyond_any_window(family):
    """Twelve tokens behind three of padding: heads, caps, windows of four and position offsets included."""
    net = network(family)
    tokens = 5 + torch.arange(30).reshape(2, 15) % 11
    keep = torch.ones_like(tokens, dtype=torch.bool)
    keep[1, :3] = False
    segment = Segment("row", tokens, keep, running(keep), is_causal=True)
    ours = net.logits(net([segment])["row"])
    at = {} if family in (*MASKED, "mamba") else {"position_ids": running(keep)}
    theirs = net.model(tokens, attention_mask=keep.long(), **at).logits
    if family in MASKED:  # they count positions from the left edge, padding included
        ours, theirs, keep = ours[:1], theirs[:1], keep[:1]
    assert torch.allclose(ours[keep], theirs[keep], **CLOSE)


REACHES = {"prompt": {"canvas", "sketch", "answer"}, "canvas": set(), "sketch": {"answer"}, "answer": set()}


@every([*ATTENTION, *MASKED, *RECURRENT, "diffusion_gemma"])
def test_no_segment_leaks_into_another(family):
    """Change one token: what may not see it stays as it is to the last bit, and something that may see it moves."""
    net = network(family)
    segments = segments_of(family, tiny_batch(3))
    exact = {} if family in RECURRENT else {"atol": 0.0, "rtol": 0.0}  # a scan adds in an order of its own
    with torch.no_grad():
        before = net(segments)
        for i, segment in enumerate(segments):
            for column in range(0, segment.tokens.shape[1], 2):
                tokens = segment.tokens.clone()
                tokens[:, column] = 5 + (tokens[:, column] + 1 - 5) % (K - 5)
                after = net([*segments[:i], dataclasses.replace(segment, tokens=tokens), *segments[i + 1 :]])
                moved = False
                for other in segments:
                    both_ways = other.name == "canvas" or not net.can_write
                    seen = other.name in REACHES[segment.name] or (other is segment and both_ways)
                    width = other.tokens.shape[1]
                    may = torch.full((width,), seen) | ((other is segment) & (torch.arange(width) >= column))
                    may = may[None] & segment.keep[:, column, None]
                    same = torch.isclose(after[other.name], before[other.name], **(exact or CLOSE)).all(-1)
                    assert (same | may | ~other.keep).all(), f"{segment.name}[{column}] -> {other.name}"
                    moved |= bool((~same & other.keep).any())
                assert moved or not segment.keep[:, column].any()


@every([*ATTENTION, *MASKED])
def test_a_block_sees_nothing_of_itself_or_later_in_the_clean_stream(family):
    """Blocks of two under masks, one clean token after the other changed: it reaches the clean stream from its block
    on, and through that the noisy blocks after its own."""
    net, batch = network(family), tiny_batch(3)
    start, x = batch.prompts.keep.sum(-1), batch.sketch
    length = x.shape[1]
    canvas, everywhere = Canvas(Blocks(length, 2), False, SPECIAL), torch.ones_like(x, dtype=torch.bool)

    def predictions(x):
        z = torch.full_like(x, SPECIAL.mask)
        segments = [prompt_segment(batch.prompts), *canvas.past(x, start), canvas.noisy(z, x, start, "canvas")]
        hidden = net(segments)
        return canvas.logits(net, hidden["canvas"], everywhere).unflatten(0, x.shape), hidden["past"]

    with torch.no_grad():
        before, past = predictions(x)
        for token in range(length):
            other = x.clone()
            other[:, token] = 5 + (x[:, token] + 1) % (K - 5)
            after, passed = predictions(other)
            moved = (after != before).any(-1)
            slot = torch.arange(past.shape[1])  # a token stands in the slot after its number
            assert torch.equal(moved, (torch.arange(length) // 2 > token // 2).expand_as(moved)), token
            reached = (slot // 2 >= (token + 1) // 2) & (token + 1 < len(slot))
            assert torch.equal((passed != past).any(-1), reached.expand(len(x), -1)), token


@every([*ATTENTION, *MASKED, *RECURRENT, "diffusion_gemma"])
def test_padding_and_batch_change_nothing(family):
    """Each row alone, without any padding, against the ragged batch with three more columns of it."""
    net, batch = network(family), tiny_batch(3)
    wide = Prompts(
        batch.prompts.keys, F.pad(batch.prompts.tokens, (3, 0), value=7), F.pad(batch.prompts.keep, (3, 0), value=False)
    )
    together = net(segments_of(family, dataclasses.replace(batch, prompts=wide)))
    for r in range(3):
        ragged = segments_of(family, dataclasses.replace(batch, prompts=wide))
        alone = [
            dataclasses.replace(s, **{n: getattr(s, n)[r : r + 1, s.keep[r]] for n in ("tokens", "keep", "positions")})
            for s in ragged
        ]
        for s, found in zip(ragged, net(alone).values(), strict=True):
            assert torch.allclose(found[0], together[s.name][r, s.keep[r]], **CLOSE), s.name


@every([*ATTENTION, "diffusion_gemma"])
def test_a_remembered_prompt_equals_a_read_one(family):
    net = network(family)
    prompt, canvas = row(tiny_batch(4), sketch=False)
    with torch.no_grad():
        full = net([prompt, canvas])["canvas"]
        memory = net.remember([prompt])[1].read_only()
        canvas = dataclasses.replace(canvas, sees=())  # all that is remembered is seen, named or not
        assert torch.equal(memory.next_position, prompt.keep.sum(-1))
        for _ in range(2):
            assert torch.allclose(net([canvas], memory)["canvas"], full, **CLOSE)
        some, others = torch.tensor([3, 1]), torch.tensor([0, 2])
        assert torch.allclose(net([canvas.select(some)], memory.select(some))["canvas"], full[some], **CLOSE)
        joined = Memory.joined([(some, memory.select(some)), (others, memory.select(others).packed())])
        assert torch.allclose(net([canvas], joined.read_only())["canvas"], full, **CLOSE)


@every(DRAFTS)
@pytest.mark.parametrize("block", [6, 2])
def test_drafting_reads_what_training_read(family, block):
    """The last block's predictions, in the first forward and in the next, whether the network remembers or rereads."""
    net, batch = network(family), tiny_batch(3)
    spent, start, z = Spent.nothing(3), batch.prompts.keep.sum(-1), batch.sketch.clone()
    z[:, -2:] = SPECIAL.mask
    where = z == SPECIAL.mask
    canvas, prefix = Canvas(Blocks(6, block), False, SPECIAL), Prefix(net, batch.prompts, spent)
    denoise = CanvasDenoiser(canvas, net, spent, torch.arange(3), start, prefix, torch.zeros_like(start))
    with torch.no_grad():
        segments = [prompt_segment(batch.prompts), *canvas.past(z, start), canvas.noisy(z, z, start, "canvas")]
        full = canvas.logits(net, net(segments)["canvas"], where)
        for _ in range(2):
            assert torch.allclose(denoise.logits(z, torch.ones(3), where), full, **CLOSE)
        some = torch.tensor([2, 0])
        alone = denoise.select(some).logits(z[some], torch.ones(2), where[some])
        assert torch.allclose(alone, full.unflatten(0, (3, 2))[some].flatten(0, 1), **CLOSE)
        absent = dataclasses.replace(denoise, prefix=None, memory=None, done=torch.zeros_like(start))
        nothing = dataclasses.replace(segments[0], keep=torch.zeros_like(segments[0].keep))
        blank = canvas.logits(net, net([nothing, *segments[1:]])["canvas"], where)
        assert torch.allclose(absent.logits(z, torch.ones(3), where), blank, **CLOSE)
    before, view, q = 6 - block, block + 1, batch.prompts.tokens.shape[1]
    first, later = q + before + view, (q + before if net.rereads else 0) + view
    blank = before + view  # without a prompt
    assert spent.positions.tolist() == [first + 2 * later + blank, first + later + blank, first + 2 * later + blank]
    assert (prefix.encoded() is None) == net.rereads


@every(MASKED)
def test_a_network_that_rereads_keeps_no_memory(family):
    with pytest.raises(ValueError, match="keeps no memory"):
        network(family).remember(row(tiny_batch(2), sketch=False)[:1])


@every(WRITES)
def test_writing_equals_reading_it_again(family):
    """Greedy writing over a memory, ragged, ten tokens past any window; each token is the argmax of a fresh row."""
    net, batch = network(family), tiny_batch(3)
    sketch = Tokens().segment(batch.sketch, batch.prompts.keep.sum(-1), SPECIAL)
    start = batch.prompts.keep.sum(-1) + sketch.keep.sum(-1)
    last = torch.full_like(start[:, None], SPECIAL.answer)
    marker = Segment("answer", last, last > 0, start[:, None], True, ("prompt", "sketch"))
    prefix = [prompt_segment(batch.prompts), sketch, marker]
    with torch.no_grad():
        written = write(
            net, prefix, None, 10, end_id=-1, pad_id=SPECIAL.pad, banned=SPECIAL.never_written,
            spent=Spent.nothing(3), part="decoder",
        )  # fmt: skip
        end = int(written.tokens[0, 2])
        left = write(
            net, prefix, None, 10, end_id=end, pad_id=SPECIAL.pad, banned=SPECIAL.never_written,
            spent=Spent.nothing(3), part="decoder",
        )  # fmt: skip
        until = (written.tokens == end).cumsum(-1) - (written.tokens == end).long() == 0
        assert torch.equal(left.keep, until[:, : left.keep.shape[1]])  # rows leave at their end, and move no other
        assert torch.equal(left.tokens[left.keep], written.tokens[until])
        keep = torch.ones_like(written.tokens, dtype=torch.bool)
        more = Segment("more", written.tokens, keep, running(keep, start + 1), True, ("prompt", "sketch", "answer"))
        reread = net([*prefix, more])
        logits = net.logits(torch.cat([reread["answer"], reread["more"][:, :-1]], 1))
        logits[..., list(SPECIAL.never_written)] = -torch.inf
        chosen = logits.gather(-1, written.tokens[..., None])[..., 0]
    assert (logits.amax(-1) - chosen < 1e-3).all()


def test_a_recurrent_network_refuses_a_canvas():
    with pytest.raises(ValueError, match="'canvas' does not"):
        network("mamba")(row(tiny_batch(2)))


def test_a_family_that_is_read_wrongly_is_refused():
    """The check that every checkpoint goes through: here a head with an unknown factor, and unknown layers."""
    check_reading(Network(model_of("llama", K)))
    wrong = model_of("llama", K)
    wrong.lm_head.register_forward_hook(lambda module, args, out: out * 1.5 if wrong.twisted else out)
    own = wrong.forward

    def twisted(*args, **options):
        wrong.twisted = True
        try:
            return own(*args, **options)
        finally:
            wrong.twisted = False

    wrong.twisted, wrong.forward = False, twisted
    with pytest.raises(ValueError, match="LlamaForCausalLM predicts otherwise .* not supported"):
        check_reading(Network(wrong))
    chunked = model_of("llama", K)
    chunked.config.layer_types = ["chunked_attention", "full_attention"]
    with pytest.raises(ValueError, match="kind chunked_attention"):
        network_of(chunked)


@every([*ATTENTION, *MASKED])
def test_vectors_in_the_place_of_tokens(family):
    """A segment that brings the embeddings of its tokens reads as the tokens do."""
    net, batch = network(family), tiny_batch(2)
    segments, embed = segments_of(family, batch), net.embed
    assert net.reads_vectors and not network("diffusion_gemma").reads_vectors
    by_vector = [segments[0], *(dataclasses.replace(s, vectors=embed(s.tokens)) for s in segments[1:])]
    before, after = net(segments), net(by_vector)
    assert all(torch.allclose(before[s.name][s.keep], after[s.name][s.keep], **CLOSE) for s in segments)


@every([*ATTENTION, *MASKED, "diffusion_gemma"])
def test_the_attention_of_gpus_gives_the_same(family, monkeypatch):
    """Fused kernels take the same additive masks, by kind of layer too; capped scores stay with the plain one."""
    net, batch = network_of(model_of(family, K)), tiny_batch(3)
    segments = segments_of(family, batch)
    with torch.no_grad():
        plain = net(segments)
        net._fit_to(torch.device("cuda"))
        monkeypatch.setattr(type(net), "_fit_to", lambda self, device: None)
        fused = net(segments)
    implementation = net.model.config._attn_implementation
    assert implementation == ("eager" if family == "gemma2" else "sdpa")
    assert all(torch.allclose(fused[s.name][s.keep], plain[s.name][s.keep], **CLOSE) for s in segments)


@every(["llama", "modernbert", "diffusion_gemma"])
def test_the_canvas_teaches_how_the_prompt_is_encoded(family):
    """Its gradient reaches the prompt, through keys and values kept for it where the family keeps some."""
    net = network(family)
    prompt, canvas = row(tiny_batch(2), sketch=False)
    vectors = net.model.get_input_embeddings()(prompt.tokens).detach().requires_grad_()
    net([dataclasses.replace(prompt, vectors=vectors), canvas])["canvas"].pow(2).sum().backward()
    reached = vectors.grad.abs().amax(-1) > 0
    assert torch.equal(reached, prompt.keep)
    net.zero_grad()


def test_what_no_text_goes_through_does_not_train():
    """Ranks wait for the gradient of everything that does."""
    model = network("diffusion_gemma").model
    still = {name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad}
    assert still == {"vision_tower", "embed_vision"}
