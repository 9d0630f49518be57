"""Several ranks for tests: processes forked off one that has imported everything, so that they start at once."""

import contextlib
import multiprocessing
import os
import sys
import traceback
from pathlib import Path

from hybrid.cli import main

LIBRARIES = ["hybrid.cli", "hybrid.train.run", "hybrid.sample", "transformers.models.qwen3.modeling_qwen3"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(LIBRARIES)


def run_ranks(world, work, *arguments, folder, timeout=120):
    """`work(rank, *arguments)` as `world` ranks of one job. Exit statuses by rank, and what each wrote to stderr."""
    from hybrid.launch import _free_port

    common = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": "1"}
    folder = Path(folder)
    processes = []
    for rank in range(world):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}
        environment = common | own if world > 1 else {}
        process = CONTEXT.Process(target=_rank, args=(environment, folder / f"{rank}.err", work, rank, arguments))
        process.start()
        processes.append(process)
    for process in processes:
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
    errors = [(folder / f"{rank}.err").read_text() for rank in range(world)]
    return [process.exitcode for process in processes], errors


def _rank(environment, log, work, rank, arguments):
    import torch

    torch.set_num_threads(1)
    os.environ.update(environment)
    with open(log, "w", buffering=1) as file, contextlib.redirect_stderr(file), contextlib.redirect_stdout(file):
        try:
            status = work(rank, *arguments)
        except BaseException:
            traceback.print_exc(file=file)
            status = 70
    sys.exit(status or 0)


def command(rank, *lines):
    """Several command lines, one after another; the status of the last, or of the first that fails."""
    environment = dict(os.environ)
    for line in lines:
        os.environ.update(environment)  # a trainer that is done forgets how many we are
        if status := main([str(part) for part in line]):
            return status
    return 0
