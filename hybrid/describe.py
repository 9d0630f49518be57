"""What `hybrid show` prints beside a config: an example of its task, and the kinds of every part."""

from textwrap import shorten

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


def example_table(experiment: Experiment) -> str:
    """A validation example, whose prompt shows what `hybrid sample` is to be given; or why there is none."""
    try:
        one = experiment.examples("valid")[0]
    except (ValueError, OSError) as error:
        return f"example: {error}\n"
    lines = ["example:"]
    for name in ("prompt", "sketch", "answer"):
        lines.append(f"  {name:<8}{shorten(getattr(one, name), 400, placeholder=' ...')}")
    return "\n".join(lines) + "\n"


def kinds_table() -> str:
    """Every part's registered kinds, by config key. A dotted path to one's own class works too."""
    lines = ["kinds (or a dotted path to a class of your own):"]
    lines += [f"  {key:<26}{', '.join(kinds.names(base))}" for key, base in PARTS.items()]
    return "\n".join(lines)
