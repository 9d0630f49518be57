"""Backbones round another: frozen, or adapted by low-rank matrices."""

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hybrid.kinds import register
from hybrid.nets.backbone import Backbone
from hybrid.nets.network import Network
from hybrid.nets.quantised import make_whole


@dataclass(frozen=True)
class Adapted(Backbone):
    """A backbone round another one, `of`."""

    of: Backbone

    def adapt(self, network: Network) -> None:
        """Change which parameters train, or add some."""
        raise NotImplementedError

    def build(self, vocabulary: int) -> PreTrainedModel:
        return self.network(vocabulary).model

    def network(self, vocabulary: int) -> Network:
        network = self.of.network(vocabulary)
        self.adapt(network)
        return network

    def architecture(self, vocabulary: int) -> dict[str, Any] | None:
        return self.of.architecture(vocabulary)

    def saved(self, path: Path) -> Backbone:
        return dataclasses.replace(self, of=self.of.saved(path))


@register(Backbone, "frozen")
@dataclass(frozen=True)
class Frozen(Adapted):
    """None of its weights train."""

    def adapt(self, network: Network) -> None:
        network.model.requires_grad_(False)


@register(Backbone, "lora")
@dataclass(frozen=True)
class Lora(Adapted):
    """Its weights stay; low-rank matrices beside every linear layer train instead (LoRA, arXiv 2106.09685), by peft.

    rank, alpha: the update is alpha / rank * B A. targets: names of linear layers; empty: all but the head.
    new_tokens: of the vocabulary's last tokens, which a checkpoint's tokenizer was given for mask, sketch and answer,
    so many train their embeddings too.
    """

    rank: int = 8
    alpha: int = 16
    targets: tuple[str, ...] = ()
    new_tokens: int = 4

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank}: must be 1 or more")
        if self.new_tokens < 0:
            raise ValueError(f"new_tokens={self.new_tokens}: must be 0 or more")

    def adapt(self, network: Network) -> None:
        try:
            from peft import LoraConfig
        except ImportError:
            raise ValueError("kind: lora needs the package peft: pip install 'hybrid-reasoning[lora]'") from None
        model = network.model
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
        size = embedding.weight.shape[0]
        tokens = {names[id(embedding)]: list(range(size - self.new_tokens, size))} if self.new_tokens else None
        if tokens and head.weight is not embedding.weight:
            tokens[names[id(head)]] = tokens[names[id(embedding)]]
        chosen = list(self.targets) or "all-linear"
        try:
            model.add_adapter(
                LoraConfig(
                    r=self.rank, lora_alpha=self.alpha, target_modules=chosen, trainable_token_indices=tokens,
                    lora_dropout=0.0, task_type="CAUSAL_LM",
                )
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"targets={list(self.targets)}: {str(error).partition(chr(10))[0]}") from None


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with low-rank matrices and trained tokens added into the weights, and quantised ones in full; the model
    itself where it has neither.
    """
    is_adapted, is_packed = getattr(model, "_hf_peft_config_loaded", False), getattr(model, "is_quantized", False)
    if not is_adapted and not is_packed:
        return model
    full = copy.deepcopy(model)
    if is_packed:
        make_whole(full)
    if is_adapted:
        _merge(full)
    return full.requires_grad_(True)


def _merge(model: PreTrainedModel) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    for name, module in list(model.named_modules()):
        layer = module.token_adapter if isinstance(module, AuxiliaryTrainingWrapper) else module
        if name and isinstance(layer, BaseTunerLayer) and not name.endswith(".token_adapter"):
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
    model._hf_peft_config_loaded = False
    del model.peft_config


def write_adapter(model: PreTrainedModel, folder: Path) -> None:
    """The low-rank matrices and trained tokens of a model alone, in peft's format. Tied ones are written once."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state, seen = {}, set()
    for name, tensor in get_peft_model_state_dict(model, adapter_name="default").items():
        if "base_layer" not in name and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            state[f"base_model.model.{name.removeprefix('base_model.model.')}"] = tensor.detach().contiguous()
    folder.mkdir()
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    model.peft_config["default"].save_pretrained(folder)


def innermost(backbone: Backbone | None) -> Backbone | None:
    """The backbone that builds the model, under all that is put round it."""
    while isinstance(backbone, Adapted):
        backbone = backbone.of
    return backbone
