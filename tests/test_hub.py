"""Out: what is exported loads with others' classes, offline, and answers the same."""

import dataclasses
import json

import pytest
import torch
import transformers
from checkpoints import fast_tokenizer, save
from toy import tiny_reasoner, tiny_tokenizer

from hybrid.build import build, plain
from hybrid.cli import main
from hybrid.config import dump
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.policy import Policy
from hybrid.diffusion.stop import Stop
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

    def snapshot_download(name, allow_patterns, **told):
        fetched.append((name, told))
        files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
        left = [file.name for file in files if not any(fnmatch(file.name, p) for p in allow_patterns)]
        assert left == ["README.md"] and not any(fnmatch("code.py", p) for p in allow_patterns)
        return str(tmp_path / "out")

    monkeypatch.setattr(module, "snapshot_download", snapshot_download)
    assert_same(reasoner, HybridReasoningPipeline.from_pretrained("me/it"))
    HybridReasoningPipeline.from_pretrained("me/it", revision="v1", token="mine", local_files_only=True)
    assert fetched == [("me/it", {}), ("me/it", {"revision": "v1", "token": "mine", "local_files_only": True})]


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


def test_progress_counts_the_steps_of_the_whole_canvas(tmp_path, capsys):
    """Of the answer's positions too, where the canvas holds them."""
    reasoner = run_of(tmp_path / "run", canvas_holds="sketch+answer")
    HybridReasoningPipeline.of(reasoner)("1234")
    assert f"/{reasoner.config.positions} " in capsys.readouterr().err


def test_options_of_a_call(tmp_path, capsys):
    reasoner = run_of(tmp_path / "run")
    pipeline, seen = HybridReasoningPipeline.of(reasoner), []

    def callback(of, step, timestep, tensors):
        assert of is pipeline and timestep == step and list(tensors) == ["canvas", "is_new"]
        seen.append((step, tensors["canvas"][0].tolist()))

    one = pipeline(
        "1234", 3, temperature=1.0, seed=5, callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["canvas", "is_new"],
    )  # fmt: skip
    assert [step for step, _ in seen] == list(range(len(seen))) and seen[-1][1] == one.results[0].sketch_tokens
    assert "/3" in capsys.readouterr().err  # the library's progress bar, which its users can turn off
    pipeline.set_progress_bar_config(disable=True)
    two, other = (pipeline("1234", 3, temperature=1.0, seed=s) for s in (5, 6))
    assert capsys.readouterr().err == ""
    assert one.results[0].sketch_tokens == two.results[0].sketch_tokens != other.results[0].sketch_tokens
    assert pipeline("1234", 6, threshold=1e-9).num_function_evaluations < pipeline("1234", 6).num_function_evaluations
    with pytest.raises(ValueError, match="unknown Policy kind 'best'"):
        pipeline("1234", policy="best")
    with pytest.raises(ValueError, match="from_pretrained or .of"):
        HybridReasoningPipeline(pipeline.decoder, pipeline.tokenizer)("1")


