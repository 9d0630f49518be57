"""Out: what is exported loads with others' classes, offline, and answers the same."""

import json

import pytest
import torch
import transformers
from checkpoints import fast_tokenizer, save
from toy import tiny_tokenizer

from hybrid.build import build, plain
from hybrid.cli import main
from hybrid.config import dump
from hybrid.diffusion.budget import Budget
from hybrid.experiment import Experiment, save_run, save_weights
from hybrid.hub import export as exporting
from hybrid.hub.export import export, push
from hybrid.hub.pipeline import HybridReasoningPipeline
from hybrid.nets.pretrained import Pretrained
from hybrid.reasoner import Reasoner

SAME = ("sketch", "answer", "sketch_tokens", "answer_tokens", "answer_logp", "sketch_logp", "complete", "allowed")
SMALL = {"kind": "qwen3", "width": 16, "layers": 2, "heads": 2, "initial_scale": 0.4}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def run_of(folder, tokenizer=None, **model):
    """An untrained run folder."""
    section = {"canvas": 6, "max_answer": 4, "backbone": SMALL} | model
    kind = "pretrained" if tokenizer is None and "pretrained" in json.dumps(model) else "character"
    task = {"kind": "chain", "length": 4}
    experiment = build(Experiment, {"task": task, "model": section, "tokenizer": kind})
    tokenizer = experiment.make_tokenizer()
    torch.manual_seed(0)
    reasoner = Reasoner(experiment.model, tokenizer).eval()
    folder.mkdir(exist_ok=True)
    save_run(folder, experiment, tokenizer)
    save_weights(folder, reasoner.state_dict(), {"steps": 7, "positions": 1234})
    return reasoner


def assert_same(reasoner, pipeline, prompts=("1234", "56")):
    for steps in (0, 1, 3, None):
        ours = reasoner.reason(list(prompts), Budget(steps))
        theirs = pipeline(list(prompts), num_inference_steps=steps)
        for one, two in zip(ours, theirs.results, strict=True):
            assert [getattr(one, n) for n in SAME] == [getattr(two, n) for n in SAME]
        spent = [r.spent for r in ours]
        assert theirs.answers == [r.answer for r in ours] and theirs.sketches == [r.sketch for r in ours]
        assert theirs.num_function_evaluations == [s["sequential_forwards"] for s in spent]
        rate = (spent[0]["sketch_tokens"] + spent[0]["answer_tokens"]) / spent[0]["sequential_forwards"]
        assert theirs.tokens_per_forward[0] == pytest.approx(rate)


@pytest.mark.parametrize("pairing", ["shared", "separate"])
def test_the_pipeline_answers_as_the_run_does(pairing, tmp_path):
    reasoner = run_of(tmp_path / "run", pairing=pairing)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    pipeline = HybridReasoningPipeline.from_pretrained(tmp_path / "out")
    assert_same(reasoner, pipeline)
    pipeline.save_pretrained(tmp_path / "again")
    assert_same(reasoner, HybridReasoningPipeline.from_pretrained(tmp_path / "again"))
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["_class_name"] == "HybridReasoningPipeline" and index["decoder"] == [
        "transformers",
        "Qwen3ForCausalLM",
    ]
    assert (index["drafter"][0] is None) == (pairing == "shared")


def test_a_latent_bridge_goes_along(tmp_path):
    """Its weights, which belong to neither network, are saved, loaded and moved with the pipeline."""
    reasoner = run_of(tmp_path / "run", bridge={"kind": "latent", "text": False})
    export(tmp_path / "run", tmp_path / "out")
    pipeline = HybridReasoningPipeline.from_pretrained(tmp_path / "out")
    assert_same(reasoner, pipeline)
    pipeline.to(torch.float64)
    assert {p.dtype for p in pipeline.reasoner.parameters()} == {torch.float64}
    assert pipeline.reasoner.networks.decoder.model is pipeline.decoder


def test_a_repository_is_fetched_whole(tmp_path, monkeypatch):
    """Files that no component claims, such as the reasoner's own tokenizer, come too, and no code does."""
    from fnmatch import fnmatch

    from hybrid.hub import pipeline as module

    reasoner, fetched = run_of(tmp_path / "run"), []
    export(tmp_path / "run", tmp_path / "out")

    def snapshot_download(name, allow_patterns):
        fetched.append(name)
        files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
        left = [file.name for file in files if not any(fnmatch(file.name, p) for p in allow_patterns)]
        assert left == ["README.md"] and not any(fnmatch("code.py", p) for p in allow_patterns)
        return str(tmp_path / "out")

    monkeypatch.setattr(module, "snapshot_download", snapshot_download)
    assert_same(reasoner, HybridReasoningPipeline.from_pretrained("me/it"))
    assert fetched == ["me/it"]


def test_its_parts_load_with_plain_classes(tmp_path):
    reasoner = run_of(tmp_path / "run", pairing="separate")
    export(tmp_path / "run", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.bin")) and not list((tmp_path / "out").rglob("*.py"))
    tokens = torch.tensor([[5, 6, 7]])
    for part, network in (("decoder", reasoner.networks.decoder), ("drafter", reasoner.networks.drafter)):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / part)
        assert torch.allclose(model(tokens).logits, network.model(tokens).logits, atol=1e-6)
    assert model.config.vocab_size == len(reasoner.tokenizer)
    decoder = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "decoder")
    assert decoder.generation_config.eos_token_id == reasoner.special.end
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    assert fast("123").input_ids == reasoner.tokenizer.encode("123")
    assert (fast.pad_token_id, fast.eos_token_id, fast.mask_token_id) == (0, 1, 2)


