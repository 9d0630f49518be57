"""An experiment: the whole config, and the run folder that holds what came of it."""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hybrid.build import ConfigError, build, plain
from hybrid.config import add_fork_path, dump, load
from hybrid.evaluate import Evaluate
from hybrid.frontier import write_atomically
from hybrid.nets.adapt import innermost
from hybrid.nets.pretrained import Pretrained
from hybrid.reasoner import Model, Reasoner
from hybrid.records import Example
from hybrid.shard import own_device
from hybrid.tasks import (
    Character,
    Data,
    PretrainedTokenizer,
    Task,
    Tokenizer,
    TokenizerConfig,
    Two,
    TwoTokenizers,
    check_room,
    split,
)
from hybrid.tasks.checkpoint_tokenizer import read_fast
from hybrid.train.settings import Train

ARCHITECTURES = {"backbone": "backbone.json", "drafter_backbone": "drafter_backbone.json"}
CONFIG, TOKENIZER, WEIGHTS, TRAINED = "config.yaml", "tokenizer.json", "model.safetensors", "trained.json"
TOKENIZER_ROWS = 20_000


@dataclass(frozen=True)
class Experiment:
    """What `hybrid train CONFIG` reads.

    name: of the task in tables and files; null: the task's kind. seed: of weights, data order and noise.
    data_seed: of made data, so that runs of several seeds are tested on the same problems.
    run: folder for results; null: runs/ and the config's own name, as in runs/quickstart-hybrid for
        configs/quickstart/hybrid.yaml.
    """

    task: Task
    data: Data = field(default_factory=Data)
    tokenizer: TokenizerConfig = field(default_factory=Character)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    name: str | None = None
    seed: int = 0
    data_seed: int = 0
    run: str | None = None

    def __post_init__(self) -> None:
        for name in ("seed", "data_seed"):
            if not -(2**63) <= getattr(self, name) < 2**63:
                raise ValueError(f"{name}={getattr(self, name)}: must be a number of 64 bits")

    @property
    def title(self) -> str:
        return self.name or plain_kind(self)

    def examples(self, name: str) -> Sequence[Example]:
        """A split of the task's examples."""
        return split(self.task, self.data, name, self.data_seed)

    def make_tokenizer(self) -> Tokenizer:
        """A checkpoint's own; else made from the train split, the same for every seed: from all characters of a
        file, or the byte pairs of its first 20,000 rows."""
        if not isinstance(self.tokenizer, Two):
            return self._tokenizer(self.tokenizer, "tokenizer", *ARCHITECTURES)
        drafter = "backbone" if self.model.drafter_backbone is None else "drafter_backbone"
        return TwoTokenizers(
            self._tokenizer(self.tokenizer.drafter, "tokenizer.drafter", drafter),
            self._tokenizer(self.tokenizer.decoder, "tokenizer.decoder", "backbone"),
        )

    def _tokenizer(self, config: TokenizerConfig, where: str, *keys: str) -> Tokenizer:
        """The tokenizer of the backbones `keys` of the model.

        Raises:
            ConfigError: a checkpoint with another kind of tokenizer, or checkpoints whose vocabularies differ.
        """
        named = [(key, b) for key in keys if isinstance(b := innermost(getattr(self.model, key)), Pretrained)]
        if not named:
            train = self.examples("train")
            most = len(train) if isinstance(config, Character) else TOKENIZER_ROWS  # none may be unknown
            rows = (train[i] for i in range(min(len(train), _looked_at(train, most))))
            return config.train(text for row in rows for text in (row.prompt, row.sketch, row.answer))
        key, first = named[0]
        if not isinstance(config, PretrainedTokenizer):
            raise ConfigError(
                f"model.{key} is the checkpoint {first.name}, which reads only its own tokenizer's ids: "
                f"set {where}: pretrained"
            )
        own = dataclasses.replace(config, name=config.name or first.name, revision=config.revision or first.revision)
        tokenizer = own.train([])
        for key, backbone in named:
            if difference := tokenizer.difference(read_fast(backbone.name, backbone.revision).get_vocab()):
                raise ConfigError(
                    f"model.{key}: {backbone.name} has another vocabulary than {own.name}: {difference}; one tokenizer "
                    "serves checkpoints of one vocabulary: give each its own by tokenizer: {kind: two, drafter: "
                    "pretrained, decoder: pretrained}, with pairing: separate"
                )
        return tokenizer

    def check_data(self, tokenizer: Tokenizer) -> None:
        """Whether train and valid fit the model: refused before training, not in the midst of it.

        Raises:
            ConfigError: naming the split, and the sketch, answer or character that does not fit.
        """
        for name in ("train", "valid"):
            self._check_split(name, self.examples(name), tokenizer)

    def _check_split(self, name: str, rows: Sequence[Example], tokenizer: Tokenizer) -> None:
        try:
            check_room(rows, tokenizer, self.model.canvas, self.model.max_answer, _looked_at(rows, len(rows)))
        except ValueError as error:
            raise ConfigError(f"data, split {name}: {error}") from None

    def check_evaluation(self, tokenizer: Tokenizer) -> str | None:
        """What an evaluation of this run will be refused for, in one line, where it can be known before training."""
        try:
            rows = self.examples(name := self.evaluate.split)
            most = min(len(rows), self.evaluate.examples or TOKENIZER_ROWS)
            self._check_split(name, [rows[i] for i in range(most)], tokenizer)
        except (ValueError, OSError) as error:
            return f"the run can be trained, but not evaluated: {error}"
        return None


