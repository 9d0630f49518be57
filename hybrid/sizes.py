"""What the parts of a reasoner weigh, in parameters and in memory."""

from collections.abc import Iterable

from torch import nn

from hybrid.nets.quantised import bytes_of, size_of
from hybrid.reasoner import Reasoner

MIB = 2**20


def sizes_table(reasoner: Reasoner) -> str:
    """Parameters of each part, how many train, and the memory they take in training, in MiB.

    Memory: the weights; a gradient for each that trains, and AdamW's two moments (Muon keeps one of a matrix).
    Activations, which depend on batch and lengths, come on top.
    """
    networks = reasoner.networks
    parts: dict[str, nn.Module | None] = (
        {"shared trunk": networks.decoder}
        if networks.is_shared
        else {"drafter": networks.drafter, "decoder": networks.decoder}
    )
    bridge = getattr(reasoner, "bridge", None)
    parts["bridge"] = bridge if isinstance(bridge, nn.Module) and any(True for _ in bridge.parameters()) else None
    lines = [f"method: {reasoner.config.method}"]
    lines.append(f"{'':<14}{'parameters':>16}{'trained':>16}{'weights':>12}{'gradients':>12}{'AdamW':>12}  MiB")
    lines += [_line(name, part.parameters()) for name, part in parts.items() if part is not None]
    lines.append(_line("total", reasoner.parameters()))
    own, reader = reasoner.tokenizer, reasoner.tokenizer.reader
    more = "" if reader is own else f", and {len(reader):,} of the decoder's"
    lines.append(f"{'vocabulary':<14}{len(own):>16,} tokens{more}")
    return "\n".join(lines) + "\n"


def _line(name: str, parameters: Iterable[nn.Parameter]) -> str:
    every = list(parameters)
    trained = [p for p in every if p.requires_grad]
    held, learnt = (sum(map(bytes_of, group)) / MIB for group in (every, trained))
    counts = "".join(f"{sum(map(size_of, group)):>16,}" for group in (every, trained))
    return f"{name:<14}{counts}{held:>12.1f}{learnt:>12.1f}{2 * learnt:>12.1f}"
