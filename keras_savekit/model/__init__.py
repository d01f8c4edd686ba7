"""A Keras model without a `fit`: structure, saving walk, assigned values, rebuilt models."""
