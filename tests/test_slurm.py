"""The script that Slurm runs."""

import os
import subprocess
from pathlib import Path


def test_the_slurm_script_starts_a_task_per_device_on_every_node(tmp_path):
    """Against stand-ins for srun and scontrol: what is started, where the ranks meet, and the status it ends with."""
    script = Path(__file__).parents[1] / "scripts" / "slurm.sh"
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, does in {"srun": 'echo "$@"; echo "$MASTER_ADDR $MASTER_PORT $OMP_NUM_THREADS"; exit 143',
                       "scontrol": "echo node7; echo node8"}.items():  # fmt: skip
        (bin_ / name).write_text(f"#!/bin/sh\n{does}\n")
        (bin_ / name).chmod(0o755)
    slurm = {"PATH": f"{bin_}:{os.environ['PATH']}", "SLURM_JOB_ID": "4242", "SLURM_JOB_NUM_NODES": "2",
             "SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_ON_NODE": "64", "SLURM_JOB_NODELIST": "node[7-8]"}  # fmt: skip
    line = ["bash", str(script), "config.yaml", "seed=1"]
    ended = subprocess.run(line, env=slurm, capture_output=True, text=True, check=False)
    assert ended.returncode == 143, ended.stderr
    started, meeting = ended.stdout.splitlines()
    assert started == (
        "--nodes=2 --ntasks-per-node=8 --kill-on-bad-exit=1 "
        "hybrid train config.yaml seed=1 train.devices=8 train.num_nodes=2 --no-progress"
    )
    assert meeting == "node7 19242 8"
    for wrong, env in ((line[:2], slurm), (line, {"PATH": os.environ["PATH"]})):
        ended = subprocess.run(wrong, env=env, capture_output=True, text=True, check=False)
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    text = script.read_text()
    assert "#SBATCH --requeue" in text and "#SBATCH --signal=SIGUSR1@120" in text
