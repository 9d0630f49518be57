"""Parts from outside the package that differ from those within it: each is asked, or refused, and never passed over."""

import sys
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from test_report import row as make_row
from torch import nn
from toy import tiny_batch, tiny_reasoner

from hybrid.bridge import Bridge, Latent
from hybrid.config import add_fork_path
from hybrid.diffusion.budget import Budget
from hybrid.diffusion.corruption import Absorbing
from hybrid.diffusion.policy import Confidence
from hybrid.diffusion.state import State
from hybrid.drafters import Drafted as Written
from hybrid.drafters import Drafter
from hybrid.drafters.autoregressive import Autoregressive
from hybrid.drafters.canvas import ending
from hybrid.drafters.controls import GoldSketch
from hybrid.drafters.diffusion import Diffusion
from hybrid.feed import Drafted, Gold
from hybrid.hub.pipeline import HybridReasoningPipeline
from hybrid.nets.backbone import Qwen3
from hybrid.nets.family import check_reading
from hybrid.nets.layout import Segment, running
from hybrid.nets.network import Network
from hybrid.tasks import Chain, Data, JsonLines, example, split


def test_parts_are_found_beside_the_config_and_where_one_is(tmp_path, monkeypatch):
    """As for `hybrid train fork.yaml run=runs/fork`, whose run lies elsewhere than the config."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    before = len(sys.path)
    add_fork_path(tmp_path / "runs" / "fork")
    assert sys.path[before:] == [str(tmp_path / "runs"), str(tmp_path)]


@dataclass(frozen=True)
class Tilted(Absorbing):
    """Masks the right of a canvas sooner; every masked token costs `nats`."""

    nats: float = 7.0

    def corrupt(self, x, alpha, u, alphabet):
        power = 1 + torch.arange(x.shape[1], device=x.device)
        return torch.where(u < alpha[:, None] ** power, x, alphabet.mask_id)

    def cost(self, logits, x, z, t, schedule, alphabet):
        return torch.full(x.shape, self.nats)


@pytest.mark.parametrize("block", [None, 2])
def test_a_corruption_with_masks_trains_by_its_own_law_and_cost(block):
    drafter = Diffusion(corruption=Tilted(), times="continuous", attention_block=block)
    reasoner, batch = tiny_reasoner(drafter=drafter, feed=Gold()), tiny_batch()
    cost = reasoner.losses(batch, t=torch.full((len(batch),), 0.5)).sketch
    assert (cost % 7 == 0).all() and (cost > 0).any()


@pytest.mark.parametrize("setting", [{"times": "counts"}, {"train_weight": 0.5}, {"focal": 2.0}])
def test_what_stands_for_absorbing_masks_is_refused_for_others(setting):
    with pytest.raises(ValueError, match="Tilted corruption has a law or cost of its own"):
        Diffusion(corruption=Tilted(), **{"times": "continuous"} | setting)
    Diffusion(corruption=Tilted(), times="continuous", self_condition=0.5)


@dataclass(frozen=True)
class Ending(Bridge):
    """The last token of the text, and no marker before it."""

    def segment(self, sketch, start, special):
        is_text = (sketch != special.pad) & (sketch != special.end)
        keep = is_text & (is_text.flip(-1).cumsum(-1).flip(-1) == 1)
        return Segment("sketch", sketch, keep, running(keep, start), is_causal=True, sees=("prompt",))


@pytest.mark.parametrize("pairing", ["shared", "separate"])
@pytest.mark.parametrize("verify", [0, 6])
def test_a_bridge_is_what_the_decoder_reads_of_verified_sketches_too(pairing, verify):
    """So that two sketches with one ending are answered alike; and what was written is counted, not what is read."""
    drafter = Diffusion(next_token=1.0, verify=verify)
    reasoner, batch = tiny_reasoner(drafter=drafter, bridge=Ending(), pairing=pairing), tiny_batch()
    found = reasoner.reason(batch.prompts, Budget(3))
    sketches = torch.tensor([r.sketch_tokens for r in found])
    given = reasoner.reason(batch.prompts, drafter=GoldSketch(), gold=sketches)
    assert [r.answer_tokens for r in given] == [r.answer_tokens for r in found]
    lengths = (ending(reasoner.special).read(sketches) != reasoner.special.pad).sum(-1).tolist()
    assert max(lengths) > 2 and [r.spent["sketch_tokens"] for r in found] == lengths


class Scaled(nn.Module):
    """Learns, and asks no network."""

    def forward(self, networks, prompts, sketch, memory=None, spent=None):
        return sketch


@dataclass(frozen=True)
class Scaling(Ending):
    def module(self, networks):
        return Scaled()


def test_a_budget_reserves_the_forwards_that_a_bridge_makes():
    for bridge, steps in ((Scaling(), 3), (Latent(), 2)):
        reasoner = tiny_reasoner(bridge=bridge)
        (found,) = reasoner.reason(["1+2="], Budget(forwards=3 + reasoner.config.max_answer))
        assert found.allowed["steps"] == steps


def test_a_chain_that_would_not_read_its_bridge_is_refused():
    with pytest.raises(ValueError, match="bridge: test_outside.Ending: an autoregressive drafter that shares"):
        tiny_reasoner(drafter=Autoregressive(), feed=Gold(), bridge=Ending())
    tiny_reasoner(drafter=Autoregressive(), feed=Gold(), bridge=Ending(), pairing="separate")


@dataclass(frozen=True)
class AtOnce(Diffusion):
    """Learns and takes steps, and has no draft of one step to train a decoder on."""

    one_step = Drafter.one_step


def test_a_drafter_without_a_draft_of_one_step_is_validated_by_the_other_feeds():
    from hybrid.evaluate import validation_totals

    task = Chain(operations="+", length=4)
    rows = task.generate("valid", 0)[:2]
    reasoner = tiny_reasoner(drafter=AtOnce(), feed=Gold())
    told = validation_totals(reasoner, task, rows)
    assert {"bound", "answer_gold", "answer_partial", "answer_none"} <= set(told) and "answer_drafted" not in told
    with pytest.raises(ValueError, match="feed 'drafted' needs a drafter that drafts in one step"):
        reasoner.losses(tiny_batch(), feed=Drafted())


@dataclass(frozen=True)
class Renamed(JsonLines):
    """Answers called by other names."""

    names: dict[str, str] = field(default_factory=dict)

    def read(self, path):
        return [replace(row, answer=self.names.get(row.answer, row.answer)) for row in super().read(path)]


def test_a_task_may_hold_a_dict_and_still_reads_files(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "1", "sketch": "2", "answer": "yes"}\n')
    for names in ({"yes": "y"}, {"yes": "j"}, {"yes": "y"}):
        task = Renamed(names=names)
        assert [row.answer for row in split(task, Data(test=str(file)), "test")] == [names["yes"]]


@dataclass(frozen=True)
class Weighed(Confidence):
    """A policy whose setting is a list."""

    weights: tuple[float, ...] = (1.0, 2.0)


def test_settings_that_are_lists_are_told_whole():
    from hybrid.evaluate import Evaluate, ways
    from hybrid.report_series import row_label

    policies = (Weighed(), Weighed((1.0, 3.0)))
    listed = ways(tiny_reasoner(), Evaluate(steps=(2,), policies=policies, controls=()))
    rows = [make_row("hybrid", 0, steps=2, policy="weighed", setting=way.labels["setting"]) for way in listed]
    assert [row_label(row, rows) for row in rows] == ["weighed · weights (1.0,2.0)", "weighed · weights (1.0,3.0)"]


@dataclass(frozen=True)
class Copied(Drafter):
    """Copies the prompt, one token a step; asks no network."""

    steps_matter: ClassVar[bool] = True

    def draft(self, network, request, budget, noise, spent):
        z = torch.full((len(request.prompts), request.canvas), request.special.pad)
        for row, steps in enumerate(budget.rows(len(z), request.canvas).tolist()):
            text = request.prompts.tokens[row][request.prompts.keep[row]][: min(steps, request.canvas - 1)]
            z[row, : len(text)], z[row, len(text)] = text, request.special.end
        everywhere = torch.ones_like(z, dtype=torch.bool)
        yield State(0, z, everywhere, torch.ones(z.shape), ~everywhere)
        return Written(z)


def test_a_drafter_that_learns_nothing_goes_by_its_own_name_and_its_sketches_are_judged():
    from hybrid.evaluate import Evaluate, evaluate

    reasoner = tiny_reasoner(drafter=Copied(), feed=Gold())
    rows = [example(text, text, text) for text in ("12", "345")]
    found = evaluate(
        reasoner, JsonLines(), rows, Evaluate(steps=(0, 2, 6), batch=2, controls=()), name="copied", progress=False
    )
    assert {row.method for row in found.rows} == {"test_outside.Copied"}
    assert [row.sketch_exact for row in found.rows] == [None, 0.5, 1.0]
    assert [row.denoiser_forwards for row in found.rows] == [0, 0, 0]


@dataclass(frozen=True)
class Learnt(Copied):
    """The same, with a network and no steps."""

    learns: ClassVar[bool] = True
    steps_matter: ClassVar[bool] = False


def test_a_drafter_that_is_no_diffusion_is_not_called_one_nor_said_to_draft_nothing():
    from hybrid.evaluate import Evaluate, ways
    from hybrid.report_series import row_label

    (way,) = ways(tiny_reasoner(drafter=Learnt(), feed=Gold()), Evaluate())
    row = make_row(way.method, 0, **way.labels)
    assert row.method == "test_outside.Learnt" and row_label(row, [row]) == "" and way.has_sketch


class Reads(Network):
    """A network of a backbone's own."""


@dataclass(frozen=True)
class ReadOtherwise(Qwen3):
    def network(self, vocabulary):
        return Reads(self.build(vocabulary))


def test_what_a_pipeline_would_read_otherwise_is_not_exported(tmp_path):
    backbone = ReadOtherwise(width=16, layers=1, heads=2)
    with pytest.raises(ValueError, match="Qwen3ForCausalLM is read by Reads of its backbone's own"):
        HybridReasoningPipeline.of(tiny_reasoner(backbone=backbone)).save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_generates_by_nobody_else_is_exported(tmp_path):
    reasoner = tiny_reasoner()
    del reasoner.networks.decoder.model.generation_config
    HybridReasoningPipeline.of(reasoner)


@pytest.mark.parametrize("told", ["nothing", "causal"])
def test_a_model_that_does_not_attend_as_its_mask_says_is_refused(told):
    network = Qwen3(width=16, layers=1, heads=2).network(12)
    check_reading(network)
    own = network.model.base_model.forward
    masks = {
        "nothing": torch.zeros_like,
        "causal": lambda mask: mask + torch.full(mask.shape[-2:], -torch.inf).triu(1),
    }
    network.model.base_model.forward = lambda *rest, attention_mask, **options: own(
        *rest, attention_mask=masks[told](attention_mask) if attention_mask.ndim == 4 else attention_mask, **options
    )
    with pytest.raises(ValueError, match="Qwen3ForCausalLM (does not attend as its mask says|predicts otherwise)"):
        check_reading(network)


def test_a_model_whose_attention_begins_at_zero_is_not_refused():
    network = Qwen3(width=16, layers=1, heads=2).network(12)
    torch.nn.init.zeros_(network.model.base_model.layers[0].self_attn.o_proj.weight)
    check_reading(network)
