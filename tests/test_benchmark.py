"""The benchmark script runs, and never hides a missed goal. Speed itself is not tested."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

NO_GPU = {"value": None, "goal": None, "detail": "needs a GPU", "met": None}
SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark"] = module  # dataclasses look their module up
    sys.path.insert(0, str(SCRIPT.parent))  # as where the script is run
    spec.loader.exec_module(module)
    return module


def test_it_prints_every_figure_with_its_setting(benchmark, capsys, tmp_path):
    only = [part for name in benchmark.MEASUREMENTS if name != "two_ranks_scaling" for part in ("--only", name)]
    assert benchmark.main(["--quick", "--json", str(tmp_path / "figures.json"), *only]) == 0
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "figures.json").read_text())
    goals = {"train_vs_bare_loop": 0.95, "train_flops_vs_gemm": 0.7, "draft_time_in_network": 0.95,
             "draft_vs_llada2_b1": 5.0, "draft_vs_llada2_b16": 5.0, "draft_vs_llada2_positions": 0.9,
             "answer_vs_generate_b1": 2.0, "answer_vs_generate_b32": 2.0, "answer_vs_matrix_floor": 0.8,
             "step_not_awaiting_data": 0.98, "checkpoint_in_steps": None, "doubling": None,
             "doubling_sampling": None, "peak_memory_mb": None}  # fmt: skip
    on_a_gpu = [name for name in found["figures"] if name.startswith("gpu_")]
    assert [name for name in found["figures"] if name not in on_a_gpu] == list(goals) and len(on_a_gpu) == 5
    assert all(name in text for name in goals)
    for name, goal in goals.items():
        figure = found["figures"][name]
        assert figure["value"] > 0 and figure["goal"] == goal
        assert figure["met"] == (goal is None or figure["value"] >= goal)
    if not torch.cuda.is_available():
        assert all(found["figures"][name] == NO_GPU for name in on_a_gpu) and "-  needs a GPU" in text
    # Both sides did the same.
    same = [name for name in goals if name.startswith(("draft_vs", "answer_vs_generate"))]
    assert all("100.0% of the tokens the same" in found["figures"][name]["detail"] for name in same)
    assert found["setting"]["width"] == 32 and "3 forwards" in text


def test_a_missed_goal_is_printed_as_missed(benchmark, capsys, monkeypatch):
    missed = benchmark.Figure(0.5, 0.95, "slow")
    monkeypatch.setitem(benchmark.MEASUREMENTS, "train_vs_bare_loop", lambda setting: missed)
    assert benchmark.main(["--only", "train_vs_bare_loop"]) == 0
    assert "0.500  goal 0.95: MISSED" in capsys.readouterr().out


def test_the_setting_is_the_one_that_the_goals_are_for(benchmark):
    setting = benchmark.Setting()
    assert (setting.width, setting.canvas, setting.draft_batch, setting.draft_steps) == (256, 64, 16, 32)


@pytest.mark.slow
def test_two_ranks_are_measured_against_one(benchmark):
    """In processes of their own, which import the script anew."""
    line = [sys.executable, str(SCRIPT), "--quick", "--only", "two_ranks_scaling"]
    assert "two_ranks_scaling" in subprocess.run(line, capture_output=True, text=True, check=True).stdout
