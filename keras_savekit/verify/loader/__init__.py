"""Depths `load` and `predict`: another process loads the checkpoint with stock Keras."""
