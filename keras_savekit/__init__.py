"""Checkpoints for Keras."""
