"""KEEP: a run's directory on disk. Knows neither Keras nor TensorFlow."""
