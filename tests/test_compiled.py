"""Compiled sampling: the same tokens, the same counts, few graphs. compiled.py says what."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy import tiny_reasoner

from hybrid.nets.encoder import Encoder


def run(*names):
    script = Path(__file__).with_name("compiled.py")
    here = os.environ | {"PYTHONPATH": str(script.parent.parent)}  # whatever package is installed
    done = subprocess.run([sys.executable, str(script), *names], capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_is_traced_gives_the_same_in_few_graphs():
    run(
        "drafts_and_answers_are_the_same_in_few_graphs",
        "training_goes_on_in_between",
        "what_cannot_be_compiled_runs_plainly",
    )


@pytest.mark.slow
def test_translated_graphs_give_the_same():
    run("translated_graphs_give_the_same")


def test_what_keeps_no_keys_and_values_is_refused():
    model = tiny_reasoner().networks.decoder.model
    with pytest.raises(ValueError, match="Qwen3ForCausalLM: only what keeps keys and values alone"):
        Encoder(model).compile_sampling()
