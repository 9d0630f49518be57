"""Drafter and decoder with a vocabulary each: text crosses between them, and nothing else changes."""

import json

import pytest
import torch
import yaml
from checkpoints import fast_tokenizer, save
from toy import tiny_backbone, tiny_batch, tiny_reasoner, tiny_tokenizer

from hybrid.bridge import Latent
from hybrid.build import ConfigError, build
from hybrid.cli import main
from hybrid.diffusion.budget import Budget
from hybrid.drafters.controls import GoldSketch
from hybrid.experiment import Experiment
from hybrid.feed import Gold
from hybrid.reasoner import Model, Reasoner
from hybrid.records import Example
from hybrid.tasks import CheckpointTokenizer, PretrainedTokenizer, Tokenizer, TwoTokenizers, collate
from hybrid.train import bad_step

EXAMPLES = [Example(1, "12+3=", "12+3=15", "15"), Example(2, "7=", "", "7"), Example(3, "5+5=", "0123456789", "10")]
SEPARATE = {"pairing": "separate", "drafter_backbone": tiny_backbone(width=8)}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """Byte pairs, other than characters in number and in ids."""
    folder = tmp_path_factory.mktemp("tokenizer")
    fast_tokenizer("bare").save_pretrained(folder)
    own = PretrainedTokenizer(str(folder)).train([])
    assert len(own.encode("0123456789")) < 10 and isinstance(own, CheckpointTokenizer)
    return own


def reasoner_of(tokenizer, **options):
    torch.manual_seed(0)
    model = Model(**{"canvas": 12, "max_answer": 4, "backbone": tiny_backbone()} | SEPARATE | options)
    return Reasoner(model, tokenizer).eval()


def test_one_vocabulary_twice_is_one_vocabulary():
    """Every feed, every budget: the way through text and back changes nothing."""
    plain, batch = tiny_reasoner(**SEPARATE), tiny_batch(5)
    two = Reasoner(plain.config, TwoTokenizers(tiny_tokenizer(), tiny_tokenizer())).eval()
    two.load_state_dict(plain.state_dict())
    same = collate([Example(i, f"{i}+1=", "1", "2") for i in range(2)], two.tokenizer, 6)
    assert torch.equal(same.prompts.other.tokens, same.prompts.tokens) and plain.tokenizer.reader is plain.tokenizer
    ours, theirs = plain.losses(batch), two.losses(batch)
    for name in ("sketch", "answer", "answer_count"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-5), name
    for steps in (0, 1, 6):
        for a, b in zip(*(r.reason(["1+2=", "12+3="], Budget(steps)) for r in (plain, two)), strict=True):
            assert (a.sketch_tokens, a.answer_tokens, a.spent["positions"]) == (
                b.sketch_tokens, b.answer_tokens, b.spent["positions"]
            )  # fmt: skip
            assert a.answer_logp == pytest.approx(b.answer_logp, abs=1e-4)


def test_the_decoder_reads_and_writes_as_one_with_that_vocabulary_alone(pieces):
    """Its loss under gold sketches, and what it writes after them, are those of the plain decoder of the same weights;
    the drafter's loss is that of the plain drafter.
    """
    two = reasoner_of(TwoTokenizers(pieces, tiny_tokenizer()))
    decoder, drafter = reasoner_of(tiny_tokenizer()), reasoner_of(pieces)
    decoder.networks.decoder.load_state_dict(two.networks.decoder.state_dict())
    drafter.networks.own_drafter.load_state_dict(two.networks.own_drafter.state_dict())
    batch, read, drawn = (collate(EXAMPLES, r.tokenizer, 12) for r in (two, decoder, drafter))
    losses = two.losses(batch, feed=Gold())
    assert torch.allclose(losses.answer, decoder.losses(read, feed=Gold()).answer, atol=1e-5)
    assert torch.allclose(losses.sketch, drafter.losses(drawn, feed=Gold()).sketch, atol=1e-5)
    ours, theirs = (
        r.reason(b.prompts, drafter=GoldSketch(), gold=b.sketch) for r, b in ((two, batch), (decoder, read))
    )
    for example, a, b in zip(EXAMPLES, ours, theirs, strict=True):
        assert (a.sketch, a.answer, a.answer_tokens) == (example.sketch, b.answer, b.answer_tokens)
        assert a.answer_logp == pytest.approx(b.answer_logp, abs=1e-4)
    before = [r.sketch_tokens for r in drafter.reason(drawn.prompts, Budget(3))]
    assert [r.sketch_tokens for r in two.reason(batch.prompts, Budget(3))] == before
    alone = two.reason(["12+3="], Budget(3))[0]
    assert alone.answer == two.reason(["12+3=", "5+5=1"], Budget(3))[0].answer


