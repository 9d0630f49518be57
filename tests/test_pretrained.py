"""Checkpoints in, in the formats that their authors publish: weights, conventions, tokenizers, and what is refused."""

import json
import re

import pytest
import torch
from checkpoints import CHAT, fast_tokenizer, model_of, save
from safetensors.torch import load_file, save_file

from hybrid.build import ConfigError, build
from hybrid.diffusion.budget import Budget
from hybrid.drafters.controls import NoSketch
from hybrid.drafters.diffusion import Diffusion
from hybrid.experiment import Experiment, load_reasoner, read_experiment, save_run, save_weights
from hybrid.feed import Gold
from hybrid.nets.adapt import Frozen
from hybrid.nets.backbone import Qwen3
from hybrid.nets.encoder import Encoder
from hybrid.nets.family import shift_of
from hybrid.nets.layout import Segment, running
from hybrid.nets.pretrained import Architecture, Pretrained
from hybrid.reach import check_reachable
from hybrid.reasoner import Model, Reasoner
from hybrid.records import Example
from hybrid.tasks import PretrainedTokenizer, Tokenizer, collate

EXAMPLES = [Example(1, "12+3=", "12+3", "15"), Example(2, "7+1=", "7", "8")]


def reasoner_of(folder, pairing="shared", shift=True, drafter=None, tokenizer=None, **model):
    tokenizer = tokenizer or PretrainedTokenizer(folder).train([])
    model = {"backbone": Pretrained(folder)} | model
    drafter = drafter or Diffusion(shift=shift)
    return Reasoner(Model(pairing=pairing, drafter=drafter, canvas=8, max_answer=4, **model), tokenizer).eval()


def trains_and_reasons(reasoner):
    """Two steps lower the loss of two examples; a budget of two steps is kept; no hole or mask is left."""
    batch = collate(EXAMPLES, reasoner.tokenizer, reasoner.config.canvas)
    parameters = [p for p in reasoner.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=1e-3)
    losses = []
    for _ in range(3):
        loss = reasoner.loss(reasoner.losses(batch))
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0]
    (result,) = reasoner.reason(["12+3="], Budget(2))
    assert result.spent["denoiser_forwards"] <= 3 and reasoner.special.mask not in result.sketch_tokens
    return result


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2", "gemma3", "mistral_sliding"])
def test_a_causal_checkpoint_drafts_and_decodes(family, tmp_path):
    reasoner = reasoner_of(save(tmp_path, family))
    model, kept = reasoner.networks.decoder.model, load_file(tmp_path / "model.safetensors")
    own = model.get_input_embeddings().weight
    name = next(n for n in kept if kept[n].ndim == 2 and n.endswith(("embed_tokens.weight", "wte.weight")))
    old = len(fast_tokenizer())
    assert own.shape[0] == len(reasoner.tokenizer) == old + 3  # mask, sketch and answer are new
    assert torch.equal(own[:old], kept[name][:old])
    trains_and_reasons(reasoner)


def test_new_embeddings_begin_near_the_mean_of_the_old(tmp_path):
    folder = save(tmp_path, "qwen3", k=len(fast_tokenizer()))
    old = model_of("qwen3", len(fast_tokenizer())).get_input_embeddings().weight
    new = Pretrained(folder).build(len(old) + 3).get_input_embeddings().weight[-3:]
    assert (new - old.mean(0)).abs().max() < 0.1 * old.std()


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_a_masked_model_drafts_for_a_causal_one(family, tmp_path):
    """The prompt is read again at every step, and every position of it is charged."""
    folder = save(tmp_path, family, "masked", k=len(fast_tokenizer("masked")))
    reasoner = reasoner_of(
        folder,
        "separate",
        shift=False,
        backbone=Qwen3(width=16, layers=2, heads=2),
        drafter_backbone=Pretrained(folder),
    )
    assert reasoner.special.mask == fast_tokenizer("masked").mask_token_id
    result = trains_and_reasons(reasoner)
    prompt = len(reasoner.tokenizer.encode_prompt("12+3="))
    steps = result.spent["denoiser_forwards"]
    written = result.spent["positions"] - steps * (prompt + 8 + 1)
    assert written >= prompt and result.spent["sequential_forwards"] == steps + result.spent["decoder_forwards"]


