"""Low-level TensorFlow models become Keras models. See `conversion.to_keras`."""