def _looked_at(rows: Sequence[Example], of_a_file: int) -> int:
    """How many rows are read before training: fewer of what is made as it is read, which is slower and all alike."""
    if isinstance(rows, list | tuple):
        return min(of_a_file, len(rows))
    return TOKENIZER_ROWS if len(rows) < 2**30 else 2000


def plain_kind(experiment: Experiment) -> str:
    return str(plain(experiment)["task"]["kind"])


def is_run(path: str | Path) -> bool:
    return (Path(path) / CONFIG).is_file()


def check_run(path: str | Path) -> None:
    """Refuse what is no run folder.

    Raises:
        ConfigError: naming the path.
    """
    if not is_run(path):
        raise ConfigError(f"{path} is not a run folder; train one with `hybrid train CONFIG`")


def read_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a config file, or of a run folder, with overrides on top.

    Raises:
        ConfigError: one line naming the key, its value, and what is allowed.
    """
    file = Path(path) / CONFIG if Path(path).is_dir() else Path(path)
    if Path(path).is_dir() and not file.is_file():
        raise ConfigError(f"{path} is not a run folder: it has no {CONFIG}")
    config = load(file, overrides)
    if not config:
        raise ConfigError("holds no `key: value` lines", str(file))
    return build(Experiment, config)


def save_run(folder: Path, experiment: Experiment, tokenizer: Tokenizer) -> None:
    """Start a run folder: the resolved config, the tokenizer, and architectures that only checkpoints tell."""
    write_atomically(folder / TOKENIZER, tokenizer.to_json().encode())
    for key, file in ARCHITECTURES.items():
        backbone = getattr(experiment.model, key)
        size = len(tokenizer if key == "drafter_backbone" else tokenizer.reader)
        architecture = None if backbone is None else backbone.architecture(size)
        if architecture is not None:
            write_atomically(folder / file, (json.dumps(architecture, indent=1, default=str) + "\n").encode())
    save_config(folder, experiment)


def save_config(folder: Path, experiment: Experiment) -> None:
    write_atomically(folder / CONFIG, dump(plain(experiment)).encode())


def save_weights(folder: Path, state: dict[str, torch.Tensor], trained: dict[str, Any]) -> None:
    """The weights as safetensors, tied ones once, and what they were trained on."""
    seen: set[int] = set()
    unique = {}
    for name, tensor in state.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            unique[name] = tensor.detach().cpu().contiguous()
    beside = folder / f".{WEIGHTS}.new"
    try:
        beside.unlink(missing_ok=True)
        beside.touch()
        mode = beside.stat().st_mode  # as the umask has it: the library makes files for their owner alone
        save_file(unique, beside)
        beside.chmod(mode)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        beside.replace(folder / WEIGHTS)
    finally:
        beside.unlink(missing_ok=True)
    write_atomically(folder / TRAINED, (json.dumps(trained, indent=1) + "\n").encode())


def kept_model(folder: str | Path, experiment: Experiment) -> Model:
    """The experiment's model as its run folder builds it, from the architectures kept there: weights come apart, and
    the checkpoints it began from may be gone.
    """
    kept = {
        key: backbone.saved(Path(folder) / file)
        for key, file in ARCHITECTURES.items()
        if (backbone := getattr(experiment.model, key)) is not None
    }
    return dataclasses.replace(experiment.model, **kept)


def load_reasoner(folder: str | Path, experiment: Experiment) -> tuple[Reasoner, dict[str, Any]]:
    """The trained reasoner of a run folder, and what it was trained on. Executes nothing from the folder.

    Raises:
        ConfigError: no weights yet, or weights that another config trained (missing, unexpected or misshapen keys).
    """
    folder = Path(folder)
    reasoner = Reasoner(kept_model(folder, experiment), Tokenizer.load(folder / TOKENIZER))
    load_weights(reasoner, folder)
    return reasoner.eval(), read_trained(folder)


def load_weights(reasoner: Reasoner, folder: Path) -> None:
    """A run's weights into a reasoner of its kind.

    Raises:
        ConfigError: none are there, or they are another network's (missing, unexpected or misshapen keys).
    """
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(f"{folder} has no {WEIGHTS}: its training has not saved any yet; run `hybrid train` again")
    open(folder / WEIGHTS, "rb").close()  # a file that we may not read is not a damaged one
    try:
        state = load_file(folder / WEIGHTS)
    except Exception as error:  # the library raises its own bare Exceptions
        raise ConfigError(f"{folder / WEIGHTS} is damaged: {error}") from None
    own = reasoner.state_dict()
    given = {own[name].data_ptr() for name in state if name in own}
    tied = {name for name in own if name not in state and own[name].data_ptr() in given}
    missing, unexpected = sorted(set(own) - set(state) - tied), sorted(set(state) - set(own))
    misshapen = sorted(n for n in state if n in own and state[n].shape != own[n].shape)
    for what, keys in (("lacks", missing), ("has unknown", unexpected), ("has other shapes of", misshapen)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ConfigError(f"{folder / WEIGHTS} is from another config: it {what} {', '.join(keys[:3])}{more}")
    reasoner.load_state_dict(state, strict=False)


def read_trained(folder: Path) -> dict[str, Any]:
    """What the run's weights were trained on: steps, positions, and positions_before where it began with another run's.

    Raises:
        ConfigError: a damaged file.
    """
    try:
        found = json.loads((folder / TRAINED).read_text(encoding="utf-8"))
        return {"steps": found["steps"], "positions": found["positions"], **found}
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder / TRAINED} is damaged: {error}") from None


def positions_in_all(trained: dict[str, Any]) -> float:
    """Token positions behind a run's weights, those of the run that it began with among them."""
    return float(trained["positions"] + trained.get("positions_before", 0))


def load_run(folder: str | Path, device: str = "auto") -> Reasoner:
    """The trained reasoner of a run folder, ready to `reason`. device: auto (a GPU where there is one), cpu, cuda:N.

    A fork's parts are looked for where commands look: see `add_fork_path`.
    """
    add_fork_path(folder)
    where = own_device(device)
    return load_reasoner(folder, read_experiment(folder))[0].to(where)
