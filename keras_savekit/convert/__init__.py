"""Convert low-level TensorFlow models to Keras models. See `conversion.to_keras`."""