@pytest.mark.parametrize(
    ("names", "ours"),
    [
        ({"steps": 3}, {"steps": 3}),
        ({"max_denoising_steps": 3, "gen_length": 4}, {"steps": 3, "tokens": 4}),
        ({"thinking_budget": 3}, {"tokens": 3}),
        ({"reasoning_effort": "low"}, {"effort": "low"}),
        ({"num_inference_steps": 4, "block_length": 3}, {"steps": 4, "decode_window": 3}),
        ({"steps": 4, "remasking": "low_confidence"}, {"steps": 4, "policy": "confidence"}),
        ({"steps": 4, "remasking": "random"}, {"steps": 4, "policy": "random"}),
        ({"steps": 4, "alg": "topk_margin"}, {"steps": 4, "policy": "margin"}),
        ({"steps": 4, "alg": "origin", "temperature": 0.7}, {"steps": 4, "policy": "ancestral", "temperature": 0.7}),
        ({"threshold": 0.3}, {"policy": {"kind": "threshold", "threshold": 0.3}}),
        ({"threshold": 0.3, "editing_threshold": 0.4}, {"policy": {"kind": "edit", "threshold": 0.3, "edit": 0.4}}),
        ({"entropy_bound": 0.5}, {"policy": {"kind": "entropy_bound", "bound": 0.5}}),
        ({"stability_threshold": 1, "confidence_threshold": 9.0}, {"stop": {"kind": "stable", "entropy": 9.0}}),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.9}, {"temperature": 1.0, "top_k": 3, "top_p": 0.9}),
        ({"cfg_scale": 0.5}, {"guidance": 0.5}),
    ],
    ids=str,
)  # fmt: skip
def test_names_of_others_are_ours(names, ours):
    """Each call, by their names and by ours, gives the same sketch for the same forwards."""
    reasoner = tiny_reasoner()
    pipeline = HybridReasoningPipeline.of(reasoner)
    pipeline.set_progress_bar_config(disable=True)
    limits = {name: ours.pop(name) for name in ("steps", "tokens", "effort") if name in ours}
    for name, base in (("policy", Policy), ("stop", Stop)):
        if name in ours:
            ours[name] = build(base, ours[name], name)
    drafter = dataclasses.replace(reasoner.config.drafter, **ours)
    expected = reasoner.reason(["12+3=", "7="], Budget(**limits), drafter=drafter, seed=3)
    found = pipeline(["12+3=", "7="], **names, seed=3)
    assert [r.sketch_tokens for r in found.results] == [r.sketch_tokens for r in expected]
    assert found.num_function_evaluations == [r.spent["sequential_forwards"] for r in expected]


def test_answers_are_cut_and_draws_come_from_a_generator():
    pipeline = HybridReasoningPipeline.of(tiny_reasoner(max_answer=6))
    pipeline.set_progress_bar_config(disable=True)
    long, short = (pipeline("12+3=", 2, max_new_tokens=n).results[0] for n in (6, 2))
    assert short.answer_tokens == long.answer_tokens[:2] and short.allowed["max_answer"] == 2
    one, two = (pipeline("12+3=", 4, temperature=2.0, generator=torch.Generator().manual_seed(s)) for s in (1, 1))
    generator = torch.Generator().manual_seed(1)
    drawn = [pipeline("12+3=", 4, temperature=2.0, generator=generator).results[0].sketch_tokens for _ in range(4)]
    assert one.results[0].sketch_tokens == two.results[0].sketch_tokens == drawn[0]
    assert len({tuple(tokens) for tokens in drawn}) > 1


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"steps": 1, "num_inference_steps": 2}, "num_inference_steps and steps are names of one thing"),
        ({"policy": "random", "alg": "entropy"}, "policy and alg are names of one thing"),
        ({"gen_length": 1, "thinking_budget": 1}, "gen_length and thinking_budget"),
        ({"seed": 1, "generator": torch.Generator()}, "seed and generator"),
        ({"policy": "margin", "threshold": 0.5}, "unknown key policy.threshold"),
        ({"max_new_tokens": 0}, "max_answer=0"),
    ],
    ids=["steps", "policy", "length", "seed", "threshold", "answer"],
)
def test_two_names_of_one_thing_are_refused(names, said):
    with pytest.raises(ValueError, match=said):
        HybridReasoningPipeline.of(tiny_reasoner())("1+2=", **names)


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
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len({path.stat().st_mode for path in files}) == 1  # weights too may be read by whom the card may
    card = (tmp_path / "out" / "README.md").read_text()
    assert report.table(frontier) in card and "1,234 token positions" in card
    assert dump({"task": plain(experiment)["task"]}).rstrip() in card and experiment.examples("test")[0].prompt in card


def test_pushing_goes_through_the_library_and_says_why_not(tmp_path, monkeypatch):
    import huggingface_hub

    with pytest.raises(ValueError, match="push to me/it: .*; .* can be pushed later") as error:
        push(tmp_path, "me/it")
    assert "\n" not in str(error.value)
    with monkeypatch.context() as patched:  # nobody listens there
        patched.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        patched.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(ValueError, match="push to me/it: .*refused.*; .* can be pushed later") as error:
            push(tmp_path, "me/it")
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