def test_low_rank_matrices_are_merged_and_may_also_stand_alone(tmp_path):
    peft = pytest.importorskip("peft")
    folder = save(tmp_path / "checkpoint", "gemma3", k=len(fast_tokenizer()))
    lora = {"kind": "lora", "rank": 2, "of": {"kind": "pretrained", "name": folder}}
    reasoner = run_of(tmp_path / "run", backbone=lora)
    with torch.no_grad():
        for name, p in reasoner.named_parameters():
            if "lora_" in name or "delta" in name:
                p.normal_(0, 0.3)
    save_weights(tmp_path / "run", reasoner.state_dict(), {"steps": 7, "positions": 1234})
    export(tmp_path / "run", tmp_path / "out", adapters=True)
    merged = HybridReasoningPipeline.from_pretrained(tmp_path / "out")
    tokens = torch.tensor([[5, 60, len(reasoner.tokenizer) - 1]])
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "decoder")
    expected = reasoner.networks.decoder.model(tokens).logits
    assert torch.allclose(model(tokens).logits, expected, atol=2e-4)
    assert not any("lora" in name for name in model.state_dict())
    ours, theirs = reasoner.reason(["12+3="], Budget(2))[0], merged(["12+3="], num_inference_steps=2).results[0]
    assert ours.sketch_tokens == theirs.sketch_tokens and ours.answer_tokens == theirs.answer_tokens
    bare = Pretrained(folder).build(len(reasoner.tokenizer))
    adapted = peft.PeftModel.from_pretrained(bare, tmp_path / "out" / "decoder_adapter")
    assert torch.allclose(adapted(tokens[:, :2]).logits[..., :-3], expected[:, :2, :-3], atol=2e-4)
    run_of(tmp_path / "plain")
    with pytest.raises(ValueError, match="trained no low-rank matrices"):
        export(tmp_path / "plain", tmp_path / "out2", adapters=True)


def test_masked_drafters_go_out_as_what_they_are(tmp_path):
    folder = save(tmp_path / "checkpoint", "modernbert", "masked")
    reasoner = run_of(
        tmp_path / "run", pairing="separate", drafter={"kind": "diffusion", "shift": False},
        drafter_backbone={"kind": "pretrained", "name": folder},
    )  # fmt: skip
    export(tmp_path / "run", tmp_path / "out")
    assert_same(reasoner, HybridReasoningPipeline.from_pretrained(tmp_path / "out"), ("12+3=",))
    transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out" / "drafter")


def test_options_of_a_call(tmp_path):
    reasoner = run_of(tmp_path / "run")
    pipeline, seen = HybridReasoningPipeline.of(reasoner), []
    one = pipeline("1234", 3, temperature=1.0, seed=5, callback_on_step_end=lambda s: seen.append(s.step))
    two, other = (pipeline("1234", 3, temperature=1.0, seed=s) for s in (5, 6))
    assert one.results[0].sketch_tokens == two.results[0].sketch_tokens != other.results[0].sketch_tokens
    assert seen[0] == 0 and len(seen) >= 2
    assert pipeline("1234", 6, threshold=1e-9).num_function_evaluations < pipeline("1234", 6).num_function_evaluations
    with pytest.raises(ValueError, match="unknown Policy kind 'best'"):
        pipeline("1234", policy="best")
    with pytest.raises(ValueError, match="from_pretrained or .of"):
        HybridReasoningPipeline(pipeline.decoder, pipeline.tokenizer)("1")


def test_the_card_holds_the_frontier_and_the_config(tmp_path):
    from hybrid import report
    from hybrid.evaluate import Evaluate, evaluate
    from hybrid.experiment import read_experiment

    reasoner = run_of(tmp_path / "run")
    experiment = read_experiment(tmp_path / "run")
    settings = Evaluate(steps=(0, 2), controls=(), examples=2)
    frontier = evaluate(reasoner, experiment.task, experiment.examples("test"), settings, name="chain", progress=False)
    report.write(frontier, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert report.table(frontier) in card and "1,234 token positions" in card
    assert dump({"task": plain(experiment)["task"]}).rstrip() in card and experiment.examples("test")[0].prompt in card


def test_pushing_goes_through_the_library_and_says_why_not(tmp_path, monkeypatch):
    import huggingface_hub

    with pytest.raises(ValueError, match="push to me/it: .*; .* can be pushed later") as error:
        push(tmp_path, "me/it")
    assert "\n" not in str(error.value)
    calls = []

    class Api:
        def create_repo(self, repository, **options):
            calls.append(("create", repository, options))
            return f"hub/{repository}"

        def upload_folder(self, **options):
            calls.append(("upload", options["repo_id"], options["folder_path"]))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    run_of(tmp_path / "run")
    out = str(tmp_path / "out")
    assert main(["export", str(tmp_path / "run"), out, "--push", "me/it", "--private"]) == 0
    assert calls == [("create", "me/it", {"private": True, "exist_ok": True}), ("upload", "me/it", out)]


def test_bad_folders_are_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="no exported reasoner: it has no model_index.json"):
        HybridReasoningPipeline.from_pretrained(tmp_path)
    run_of(tmp_path / "run")
    with pytest.raises(ValueError, match="is not empty"):
        exporting.export(tmp_path / "run", tmp_path / "run")
    assert main(["export", str(tmp_path), str(tmp_path / "x")]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert len(tiny_tokenizer().to_fast()) == len(tiny_tokenizer())
