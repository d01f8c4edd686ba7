"""savekit: the command line. Never imports TensorFlow or Keras itself."""
