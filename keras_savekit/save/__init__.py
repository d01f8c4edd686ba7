"""Save beside the training: copy, check, write, publish, verify, apply retention."""
