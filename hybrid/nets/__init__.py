"""Networks over transformers models: layouts, memories, decoding, and the backbones that build them."""

from hybrid.nets import adapt, pretrained  # noqa: F401  (registers the kinds)
