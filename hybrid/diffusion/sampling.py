"""How a token is drawn from a prediction: greedily, or at a temperature from what top-k and top-p leave."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hybrid.diffusion.noise import sample


@dataclass(frozen=True)
class Sampling:
    """temperature: 0 draws the likeliest token, else softmax(logits / temperature), in float64.

    top_k: only the k likeliest tokens, and ties with the last of them. top_p: only the likeliest tokens that sum to
    at least top_p at that temperature (nucleus sampling, arXiv 1904.09751). Both narrow the draw alone: confidences
    and entropies are those of the model's own prediction.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: must be 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: must be 1 or more, or null for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: must be above 0 and at most 1, or null for all tokens")
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise ValueError("top_k and top_p change nothing at temperature=0, which draws the likeliest token")

    def draw(self, logits: Float[Tensor, "... k"], u: Callable[[], Float[Tensor, "..."]]) -> Int[Tensor, "..."]:
        """One token each, decided by uniform numbers u(), for which the greedy choice does not ask."""
        if self.temperature == 0:
            return logits.max(-1).indices  # argmax on CPUs takes twice as long
        return sample(self.narrowed(logits.double() / self.temperature), u())

    def narrowed(self, logits: Float[Tensor, "... k"]) -> Float[Tensor, "... k"]:
        """Impossible all that top-k, and then top-p, leaves out."""
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[..., -1:], -torch.inf)
        if self.top_p is not None:
            ordered, order = logits.sort(dim=-1, descending=True, stable=True)
            probs = ordered.softmax(-1)
            is_out = probs.cumsum(-1) - probs >= self.top_p  # the tokens before it suffice
            logits = logits.masked_fill(torch.zeros_like(is_out).scatter(-1, order, is_out), -torch.inf)
        return logits
