"""How training deals its work: rows to ranks and parts, batches in validation, rounds in which all take part."""

import csv
import json
import re

import pytest
import torch
from safetensors.torch import load_file
from test_cli import refused, rows, write_config, write_rows
from torch.utils.data import DataLoader

from hybrid.cli import main
from hybrid.evaluate import validation_totals
from hybrid.experiment import load_reasoner, read_experiment
from hybrid.frontier import read
from hybrid.reasoner import Reasoner
from hybrid.shard import Shard, batches, rank_and_world
from hybrid.sizes import sizes_table
from hybrid.tasks import Character
from hybrid.tasks.procedural import Made
from hybrid.tasks.task import example
from hybrid.train.checkpoints import Saver
from hybrid.train.data import Stream
from hybrid.train.module import HybridReasoner
from hybrid.train.optimiser import networks, optimiser_of, rate
from hybrid.train.settings import Train


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a config, and its finished run."""
    folder = tmp_path_factory.mktemp("training")
    assert main(["train", str(write_config(folder, rows(60))), f"run={folder / 'run'}", "--no-progress"]) == 0
    return folder


def some_examples(count):
    return [example(row["prompt"], row["sketch"], row["answer"]) for row in rows(count)]


def test_a_step_holds_the_same_rows_however_it_is_split():
    """And its parts know how many tokens the rank's share of the step supervises."""
    examples = some_examples(30)
    tokenizer = Character().train(["0123456789+=\n"])

    def step(number, world, parts):
        streams = [Stream(examples, tokenizer, 6, 8 // (world * parts), seed=3, rank=r, world=world, parts=parts)
                   for r in range(world)]  # fmt: skip
        return [stream.step(number) for stream in streams]

    for number in (0, 2, 7):  # the last one runs over an epoch's end
        (whole,), *_ = step(number, 1, 1)
        for world, parts in ((1, 2), (2, 1), (2, 2), (4, 2)):
            dealt = step(number, world, parts)
            keys = [dealt[rank][part].batch.prompts.keys for part in range(parts) for rank in range(world)]
            assert torch.equal(torch.cat(keys), whole.batch.prompts.keys)
            told = torch.tensor([dealt[rank][0].supervised for rank in range(world)]).sum(0)
            assert tuple(told.tolist()) == whole.supervised
            assert all(part.supervised == share[0].supervised for share in dealt for part in share)


def test_the_tokens_of_a_step_are_what_drafter_and_decoder_supervise(home):
    experiment = read_experiment(home / "run")
    reasoner, _ = load_reasoner(home / "run", experiment)
    part = Stream(some_examples(30), reasoner.tokenizer, 6, 8, seed=0).step(0)[0]
    losses = reasoner.losses(part.batch)
    assert part.supervised == (int(losses.sketch_count.sum()), int(losses.answer_count.sum()))


class Few(Made):
    """Thirty rows, made one by one."""

    def __len__(self):
        return 30

    def row(self, index):
        return some_examples(30)[index]


def test_a_file_is_permuted_each_epoch_and_made_data_keeps_its_order():
    tokenizer = Character().train(["0123456789+=\n"])
    keys = [row.key for row in some_examples(30)]
    streams = [Stream(rows, tokenizer, 6, 10, seed=0) for rows in (some_examples(30), Few())]
    of_a_file, made = ([stream.step(i)[0].batch.prompts.keys.tolist() for i in range(6)] for stream in streams)
    assert sum(made, []) == keys * 2
    first, second = sum(of_a_file[:3], []), sum(of_a_file[3:], [])
    assert first != second and first != keys and sorted(first) == sorted(second) == sorted(keys)


@pytest.mark.parametrize(("workers", "parts"), [(2, 1), (1, 2)])
def test_workers_make_the_same_batches_in_the_same_order(workers, parts):
    tokenizer = Character().train(["0123456789+=\n"])
    stream = Stream(some_examples(30), tokenizer, 6, 2, seed=3, start=4, parts=parts)
    found = DataLoader(stream, batch_size=None, num_workers=workers)
    for ours, theirs, _ in zip(stream, found, range(7), strict=False):
        assert torch.equal(ours.batch.prompts.keys, theirs.batch.prompts.keys)
        assert (ours.at, ours.supervised) == (theirs.at, theirs.supervised)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_every_item_has_one_owner_and_every_rank_as_many_rounds(world, count):
    shards = [Shard(rank, world) for rank in range(world)]
    dealt = [item for shard in shards for item in shard.deal(range(count))]
    assert sorted(dealt) == list(range(count))
    rounds = [shard.rounds(count) for shard in shards]
    assert len({len(places) for places in rounds}) == 1
    assert {place for places in rounds for place in places} == set(range(count))
    assert [i for part in batches(count, 5) for i in part] == list(range(count))


def test_a_rank_goes_on_with_blank_rows_until_all_are_done(home):
    """Validation figures of a rank that waits for another equal those of one that does not."""
    experiment = read_experiment(home / "run")
    reasoner, _ = load_reasoner(home / "run", experiment)
    examples, calls = experiment.examples("valid")[:5], [0]

    def agree(is_done):
        """Another rank takes three more steps whenever this one is done."""
        calls[0] = calls[0] + 1 if is_done else 0
        return is_done and calls[0] > 3

    alone = validation_totals(reasoner, experiment.task, examples)
    assert validation_totals(reasoner, experiment.task, examples, agree) == alone


def test_who_we_are_is_read_from_torchrun_or_slurm():
    assert rank_and_world({}) is None
    assert rank_and_world({"RANK": "3", "WORLD_SIZE": "8"}) == (3, 8)
    slurm = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}
    assert rank_and_world(slurm) == (1, 4)
    assert rank_and_world(slurm | {"SLURM_JOB_NAME": "bash"}) is None
    assert rank_and_world({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None


def test_ranks_that_cannot_be_are_refused(capsys, home, monkeypatch, tmp_path):
    line = ["train", home / "config.yaml", f"run={tmp_path / 'no'}", "train.batch_size=8", "--no-progress"]
    assert "batch_size=8 must divide" in refused(capsys, *line, "train.devices=3")
    assert "strategy=fsdp2 keeps no average" in refused(capsys, *line, "train.strategy=fsdp2", "train.ema=0.9")
    assert "at most" in refused(capsys, *line, "train.devices=4096", "train.batch_size=4096")
    assert "torchrun or srun" in refused(capsys, *line, "train.num_nodes=2")
    if not torch.cuda.is_available():
        assert "this machine has 0 GPUs" in refused(capsys, *line, "train.devices=2", "train.accelerator=gpu")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "started as 4 processes" in refused(capsys, *line, "train.devices=2")
    assert not (tmp_path / "no" / "checkpoints").exists()
    monkeypatch.undo()
    err = refused(capsys, "sample", home / "run", "--file", write_rows(tmp_path / "p", []), "--batch", "0")
    assert "--batch 0" in err


@pytest.mark.parametrize("kind", ["diffusion", "autoregressive"])
def test_activations_computed_again_give_the_same_gradient(home, kind):
    """Bit by bit: the same operations on the same numbers."""
    feed = ["model.feed=gold"] if kind == "autoregressive" else []
    experiment = read_experiment(home / "config.yaml", [f"model.drafter={kind}", "model.backbone.layers=2", *feed])
    tokenizer = experiment.make_tokenizer()
    batch = Stream(some_examples(30), tokenizer, 6, 8, seed=0).step(0)[0].batch
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        reasoner = Reasoner(experiment.model, tokenizer).train()
        ran: list[bool] = []
        for network in networks(reasoner):
            for layer in network.model.base_model.layers:
                layer.mlp.register_forward_pre_hook(lambda *_, ran=ran: ran.append(torch.is_grad_enabled()))
            if again:
                network.model.activation_checkpointing_enable({"use_reentrant": False})
        reasoner.loss(reasoner.losses(batch)).backward()
        found.append([p.grad for p in reasoner.parameters()])
        assert sum(ran) == (4 if again else 2)  # each layer with a gradient, once more in the backward pass
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_feed_makes_the_same_calls_whatever_it_draws(home, monkeypatch):
    """Ranks that share weights hang where one calls the network and another does not: among ranks the one-step draft
    of no rows is a call too, and changes nothing.
    """
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    reasoner, _ = load_reasoner(home / "run", read_experiment(home / "run"))
    batch = Stream(some_examples(30), reasoner.tokenizer, 6, 1, seed=0).step(0)[0].batch
    calls = []
    reasoner.networks.decoder.register_forward_hook(lambda *_: calls.append(1))
    counts = set()
    for key in range(12):
        keyed = type(batch.prompts)(torch.tensor([key]), batch.prompts.tokens, batch.prompts.keep)
        one = type(batch)(keyed, batch.sketch, batch.answer, batch.answer_keep)
        calls.clear()
        reasoner.losses(one)
        counts.add(len(calls))
    assert len(counts) == 1


def test_the_learning_rate_rises_then_falls_and_embeddings_are_spared(home):
    train = Train(steps=10, warmup=4, decay="linear", validate_every=0)
    assert [rate(train, step, 0.0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate(train, 9, 0.75) == 0.25 and rate(train, 9, 2.0) == 0.0
    reasoner, _ = load_reasoner(home / "run", read_experiment(home / "run"))
    decayed, spared = optimiser_of(reasoner, train).param_groups
    embedding = reasoner.networks.decoder.model.get_input_embeddings().weight
    assert decayed["weight_decay"] > 0 and spared["weight_decay"] == 0
    assert all(p.ndim >= 2 and p is not embedding for p in decayed["params"])
    assert any(p is embedding for p in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(reasoner.parameters()))


def test_a_step_in_parts_is_the_step_as_a_whole(home, tmp_path):
    """One mean over all tokens of the step, whatever its parts hold: losses, gradient and what follows from them."""
    found = []
    for parts in (1, 2, 4):
        run = tmp_path / str(parts)
        line = ["train.steps=4", "train.batch_size=8", f"train.accumulate={parts}", "train.log_every=1"]
        assert main(["train", str(home / "config.yaml"), f"run={run}", *line, "--no-progress"]) == 0
        found.append(list(csv.DictReader((run / "logs" / "metrics.csv").open())))
    for name in ("train/sketch", "train/answer", "train/gradient_norm"):
        for row, *others in zip(*found, strict=True):
            assert all(float(other[name]) == pytest.approx(float(row[name]), rel=5e-6) for other in others), name


KINDS = {
    "hybrid": [],
    "the answer too": ["model.canvas_holds=sketch+answer"],
    "uniform": ["model.drafter.corruption=uniform", "model.drafter.times=continuous"],
    "uniform, the answer too": [
        "model.drafter.corruption=uniform", "model.drafter.times=continuous", "model.canvas_holds=sketch+answer"
    ],
    "chain": ["model.drafter=autoregressive", "model.feed=gold"],
    "direct": ["model.drafter=none", "model.feed=none"],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_training_minds_the_means_of_its_losses(kind, home, tmp_path, monkeypatch):
    """Per token that the drafter supervises, pads among them where it does: as validation tells them."""
    found, times = [], []
    inner = HybridReasoner.training_step

    def training_step(self, part, batch_idx):
        loss = inner(self, part, batch_idx)
        losses = self._now[0]
        mean = losses.sketch.sum().detach() / losses.sketch_count.sum().clamp(min=1)
        found.append((loss, self.reasoner.loss(losses), mean))
        times.append(self._now[2])
        return loss

    monkeypatch.setattr(HybridReasoner, "training_step", training_step)
    line = [f"run={tmp_path / 'run'}", "train.steps=2", "train.log_every=1", "model.sketch_weight=0.7", *KINDS[kind]]
    assert main(["train", str(home / "config.yaml"), *line, "--no-progress"]) == 0
    told = list(csv.DictReader((tmp_path / "run" / "logs" / "metrics.csv").open()))
    for (loss, expected, sketch), row in zip(found, told, strict=True):
        assert torch.allclose(loss, expected)
        assert kind == "direct" or float(row["train/sketch"]) == pytest.approx(float(sketch))
    one, other = times
    n = len(one)
    assert all(sorted((t * n).ceil().long().tolist()) == list(range(1, n + 1)) for t in times)  # one in each stratum
    assert not torch.allclose(one, other)


def test_a_run_ends_with_the_step_that_reaches_its_positions(home, tmp_path):
    """Steps of about 300 positions in two parts: neither too early, nor in the midst of one."""
    line = [
        f"run={tmp_path / 'run'}",
        "train.steps=50",
        "train.positions=1000",
        "train.accumulate=2",
        "train.log_every=1",
    ]
    assert main(["train", str(home / "config.yaml"), *line, "--no-progress"]) == 0
    told = [float(row["train/positions"]) for row in csv.DictReader((tmp_path / "run/logs/metrics.csv").open())]
    trained = json.loads((tmp_path / "run" / "trained.json").read_text())
    assert told[-2] < 1000 <= told[-1] == trained["positions"] and trained["steps"] == len(told) < 50


@pytest.mark.parametrize("option", ["train.decay=constant", "train.ema=0.9"])
def test_a_run_that_positions_ended_takes_no_step_more(home, tmp_path, option):
    """The same command again finds it trained, whatever the trainer knows of positions."""
    run = tmp_path / "run"
    line = [f"run={run}", "train.steps=50", "train.positions=1000", "train.log_every=1", option]
    kept = []
    for _ in range(2):
        assert main(["train", str(home / "config.yaml"), *line, "--no-progress"]) == 0
        kept.append([(run / name).read_bytes() for name in ("model.safetensors", "trained.json", "logs/metrics.csv")])
    assert kept[0] == kept[1]


def test_progress_is_by_steps_or_positions_whichever_is_further(home):
    experiment = read_experiment(home / "run")
    reasoner, _ = load_reasoner(home / "run", experiment)
    for positions, steps, expected in ((60, 10, 0.6), (0, 10, 0.0)):
        module = HybridReasoner(reasoner, experiment.task, Train(steps=steps, positions=100), 0)
        module.positions = positions
        assert module.progress() == expected
    assert HybridReasoner(reasoner, experiment.task, Train(steps=10), 0).progress() == 0.0


def test_the_bar_ends_at_the_whole_where_positions_end_the_run(home, tmp_path, capsys):
    line = [f"run={tmp_path / 'run'}", "train.steps=500", "train.positions=12000", "train.validate_every=0"]
    assert main(["train", str(home / "config.yaml"), *line]) == 0
    took = json.loads((tmp_path / "run" / "trained.json").read_text())["steps"]
    shown = re.findall(r"training: +(\d+)%\|[^|]*\| (\d+)/(\d+) ", "".join(capsys.readouterr()))
    seen = [(int(percent), int(n), int(total)) for percent, n, total in shown if int(n)]
    assert 30 < took < 400 and seen[-1][1] >= took - 10 and seen[-1][0] > 90
    assert all(abs(total - took) < 0.2 * took for _, _, total in seen)


def test_the_average_of_weights_keeps_the_rotary_frequencies(home, tmp_path, monkeypatch):
    """An average of a buffer with itself is off by rounding, and no checkpoint holds it: a resumed run would differ."""
    seen = []

    def totals(reasoner, *_):
        buffers = dict(reasoner.named_buffers())
        seen.append(buffers["networks.decoder.model.model.rotary_emb.inv_freq"].clone())
        return {"accuracy": (0.0, 1.0)}

    monkeypatch.setattr("hybrid.train.module.validation_totals", totals)
    line = ["train.steps=6", "train.ema=0.9", "train.validate_every=2", "train.validate_examples=2"]
    line += ["model.backbone.width=64", f"run={tmp_path / 'run'}", "--no-progress"]
    assert main(["train", str(home / "config.yaml"), *line]) == 0
    experiment = read_experiment(tmp_path / "run")
    exact = dict(Reasoner(experiment.model, experiment.make_tokenizer()).named_buffers())
    assert len(seen) == 3
    assert all(torch.equal(one, exact["networks.decoder.model.model.rotary_emb.inv_freq"]) for one in seen)


def test_training_begins_with_the_weights_of_another_run(home, tmp_path, capsys):
    """Which may have had another drafter; its positions are behind the new weights too."""
    first, second, config = home / "run", tmp_path / "run", str(home / "config.yaml")
    line = ["train", config, f"train.start_from={first}", "model.feed=gold", "--no-progress"]
    assert main([*line, f"run={second}", "train.learning_rate=1e-12", "train.weight_decay=0", "train.steps=1"]) == 0
    before, after = (load_reasoner(run, read_experiment(run)) for run in (first, second))
    for (name, old), new in zip(before[0].named_parameters(), after[0].parameters(), strict=True):
        assert torch.allclose(old, new, rtol=0, atol=1e-9), name
    assert after[1]["positions_before"] == before[1]["positions"] > after[1]["positions"] > 0
    assert torch.load(second / "checkpoints" / "last.ckpt", weights_only=True)["positions_before"] > 0
    assert main(["evaluate", str(second), "--steps", "1", "--out", str(tmp_path), "--no-progress"]) == 0
    row = read(tmp_path / "frontier.json").rows[0]
    assert row.training_positions == before[1]["positions"] + after[1]["positions"]

    capsys.readouterr()
    run = [f"run={tmp_path / 'other'}"]
    assert "train.start_from: nowhere is not a run folder" in refused(
        capsys, "train", config, *run, "train.start_from=nowhere"
    )
    assert "another tokenizer" in refused(capsys, *line, *run, "tokenizer.characters='0123456789+=\\n!'")
    assert "has other shapes of" in refused(capsys, *line, *run, "model.backbone.width=32")
    assert not (tmp_path / "other").exists() or not list((tmp_path / "other").rglob("*.safetensors"))


@pytest.mark.parametrize("examples", [0, 2])
def test_checkpoints_are_written_where_nothing_is_validated_too(home, tmp_path, monkeypatch, examples):
    saved = []
    monkeypatch.setattr(Saver, "save", lambda self, trainer: saved.append(trainer.global_step))
    line = [
        "train.steps=5",
        "train.validate_every=2",
        "train.checkpoint_every=2",
        f"train.validate_examples={examples}",
    ]
    assert main(["train", str(home / "config.yaml"), f"run={tmp_path / 'run'}", *line, "--no-progress"]) == 0
    assert saved == [2, 4, 5]


@pytest.mark.parametrize("kind", ["gold", "shuffled", "pause"])
def test_sketches_that_nobody_drafts_train_a_baseline(home, tmp_path, kind):
    """Validation has what they are made from; each answer's loss is of the feed that was asked for."""
    feed = "pause" if kind == "pause" else "gold"
    line = [f"model.drafter={kind}", f"model.feed={feed}", "train.validate_every=1", "train.validate_examples=2"]
    assert main(["train", str(home / "config.yaml"), f"run={tmp_path / 'run'}", *line, "--no-progress"]) == 0
    (row, *_) = csv.DictReader((tmp_path / "run" / "logs" / "metrics.csv").open())
    assert float(row[f"valid/answer_{feed}"]) > 0 and "valid/accuracy" in row


def test_muon_takes_the_matrices_but_embeddings_and_heads(home):
    def groups():
        found = optimiser_of(reasoner, Train(optimiser="muon", validate_every=0)).param_groups
        return [{id(p) for p in group["params"]} for group in found]

    reasoner, _ = load_reasoner(home / "run", read_experiment(home / "run"))
    model = reasoner.networks.decoder.model
    muon, decayed, spared = groups()
    matrices = {id(p) for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name}
    assert muon == matrices and not decayed and id(model.get_input_embeddings().weight) in spared
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    muon, decayed, _ = groups()
    assert muon == matrices and decayed == {id(model.lm_head.weight)}


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_the_table_of_sizes_counts_what_the_optimiser_keeps(home, optimiser, monkeypatch):
    monkeypatch.setattr("hybrid.sizes.MIB", 1)  # bytes, to the last one
    reasoner, _ = load_reasoner(home / "run", read_experiment(home / "run"))
    made = optimiser_of(reasoner, Train(optimiser=optimiser, validate_every=0))
    told = float(sizes_table(reasoner, made).splitlines()[3].split()[-1])
    for p in reasoner.parameters():
        p.grad = torch.ones_like(p)
    made.step()
    moments = [x for state in made.state.values() for x in state.values() if torch.is_tensor(x) and x.ndim]
    assert told == sum(x.nbytes for x in moments)


def test_muon_steps_by_orthogonal_matrices_at_the_rate_of_adamw(home):
    """The step of a matrix of m rows and n columns has nearly all singular values near 0.2 times the root of max(m, n),
    however unlike those of its gradient are."""
    train = Train(optimiser="muon", learning_rate=0.1, weight_decay=0.5, validate_every=0)
    reasoner, _ = load_reasoner(home / "run", read_experiment(home / "run"))
    optimiser = optimiser_of(reasoner, train)
    before = [p.detach().clone() for p in optimiser.param_groups[0]["params"]]
    generator = torch.Generator().manual_seed(0)
    for p in reasoner.parameters():
        unlike = torch.logspace(0, 1, p.shape[0]).view(-1, *[1] * (p.ndim - 1))
        p.grad = torch.randn(p.shape, generator=generator) * unlike
    optimiser.step()
    for old, new in zip(before, optimiser.param_groups[0]["params"], strict=True):
        step = (0.95 * old - new.detach()) / 0.1  # without the decay of rate times weight_decay
        sizes = torch.linalg.svdvals(step) / (0.2 * max(step.shape) ** 0.5)
        assert 0.6 < sizes.median() and sizes.max() < 1.4
    embedding = reasoner.networks.decoder.model.get_input_embeddings().weight
    assert torch.allclose(optimiser.state[embedding]["exp_avg"], 0.1 * embedding.grad)


def test_a_run_under_muon_goes_on_bit_by_bit(home, tmp_path):
    runs = [tmp_path / name for name in ("whole", "halves")]
    for run, ends in zip(runs, ((8,), (4, 8)), strict=True):
        for end in ends:
            line = ["train", str(home / "config.yaml"), f"run={run}", "train.optimiser=muon", "train.positions=null"]
            line += [f"train.steps={end}", "train.decay=constant", "train.validate_every=0", "--no-progress"]
            if (config := run / "config.yaml").exists():  # the second half: the steps at most are all that differs
                config.write_text(config.read_text().replace("steps: 4", "steps: 8"))
            assert main(line) == 0
    whole, halves = (load_file(run / "model.safetensors") for run in runs)
    assert all(torch.equal(tensor, halves[name]) for name, tensor in whole.items())
    adamw = tmp_path / "adamw"
    assert main([*line[:2], f"run={adamw}", *line[4:], "train.optimiser=adamw"]) == 0
    assert any(not torch.equal(tensor, halves[name]) for name, tensor in load_file(adamw / "model.safetensors").items())
