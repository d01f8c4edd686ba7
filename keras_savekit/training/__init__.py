"""The live side: the only rooms that touch Keras objects."""