def test_holes_stay_holes_and_ends_stay_ends(pieces):
    two, (theirs, ours) = TwoTokenizers(pieces, tiny_tokenizer()), (tiny_tokenizer().special, pieces.special)
    text = pieces.encode("0123456789")
    rows = [
        ([*text, ours.mask, *text, ours.end], [*range(10), "mask", *range(10), "end"]),
        ([ours.mask, ours.mask, ours.end, ours.pad], ["mask", "mask", "end"]),
        ([*text, ours.mask], [*range(10), "mask"]),
        ([*text, ours.pad, *text], [*range(10)]),
        ([ours.pad] * 3, []),
        ([*pieces.encode("1x2"), ours.end], [1, "mask", 2, "end"]),
    ]
    ids = [
        [getattr(theirs, w) if isinstance(w, str) else tiny_tokenizer().encode(str(w))[0] for w in r] for _, r in rows
    ]
    width = max(len(row) for row, _ in rows)
    canvas = torch.tensor([row + [ours.pad] * (width - len(row)) for row, _ in rows])
    longest = max(map(len, ids))
    assert two.read(canvas).tolist() == [row + [theirs.pad] * (longest - len(row)) for row in ids]
    again = Tokenizer.from_json(two.to_json())
    assert isinstance(again, TwoTokenizers) and torch.equal(again.read(canvas), two.read(canvas))
    assert again.encode_prompt("12") == pieces.encode_prompt("12") and len(again) == len(pieces)


def test_a_bad_step_keeps_both_forms_of_its_prompts(pieces):
    batch = collate(EXAMPLES, TwoTokenizers(pieces, tiny_tokenizer()), 12)
    kept = bad_step.part_of(batch, torch.ones(3))
    assert torch.equal(kept["other.tokens"], batch.prompts.other.tokens)
    assert torch.equal(kept["tokens"], batch.prompts.tokens) and {"t", "sketch"} <= set(kept)


def test_what_shares_more_than_text_is_refused(pieces, tmp_path):
    two = TwoTokenizers(pieces, tiny_tokenizer())
    with pytest.raises(ValueError, match="tokenizer: two .* set model.pairing: separate"):
        reasoner_of(two, pairing="shared", drafter_backbone=None)
    with pytest.raises(ValueError, match="bridge: latent .* set model.bridge: tokens"):
        reasoner_of(two, bridge=Latent())
    other = {"kind": "pretrained", "name": save(tmp_path / "other", "roberta", "masked")}
    model = {"pairing": "separate", "drafter_backbone": other}
    section = {"task": "chain", "model": model, "tokenizer": {"kind": "two", "drafter": "character"}}
    with pytest.raises(ConfigError, match="model.drafter_backbone .* set tokenizer.drafter: pretrained"):
        build(Experiment, section).make_tokenizer()
    narrow = {"kind": "pretrained", "name": save(tmp_path / "narrow", "gpt2")}  # of 96 positions
    section["model"] = {"pairing": "separate", "canvas": 80, "backbone": narrow}
    section["tokenizer"] = {"kind": "two", "decoder": "pretrained", "drafter": {"kind": "byte_pair", "size": 400}}
    with pytest.raises(ConfigError, match="model.backbone .* set tokenizer.drafter: pretrained"):
        build(Experiment, section).make_tokenizer()  # the drafter's backbone is the same checkpoint


def test_a_sketch_too_long_for_the_decoder_is_said(pieces):
    two = reasoner_of(TwoTokenizers(pieces, tiny_tokenizer()))
    two.networks.decoder.config.max_position_embeddings = 12 + 4 + 2 + 6
    batch = collate([Example(1, "12+3=", "0123456789" * 2, "15")], two.tokenizer, 12)
    with pytest.raises(ValueError, match="a sketch of 21 tokens in the decoder's vocabulary: 13 of its 24 positions"):
        two.losses(batch, feed=Gold())


def test_a_drafter_from_scratch_with_a_checkpoint_as_decoder(tmp_path, capsys):
    """By the command line: checked, trained, evaluated, sampled and exported; the pipeline answers as the run does."""
    folder = save(tmp_path / "checkpoint", "llama", "bos")
    config = {
        "task": {"kind": "chain", "length": 4},
        "tokenizer": {"kind": "two", "drafter": "character", "decoder": "pretrained"},
        "model": {
            "pairing": "separate", "canvas": 5, "max_answer": 3, "backbone": {"kind": "pretrained", "name": folder},
            "drafter_backbone": {"kind": "qwen3", "width": 16, "layers": 1, "heads": 2},
        },
        "train": {"steps": 3, "batch_size": 4, "validate_every": 2, "validate_examples": 2, "checkpoint_every": 2,
                  "warmup": 1, "accelerator": "cpu"},
    }  # fmt: skip
    own, run, out = str(tmp_path / "own.yaml"), str(tmp_path / "run"), str(tmp_path / "out")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    assert main(["check-data", own, "--samples", "1"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "sample: " in line]
    assert len(said) == 2 and "<sketch>" in said[0] and "<answer>" not in said[0] and "<bos>" in said[1]
    assert main(["train", own, f"run={run}"]) == 0
    assert "of the decoder's" in capsys.readouterr().out
    assert main(["evaluate", run, "--steps", "0,2", "--examples", "2", "--no-progress"]) == 0
    capsys.readouterr()
    assert main(["sample", run, "--prompt", "1234", "--steps", "2", "--json"]) == 0
    sampled = json.loads(capsys.readouterr().out)
    assert main(["export", run, out]) == 0
    from transformers import AutoTokenizer

    from hybrid.hub.pipeline import HybridReasoningPipeline

    pipeline = HybridReasoningPipeline.from_pretrained(out)
    (result,) = pipeline(["1234"], num_inference_steps=2).results
    assert result.sketch_tokens == sampled["sketch_tokens"] and result.answer_tokens == sampled["answer_tokens"]
    sizes = [len(AutoTokenizer.from_pretrained(f"{out}/{name}")) for name in ("tokenizer", "drafter_tokenizer")]
    assert sizes == [pipeline.decoder.config.vocab_size, pipeline.drafter.config.vocab_size]