@pytest.mark.parametrize("family", ["mamba", "qwen3_next", "lfm2"])
def test_a_recurrent_checkpoint_decodes_what_another_drafts(family, tmp_path):
    folder = save(tmp_path, family)
    trains_and_reasons(reasoner_of(folder, "separate", drafter_backbone=Qwen3(width=16, layers=2, heads=2)))


def test_diffusion_gemma_is_a_shared_trunk(tmp_path):
    reasoner = reasoner_of(save(tmp_path, "diffusion_gemma"), shift=False)
    trains_and_reasons(reasoner)


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(family="mamba"), "MambaForCausalLM carries a state .* cannot denoise"),
        (dict(family="mamba", drafter=build(Diffusion, {}), pairing="separate"), "MambaForCausalLM carries a state"),
        (dict(family="roberta", kind="masked", shift=False), "RobertaForMaskedLM reads both ways, .* cannot write"),
        (
            dict(family="roberta", kind="masked", pairing="separate", backbone=Qwen3(width=16, heads=2, layers=1)),
            "own position; set model.drafter.shift=false",
        ),
    ],
)
def test_models_that_cannot_do_what_is_asked_are_refused(options, reason, tmp_path):
    options = dict(options)
    folder = save(tmp_path, options.pop("family"), options.pop("kind", "causal"))
    if "backbone" in options:
        options["drafter_backbone"] = Pretrained(folder)
    with pytest.raises(ValueError, match=reason) as error:
        reasoner_of(folder, **options)
    assert "\n" not in str(error.value)


def test_a_recurrent_model_may_answer_directly(tmp_path):
    reasoner = reasoner_of(save(tmp_path, "mamba"), drafter=NoSketch(), feed=Gold())
    assert reasoner.networks.drafter is None and reasoner.reason(["7+1="])[0].spent["denoiser_forwards"] == 0


