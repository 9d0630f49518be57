"""What `hybrid show` prints beside the config: sizes of the parts, and the kinds to choose from."""

from torch import nn

from hybrid import kinds
from hybrid.bridge import Bridge
from hybrid.diffusion.corruption import Corruption
from hybrid.diffusion.policy import Policy
from hybrid.diffusion.schedule import NoiseSchedule
from hybrid.diffusion.stop import Stop
from hybrid.drafters import Drafter
from hybrid.experiment import Experiment
from hybrid.feed import Feed
from hybrid.nets.backbone import Backbone
from hybrid.reasoner import Reasoner
from hybrid.tasks import Task, TokenizerConfig

PARTS: dict[str, type] = {
    "task": Task,
    "tokenizer": TokenizerConfig,
    "model.drafter": Drafter,
    "model.drafter.corruption": Corruption,
    "model.drafter.schedule": NoiseSchedule,
    "model.drafter.policy": Policy,
    "model.drafter.stop": Stop,
    "model.backbone": Backbone,
    "model.bridge": Bridge,
    "model.feed": Feed,
}


def parameters_table(experiment: Experiment) -> str:
    """Method, parts and parameter counts of the reasoner that the config describes."""
    reasoner = Reasoner(experiment.model, experiment.make_tokenizer())
    networks = reasoner.networks
    lines = [f"method: {experiment.model.method}"]
    parts: dict[str, nn.Module | None] = (
        {"shared trunk": networks.decoder}
        if networks.is_shared
        else {"drafter": networks.drafter, "decoder": networks.decoder}
    )
    for name, network in parts.items():
        if network is not None:
            lines.append(f"{name:<14}{sum(p.numel() for p in network.parameters()):>12,} parameters")
    lines.append(f"{'total':<14}{sum(p.numel() for p in reasoner.parameters()):>12,} parameters")
    lines.append(f"{'vocabulary':<14}{len(reasoner.tokenizer):>12,} tokens")
    return "\n".join(lines) + "\n"


def kinds_table() -> str:
    """Every part's registered kinds, by config key. A dotted path to one's own class works too."""
    lines = ["kinds (or a dotted path to a class of your own):"]
    lines += [f"  {key:<26}{', '.join(kinds.names(base))}" for key, base in PARTS.items()]
    return "\n".join(lines)
