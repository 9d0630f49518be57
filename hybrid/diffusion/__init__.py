"""Discrete diffusion in plain torch: tensors in, tensors out; no trainer, config file, tokenizer or rank.

Time runs from t = 0 (clean) to t = 1 (noise); alpha(t) is the chance that a token survives to t.
"""

from hybrid.diffusion import remask, stop  # noqa: F401  (registers the kinds)
