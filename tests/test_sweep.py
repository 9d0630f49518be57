"""Sweeps: every combination once, names that are folders, and one frontier of all; a started one is finished."""

import json

import pytest
from test_cli import done, refused, write_config

from hybrid.build import ConfigError
from hybrid.cli import main
from hybrid.config import values_of
from hybrid.experiment import read_experiment
from hybrid.sweep import parameters, points, sweep


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2,3", ["1", "2", "3"]),
        ("shared", ["shared"]),
        ("[0,1],[0,2]", ["[0,1]", "[0,2]"]),
        ("{kind: threshold, threshold: 0.9},confidence", ["{kind: threshold, threshold: 0.9}", "confidence"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("{a: {b: 1, c: 2}, d: 3},[[0,1],[2]],it's,4", ["{a: {b: 1, c: 2}, d: 3}", "[[0,1],[2]]", "it's", "4"]),
        ("", [""]),
    ],
)
def test_values_are_split_outside_of_brackets(text, values):
    assert values_of("key", text) == values


def test_every_combination_is_a_point_of_its_own(tmp_path):
    config = str(write_config(tmp_path))
    found = points(config, ["seed=0,1", "train.steps=2", "model.drafter.policy={kind: threshold},margin"], tmp_path)
    assert [point.name for point in found] == [
        f"seed={seed},model.drafter.policy={policy}" for seed in (0, 1) for policy in ("_kind_threshold_", "margin")
    ]
    assert all("train.steps=2" in point.overrides for point in found)
    for name in ("my runs #2", "runs: ü", "[x", '"', "1e3"):
        (point,) = points(config, ["seed=0"], tmp_path / name)
        assert read_experiment(config, point.settings).run == str(tmp_path / name / "only")
    for axes in (["seed=0,1", "seed=2"], ["seed"], ["run=a,b"], ["seed=0,0"], ["seed=[0,1"], ["seed=0],[1"]):
        with pytest.raises(ConfigError):
            points(config, axes, tmp_path)
    with pytest.raises(ConfigError, match="train.stepz"):
        points(config, ["train.stepz=1,2"], tmp_path)
    assert parameters("slurm_partition=gpu,gpus_per_node=8") == {"slurm_partition": "gpu", "gpus_per_node": 8}
    with pytest.raises(ConfigError, match="has no value"):
        parameters("gpu")


def work(self):
    """What a job does, in this process."""
    if "seed=9" in self.overrides:
        return "it went wrong"
    status = main(["train", self.config, *self.overrides, f"run={self.folder}", "--no-progress"])
    return "" if status == 0 and main(["evaluate", str(self.folder), "--no-progress"]) == 0 else "status"


def test_what_is_left_is_run_and_all_is_merged(tmp_path, monkeypatch):
    """One point fails and is said; the others are merged, under their swept values. Again, only that one is run."""
    config, said, ran = str(write_config(tmp_path)), [], []

    def run(left, *_):
        ran.append([point.name for point in left])
        return {point.name: why for point in left if (why := work(point))}

    monkeypatch.setattr("hybrid.sweep._run", run)
    listed = points(config, ["seed=0,9", "train.learning_rate=0.1,0.01", "evaluate.steps=[0,2]"], tmp_path / "out")
    merged, failed = sweep(listed, tmp_path / "out", say=said.append)
    assert len(ran[0]) == 4 and sum("it went wrong" in line for line in said) == 2
    assert len(merged.rows) == 4 and failed == [point.name for point in listed if "seed=9" in point.overrides]
    assert [row.extra["train.learning_rate"] for row in merged.rows] == ["0.1", "0.1", "0.01", "0.01"]
    sweep(listed, tmp_path / "out", say=said.append)
    assert ran[1] == [point.name for point in listed if "seed=9" in point.overrides]
    with pytest.raises(ConfigError, match="none of the 2 points"):
        sweep(listed[2:], tmp_path / "out", say=said.append)


def test_a_sweep_with_failed_points_is_no_success(capsys, tmp_path, monkeypatch):
    """What could be finished is written and shown; the status and the last line say that it is not all."""
    config, out = write_config(tmp_path), tmp_path / "out"
    monkeypatch.setattr("hybrid.sweep._run", lambda left, *_: {p.name: why for p in left if (why := work(p))})
    line = ["sweep", str(config), "seed=0,9", "evaluate.steps=[0]", "--out", str(out)]
    assert main(line) == 1
    assert "1 of 2 points failed: seed=9" in capsys.readouterr().err.splitlines()[-1]
    assert (out / "frontier.json").is_file()


@pytest.mark.parametrize("axis", ["evaluate.split=valid,test", "name=a,b"])
def test_points_without_a_frontier_in_common_are_refused_before_any_is_run(tmp_path, axis):
    with pytest.raises(ConfigError, match="no frontier in common"):
        points(str(write_config(tmp_path)), [axis, "seed=0,1"], tmp_path / "out")


def test_a_sweep_without_its_engine_says_what_to_install(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    err = refused(capsys, "sweep", write_config(tmp_path), "seed=0,1", "--out", tmp_path / "out")
    assert "pip install 'hybrid-reasoning[sweep]'" in err
    assert "--jobs 0" in refused(capsys, "sweep", write_config(tmp_path), "seed=0,1", "--jobs", "0")


@pytest.mark.slow
def test_jobs_run_through_the_engine(capsys, tmp_path):
    pytest.importorskip("submitit")
    config = write_config(tmp_path)
    line = ("sweep", config, "seed=0,1", "evaluate.steps=[0,2]", "--jobs", "2", "--out", tmp_path / "out")
    assert "2 points, 0 done before" in done(capsys, *line)
    rows = json.loads((tmp_path / "out" / "frontier.json").read_text())["rows"]
    assert sorted(row["seed"] for row in rows) == [0, 0, 1, 1]
    assert "2 points, 2 done before" in done(capsys, *line)
