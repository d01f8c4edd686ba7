"""From a checkpoint back into a training."""
