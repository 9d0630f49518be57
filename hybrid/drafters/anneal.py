"""Learning to look ahead: attention on the canvas annealed from causal to bidirectional."""

import dataclasses

from hybrid.diffusion import noise as streams
from hybrid.diffusion.noise import Noise
from hybrid.nets.layout import Segment


def annealed(canvas: Segment, steps: int, noise: Noise, draw: int) -> Segment:
    """The canvas as training step `noise.epoch` sees it: each later position is visible with probability
    epoch / steps, by the draw of that number, and from `steps` on all are (DiffuLLaMA, arXiv 2410.17891, sec. 3.3).
    """
    if noise.epoch >= steps:
        return canvas
    n = canvas.tokens.shape[1]
    u = noise.uniform(streams.CHOOSE, draw, n * n).unflatten(-1, (n, n))
    return dataclasses.replace(canvas, ahead=u < noise.epoch / steps)


def check_anneal(steps: int, attention_block: int | None) -> None:
    """Refuse to anneal what is cut into blocks, which never sees all that lies ahead."""
    if steps < 0:
        raise ValueError(f"anneal={steps}: must be 0 or more")
    if steps and attention_block is not None:
        raise ValueError(
            f"anneal={steps} with attention_block={attention_block}: looking ahead is learnt on a canvas of one block; "
            "set anneal: 0 or attention_block: null"
        )
