"""Speed on this machine, as ratios within one run: `python scripts/benchmark.py [--json FILE] [--only KEY]`.

train_vs_bare_loop     training positions per second, LightningModule and data module over a bare loop
train_flops_vs_gemm    model FLOP/s of forward and backward over this machine's own matrix product, same precision
draft_time_in_network  share of the time of drafting that is spent inside the network
draft_vs_llada2_b1, draft_vs_llada2_b16
                       sketch tokens per second over those of diffusers' LLaDA2Pipeline with its
                       BlockRefinementScheduler, same weights, calls and tokens; prompt 256, canvas 64
draft_vs_llada2_positions
                       the same at prompt 64, canvas 128, over the ratio of positions processed; the lesser of batch
                       1 and 16
answer_vs_generate_b1, answer_vs_generate_b32
                       answer tokens per second over those of transformers' `generate`, greedy, same weights and tokens
answer_vs_matrix_floor time of a token's bare products with the weight matrices over our time per token, width 512
two_ranks_scaling      positions per second of two ranks over twice those of one, as much work each, a thread per rank
step_not_awaiting_data share of a training step that does not wait for its batch to be made
checkpoint_in_steps    time to save a checkpoint, flushed to disk, in training steps
doubling               growth of a step's time over growth of its operations, as parameters, batch or length double:
                       the largest of the three
doubling_sampling      growth of a draft's time over growth of its operations, as steps, canvas or batch double: the
                       largest of the three
gpu_*                  drafts and answers as above in bf16, widths 512 and 1024, where there is a GPU
peak_memory_mb         of this process, over all the measurements made

Every figure is the median of several repeats; the two sides of a ratio take turns, so that a machine that is busy
meanwhile slows both. Network, shapes and formulas are fixed and printed; a goal that is missed says so. Our drafts and
answers are compiled (`compile_sampling`), and what that costs is told; those we compare with run as they come.
"""

import argparse
import json
import platform
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from benchmark_drafting import draft_time_in_network
from benchmark_sampling import (
    answer_vs_generate,
    answer_vs_generate_b1,
    answer_vs_generate_b32,
    answer_vs_matrix_floor,
    doubling_sampling,
    draft_vs_llada2,
    draft_vs_llada2_b1,
    draft_vs_llada2_b16,
    draft_vs_llada2_positions,
    on_a_gpu,
)
from benchmark_setting import QUICK, Figure, Setting, quiet
from benchmark_training import (
    FLOP_FORMULA,
    checkpoint_in_steps,
    doubling,
    step_not_awaiting_data,
    train_flops_vs_gemm,
    train_vs_bare_loop,
    two_ranks_scaling,
)

from hybrid.train.run import keep_memory


def peak_memory_mb(setting: Setting) -> Figure:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Figure(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, None, "resident set of this process")


MEASUREMENTS: dict[str, Callable[[Setting], Figure]] = {
    f.__name__: f
    for f in (
        train_vs_bare_loop, train_flops_vs_gemm, draft_time_in_network, draft_vs_llada2_b1, draft_vs_llada2_b16,
        draft_vs_llada2_positions, answer_vs_generate_b1, answer_vs_generate_b32, answer_vs_matrix_floor,
        two_ranks_scaling, step_not_awaiting_data, checkpoint_in_steps, doubling, doubling_sampling,
    )
} | {
    "gpu_draft_vs_llada2_b1": on_a_gpu(draft_vs_llada2, 1),
    "gpu_draft_vs_llada2_b16": on_a_gpu(draft_vs_llada2, 16),
    "gpu_answer_vs_generate_b1": on_a_gpu(answer_vs_generate, 1),
    "gpu_answer_vs_generate_b32": on_a_gpu(answer_vs_generate, 32),
    "gpu_answer_vs_matrix_floor": on_a_gpu(answer_vs_matrix_floor),
    "peak_memory_mb": peak_memory_mb,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--only", action="append", choices=list(MEASUREMENTS), help="measure this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="tiny, once: does it run? Its figures mean nothing")
    options = parser.parse_args(arguments)
    keep_memory()
    quiet()
    setting = QUICK if options.quick else Setting()
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"machine  {machine}" + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""))
    print("setting  " + ", ".join(f"{name} {value}" for name, value in asdict(setting).items()))
    print(f"flops    {FLOP_FORMULA}")
    figures = {}
    for name in options.only or MEASUREMENTS:
        figures[name] = MEASUREMENTS[name](setting)
        print(f"{name:<26}{figures[name]}", flush=True)
    if options.json:
        found = {name: {**asdict(f), "met": f.is_met} for name, f in figures.items()}
        whole = {"machine": machine, "setting": asdict(setting), "flops": FLOP_FORMULA, "figures": found}
        Path(options.json).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
