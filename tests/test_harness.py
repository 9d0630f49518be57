"""lm-evaluation-harness: budgets as generation arguments, log-likelihoods that are what they say."""

import json
import math
from pathlib import Path

import pytest
import torch
from test_hub import run_of
from toy import tiny_reasoner

from hybrid.cli import main
from hybrid.diffusion.bound import exact
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.corruption import Uniform
from hybrid.diffusion.guidance import Denoiser
from hybrid.diffusion.noise import TIME, Noise
from hybrid.drafters import Request
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.drafters.controls import NoSketch
from hybrid.drafters.diffusion import Diffusion
from hybrid.feed import Gold, Nothing
from hybrid.records import Example, Spent
from hybrid.tasks.collate import collate, prompts
from hybrid.tasks.task import key_of

pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402

from hybrid.harness import HybridLM  # noqa: E402


def ask(kind, *arguments):
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def test_it_is_registered():
    assert get_model("hybrid") is HybridLM


def test_budgets_are_generation_arguments():
    """Each request under its own; results in the order of the requests, whatever their groups."""
    reasoner = tiny_reasoner()
    model = HybridLM(reasoner, join="{sketch}|{answer}", batch_size=2)
    options = [{"steps": n, "until": []} for n in (0, 3, 0, 6, 3)]
    contexts = ["1+2=", "3+4=", "5+5=", "12+3=", "7="]
    written = model.generate_until(ask("generate_until", *zip(contexts, options, strict=True)))
    for context, option, text in zip(contexts, options, written, strict=True):
        (one,) = reasoner.reason([context], Budget(option["steps"]))
        assert text == f"{one.sketch}|{one.answer}"
    (whole,) = model.generate_until(ask("generate_until", ("1+2=", {"until": ["|"]})))
    assert whole == reasoner.reason(["1+2="])[0].sketch
    with pytest.raises(ValueError, match="generation_kwargs.step: known: steps"):
        model.generate_until(ask("generate_until", ("1+2=", {"step": 3})))
    with pytest.raises(ValueError, match="unknown Policy kind 'best'"):
        model.generate_until(ask("generate_until", ("1+2=", {"policy": "best"})))
    with pytest.raises(ValueError, match="policy is for diffusion drafters; this reasoner is `direct`"):
        direct = HybridLM(tiny_reasoner(drafter=NoSketch(), feed=Nothing()))
        assert len(direct.generate_until(ask("generate_until", ("1+2=", {"temperature": 0.0})))) == 1
        direct.generate_until(ask("generate_until", ("1+2=", {"policy": "margin"})))
    with pytest.raises(ValueError, match="score='x': must be bound or answer"):
        HybridLM(reasoner, score="x")
    with pytest.raises(ValueError, match="no likelihood of text without one"):
        model.loglikelihood_rolling(ask("loglikelihood_rolling", ("1",)))


def test_temperature_draws_unless_sampling_is_off():
    """And what is drawn follows the seed that generation_kwargs may say."""
    reasoner = tiny_reasoner()
    model = HybridLM(reasoner, join="{sketch}|{answer}")

    def written(**options):
        return model.generate_until(ask("generate_until", ("12+3=", {"steps": 6, "until": []} | options)))[0]

    greedy = written()
    assert greedy == written(temperature=3.0, do_sample=False) == written(temperature=0.0, seed=5)
    drawn = {written(temperature=3.0, seed=seed) for seed in range(4)}
    assert len(drawn) > 1 and written(temperature=3.0, seed=1) == written(temperature=3.0, seed=1, do_sample=True)


