"""The kinds of every part, which `hybrid show` prints."""

from hybrid import kinds
from hybrid.bridge import Bridge
from hybrid.diffusion.corruption import Corruption
from hybrid.diffusion.policy import Policy
from hybrid.diffusion.schedule import NoiseSchedule
from hybrid.diffusion.stop import Stop
from hybrid.drafters import Drafter
from hybrid.feed import Feed
from hybrid.nets.backbone import Backbone
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


def kinds_table() -> str:
    """Every part's registered kinds, by config key. A dotted path to one's own class works too."""
    lines = ["kinds (or a dotted path to a class of your own):"]
    lines += [f"  {key:<26}{', '.join(kinds.names(base))}" for key, base in PARTS.items()]
    return "\n".join(lines)
