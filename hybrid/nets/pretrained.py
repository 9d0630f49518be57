"""Backbones that begin from a checkpoint, local or on the Hub."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from hybrid.kinds import register
from hybrid.nets.backbone import Backbone
from hybrid.nets.conventions import CONVENTIONS
from hybrid.nets.family import check_reading, network_of
from hybrid.nets.network import Network
from hybrid.nets.quantised import keep_apart, quantisation
from hybrid.reach import check_reachable

REMOTE = (
    "set trust_remote_code: true, which runs the Python files of that checkpoint on this machine, if you trust them"
)
FILES = "config.json and model.safetensors (or model.safetensors.index.json and its shards)"


@register(Backbone, "pretrained")
@dataclass(frozen=True)
class Pretrained(Backbone):
    """A checkpoint: causal (Llama, Qwen, Gemma, GPT-2 and their like), masked (BERT's kind; drafts only), recurrent
    (Mamba, linear attention; writes only), DiffusionGemma (shared), or of LLaDA's, Dream's and SDAR's kind.

    Embeddings are resized to the tokenizer's vocabulary; new tokens begin near the mean of the old ones.

    name: folder or Hub name. revision: a Hub branch, tag or commit.
    dtype: the weights' precision; training wants float32. ignore_weights: beginnings of names that the checkpoint may
    have or lack, such as a pooler.
    quantise: hold the matrices in 4 or 8 bits (bitsandbytes) or as int8 (torchao), or as a quantization_config of
    transformers says; they do not train, so take kind: lora round it. A run then needs the checkpoint to stay.
    trust_remote_code: run Python files of the checkpoint; never needed for the families above.
    """

    name: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    ignore_weights: tuple[str, ...] = ()
    quantise: Literal["4bit", "8bit", "int8"] | dict[str, Any] | None = None
    trust_remote_code: bool = False

    def build(self, vocabulary: int) -> PreTrainedModel:
        """The checkpoint's model over `vocabulary` tokens.

        Raises:
            ValueError: nothing there to read, code of the checkpoint's own needed, an unknown architecture, or
                missing or unexpected weights, which are listed.
        """
        config, names = self._config()
        config = _without_dropout(config)
        cls = _class_of(config, self.trust_remote_code)
        options: dict[str, Any] = {"key_mapping": names} if names else {}
        if self.quantise:
            options["quantization_config"] = quantisation(self.quantise)
        try:
            with _quiet():
                model, info = cls.from_pretrained(
                    self.name, config=config, revision=self.revision, dtype=getattr(torch, self.dtype),
                    output_loading_info=True, ignore_mismatched_sizes=True, **self._trusted(), **options,
                )  # fmt: skip
        except OSError as error:
            raise ValueError(self._unread(error)) from None
        except (ImportError, NotImplementedError, RuntimeError) as error:
            if not self.quantise:
                raise
            raise ValueError(f"quantise={self.quantise}: {_first(error)}") from None
        self._check_weights(model, info)
        if vocabulary != model.config.get_text_config().vocab_size:
            with _quiet():
                model.resize_token_embeddings(vocabulary)
        return model

    def network(self, vocabulary: int) -> Network:
        network = network_of(self.build(vocabulary))
        if self.quantise:
            keep_apart(network)
        check_reading(network)
        return network

    def architecture(self, vocabulary: int) -> dict[str, Any] | None:
        if self.trust_remote_code or self.quantise:
            return None  # only the checkpoint has its code, or its matrices
        config, _ = self._config()
        data = config.to_dict()
        data["architectures"] = [_class_of(config, self.trust_remote_code).__name__]
        text = data.get("text_config") or data
        text["vocab_size"] = vocabulary
        return data

    def saved(self, path: Path) -> Backbone:
        return Architecture(str(path), self.dtype) if path.is_file() else self

    def _trusted(self) -> dict[str, bool]:
        return {"trust_remote_code": True} if self.trust_remote_code else {}

    def _config(self) -> tuple[PreTrainedConfig, dict[str, str]]:
        """The config, and where the weights have other names, theirs -> transformers'."""
        check_reachable(self.name, self.revision, FILES)
        try:
            with _quiet():
                theirs, _ = PreTrainedConfig.get_config_dict(self.name, revision=self.revision)
        except (OSError, ValueError) as error:
            raise ValueError(self._unread(error)) from None
        if not theirs:
            raise ValueError(self._unread(FileNotFoundError("no config.json")))
        kind = theirs.get("model_type")
        if kind in CONVENTIONS:
            convention = CONVENTIONS[kind]
            ours = convention.config(theirs)
            return AutoConfig.for_model(**ours), convention.names
        known = kind in transformers.CONFIG_MAPPING
        if not known and not self.trust_remote_code:
            if "auto_map" in theirs:
                raise ValueError(f"{self.name}: its model_type {kind!r} needs the checkpoint's own code; {REMOTE}")
            raise ValueError(f"{self.name}: config.json has model_type={kind!r}, which transformers does not know")
        return AutoConfig.from_pretrained(self.name, revision=self.revision, **self._trusted()), {}

    def _unread(self, error: Exception) -> str:
        if Path(self.name).is_dir():
            return f"{self.name}: looked there for {FILES}, and found none to read ({_first(error)})"
        cache = transformers.utils.hub.constants.HF_HUB_CACHE
        return (
            f"{self.name!r} is no folder here and cannot be had from the Hub: looked for {FILES} in the cache {cache} "
            f"and at the Hub, revision {self.revision or 'main'} ({_first(error)})"
        )

    def _check_weights(self, model: PreTrainedModel, info: dict[str, Any]) -> None:
        faults = {"missing": "lacks", "unexpected": "has unknown", "mismatched": "has other shapes of"}
        for what, fault in faults.items():
            found = sorted(k if isinstance(k, str) else k[0] for k in info[f"{what}_keys"])
            if keys := [k for k in found if not k.startswith(self.ignore_weights)]:
                more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
                raise ValueError(
                    f"{self.name}: the checkpoint {fault} weights of {type(model).__name__}: {', '.join(keys[:8])}"
                    f"{more}; name those that do not matter in ignore_weights"
                )


@register(Backbone, "architecture")
@dataclass(frozen=True)
class Architecture(Backbone):
    """An untrained model of any architecture that transformers has, by its config.json.

    config: a config.json with `architectures`, or the folder that holds one. dtype: the weights' precision.
    """

    config: str
    dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self, vocabulary: int) -> PreTrainedModel:
        path = Path(self.config) / "config.json" if Path(self.config).is_dir() else Path(self.config)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"config={self.config}: no config.json can be read there ({_first(error)})") from None
        (data.get("text_config") or data)["vocab_size"] = vocabulary
        data = {k: v for k, v in data.items() if k not in ("dtype", "torch_dtype", "transformers_version")}
        try:
            config = AutoConfig.for_model(data.pop("model_type"), **data)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: no config of transformers ({_first(error)})") from None
        model = _class_of(config, False)._from_config(_without_dropout(config), dtype=getattr(torch, self.dtype))
        assert isinstance(model, PreTrainedModel)
        return model

    def network(self, vocabulary: int) -> Network:
        return network_of(self.build(vocabulary))


def _class_of(config: PreTrainedConfig, trusts: bool) -> Any:
    """The model class that a config names: masked, DiffusionGemma, else the causal one of its family.

    Raises:
        ValueError: the family has no language model.
    """
    named = (config.architectures or [""])[0] or ""
    if named.endswith("ForMaskedLM") or named == "DiffusionGemmaForBlockDiffusion":
        found = getattr(transformers, named, None)
        if found is not None:
            return found
    if trusts and hasattr(config, "auto_map"):
        return transformers.AutoModelForCausalLM
    mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) in mapping:
        return mapping[type(config)]
    masked = transformers.MODEL_FOR_MASKED_LM_MAPPING
    if type(config) in masked:
        return masked[type(config)]
    raise ValueError(f"model_type={config.model_type!r} ({named or 'no architecture'}) has no language model head")


def _without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same config, changed: the reasoner's noise is passed in, and a network draws none of its own."""
    for part in (config, config.get_text_config()):
        for name, value in vars(part).items():
            if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
                setattr(part, name, 0.0)
    return config


@contextmanager
def _quiet() -> Iterator[None]:
    """The library's own reports and bars: what matters of them is raised."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0]
