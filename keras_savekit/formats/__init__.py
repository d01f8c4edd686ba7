"""WRITE: a snapshot to and from the bytes of files that stock Keras reads."""
