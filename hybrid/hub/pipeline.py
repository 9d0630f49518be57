"""A trained reasoner as a pipeline: saved and loaded by diffusers, called with the names its users know."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from hybrid.build import build, plain
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.draft import State
from hybrid.nets.adapt import merged
from hybrid.nets.backbone import Backbone
from hybrid.reasoner import Model, Reasoner
from hybrid.records import Reasoned
from hybrid.sample import chosen
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
    """

    _optional_components = ["drafter", "drafter_tokenizer"]

    def __init__(
        self,
        decoder: PreTrainedModel,
        tokenizer: Any,
        drafter: PreTrainedModel | None = None,
        drafter_tokenizer: Any | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            decoder=decoder, tokenizer=tokenizer, drafter=drafter, drafter_tokenizer=drafter_tokenizer
        )
        self.reasoner: Reasoner | None = None

    @classmethod
    def of(cls, reasoner: Reasoner) -> "HybridReasoningPipeline":
        """The pipeline round a reasoner; low-rank matrices are merged into copies of their models."""
        networks, reader = reasoner.networks, reasoner.tokenizer.reader
        decoder = merged(networks.decoder.model)
        decoder.generation_config.eos_token_id = reader.special.end
        decoder.generation_config.pad_token_id = reader.special.pad
        own = None if networks.is_shared or networks.drafter is None else merged(networks.drafter.model)
        others = None if reader is reasoner.tokenizer else reasoner.tokenizer.to_fast()
        pipeline = cls(decoder, reader.to_fast(), own, others)
        pipeline.reasoner = reasoner
        return pipeline

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> None:
        """The components as their libraries save them, and what makes them a reasoner: its config as plain data, its
        tokenizer, and the weights that belong to neither network.
        """
        super().save_pretrained(save_directory, *args, **options)
        reasoner, folder = self._reasoner(), Path(save_directory)
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
            folder = Path(snapshot_download(str(pretrained_model_name_or_path), allow_patterns=kinds))
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
        policy: str | dict[str, Any] | None = None,
        threshold: float | None = None,
        temperature: float | None = None,
        seed: int = 0,
        callback_on_step_end: Callable[[State], None] | None = None,
    ) -> ReasoningOutput:
        """Answer prompts. num_inference_steps: denoising steps; 0: no sketch; None: one per canvas position.

        policy, threshold, temperature: instead of the drafter's own. callback_on_step_end: sees every canvas.

        Raises:
            ValueError: an unknown policy, or a budget that it cannot use.
        """
        reasoner = self._reasoner()
        drafter = chosen(reasoner.config, policy, threshold, temperature)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        results = reasoner.reason(
            prompts, Budget(num_inference_steps), drafter=drafter, seed=seed, watch=callback_on_step_end
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

    def _reasoner(self) -> Reasoner:
        if self.reasoner is None:
            raise ValueError("made from bare components: use HybridReasoningPipeline.from_pretrained or .of")
        return self.reasoner


def _without_backbones(model: Model) -> Model:
    """Backbones that were loaded are no config; what else the config says stays."""
    return dataclasses.replace(model, backbone=Model().backbone, drafter_backbone=None)
