"""Frozen parts and low-rank ones: what trains, what stays, and what a run keeps of it."""

import pytest
import torch
from checkpoints import fast_tokenizer, save
from test_pretrained import EXAMPLES, reasoner_of, trains_and_reasons

from hybrid.nets.adapt import Frozen, Lora
from hybrid.nets.backbone import Qwen3
from hybrid.nets.pretrained import Pretrained
from hybrid.sizes import sizes_table
from hybrid.tasks import collate
from hybrid.train.optimiser import optimiser_of
from hybrid.train.settings import Train

pytest.importorskip("peft")


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "gemma3"])
def test_low_rank_training_moves_its_own_matrices_and_the_new_tokens(family, tmp_path):
    """Tied and untied heads. The checkpoint's weights stay to the last bit; mask, sketch and answer learn."""
    folder = save(tmp_path, family, k=len(fast_tokenizer()))
    reasoner = reasoner_of(folder, backbone=Lora(Pretrained(folder), rank=2, new_tokens=3))
    model = reasoner.networks.decoder.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    first = model.get_input_embeddings().weight.detach().clone()
    trains_and_reasons(reasoner)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("lora_" in name or "trainable_tokens" in name for name in moved)
    new = (model.get_input_embeddings().weight - first).abs().amax(-1) > 0
    assert new.nonzero()[:, 0].tolist() == list(range(len(first) - 3, len(first)))
    logits = reasoner.networks.decoder.logits(torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(logits).all() and logits.shape[-1] == len(first)


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_new_tokens_do_not_decay(family, tmp_path):
    """They are embeddings; low-rank matrices decay as others do."""
    folder = save(tmp_path, family)
    reasoner = reasoner_of(folder, backbone=Lora(Pretrained(folder)))
    decayed, spared = ({id(p) for p in group["params"]} for group in optimiser_of(reasoner, Train()).param_groups)
    names = {name: id(p) for name, p in reasoner.named_parameters() if p.requires_grad}
    assert decayed == {i for name, i in names.items() if "lora_" in name or "lm_head" in name}
    assert spared == set(names.values()) - decayed and any("trainable_tokens" in n for n in names)


def test_untrained_low_rank_matrices_change_nothing(tmp_path):
    folder = save(tmp_path, "qwen3")
    made = []
    for backbone in (Pretrained(folder), Lora(Pretrained(folder))):
        torch.manual_seed(0)  # of the new tokens' embeddings
        made.append(reasoner_of(folder, backbone=backbone))
    plain, adapted = made
    one, two = (r.losses(collate(EXAMPLES, r.tokenizer, 8)) for r in made)
    assert torch.equal(one.answer, two.answer) and torch.equal(one.sketch, two.sketch)
    # flops: the adapter's matrices and no others come on top
    ranks = sum(p.numel() for n, p in adapted.named_parameters() if "lora_" in n or "delta" in n)
    more = adapted.networks.decoder.flops(1, 1) - plain.networks.decoder.flops(1, 1)
    assert more == pytest.approx(2 * ranks)


def test_a_frozen_part_stays_and_the_other_trains(tmp_path):
    own = dict(width=16, layers=1, heads=2)
    folder = save(tmp_path, "llama")
    reasoner = reasoner_of(folder, "separate", backbone=Frozen(Pretrained(folder)), drafter_backbone=Qwen3(**own))
    decoder = {n: p.detach().clone() for n, p in reasoner.networks.decoder.named_parameters()}
    batch = collate(EXAMPLES, reasoner.tokenizer, 8)
    optimiser = torch.optim.AdamW([p for p in reasoner.parameters() if p.requires_grad], lr=0.1)
    reasoner.loss(reasoner.losses(batch)).backward()
    optimiser.step()
    assert all(torch.equal(p, decoder[n]) for n, p in reasoner.networks.decoder.named_parameters())
    lines = {line.split()[0]: line.split()[1:] for line in sizes_table(reasoner, optimiser).splitlines()[2:]}
    counts = {name: [int(x.replace(",", "")) for x in cells[:2]] for name, cells in lines.items() if len(cells) > 2}
    assert counts["decoder"] == [sum(p.numel() for p in decoder.values()), 0]
    assert counts["drafter"][0] == counts["drafter"][1] > 0
    assert counts["total"] == [counts["decoder"][0] + counts["drafter"][0], counts["drafter"][1]]
    assert float(lines["drafter"][4]) == pytest.approx(2 * float(lines["drafter"][3]), abs=0.11)


def test_what_cannot_be_adapted_is_refused(tmp_path):
    folder = save(tmp_path, "qwen3")
    with pytest.raises(ValueError, match="targets=\\['nowhere'\\]: .*nowhere"):
        reasoner_of(folder, backbone=Lora(Pretrained(folder), targets=("nowhere",)))
    with pytest.raises(ValueError, match="rank=0: must be 1 or more"):
        Lora(Qwen3(), rank=0)
