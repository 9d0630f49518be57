"""Every shipped config builds, trains two steps, is evaluated on four examples and samples."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from hybrid.config import add_fork_path, load
from hybrid.diffusion.budget import Budget
from hybrid.evaluate import evaluate, ways
from hybrid.experiment import is_run, load_reasoner, read_experiment
from hybrid.reasoner import Reasoner
from hybrid.tasks import Character
from hybrid.train.run import train

ROOT = Path(__file__).parents[1]
FOUND = [file for folder in ("configs", "experiments") for file in sorted((ROOT / folder).rglob("*.yaml"))]


def bases_of(file):
    bases = (yaml.safe_load(file.read_text()) or {}).get("base", [])
    return {(file.parent / base).resolve() for base in ([bases] if isinstance(bases, str) else bases)}


# Files that others build on, and the resolved configs that run folders keep, are no experiments themselves.
IN_RUNS = {file for file in FOUND if is_run(file.parent) and (file.parent / "tokenizer.json").is_file()}
BASES = set().union(*map(bases_of, FOUND))
CONFIGS = [file for file in FOUND if file.resolve() not in BASES and file not in IN_RUNS]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda file: str(file.relative_to(ROOT)))

# Two rows in the format of every task that configs read files for, of the same characters: one to train on, one
# to validate and test on. The configs' own data need not be there.
ROWS = {
    "multiplication": (
        "7 6 9 2 * 1 6 3 6||7 6 9 2 0 + 0 2 0 8 7 1 ( 7 8 9 0 8 1 ) + 0 0 1 0 9 8 0 ( 7 8 0 1 7 0 1 ) "
        "+ 0 0 0 2 0 8 7 1 #### 7 8 0 3 7 8 8 1\n",
        "5 0 0 8 * 3 5 9 7||5 1 0 4 2 + 0 5 2 0 0 4 ( 5 6 2 4 2 4 ) + 0 0 5 4 0 2 7 ( 5 6 7 8 2 6 7 ) "
        "+ 0 0 0 5 3 0 6 5 #### 5 6 7 3 6 6 3 6\n",
    ),
    "countdown": (
        '{"input": "15,44,79,50", "output": "44-15=29,79-29=50"}\n',
        '{"input": "25,40,90,75", "output": "40-25=15,90-15=75"}\n',
    ),
    "gsm8k": (
        "Ann has 3 pens and buys 4 . How many has she ?||<<3+4=7>> #### 7\n",
        "Bob has 9 nuts and eats 2 . How many has he ?||<<9-2=7>> #### 7\n",
    ),
    "prontoqa": (
        '[{"question": "Max is a vumpus. Each vumpus is hot. True or false: Max is hot.", '
        '"steps": ["Max is a vumpus. Each vumpus is hot.", "Max is hot."], "answer": "True"}]\n',
        '[{"question": "Max is a vumpus. Each vumpus is hot. True or false: Max is not hot.", '
        '"steps": ["Max is a vumpus. Each vumpus is hot.", "Max is hot."], "answer": "False"}]\n',
    ),
    "addition": ("12+34=46\n", "21+43=64\n"),
    "sudoku": (
        '{"input": "1000\\n0002\\n4003\\n0000", "output": "1234\\n3412\\n4123\\n2341"}\n',
        '{"input": "1004\\n3002\\n4003\\n0300", "output": "1234\\n3412\\n4123\\n2341"}\n',
    ),
}


def tiny_data(config, folder):
    """Overrides that put tiny files in the place of the config's data."""
    section = load(config)
    task = section["task"]
    named = [key for key in ("train", "valid", "test") if section.get("data", {}).get(key)]
    if "train" in named and "valid" not in named:
        named.append("valid")  # two rows are too few to carve it out of train
    listed = ["data.exclude=[]"]
    for key in named:
        first, second = ROWS[task if isinstance(task, str) else task["kind"]]
        file = folder / f"{key}.txt"
        file.write_text(first if key == "train" else second)
        listed.append(f"data.{key}={file}")
    return listed


