"""Checkpoints whose authors publish code beside the weights, read as the transformers models that they are.

    model_type  weights and config are those of      attention   prediction of a token    source
    llada       Llama, under OLMo's names            both ways   at its own position      arXiv 2502.09992
    Dream       Qwen2                                both ways   at the position before   arXiv 2508.15487
    sdar        Qwen3                                by blocks   at its own position      github.com/JetAstra/SDAR

The table gives each its config in transformers' terms and its weights' names; nothing of theirs is executed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hybrid.nets.family import BOTH_WAYS, SHIFT


@dataclass(frozen=True)
class Convention:
    """How to read one kind of checkpoint.

    reads_both_ways: its prompt is read in both directions too. shift: predicts a token at the position before it.
    model_type, architecture: of transformers. fields: config of theirs -> config of transformers.
    names: regular expressions of weight names -> transformers' names.
    """

    model_type: str
    architecture: str
    reads_both_ways: bool
    shift: bool
    fields: Callable[[dict[str, Any]], dict[str, Any]]
    names: dict[str, str] = field(default_factory=dict)

    def config(self, theirs: dict[str, Any]) -> dict[str, Any]:
        """The config as transformers reads it.

        Raises:
            ValueError: no mask token is named.
        """
        if theirs.get("mask_token_id") is None:
            raise ValueError(f"config.json of a {theirs['model_type']} checkpoint must name its mask_token_id")
        return self.fields(theirs) | {
            "model_type": self.model_type, "architectures": [self.architecture],
            BOTH_WAYS: self.reads_both_ways, SHIFT: self.shift,
        }  # fmt: skip


def _llada(theirs: dict[str, Any]) -> dict[str, Any]:
    """LLaDA's config.json follows OLMo's. Only the arrangement that its authors publish is a Llama.

    Raises:
        ValueError: another arrangement.
    """
    needed = {"block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu", "rope": True}
    for key, value in needed.items():
        if theirs.get(key, value) != value:
            raise ValueError(f"config.json has {key}={theirs[key]!r}; of LLaDA checkpoints only {value!r} is known")
    if theirs.get("include_bias"):
        raise ValueError("config.json has include_bias=true; of LLaDA checkpoints only false is known")
    return {
        "vocab_size": theirs.get("embedding_size") or theirs["vocab_size"],
        "hidden_size": theirs["d_model"],
        "intermediate_size": theirs["mlp_hidden_size"],
        "num_hidden_layers": theirs["n_layers"],
        "num_attention_heads": theirs["n_heads"],
        "num_key_value_heads": theirs.get("n_kv_heads") or theirs["n_heads"],
        "max_position_embeddings": theirs["max_sequence_length"],
        "rms_norm_eps": theirs.get("rms_norm_eps", 1e-5),
        "rope_theta": theirs.get("rope_theta", 10000.0),
        "attention_bias": False,
        "tie_word_embeddings": theirs.get("weight_tying", False),
        "eos_token_id": theirs.get("eos_token_id"),
        "pad_token_id": theirs.get("pad_token_id"),
    }


def _same(theirs: dict[str, Any]) -> dict[str, Any]:
    dropped = ("auto_map", "model_type", "architectures", "mask_token_id", "block_size", "fuse_cross_entropy")
    return {key: value for key, value in theirs.items() if key not in dropped}


_BLOCK = r"^model\.transformer\.blocks\.(\d+)\."
CONVENTIONS = {
    "llada": Convention(
        "llama", "LlamaForCausalLM", True, False, _llada,
        {
            r"^model\.transformer\.wte\.": "model.embed_tokens.",
            r"^model\.transformer\.ln_f\.": "model.norm.",
            r"^model\.transformer\.ff_out\.": "lm_head.",
            _BLOCK + r"attn_norm\.": r"model.layers.\1.input_layernorm.",
            _BLOCK + r"ff_norm\.": r"model.layers.\1.post_attention_layernorm.",
            _BLOCK + r"q_proj\.": r"model.layers.\1.self_attn.q_proj.",
            _BLOCK + r"k_proj\.": r"model.layers.\1.self_attn.k_proj.",
            _BLOCK + r"v_proj\.": r"model.layers.\1.self_attn.v_proj.",
            _BLOCK + r"attn_out\.": r"model.layers.\1.self_attn.o_proj.",
            _BLOCK + r"ff_proj\.": r"model.layers.\1.mlp.gate_proj.",
            _BLOCK + r"up_proj\.": r"model.layers.\1.mlp.up_proj.",
            _BLOCK + r"ff_out\.": r"model.layers.\1.mlp.down_proj.",
        },
    ),
    "Dream": Convention("qwen2", "Qwen2ForCausalLM", True, True, _same),
    "sdar": Convention("qwen3", "Qwen3ForCausalLM", False, False, _same),
}  # fmt: skip
