"""The code that depends on the Keras backend; today there is one backend, TensorFlow.

Another backend provides two modules with the same functions:

- `variables`: `reader(variables)`, which reads many variables by reference.
- `random_state`: `state()`, `restore(saved)` and `drawing_in_kernels(model)`, for the
  random generators of the process.

The docstring of each function says what it must guarantee.
"""
