"""CHECK: find what is wrong with a checkpoint, to a depth.

`bytes`, `tensors` and `depths` import neither Keras nor TensorFlow. No check stops at the
first finding. Damage is always a finding, never an exception. If the system fails, so that
part of a checkpoint cannot be read, the verb of a function says what happens:

- `inspect_*` returns an `Inspection`: findings, and the errors of the system.
- `check_*` raises UnverifiableError if there are no findings and an error of the system.
- `verify_*` never raises for it: the Verification is not `done`, and its note says why.
"""
