"""WRITE: convert snapshots to files that stock Keras reads, and read them back."""