def test_under_uniform_corruption_the_bound_takes_times():
    """There are no masks to count: of one sample, it is the training cost of that corruption at the row's own time."""
    reasoner = tiny_reasoner(canvas=4, drafter=Diffusion(corruption=Uniform(), times="continuous"))
    model = HybridLM(reasoner, samples=1)
    ((bound, _),) = model.loglikelihood(ask("loglikelihood", ("1+2=", "12")))
    batch = collate([Example(key_of("1+2=12"), "1+2=", "12", "")], reasoner.tokenizer, 4)
    noise = Noise(0, batch.prompts.keys)
    losses = reasoner.losses(batch, noise, 1 - noise.uniform(TIME)[:, 0], feed=Gold())
    assert bound == pytest.approx(-float(losses.sketch.detach()), rel=1e-5)


def test_bounds_agree_with_enumeration():
    """Minus the mean over many masks, against every masked set of the canvas."""
    reasoner = tiny_reasoner(canvas=4)
    model = HybridLM(reasoner, samples=100)
    pairs = [("1+2=", "12"), ("7=", "")]
    found = model.loglikelihood(ask("loglikelihood", *pairs))
    tokenizer, network, special = reasoner.tokenizer, reasoner.networks.drafter, reasoner.special
    for (context, text), (bound, is_greedy) in zip(pairs, found, strict=True):
        canvas = [*tokenizer.encode(text), special.end]
        x = torch.tensor(canvas + [special.pad] * (4 - len(canvas)))

        class Bound(Denoiser):
            def logits(self, z, t, where, context=context):
                request = Request(prompts([context] * len(z), tokenizer), 4, special)
                return reasoner.config.drafter.bind(network, request, Spent.nothing(len(z)))[0].logits(z, t, where)

        assert bound == pytest.approx(-float(exact(Bound(), x, special.mask).detach()), rel=0.09) and not is_greedy


def test_likelihoods_of_answers_sum_to_one_and_know_the_greedy_one():
    """Of all answers up to one digit, what is left to longer ones aside; the written answer is the greedy one."""
    reasoner = tiny_reasoner(max_answer=4)
    model = HybridLM(reasoner, steps=2, score="answer")
    answers = ["", *"0123456789+="]
    scores = model.loglikelihood(ask("loglikelihood", *[("1+2=", a) for a in answers]))
    assert 0 < sum(math.exp(p) for p, _ in scores) < 1
    (written,) = reasoner.reason(["1+2="], Budget(2))
    ((_, is_greedy),) = model.loglikelihood(ask("loglikelihood", ("1+2=", written.answer)))
    assert is_greedy == written.complete
    assert sum(g for _, g in scores) == (written.answer in answers and written.complete)
    chain = HybridLM(tiny_reasoner(drafter=Autoregressive(), feed=Gold()))
    assert chain.score == "answer" and chain.loglikelihood(ask("loglikelihood", ("1+2=", "3")))[0][0] < 0


def test_the_command_runs_a_local_task_and_its_own_metric(tmp_path, monkeypatch, capsys):
    """GSM8K's format and the shipped task file, on questions that this run can read; results say what they are."""
    pytest.importorskip("math_verify")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    run_of(tmp_path / "run")
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    rows = [{"question": q, "answer": f"x\n#### {a}"} for q, a in (("1+2", "3"), ("3*4", "12"), ("9-1", "8"))]
    (tmp_path / "data" / "gsm8k" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    include = str(Path(__file__).parents[1] / "docs" / "harness")
    command = ["harness", "run", "--tasks", "gsm8k_local", "--include", include, "--steps", "2", "--limit", "2"]
    assert main([*command, "--out", "results.json"]) == 0
    results = json.loads(Path("results.json").read_text())
    assert 0 <= results["results"]["gsm8k_local"]["math_verify,none"] <= 1
    assert len(results["samples"]["gsm8k_local"]) == 2 and "####" in results["samples"]["gsm8k_local"][0]["resps"][0][0]
    assert results["hybrid"]["steps"] == 2 and "lower bound" in results["hybrid"]["loglikelihood"]
    assert "gsm8k_local: math_verify" in capsys.readouterr().out
    assert main(["harness", "run", "--tasks", "nothing", "--include", include]) == 2
    assert "task 'nothing' is not known" in capsys.readouterr().err
