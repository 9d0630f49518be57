"""The benchmark script runs, and never hides a missed goal. Speed itself is not tested."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_it_prints_every_figure_with_its_setting(benchmark, capsys, tmp_path):
    only = [part for name in benchmark.MEASUREMENTS if name != "two_ranks_scaling" for part in ("--only", name)]
    assert benchmark.main(["--quick", "--json", str(tmp_path / "figures.json"), *only]) == 0
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "figures.json").read_text())
    goals = {"train_vs_bare_loop": 0.95, "train_flops_vs_gemm": 0.7, "draft_time_in_network": 0.95,
             "step_not_awaiting_data": 0.98, "checkpoint_in_steps": None, "doubling": None,
             "peak_memory_mb": None}  # fmt: skip
    assert list(found["figures"]) == list(goals) and all(name in text for name in goals)
    for name, goal in goals.items():
        figure = found["figures"][name]
        assert figure["value"] > 0 and figure["goal"] == goal
        assert figure["met"] == (goal is None or figure["value"] >= goal)
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
