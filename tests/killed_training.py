"""A training in a process of its own, which can be told to die. Run by tests.

python killed_training.py DIRECTORY OUT [KILL_AFTER_STEPS]

Writes to OUT, as JSON: the digest of all variables, every step's logs, and the
level of the resume. Under KILL_AFTER_STEPS it gets SIGKILL from itself at the end
of that step, as soon as some checkpoint stands.
"""

import json
import os
import signal
import sys
from pathlib import Path

import conftest  # noqa: F401 - quiet, and on the CPU
import keras
from training_builders import BatchLogs, data, digest, fit, model, plan, policy, wait_until

import keras_savekit as sk

EPOCHS = 3


class Kill(keras.callbacks.Callback):
    def __init__(self, directory, after):
        super().__init__()
        self.directory, self.left = directory, after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            wait_until(lambda: any((self.directory / "checkpoints").glob("[0-9]*")))
            os.kill(os.getpid(), signal.SIGKILL)


def main(directory, out, *kill):
    on, logs = data(), BatchLogs()
    asked = policy(plan("every 2 steps"), directory=directory)
    kit, made = sk.SaveKit(asked, data=on), model()
    fit(
        made,
        kit,
        logs,
        *[Kill(Path(directory), int(after)) for after in kill],
        on=on,
        epochs=EPOCHS,
    )
    level = kit.resumed.level if kit.resumed else None
    said = {"digest": digest(made), "logs": logs.seen, "level": level}
    Path(out).write_text(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
