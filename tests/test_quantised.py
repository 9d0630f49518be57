"""Checkpoints whose matrices are held in fewer bits: near the whole ones, trained by LoRA, kept by the checkpoint."""

import dataclasses
import json
from importlib.util import find_spec

import pytest
import torch
import yaml
from checkpoints import fast_tokenizer, save
from safetensors.torch import load_file
from test_pretrained import EXAMPLES, reasoner_of, trains_and_reasons
from transformers import LlamaConfig, LlamaForCausalLM

from hybrid.build import ConfigError, build
from hybrid.cli import main
from hybrid.nets.adapt import Lora
from hybrid.nets.backbone import Backbone
from hybrid.nets.pretrained import Pretrained
from hybrid.nets.quantised import SHORT, is_quantised
from hybrid.tasks import collate

NEAR = {"8bit": 0.05, "int8": 0.05, "4bit": 0.5}  # of the spread of predictions


def needs(quantise):
    pytest.importorskip("peft")
    pytest.importorskip(SHORT[quantise][0])


def checkpoint(folder, k=None):
    """A Llama with widths that the libraries pack: multiples of 32, read in blocks of 64."""
    fast = fast_tokenizer()
    sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, head_dim=32)
    config = LlamaConfig(**sizes, num_key_value_heads=1, vocab_size=k or len(fast) + 3, max_position_embeddings=96)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


every = pytest.mark.parametrize("quantise", sorted(SHORT))


@every
def test_predictions_are_near_those_of_the_whole_and_cost_the_same(quantise, tmp_path):
    needs(quantise)
    folder = checkpoint(tmp_path)
    whole, packed = (reasoner_of(folder, backbone=Pretrained(folder, quantise=q)) for q in (None, quantise))
    packed.networks.decoder.model.get_input_embeddings().weight.data.copy_(
        whole.networks.decoder.model.get_input_embeddings().weight  # new tokens begin at random
    )
    one, two = (r.losses(collate(EXAMPLES, r.tokenizer, 8)) for r in (whole, packed))
    assert not torch.equal(one.answer, two.answer)
    assert ((one.answer - two.answer).abs() / one.answer_count).max() < NEAR[quantise]
    assert whole.networks.decoder.flops(3, 4) == packed.networks.decoder.flops(3, 4)
    held = [p for p in packed.parameters() if is_quantised(p)]
    assert len(held) == 2 * 7 and not any(p.requires_grad for p in held)


@every
def test_a_run_keeps_what_it_trained_and_reads_the_rest_from_the_checkpoint(quantise, tmp_path, capsys):
    """By the command line, as with whole matrices; the export holds whole ones, and answers alike."""
    needs(quantise)
    folder = checkpoint(tmp_path / "checkpoint", k=len(fast_tokenizer()))
    config = {
        "task": {"kind": "chain", "length": 3},
        "tokenizer": "pretrained",
        "model": {"canvas": 6, "max_answer": 3, "backbone": {
            "kind": "lora", "rank": 2, "of": {"kind": "pretrained", "name": folder, "quantise": quantise}}},
        "train": {"steps": 2, "batch_size": 4, "validate_every": 0, "warmup": 0, "accelerator": "cpu",
                  "precision": "32-true"},
    }  # fmt: skip
    own, run, out = str(tmp_path / "own.yaml"), tmp_path / "run", tmp_path / "out"
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", own, f"run={run}", "--no-progress"]) == 0
    names = set(load_file(run / "model.safetensors"))
    assert any("lora_A" in n for n in names) and not any("proj.base_layer" in n for n in names)
    capsys.readouterr()
    assert main(["sample", str(run), "--prompt", "123", "--steps", "2", "--json"]) == 0
    sampled = json.loads(capsys.readouterr().out)
    assert main(["export", str(run), str(out)]) == 0
    assert "quantization_config" not in json.loads((out / "decoder" / "config.json").read_text())
    from hybrid.hub.pipeline import HybridReasoningPipeline

    (result,) = HybridReasoningPipeline.from_pretrained(out)(["123"], num_inference_steps=2).results
    assert result.answer_logp == pytest.approx(sampled["answer_logp"], abs=0.1)
    (tmp_path / "checkpoint").rename(tmp_path / "gone")
    capsys.readouterr()
    assert main(["sample", str(run), "--prompt", "123"]) == 2
    assert (
        "checkpoint" in (said := capsys.readouterr().err) and "looked for config.json" in said and "\n" not in said[:-1]
    )


@every
def test_it_trains_by_lora(quantise, tmp_path):
    needs(quantise)
    folder = checkpoint(tmp_path)
    trains_and_reasons(reasoner_of(folder, backbone=Lora(Pretrained(folder, quantise=quantise), rank=2)))


@every
def test_a_package_that_is_missing_is_named(quantise, tmp_path, monkeypatch):
    import hybrid.nets.quantised as module

    monkeypatch.setattr(module, "find_spec", lambda name: None)
    package = SHORT[quantise][0]
    with pytest.raises(
        ValueError, match=rf"quantise={quantise} needs the package {package}: pip install .*quantise"
    ) as e:
        Pretrained(save(tmp_path), quantise=quantise).build(300)
    assert "\n" not in str(e.value)


def test_sections_are_those_of_transformers(tmp_path):
    folder = save(tmp_path)
    with pytest.raises(ValueError, match="quantise=.*Unknown quantization type, got magic"):
        Pretrained(folder, quantise={"quant_method": "magic"}).build(300)
    with pytest.raises(ConfigError, match="quantise: expected one of '4bit', '8bit', 'int8'"):
        build(Backbone, {"kind": "pretrained", "name": folder, "quantise": "2bit"})
    if find_spec("bitsandbytes"):
        section = {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}
        backbone = build(Backbone, {"kind": "pretrained", "name": folder, "quantise": section})
        assert dataclasses.asdict(backbone)["quantise"] == section
        assert any(is_quantised(p) for p in backbone.build(300).parameters())
