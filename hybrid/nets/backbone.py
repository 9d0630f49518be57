"""Backbones: transformers models, built from a config. A fork registers another kind, or names it by path."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedModel, Qwen3Config

from hybrid.kinds import register
from hybrid.nets.family import network_of
from hybrid.nets.network import Network


@dataclass(frozen=True)
class Backbone:
    """Builds a language model with `base_model`, input and output embeddings, as transformers defines them."""

    def build(self, vocabulary: int) -> PreTrainedModel:
        """A model over `vocabulary` tokens; what is new in it is drawn from torch's global generator."""
        raise NotImplementedError

    def network(self, vocabulary: int) -> Network:
        """The model as the reasoner reads it."""
        return network_of(self.build(vocabulary))

    def architecture(self, vocabulary: int) -> dict[str, Any] | None:
        """What a run keeps so that it loads without the checkpoint it began from; None: the config says it all."""
        return None

    def saved(self, path: Path) -> "Backbone":
        """This backbone as a run folder builds it, from the architecture kept at `path`, weights apart."""
        return self


@dataclass(frozen=True)
class FromScratch(Backbone):
    """A small model of some family, its weights drawn at random.

    width: of the residual stream. heads: width / heads is the width of one. mlp: inner width over `width`.
    initial_scale: standard deviation of the weights; null: 0.8 / sqrt(width), 0.1 at width 64. The 0.02 that is
        customary suits widths of 1024 and more: small networks begin to learn far later from it.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp: float = 4.0
    initial_scale: float | None = None

    def __post_init__(self) -> None:
        _check_heads(self.width, self.heads)
        if self.initial_scale is not None and self.initial_scale <= 0:
            raise ValueError(f"initial_scale={self.initial_scale}: must be above 0, or null for 0.8 / sqrt(width)")

    def _common(self, vocabulary: int) -> dict[str, Any]:
        """What the configs of all families call alike."""
        return {
            "vocab_size": vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": 4096,
            "initializer_range": 0.8 / self.width**0.5 if self.initial_scale is None else self.initial_scale,
            "tie_word_embeddings": True,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
            "attn_implementation": "sdpa",
            "dtype": torch.float32,
        }


@register(Backbone, "qwen3")
@dataclass(frozen=True)
class Qwen3(FromScratch):
    """A small Qwen3 (arXiv 2505.09388): rotary positions, RMS norm, gated MLP, query and key norm."""

    def build(self, vocabulary: int) -> PreTrainedModel:
        config = Qwen3Config(
            **self._common(vocabulary),
            intermediate_size=int(self.mlp * self.width * 2 / 3),  # three matrices cost what two would at `mlp`
            num_key_value_heads=self.heads,
            head_dim=self.width // self.heads,
        )
        return AutoModelForCausalLM.from_config(config)


@register(Backbone, "gpt_neox")
@dataclass(frozen=True)
class GPTNeoX(FromScratch):
    """A small GPT-NeoX (arXiv 2204.06745): rotary positions, layer norm, plain MLP in parallel with attention.

    Layer norm and GELU are single kernels on CPUs, where Qwen3's norms and gates are many small ones.
    """

    def build(self, vocabulary: int) -> PreTrainedModel:
        config = GPTNeoXConfig(**self._common(vocabulary), intermediate_size=int(self.mlp * self.width), rotary_pct=1.0)
        return AutoModelForCausalLM.from_config(config)


def _check_heads(width: int, heads: int) -> None:
    if width % heads or (width // heads) % 2:
        raise ValueError(f"width={width} must divide by heads={heads} into an even number")
