"""Networks over a transformers backbone: segments and attention, memories, pairings, decoding."""
