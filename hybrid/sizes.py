"""What the parts of a reasoner weigh, in parameters and in memory."""

from collections.abc import Container, Iterable

from torch import nn
from torch.optim import Muon, Optimizer

from hybrid.nets.quantised import bytes_of, size_of
from hybrid.reasoner import Reasoner

MIB = 2**20


def sizes_table(reasoner: Reasoner, optimiser: Optimizer) -> str:
    """Parameters of each part, how many train, and the memory they take in training, in MiB.

    Memory: the weights; a gradient for each that trains; and what the optimiser keeps of it: AdamW two moments, Muon
    the momentum. Activations, which depend on batch and lengths, come on top.
    """
    by_muon = {
        id(p)
        for part in getattr(optimiser, "parts", [optimiser])
        if isinstance(part, Muon)
        for group in part.param_groups
        for p in group["params"]
    }
    networks = reasoner.networks
    parts: dict[str, nn.Module | None] = (
        {"shared trunk": networks.decoder}
        if networks.is_shared
        else {"drafter": networks.drafter, "decoder": networks.decoder}
    )
    bridge = getattr(reasoner, "bridge", None)
    parts["bridge"] = bridge if isinstance(bridge, nn.Module) and any(True for _ in bridge.parameters()) else None
    lines = [f"method: {reasoner.config.method}"]
    lines.append(f"{'':<14}{'parameters':>16}{'trained':>16}{'weights':>12}{'gradients':>12}{'optimiser':>12}  MiB")
    lines += [_line(name, part.parameters(), by_muon) for name, part in parts.items() if part is not None]
    lines.append(_line("total", reasoner.parameters(), by_muon))
    own, reader = reasoner.tokenizer, reasoner.tokenizer.reader
    more = "" if reader is own else f", and {len(reader):,} of the decoder's"
    lines.append(f"{'vocabulary':<14}{len(own):>16,} tokens{more}")
    return "\n".join(lines) + "\n"


def _line(name: str, parameters: Iterable[nn.Parameter], by_muon: Container[int]) -> str:
    every = list(parameters)
    trained = [p for p in every if p.requires_grad]
    held, learnt = (sum(map(bytes_of, group)) / MIB for group in (every, trained))
    kept = sum(bytes_of(p) * (1 if id(p) in by_muon else 2) for p in trained) / MIB
    counts = "".join(f"{sum(map(size_of, group)):>16,}" for group in (every, trained))
    return f"{name:<14}{counts}{held:>12.1f}{learnt:>12.1f}{kept:>12.1f}"
