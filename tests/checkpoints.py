"""Small checkpoints in the real formats, made with the libraries' own `save_pretrained`."""

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = ["0123456789+=<>|", "user assistant the sum of", "12+3=15", "<|im_start|>user\n", "[MASK] <mask>"]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WIDTH = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
CAUSAL = WIDTH | dict(num_key_value_heads=1, head_dim=8, intermediate_size=24, max_position_embeddings=96)
SLIDING = ["sliding_attention", "full_attention"]
GEMMA_EXPERTS = dict(num_experts=4, top_k_experts=2, moe_intermediate_size=8)


def fast_tokenizer(kind="causal", chat=True):
    """Byte pairs; with control tokens as decoder-only (causal), masked, or bare (no begin, pad or mask) models have."""
    special = {
        "causal": dict(eos_token="<|im_end|>", pad_token="<|endoftext|>"),
        "bos": dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"),
        "masked": dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", mask_token="[MASK]"),
        "bare": dict(eos_token="<|endoftext|>"),
    }[kind]
    added = [*special.values(), *(["<|im_start|>"] if kind == "causal" else [])]
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=[], initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=model, **special)
    fast.add_special_tokens({"additional_special_tokens": added}, replace_extra_special_tokens=False)
    if kind == "bos":
        from tokenizers.processors import TemplateProcessing

        fast.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", fast.bos_token_id)]
        )
    if chat and kind == "causal":
        fast.chat_template = CHAT
    return fast


def configs(k):
    """Configs of the families, over k tokens, each with its quirks: windows, caps, offsets, states, experts."""
    t = transformers
    ends = dict(pad_token_id=0, bos_token_id=None, eos_token_id=1)
    own = CAUSAL | dict(vocab_size=k) | ends
    flat = {n: v for n, v in own.items() if n not in ("num_key_value_heads", "head_dim")}
    linear = dict(linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8)
    experts = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, shared_expert_intermediate_size=8)
    ends_of_masked = dict(cls_token_id=None, sep_token_id=1)
    vision = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, head_dim=8)
    return {
        "qwen3": t.Qwen3Config(**own),
        "qwen3_sliding": t.Qwen3Config(**own, use_sliding_window=True, sliding_window=4, layer_types=SLIDING),
        "llama": t.LlamaConfig(**own),
        "mistral_sliding": t.MistralConfig(**own, sliding_window=4),
        "gpt2": t.GPT2Config(vocab_size=k, n_embd=16, n_layer=2, n_head=2, n_positions=96, **ends),
        "gemma": t.GemmaConfig(**own),
        "gemma2": t.Gemma2Config(**own, sliding_window=4, layer_types=SLIDING, query_pre_attn_scalar=8),
        "gemma3": t.Gemma3TextConfig(**own, sliding_window=4, layer_types=SLIDING, query_pre_attn_scalar=8),
        "roberta": t.RobertaConfig(**flat, type_vocab_size=1),
        "bert": t.BertConfig(**flat),
        "modernbert": t.ModernBertConfig(**flat, **ends_of_masked, local_attention=8, global_attn_every_n_layers=2),
        "mamba": t.MambaConfig(vocab_size=k, hidden_size=16, num_hidden_layers=2, state_size=4, **ends),
        "qwen3_next": t.Qwen3NextConfig(**own, **linear, **experts, layer_types=["linear_attention", "full_attention"]),
        "lfm2": t.Lfm2Config(**own, layer_types=["conv", "full_attention"]),
        "diffusion_gemma": t.DiffusionGemmaConfig(
            text_config=t.DiffusionGemmaTextConfig(
                **own, **GEMMA_EXPERTS, sliding_window=4, layer_types=SLIDING, global_head_dim=8,
                num_global_key_value_heads=1,
            ),
            vision_config=dict(model_type="gemma4_vision", **vision),
        ),
    }  # fmt: skip


ATTENTION = ["qwen3", "qwen3_sliding", "llama", "mistral_sliding", "gpt2", "gemma", "gemma2", "gemma3"]
MASKED = ["roberta", "bert", "modernbert"]
RECURRENT = ["mamba", "qwen3_next", "lfm2"]


def model_of(family, k, seed=0):
    """An untrained model of a family whose weights are large enough to tell predictions apart."""
    config = configs(k)[family]
    torch.manual_seed(seed)
    if family in MASKED:
        model = transformers.AutoModelForMaskedLM.from_config(config)
    elif family == "diffusion_gemma":
        model = transformers.DiffusionGemmaForBlockDiffusion(config)
    else:
        model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim >= 2 and "conv" not in name and "A_log" not in name:
                p.normal_(0, 0.25)
    return model.eval()


def save(folder, family="qwen3", kind="causal", k=None):
    """A checkpoint of a family with its tokenizer; k: embeddings, which published ones often have more of."""
    fast = fast_tokenizer(kind)
    model = model_of(family, k or len(fast) + 3)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)
