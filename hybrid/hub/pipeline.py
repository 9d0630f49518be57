"""A trained reasoner as a pipeline: saved and loaded by diffusers, called with the names its users know."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from hybrid.build import build, plain
from hybrid.diffusion.budget import Budget, Effort, Plan
from hybrid.diffusion.draft import State
from hybrid.drafters import Drafter
from hybrid.drafters.diffusion import Diffusion
from hybrid.hub.names import one_of, policy_named, stop_named
from hybrid.hub.policies import scheduler_of, settings_of
from hybrid.nets.adapt import merged
from hybrid.nets.backbone import Backbone
from hybrid.nets.family import network_of
from hybrid.reasoner import Model, Reasoner
from hybrid.records import Reasoned
from hybrid.tasks import Tokenizer

REASONING, TOKENIZER, REST = "reasoning.json", "reasoning_tokenizer.json", "reasoning.safetensors"


@dataclass
class ReasoningOutput(BaseOutput):
    """One entry per prompt.

    num_function_evaluations: dependent network calls, denoising steps, prefill and answer tokens together.
    tokens_per_forward: tokens of sketch and answer over those calls. results: all that was counted.
    """

    answers: list[str]
    sketches: list[str]
    num_function_evaluations: list[int]
    tokens_per_forward: list[float]
    results: list[Reasoned]


@dataclass(frozen=True)
class _Ready(Backbone):
    """A backbone that is built already."""

    model: PreTrainedModel

    def build(self, vocabulary: int) -> PreTrainedModel:
        return self.model


class HybridReasoningPipeline(DiffusionPipeline):
    """Drafts a sketch in so many denoising steps, then answers.

    pipeline = HybridReasoningPipeline.from_pretrained("DIR")
    pipeline(["3142"], num_inference_steps=8).answers

    Its scheduler is the drafter's policy, and may be changed for another, also for one of diffusers' own:

    pipeline.scheduler = BlockRefinementScheduler(threshold=0.7)
    """

    _optional_components = ["drafter", "drafter_tokenizer", "scheduler"]
    _callback_tensor_inputs = ["canvas", "is_new", "is_reopened", "confidence"]

    def __init__(
        self,
        decoder: PreTrainedModel,
        tokenizer: Any,
        drafter: PreTrainedModel | None = None,
        drafter_tokenizer: Any | None = None,
        scheduler: SchedulerMixin | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            decoder=decoder, tokenizer=tokenizer, drafter=drafter, drafter_tokenizer=drafter_tokenizer,
            scheduler=scheduler,
        )  # fmt: skip
        self.reasoner: Reasoner | None = None

    @classmethod
    def of(cls, reasoner: Reasoner) -> "HybridReasoningPipeline":
        """The pipeline round a reasoner; low-rank matrices are merged into copies of their models."""
        networks, reader = reasoner.networks, reasoner.tokenizer.reader
        decoder = merged(networks.decoder.model)
        if (generation := getattr(decoder, "generation_config", None)) is not None:  # of those that can generate
            generation.eos_token_id, generation.pad_token_id = reader.special.end, reader.special.pad
        own = None if networks.is_shared or networks.drafter is None else merged(networks.drafter.model)
        others = None if reader is reasoner.tokenizer else reasoner.tokenizer.to_fast()
        scheduler = scheduler_of(reasoner.config.drafter, reasoner.special)
        pipeline = cls(decoder, reader.to_fast(), own, others, scheduler)
        pipeline.reasoner = reasoner
        return pipeline

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> None:
        """The components as their libraries save them, and what makes them a reasoner: its config as plain data, its
        tokenizer, and the weights that belong to neither network.

        Raises:
            ValueError: a network that a backbone of one's own reads in a way of its own.
        """
        reasoner, folder = self._reasoner(), Path(save_directory)
        for network in (reasoner.networks.decoder, reasoner.networks.drafter):
            if network is not None and type(network) is not type(network_of(network.model)):
                raise ValueError(
                    f"{type(network.model).__name__} is read by {type(network).__name__} of its backbone's own, which "
                    "an exported pipeline would not know: keep the run, and load it by load_run"
                )
        super().save_pretrained(save_directory, *args, **options)
        model = {k: v for k, v in plain(_without_backbones(reasoner.config)).items() if not k.endswith("backbone")}
        (folder / REASONING).write_text(json.dumps(model, indent=1) + "\n", encoding="utf-8")
        reasoner.tokenizer.save(folder / TOKENIZER)
        rest = {n: t.contiguous() for n, t in reasoner.state_dict().items() if not n.startswith("networks.")}
        if rest:
            save_file(rest, folder / REST)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> "HybridReasoningPipeline":
        """From a folder or the Hub. Reads data and runs no code of the folder's.

        Raises:
            ValueError: a folder that `save_pretrained` did not write.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            # The library's own download leaves out files that belong to no component.
            kinds = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
            told = {k: options[k] for k in ("revision", "token", "cache_dir", "local_files_only") if k in options}
            folder = Path(snapshot_download(str(pretrained_model_name_or_path), allow_patterns=kinds, **told))
        if missing := [name for name in ("model_index.json", REASONING, TOKENIZER) if not (folder / name).is_file()]:
            raise ValueError(f"{folder} is no exported reasoner: it has no {missing[0]}; `hybrid export` writes one")
        pipeline = super().from_pretrained(folder, **options)
        config = build(Model, json.loads((folder / REASONING).read_text(encoding="utf-8")), REASONING)
        drafter = None if pipeline.drafter is None else _Ready(pipeline.drafter)
        config = dataclasses.replace(config, backbone=_Ready(pipeline.decoder), drafter_backbone=drafter)
        reasoner = Reasoner(config, Tokenizer.load(folder / TOKENIZER))
        if (folder / REST).is_file():
            reasoner.load_state_dict(load_file(folder / REST), strict=False)
        pipeline.reasoner = reasoner.eval()
        return pipeline

    def to(self, *args: Any, **options: Any) -> "HybridReasoningPipeline":
        """As the library's, and what belongs to neither network comes along."""
        super().to(*args, **options)
        self._reasoner().to(device=self.device, dtype=self.dtype)
        return self

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_inference_steps: int | None = None,
        *,
        steps: int | None = None,
        max_denoising_steps: int | None = None,
        reasoning_effort: Effort | None = None,
        gen_length: int | None = None,
        thinking_budget: int | None = None,
        max_new_tokens: int | None = None,
        block_length: int | None = None,
        policy: str | dict[str, Any] | None = None,
        remasking: str | None = None,
        alg: str | None = None,
        threshold: float | None = None,
        editing_threshold: float | None = None,
        entropy_bound: float | None = None,
        stability_threshold: int | None = None,
        confidence_threshold: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        cfg_scale: float | None = None,
        verify: int | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        callback_on_step_end: Callable[[Any, int, int, dict[str, Any]], Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("canvas",),
    ) -> ReasoningOutput:
        """Answer prompts. What is left out is as the model, and `scheduler`, have it. Aliases stand in brackets.

        num_inference_steps (steps, max_denoising_steps): denoising steps in total; 0: no sketch; None: one per canvas
            position. reasoning_effort: none, low, medium or high instead.
        gen_length (thinking_budget): sketch tokens at most. max_new_tokens: answer tokens at most.
        block_length: the sampler's window, drafted to its end before the next.
        policy (remasking, alg): which positions a step commits; threshold, editing_threshold, entropy_bound: fields.
        stability_threshold, confidence_threshold: stop early.
        temperature, top_k, top_p, cfg_scale: of the sketch's draws. verify: forwards that verify it at most. seed, or
            generator, from which one is drawn.
        callback_on_step_end: called with the pipeline, the step, the same once more, and the tensors asked for: canvas,
            is_new, is_reopened, confidence. It sees, and changes nothing.

        Raises:
            ValueError: two names of one thing, an unknown policy, or a budget that it cannot use.
        """
        reasoner = self._reasoner()
        drafter = self._drafter(
            policy=policy_named(
                one_of(policy=policy, remasking=remasking, alg=alg), threshold=threshold,
                editing_threshold=editing_threshold, entropy_bound=entropy_bound,
            ),
            stop=stop_named(stability_threshold, confidence_threshold),
            temperature=temperature, top_k=top_k, top_p=top_p, guidance=cfg_scale, decode_window=block_length,
            verify=verify,
        )  # fmt: skip
        budget = Budget(
            one_of(num_inference_steps=num_inference_steps, steps=steps, max_denoising_steps=max_denoising_steps),
            tokens=one_of(gen_length=gen_length, thinking_budget=thinking_budget),
            effort=reasoning_effort,
        )
        if generator is not None:
            drawn = torch.randint(2**62, (), generator=generator, device=generator.device)
            seed = one_of(seed=seed, generator=int(drawn))
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        model = reasoner.config
        total = max(Plan.of(budget, len(prompts), model.canvas, more=model.answer_room).steps)
        with self.progress_bar(total=total) as bar:

            def watch(state: State) -> None:
                if state.step == 0:
                    return
                bar.update(state.step - bar.n)  # a verified draft is the same step's
                if callback_on_step_end is not None:
                    shown = {"canvas": state.z, "is_new": state.is_new, "is_reopened": state.is_reopened}
                    shown["confidence"] = state.confidence
                    told = {name: shown[name] for name in callback_on_step_end_tensor_inputs}
                    callback_on_step_end(self, state.step - 1, state.step - 1, told)

            results = reasoner.reason(
                prompts, budget, drafter=drafter, seed=seed or 0, watch=watch, max_answer=max_new_tokens
            )
        calls = [r.spent["sequential_forwards"] for r in results]
        tokens = [r.spent["sketch_tokens"] + r.spent["answer_tokens"] for r in results]
        return ReasoningOutput(
            answers=[r.answer for r in results],
            sketches=[r.sketch for r in results],
            num_function_evaluations=[int(n) for n in calls],
            tokens_per_forward=[t / n for t, n in zip(tokens, calls, strict=True)],
            results=results,
        )

    def _drafter(self, **said: Any) -> Drafter:
        """The model's drafter as `scheduler` and the call have it."""
        drafter = self._reasoner().config.drafter
        changes = {name: value for name, value in said.items() if value is not None}
        if not isinstance(drafter, Diffusion):
            if changes:
                raise ValueError(f"{next(iter(changes))} is for diffusion drafters, not {type(drafter).__name__}")
            return drafter
        scheduled = {} if self.scheduler is None else settings_of(self.scheduler)
        return dataclasses.replace(drafter, **scheduled | changes)

    def _reasoner(self) -> Reasoner:
        if self.reasoner is None:
            raise ValueError("made from bare components: use HybridReasoningPipeline.from_pretrained or .of")
        return self.reasoner


def _without_backbones(model: Model) -> Model:
    """Backbones that were loaded are no config; what else the config says stays."""
    return dataclasses.replace(model, backbone=Model().backbone, drafter_backbone=None)
