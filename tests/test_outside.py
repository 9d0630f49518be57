"""Parts from outside the package that differ from those within it: each is asked, or refused, and never passed over."""

import sys

from hybrid.config import add_fork_path


def test_parts_are_found_beside_the_config_and_where_one_is(tmp_path, monkeypatch):
    """As for `hybrid train fork.yaml run=runs/fork`, whose run lies elsewhere than the config."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    before = len(sys.path)
    add_fork_path(tmp_path / "runs" / "fork")
    assert sys.path[before:] == [str(tmp_path / "runs"), str(tmp_path)]
