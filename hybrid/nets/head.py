"""From hidden states to predictions, as each family of transformers models does it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel


def predictions(model: PreTrainedModel, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
    """Logits of hidden states: the output embeddings, with what a family puts before them (BERT's, RoBERTa's and
    ModernBERT's dense layer) or after them (Gemma's soft cap, tanh(x / c) c).
    """
    own = getattr(model, "lm_head", None)  # under an adapter, no plain linear layer either
    if own is not None and not isinstance(own, nn.Linear):
        logits = own(hidden)
    elif hasattr(model, "cls"):
        logits = model.cls(hidden)
    elif hasattr(model, "head") and hasattr(model, "decoder"):
        logits = model.decoder(model.head(hidden))
    else:
        logits = model.get_output_embeddings()(hidden)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap
