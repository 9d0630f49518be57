"""Matrices held in fewer bits, as transformers loads them: what they ask for, and what a run keeps of them."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

SHORT: dict[str, tuple[str, dict[str, Any]]] = {
    "4bit": ("bitsandbytes", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "8bit": ("bitsandbytes", {"load_in_8bit": True}),
    "int8": (
        "torchao",
        {
            "quant_method": "torchao",
            "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}},
        },
    ),
}


def quantisation(quantise: str | Mapping[str, Any]) -> Any:
    """A quantization_config of transformers.

    Raises:
        ValueError: a package that is not installed, or a section that transformers does not know.
    """
    from transformers.quantizers import AutoQuantizationConfig

    package, section = SHORT[quantise] if isinstance(quantise, str) else ("", dict(quantise))
    if package and find_spec(package) is None:
        raise ValueError(f"quantise={quantise} needs the package {package}: pip install 'hybrid-reasoning[quantise]'")
    try:
        return AutoQuantizationConfig.from_dict(section)
    except Exception as error:  # each method raises kinds of its own
        raise ValueError(f"quantise={quantise}: {str(error).partition(chr(10))[0]}") from None


def is_quantised(weight: Tensor) -> bool:
    """Whether it holds several numbers' bits: integers (bitsandbytes), or a tensor of torchao."""
    return not weight.is_floating_point() or type(weight).__module__.startswith("torchao.")


def size_of(weight: Tensor) -> int:
    """Numbers that a weight stands for, of which 4 bits pack two in one."""
    state = getattr(weight, "quant_state", None)
    return weight.numel() if state is None else state.shape.numel()


def bytes_of(weight: Tensor) -> int:
    """Bytes that it takes, of a tensor of torchao those of its parts."""
    if hasattr(weight, "__tensor_flatten__"):
        return sum(bytes_of(getattr(weight, name)) for name in weight.__tensor_flatten__()[0])
    return weight.numel() * weight.element_size()


def keep_apart(module: nn.Module) -> None:
    """Quantised matrices never train, and stand in no state dict: whoever loads it reads them from the checkpoint."""
    for weight in module.parameters():
        if is_quantised(weight):
            weight.requires_grad_(False)
    module.register_state_dict_post_hook(_leave_out)
    module.register_load_state_dict_post_hook(_not_missed)


def _owners(module: nn.Module) -> tuple[str, ...]:
    """Beginnings of the names of quantised layers."""
    return tuple(f"{name.rpartition('.')[0]}." for name, weight in module.named_parameters() if is_quantised(weight))


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    owners = tuple(prefix + owner for owner in _owners(module))
    for name in [n for n in state if n.startswith(owners) and not n.endswith(".bias")]:
        del state[name]


def _not_missed(module: nn.Module, keys: Any) -> None:
    weights = tuple(f"{owner}weight" for owner in _owners(module))
    keys.missing_keys[:] = [name for name in keys.missing_keys if not name.endswith(weights)]


def make_whole(model: PreTrainedModel) -> None:
    """Give the model its matrices in full again, low-rank updates of theirs added."""
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

    for name, module in list(model.named_modules()):
        layer = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if not isinstance(layer, nn.Linear) or not is_quantised(layer.weight):
            continue
        weight = dequantize_module_weight(layer).detach()
        if layer is not module:
            weight = weight + module.get_delta_weight("default").detach().to(weight.dtype)
        full = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, weight.device, weight.dtype)
        full.weight.data = weight
        if layer.bias is not None:
            full.bias.data = layer.bias.detach()
        model.set_submodule(name, full)
    model.hf_quantizer.remove_quantization_config(model)
    model.is_loaded_in_4bit = model.is_loaded_in_8bit = False
