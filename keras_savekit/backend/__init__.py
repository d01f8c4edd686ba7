"""What depends on the Keras backend: read variables, and the random state of the process."""
