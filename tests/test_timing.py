"""experiments/timing.py: a hybrid beside the chain of its own trunk."""

import json
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))
import timing  # noqa: E402

SHIPPED = EXPERIMENTS / "weights" / "mult_3x3-hybrid_verified"


def test_the_chain_and_the_hybrid_answer_the_same_problems():
    """By one trunk's own causal predictions, token by token, and from its drafts."""
    chain, hybrid = timing.timed(SHIPPED, examples=3)
    assert chain["way"] == "" and hybrid["way"] == "confidence in 2 steps"
    assert chain["accuracy"] == hybrid["accuracy"] == 1.0
    assert chain["sequential_forwards"] == 25 + 7  # sketch and answer, end tokens included
    assert 3 <= hybrid["sequential_forwards"] <= 3 + 7  # two steps, one that verifies, and what it writes on
    assert hybrid["of_the_chains_forwards"] == hybrid["sequential_forwards"] / 32
    assert hybrid["of_the_chains_time"] == pytest.approx(hybrid["ms"] / chain["ms"])
    assert 0 < hybrid["ms"] < chain["ms"]


def test_a_run_whose_ways_are_not_known_is_refused(tmp_path, capsys, monkeypatch):
    for name in ("config.yaml", "tokenizer.json", "model.safetensors"):
        (tmp_path / "else-where").mkdir(exist_ok=True)
        (tmp_path / "else-where" / name).write_bytes((SHIPPED / name).read_bytes())
    monkeypatch.setattr(sys, "argv", ["timing.py", str(tmp_path / "else-where")])
    monkeypatch.setattr(timing, "STORED", tmp_path / "timing.json")
    assert timing.main() == 2
    assert "no ways to time of else-where" in capsys.readouterr().err and not (tmp_path / "timing.json").exists()


def test_a_run_is_named_by_its_folder():
    assert timing.named(Path("experiments/weights/mult_4x4-hybrid_verified")) == ("mult_4x4", "hybrid_verified")
    assert timing.named(Path("runs/frontier/prontoqa/hybrid/seed_1")) == ("prontoqa", "hybrid")


def test_what_is_stored_is_what_the_script_times():
    rows = json.loads(timing.STORED.read_text(encoding="utf-8"))
    assert {(row["task"], row["run"]) for row in rows} <= set(timing.WAYS)
    for row in rows:
        chain = next(r for r in rows if (r["task"], r["run"], r["way"]) == (row["task"], row["run"], ""))
        assert row["of_the_chains_time"] == pytest.approx(row["ms"] / chain["ms"])
