"""CHECK: what is wrong with a checkpoint, to a depth.

`bytes`, `structure` and `checks` know neither Keras nor TensorFlow. They gather
findings: they do not stop at the first and do not raise for them.
"""