# What the authors publish. LLaDA: config.json and names of GSAI-ML/LLaDA-8B-Base (arXiv 2502.09992). Dream:
# Dream-org/Dream-v0-Instruct-7B (arXiv 2508.15487), Qwen2.5's names. SDAR: JetLM/SDAR-1.7B-Chat, Qwen3's names
# (github.com/JetAstra/SDAR). Sizes are shrunk; every other field is as published.
LLADA = {
    "activation_type": "silu", "alibi": False, "architectures": ["LLaDAModelLM"], "attention_dropout": 0.0,
    "attention_layer_norm": False, "auto_map": {"AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
    "bias_for_layer_norm": False, "block_group_size": 1, "block_type": "llama", "flash_attention": False,
    "include_bias": False, "include_qkv_bias": False, "layer_norm_type": "rms", "model_type": "llada",
    "rms_norm_eps": 1e-05, "rope": True, "rope_full_precision": True, "rope_theta": 500000.0, "scale_logits": False,
    "weight_tying": False, "d_model": 16, "n_heads": 2, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 24,
    "max_sequence_length": 96,
}  # fmt: skip
DREAM = {
    "architectures": ["DreamModel"], "auto_map": {"AutoModel": "modeling_dream.DreamModel"}, "attention_dropout": 0.0,
    "hidden_act": "silu", "initializer_range": 0.02, "max_window_layers": 28, "model_type": "Dream",
    "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None,
    "tie_word_embeddings": False, "use_cache": True, "use_mrope": False, "use_sliding_window": False,
    "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 96,
}  # fmt: skip
SDAR = {
    "architectures": ["SDARForCausalLM"], "auto_map": {"AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"},
    "attention_bias": False, "attention_dropout": 0.0, "block_size": 4, "head_dim": 8, "hidden_act": "silu",
    "initializer_range": 0.02, "max_window_layers": 28, "model_type": "sdar", "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": False,
    "use_cache": True, "use_sliding_window": False, "hidden_size": 16, "intermediate_size": 24,
    "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 1, "max_position_embeddings": 96,
}  # fmt: skip


def shapes(kind, k, d=16, inner=24, kv=8):
    """Names and shapes of the weights as published."""
    found = {}
    for n in range(2):
        if kind == "llada":
            at = f"model.transformer.blocks.{n}."
            own = dict.fromkeys(["q_proj", "k_proj", "v_proj", "attn_out"], (d, d))
            own |= {
                "ff_proj": (inner, d),
                "up_proj": (inner, d),
                "ff_out": (d, inner),
                "attn_norm": (d,),
                "ff_norm": (d,),
            }
            found |= {f"{at}{name}.weight": shape for name, shape in own.items()}
            continue
        at, attention = f"model.layers.{n}.", f"model.layers.{n}.self_attn."
        found |= {f"{at}mlp.{name}_proj.weight": (inner, d) for name in ("gate", "up")}
        found |= {f"{at}mlp.down_proj.weight": (d, inner), f"{attention}o_proj.weight": (d, d)}
        found |= {f"{at}{name}_layernorm.weight": (d,) for name in ("input", "post_attention")}
        for name, width in (("q", d), ("k", kv), ("v", kv)):
            found[f"{attention}{name}_proj.weight"] = (width, d)
            if kind == "Dream":
                found[f"{attention}{name}_proj.bias"] = (width,)
        if kind == "sdar":
            found |= {f"{attention}{name}_norm.weight": (8,) for name in "qk"}
    if kind == "llada":
        return found | {
            "model.transformer.wte.weight": (k, d), "model.transformer.ln_f.weight": (d,),
            "model.transformer.ff_out.weight": (k, d),
        }  # fmt: skip
    return found | {"model.embed_tokens.weight": (k, d), "model.norm.weight": (d,), "lm_head.weight": (k, d)}


def published(folder, kind, **changes):
    """A checkpoint as its authors publish it; its tokenizer names no mask token, its config.json does by id."""
    names = {"llada": "<|mdm_mask|>", "Dream": "<|mask|>", "sdar": "<|MASK|>"}
    fast = fast_tokenizer()
    fast.add_special_tokens({"additional_special_tokens": [names[kind]]}, replace_extra_special_tokens=False)
    fast.save_pretrained(folder)
    k = len(fast) + 5
    config = {"llada": LLADA, "Dream": DREAM, "sdar": SDAR}[kind] | {"vocab_size": k, "mask_token_id": len(fast) - 1}
    config |= {"embedding_size": k} if kind == "llada" else {}
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.ones(shape) if "norm" in name or "ln_f" in name else 0.3 * torch.randn(shape, generator=generator)
        for name, shape in shapes(kind, k).items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (config | changes).items() if v != "absent"}))
    return str(folder), weights, names[kind]


@pytest.mark.parametrize("kind", ["llada", "Dream", "sdar"])
def test_diffusion_checkpoints_are_read_without_their_code(kind, tmp_path):
    folder, weights, mask = published(tmp_path, kind)
    tokenizer = PretrainedTokenizer(folder, chat=True).train([])
    assert tokenizer.special.mask == tokenizer.model.token_to_id(mask)
    network = Pretrained(folder).network(len(tokenizer))
    assert shift_of(network) == (kind == "Dream") and isinstance(network, Encoder) == (kind != "sdar")
    own = network.model.state_dict()
    assert len(own) == len(weights) and all(
        any(torch.equal(w[:5], o[:5]) for o in own.values() if o.shape[1:] == w.shape[1:]) for w in weights.values()
    )
    with pytest.raises(ValueError, match="shift="):
        reasoner_of(folder, "separate", shift=kind != "Dream", backbone=Qwen3(width=16, layers=1, heads=2),
                    drafter_backbone=Pretrained(folder), tokenizer=tokenizer)  # fmt: skip
    trains_and_reasons(
        reasoner_of(folder, "separate", shift=kind == "Dream", backbone=Qwen3(width=16, layers=1, heads=2),
                    drafter_backbone=Pretrained(folder), tokenizer=tokenizer)
    )  # fmt: skip


