"""Which kind of network reads a transformers model, and what a checkpoint's convention asks of a drafter."""

import torch
from transformers import PreTrainedModel

from hybrid.nets.diffusion_gemma import CanvasDecoder, is_diffusion_gemma
from hybrid.nets.encoder import Encoder
from hybrid.nets.layout import Segment, running
from hybrid.nets.network import Network
from hybrid.nets.recurrent import Recurrent, is_recurrent

# Kept in a model's config.json, so that what was read from a checkpoint's convention is saved with the model.
BOTH_WAYS, SHIFT = "hybrid_reads_both_ways", "hybrid_shift"


def network_of(model: PreTrainedModel) -> Network:
    """The network over a model."""
    if is_diffusion_gemma(model):
        return CanvasDecoder(model)
    if type(model).__name__.endswith("ForMaskedLM") or getattr(model.config, BOTH_WAYS, False):
        return Encoder(model)
    return Recurrent(model) if is_recurrent(model) else Network(model)


def shift_of(network: Network) -> bool | None:
    """Whether the network's checkpoint predicts a token at the position before it; None: it was taught neither."""
    if type(network.model).__name__.endswith("ForMaskedLM") or is_diffusion_gemma(network.model):
        return False
    return getattr(network.model.config, SHIFT, None)


@torch.no_grad()
def check_reading(network: Network) -> None:
    """Compare a short row's predictions with the model's own: a family whose head or masks differ is refused, and so
    is a model that is to denoise and does not attend as its mask says.

    Raises:
        ValueError: naming the class.
    """
    model = network.model
    if is_diffusion_gemma(model):
        return
    native = network if type(network) is not Encoder or type(model).__name__.endswith("ForMaskedLM") else Network(model)
    was_training = model.training
    model.eval()
    tokens = torch.arange(5, 10, device=model.device)[None] % model.config.get_text_config().vocab_size
    keep = torch.ones_like(tokens, dtype=torch.bool)
    states = native([Segment("row", tokens, keep, running(keep), is_causal=True)])["row"]
    ours, theirs = native.logits(states).float(), model(tokens, attention_mask=keep.long()).logits.float()
    attends = not network.can_denoise or _attends(network)
    model.train(was_training)
    if not torch.allclose(ours, theirs, atol=0.05 * float(theirs.std()) + 1e-4):
        raise ValueError(
            f"{type(model).__name__} predicts otherwise than this package reads it (by up to "
            f"{float((ours - theirs).abs().max()):.3g}): its architecture is not supported"
        )
    if not attends:
        raise ValueError(
            f"{type(model).__name__} does not attend as its mask says (additive, batch by 1 by queries by keys): its "
            "architecture is not supported"
        )


def _attends(network: Network) -> bool:
    """Whether the first of two tokens sees the second where it may, and there alone. What mixes no tokens, as branches
    that begin at zero, cannot tell and passes."""
    device, size = network.model.device, network.config.vocab_size

    def moves(rows: list[list[int]], at: int, sees: bool) -> bool:
        tokens, keep = torch.tensor(rows, device=device) % size, torch.tensor([[True, sees]] * 2, device=device)
        one, other = network([Segment("row", tokens, keep, running(keep), is_causal=False)])["row"][:, at].float()
        return not torch.allclose(one, other, rtol=0, atol=1e-3 * float(one.std()))

    later, earlier = [[5, 6], [5, 7]], [[5, 6], [7, 6]]
    return not moves(later, 0, sees=False) and (moves(later, 0, sees=True) or not moves(earlier, 1, sees=True))
