"""From a checkpoint to a training: select, load, reconcile, position, report."""
