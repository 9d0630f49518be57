"""How much of drafting is spent inside the network."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from benchmark_sampling import reasoner_of
from benchmark_setting import Figure, Setting, timed

from hybrid.diffusion.budget import Budget
from hybrid.diffusion.noise import Noise
from hybrid.drafters import Request, finish
from hybrid.records import Spent
from hybrid.tasks.collate import prompts


def draft_time_in_network(setting: Setting) -> Figure:
    reasoner = reasoner_of(setting)
    network = reasoner.networks.drafter
    assert network is not None
    problems = prompts(["1234567890+1234567890="] * setting.draft_batch, reasoner.tokenizer).to(reasoner.device)
    request = Request(problems, setting.canvas, reasoner.special)
    inside = 0.0

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            nonlocal inside
            began = time.perf_counter()
            result = call(*args, **options)
            if reasoner.device.type == "cuda":
                torch.cuda.synchronize()
            inside += time.perf_counter() - began
            return result

        return run

    network.forward, network.logits = watched(network.forward), watched(network.logits)  # type: ignore[method-assign]
    shares, seconds = [], []
    for repeat in range(setting.repeats + 1):
        inside, spent = 0.0, Spent.nothing(setting.draft_batch)
        noise = Noise(repeat, request.prompts.keys)
        drafting = reasoner.config.drafter.draft(network, request, Budget(setting.draft_steps), noise, spent)
        seconds.append(timed(lambda drafting=drafting: finish(drafting)))
        shares.append(inside / seconds[-1])
        assert (spent.denoiser_forwards == setting.draft_steps).all()
    outside = median(s * (1 - share) for s, share in zip(seconds[1:], shares[1:], strict=True)) / setting.draft_steps
    return Figure(
        median(shares[1:]), 0.95,
        f"{median(seconds[1:]) * 1e3:,.0f} ms a draft, {outside * 1e6:,.0f} us a step outside the network, fp32",
    )  # fmt: skip