def test_llada_computes_what_its_authors_code_does(tmp_path):
    """One block of modeling_llada.py written out: RMS norms, rotary halves, SiLU gate, full attention."""
    folder, w, _ = published(tmp_path, "llada")
    network = Pretrained(folder).network(len(PretrainedTokenizer(folder).train([])))
    ids = torch.tensor([[5, 9, 20, 7, 31]])
    x = w["model.transformer.wte.weight"][ids]
    at = torch.arange(5)[:, None] / 500000.0 ** (torch.arange(0, 8, 2) / 8)
    cos, sin = torch.cat([at, at], -1).cos(), torch.cat([at, at], -1).sin()

    def norm(y):
        return y / (y.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()

    def turned(y):
        y = y.view(1, 5, 2, 8).transpose(1, 2)
        return y * cos + torch.cat([-y[..., 4:], y[..., :4]], -1) * sin

    for n in range(2):
        b = {name.rsplit(".", 2)[1]: t for name, t in w.items() if f".blocks.{n}." in name}
        h = norm(x)
        q, k = turned(h @ b["q_proj"].T), turned(h @ b["k_proj"].T)
        v = (h @ b["v_proj"].T).view(1, 5, 2, 8).transpose(1, 2)
        seen = ((q @ k.transpose(-1, -2)) / 8**0.5).softmax(-1) @ v
        x = x + seen.transpose(1, 2).reshape(1, 5, 16) @ b["attn_out"].T
        h = norm(x)
        x = x + (torch.nn.functional.silu(h @ b["ff_proj"].T) * (h @ b["up_proj"].T)) @ b["ff_out"].T
    expected = norm(x) @ w["model.transformer.ff_out.weight"].T
    keep = torch.ones_like(ids, dtype=torch.bool)
    found = network.logits(network([Segment("row", ids, keep, running(keep), False)])["row"])
    assert torch.allclose(found, expected[..., : found.shape[-1]], atol=1e-4)


def refused(folder, reason, **options):
    with pytest.raises(ValueError, match=reason) as error:
        Pretrained(str(folder), **options).build(300)
    assert "\n" not in str(error.value)


def test_weights_that_are_missing_or_too_many_are_listed(tmp_path):
    save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    first = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refused(tmp_path, "lacks weights of Qwen3ForCausalLM: model.layers.1.mlp.up_proj.weight; .*ignore_weights")
    weights |= {"model.layers.1.mlp.up_proj.weight": first, "pooler.dense.weight": torch.zeros(2, 2)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refused(tmp_path, "has unknown weights of Qwen3ForCausalLM: pooler.dense.weight")
    Pretrained(str(tmp_path), ignore_weights=("pooler.",)).build(300)
    weights["model.layers.1.mlp.up_proj.weight"] = first[:-1]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refused(
        tmp_path, "has other shapes of weights of .*: model.layers.1.mlp.up_proj.weight", ignore_weights=("pooler.",)
    )


def test_without_a_network_the_hub_is_asked_once(monkeypatch):
    """Its library would try again for every file. Where the Hub answers, what it says is the library's to tell."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    asked = []

    class NotFound(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), NotFound) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("hybrid.reach.hf_hub_url", lambda name, file, **_: f"{address}/{name}/{file}")
        Thread(target=server.serve_forever, daemon=True).start()
        check_reachable("nobody/nothing", None, "files")
        server.shutdown()
    assert asked == ["/nobody/nothing/config.json"]
    with pytest.raises(ValueError, match="looked for files in the cache .*, revision main, which cannot be reached"):
        check_reachable("nobody/nothing", None, "files")  # the server is gone
    check_reachable(".", None, "files")  # a folder needs no network


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, monkeypatch):
    assert not Pretrained("x").trust_remote_code
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused("nobody/nothing", "no folder here and cannot be had from the Hub: looked for config.json and model.saf")
    with pytest.raises(ValueError, match="'nobody/nothing' is no folder .*: looked for tokenizer.json, or "):
        PretrainedTokenizer("nobody/nothing").train([])
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "looked there for config.json and model.safetensors")
    folder, _, _ = published(tmp_path, "llada", model_type="own_invention")
    refused(folder, "needs the checkpoint's own code; .*trust_remote_code: true, which runs")
    published(tmp_path, "llada", mask_token_id=None)
    refused(folder, "must name its mask_token_id")
    published(tmp_path, "llada", mask_token_id=100_000)
    with pytest.raises(ValueError, match="mask_token_id=100000, which its tokenizer does not know; .*tokenizer.mask"):
        PretrainedTokenizer(folder).train([])
    published(tmp_path, "llada", block_type="sequential")
    refused(folder, "block_type='sequential'; of LLaDA checkpoints only 'llama' is known")


def test_code_of_a_checkpoint_runs_where_it_is_trusted_and_nowhere_else(tmp_path, monkeypatch):
    """Its file leaves a mark when it runs."""
    import transformers.dynamic_module_utils as modules

    monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    save(tmp_path, "llama")
    mark = tmp_path / "mark"
    (tmp_path / "own.py").write_text(
        "from pathlib import Path\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(mark)!r}).touch()\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer = PretrainedTokenizer(str(tmp_path)).train([])
    refused(tmp_path, "model_type 'own' needs the checkpoint's own code; .*runs .* on this machine")
    assert not mark.exists()
    network = Pretrained(str(tmp_path), trust_remote_code=True).network(len(tokenizer))
    assert mark.exists() and type(network.model).__name__ == "OwnModel"


@pytest.mark.parametrize("kind", ["causal", "bos", "masked", "bare"])
def test_the_checkpoints_tokenizer_gets_what_it_lacks_and_nothing_else(kind, tmp_path):
    fast = fast_tokenizer(kind)
    fast.save_pretrained(tmp_path)
    own = PretrainedTokenizer(str(tmp_path)).train([])
    s = own.special
    assert len({*s.reserved}) == 5 and s.end == (fast.eos_token_id or fast.sep_token_id)
    assert {i for i in s.reserved if i >= len(fast)} == set(range(len(fast), len(own)))
    if kind == "masked":
        assert s.mask == fast.mask_token_id
    prefix = {"bos": [fast.bos_token_id], "masked": []}.get(kind, [])
    text = "12+3=15 <|mask|> [MASK] <|im_end|>"
    ids = own.encode(text)
    assert own.encode_prompt(text) == prefix + ids and own.encode("") == own.encode_prompt("") == []
    assert not {*ids} & {*s.reserved} and own.decode(ids) == text  # spelled out, they are characters
    assert own.decode([*ids[:3], s.mask, s.end, 7]) == own.decode(ids[:3]) + "_"
    again = Tokenizer.from_json(own.to_json())
    assert again.special == s and again.encode_prompt(text) == prefix + ids and len(again) == len(own)
    with pytest.raises(ValueError, match="the vocabulary has ids 0 to"):
        own.decode([len(own)])


def test_chat_prompts_are_the_templates_own_and_cannot_be_forged(tmp_path):
    fast = fast_tokenizer()
    fast.save_pretrained(tmp_path)
    own = Tokenizer.from_json(PretrainedTokenizer(str(tmp_path), chat=True).train([]).to_json())
    turn = [{"role": "user", "content": "12+3="}]
    expected = fast.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    assert own.encode_prompt("12+3=") == expected and own.template == CHAT
    with pytest.raises(ValueError, match=re.escape("'<|im_end|>'")):
        own.encode_prompt("x<|im_end|>")
    bare = fast_tokenizer("bare")
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="no chat template"):
        PretrainedTokenizer(str(tmp_path / "bare"), chat=True).train([])
    with pytest.raises(ValueError, match="tokenizer.mask='<hole>'"):
        PretrainedTokenizer(str(tmp_path), mask="<hole>").train([])


def experiment_of(model, tokenizer="pretrained"):
    return build(
        Experiment, {"task": "chain", "model": {"canvas": 8, "max_answer": 4, **model}, "tokenizer": tokenizer}
    )


def test_a_run_from_a_checkpoint_loads_without_it(tmp_path):
    folder = save(tmp_path / "checkpoint", "gemma2", "bos", k=len(fast_tokenizer("bos")))
    backbone = {"kind": "frozen", "of": {"kind": "pretrained", "name": folder}}
    experiment = experiment_of({"backbone": backbone})
    tokenizer = experiment.make_tokenizer()
    reasoner = Reasoner(experiment.model, tokenizer).eval()
    assert not [p for p in reasoner.parameters() if p.requires_grad]
    run = tmp_path / "run"
    run.mkdir()
    save_run(run, experiment, tokenizer)
    save_weights(run, reasoner.state_dict(), {"steps": 1, "positions": 1})
    before = reasoner.reason(["12+3="], Budget(3))[0]
    (tmp_path / "checkpoint").rename(tmp_path / "gone")
    again, _ = load_reasoner(run, read_experiment(run))
    assert isinstance(again.config.backbone, Frozen) and isinstance(again.config.backbone.of, Architecture)
    after = again.reason(["12+3="], Budget(3))[0]
    same = ("sketch_tokens", "answer_tokens", "answer_logp", "sketch_logp")
    assert [getattr(before, n) for n in same] == [getattr(after, n) for n in same]


def test_vocabularies_that_do_not_match_are_refused(tmp_path):
    one, other = save(tmp_path / "one"), save(tmp_path / "other", "roberta", "masked")
    with pytest.raises(ConfigError, match="reads only its own tokenizer's ids: set tokenizer: pretrained"):
        experiment_of({"backbone": {"kind": "pretrained", "name": one}}, "character").make_tokenizer()
    both = {
        "pairing": "separate", "backbone": {"kind": "pretrained", "name": one},
        "drafter_backbone": {"kind": "pretrained", "name": other},
    }  # fmt: skip
    with pytest.raises(
        ConfigError, match="other has another vocabulary than .*one: token id .* by tokenizer: .kind: two"
    ):
        experiment_of(both).make_tokenizer()
    with pytest.raises(ValueError, match="no pretrained backbone names one"):
        experiment_of({}).make_tokenizer()


def test_corruption_of_a_feed_draws_text_alone(tmp_path):
    """With control tokens anywhere in the vocabulary, every token of text is drawn, and no control token."""
    from hybrid.diffusion.noise import Noise
    from hybrid.feed import Corrupted, Fodder
    from hybrid.records import Special

    special = Special(pad=3, end=0, mask=9, sketch=5, answer=7)
    gold = torch.full((64, 40), 1)
    fodder = Fodder(gold, Noise(0, torch.arange(64)), special, 10)
    assert set(Corrupted(1.0).feed(fodder).unique().tolist()) == {1, 2, 4, 6, 8}


def test_dropout_is_off(tmp_path):
    """Noise is a function of identity, so a network draws none of its own, by module or by figure."""
    model = Pretrained(save(tmp_path, "gpt2")).build(300)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    folder = save(tmp_path / "llama", "llama")
    config = json.loads((tmp_path / "llama" / "config.json").read_text())
    (tmp_path / "llama" / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    for backbone in (Pretrained(folder), Architecture(folder)):
        reads = [m.attention_dropout for m in backbone.build(300).modules() if hasattr(m, "attention_dropout")]
        assert len(reads) == 2 and set(reads) == {0.0}
