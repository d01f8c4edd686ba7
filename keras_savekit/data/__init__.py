"""Training data that can start at any batch of any epoch."""