def small(config):
    """Overrides that shrink what the config has: networks, steps, batches and validation."""
    model = load(config).get("model", {})
    listed = []
    for key in {"backbone", *(key for key in model if key == "drafter_backbone" and model[key])}:
        section = model.get(key, {})
        if (section.get("kind", "qwen3") if isinstance(section, dict) else section) in ("qwen3", "gpt_neox"):
            listed += [f"model.{key}.{size}" for size in ("width=16", "layers=1", "heads=2")]
    return listed + [
        "train.steps=2", "train.batch_size=4", "train.accumulate=1", "train.warmup=1", "train.validate_every=2",
        "train.validate_examples=4", "train.positions=null", "train.checkpoint_every=2",
        "evaluate.examples=4", "evaluate.batch=4", f"evaluate.steps=[0,{least_steps(config)}]",
    ]  # fmt: skip


def least_steps(config):
    model = read_experiment(config).model
    return model.drafter.least_steps(model.canvas)


def test_there_are_configs():
    assert len(CONFIGS) >= 4 and any("fork_example" in str(file) for file in CONFIGS)


@every_config
def test_the_config_trains_is_evaluated_and_samples(config, tmp_path):
    add_fork_path(config)
    experiment = read_experiment(config, [*small(config), *tiny_data(config, tmp_path)])
    folder = train(experiment, tmp_path / "run", progress=False)
    trained = json.loads((folder / "trained.json").read_text())
    assert trained["steps"] == 2 and trained["positions"] > 0

    reasoner, _ = load_reasoner(folder, read_experiment(folder))
    examples = experiment.examples("test")
    frontier = evaluate(reasoner, experiment.task, examples, experiment.evaluate, name=experiment.title, progress=False)
    assert {row.method for row in frontier.rows} >= {experiment.model.method}
    assert all(row.examples == min(4, len(examples)) for row in frontier.rows)
    (result,) = reasoner.reason([examples[0].prompt], Budget(least_steps(config)))
    assert result.spent["decoder_forwards"] >= 1 and reasoner.special.mask not in result.sketch_tokens


VARIANTS = {
    "uniform": ["model.drafter.corruption=uniform", "model.drafter.times=continuous"],
    "uniform, predictor-corrector": [
        "model.drafter.corruption={kind: uniform, output: posterior}",
        "model.drafter.times=continuous",
        "model.drafter.policy={kind: predictor_corrector, rate: 0.2}",
        "model.drafter.temperature=1.0",
    ],
    "windows, early exit, guidance": [
        "model.drafter.decode_window=5",
        "model.drafter.stop={kind: prophet, late: 1.0}",
        "model.drafter.guidance=0.5",
        "evaluate.steps=[0,4]",
    ],
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_variants_of_the_quickstart_train_and_sample(changes, tmp_path):
    """Corruptions and ways of drafting that no shipped config names."""
    config = ROOT / "configs" / "quickstart" / "hybrid.yaml"
    experiment = read_experiment(config, [*small(config), *changes])
    folder = train(experiment, tmp_path / "run", progress=False)
    reasoner, _ = load_reasoner(folder, read_experiment(folder))
    assert reasoner.config.drafter == experiment.model.drafter
    examples = experiment.examples("test")
    frontier = evaluate(reasoner, experiment.task, examples, experiment.evaluate, name="variant", progress=False)
    assert any(row.steps and row.denoiser_forwards >= 1 for row in frontier.rows)
    if experiment.model.drafter.decode_window:
        with pytest.raises(ValueError, match="steps=1 with decode_window=5: the 4 windows"):
            ways(reasoner, dataclasses.replace(experiment.evaluate, steps=(0, 1)))
    (result,) = reasoner.reason([examples[0].prompt], Budget(4))
    assert reasoner.special.mask not in result.sketch_tokens and result.spent["denoiser_forwards"] <= 2 * 4


@every_config
def test_the_config_builds_its_own_networks(config):
    """Unshrunk, without its data."""
    add_fork_path(config)
    experiment = read_experiment(config)
    reasoner = Reasoner(experiment.model, Character().train(["0123456789"]))
    assert (reasoner.networks.drafter is not None) == experiment.model.drafter.learns


@every_config
def test_the_config_names_its_data_relative_to_the_project(config, monkeypatch):
    """Nobody else has the folders of whoever wrote it."""
    monkeypatch.delenv("HYBRID_DATA", raising=False)
    add_fork_path(config)
    data = read_experiment(config).data
    files = [file for file in (data.train, data.valid, data.test, *data.exclude) if file is not None]
    assert not [file for file in files if Path(file).is_absolute()]
