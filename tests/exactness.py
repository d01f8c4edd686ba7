"""Trainings killed with SIGKILL and resumed, compared with trainings that nothing disturbed.

Every kind of model, on every kind of data, killed at every kind of point, in
processes of their own:

    python tests/exactness.py                     everything; writes docs/exactness.md
    python tests/exactness.py --sample 5 --seed 1  five of them

Ends with 1 if any of them does not end where the undisturbed training ends: the
digest of all variables, the history, and what callbacks decided.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import conftest  # noqa: F401 - quiet, and on the CPU

SCRIPT = Path(__file__)
TABLE = SCRIPT.parent.parent / "docs" / "exactness.md"
EPOCHS, STEPS, BATCH = 3, 6, 4
TIMEOUT = 240

MODELS = (
    "dropout and batch normalization",
    "gaussian noise",
    "recurrent dropout",
    "mixed precision",
    "spectral normalization",
    "averaged weights",
    "gradient accumulation",
    "several outputs",
    "learning rate schedule",
)
DATA = ("arrays", "function of the epoch", "PyDataset")
POINTS = ("first batch", "mid-epoch", "last batch", "in validation", "between epochs")


@dataclass(frozen=True)
class Case:
    model: str
    data: str
    point: str


def build(name):
    """A compiled model of this kind; deterministic under the seed set before."""
    import keras

    layers = keras.layers
    optimizer, outputs, middle = "adam", 1, [layers.Dense(4, activation="relu")]
    if name == "dropout and batch normalization":
        middle += [layers.BatchNormalization(), layers.Dropout(0.3)]
    elif name == "gaussian noise":
        middle += [layers.GaussianNoise(0.2), layers.GaussianDropout(0.2)]
    elif name == "recurrent dropout":
        middle = [layers.Reshape((3, 1)), layers.GRU(3, dropout=0.2, recurrent_dropout=0.2)]
    elif name == "mixed precision":
        middle = [layers.Dense(4, dtype="mixed_float16"), layers.Dropout(0.2)]
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.Adam(), initial_scale=64.0, dynamic_growth_steps=4
        )
    elif name == "spectral normalization":
        middle = [layers.SpectralNormalization(layers.Dense(4))]
    elif name == "averaged weights":
        optimizer = keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=4)
    elif name == "gradient accumulation":
        optimizer = keras.optimizers.Adam(gradient_accumulation_steps=4)
    elif name == "several outputs":
        outputs = 2
    elif name == "learning rate schedule":
        optimizer = keras.optimizers.SGD(
            keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.8), momentum=0.9
        )
    x = inputs = keras.Input((3,))
    for layer in middle:
        x = layer(x)
    heads = [layers.Dense(1, name=f"head_{n}", dtype="float32")(x) for n in range(outputs)]
    model = keras.Model(inputs, heads if outputs > 1 else heads[0])
    model.compile(optimizer, ["mse"] * outputs if outputs > 1 else "mse", metrics=None)
    return model


def make_data(name, outputs):
    import keras
    import numpy as np
    import tensorflow as tf
    from training_builders import without_autotuning

    import keras_savekit as sk

    rng = np.random.default_rng(3)
    x = rng.normal(size=(STEPS * BATCH - 2, 3)).astype(np.float32)
    y = x.sum(axis=1, keepdims=True)
    targets = (y, -y) if outputs > 1 else y

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return STEPS

        def __getitem__(self, index):
            here = slice(index * BATCH, (index + 1) * BATCH)
            return x[here], tf.nest.map_structure(lambda each: each[here], targets)

    def epoch(number):
        slices = tf.data.Dataset.from_tensor_slices((x, targets))
        return without_autotuning(slices.shuffle(99, seed=number).batch(BATCH))

    made = {
        "arrays": lambda: sk.resumable(x, targets, batch_size=BATCH, seed=5),
        "function of the epoch": lambda: sk.resumable(epoch),
        "PyDataset": lambda: sk.resumable(Batches(workers=2), seed=5),
    }[name]()
    held_out = tf.data.Dataset.from_tensor_slices((x, targets)).batch(8)
    return made, without_autotuning(held_out)


def child(case, directory, out, *, kill, **changes):
    """One session of one training, in this process; `changes` are to the plan."""
    import keras
    import numpy as np
    from training_builders import digest

    import keras_savekit as sk

    class Kill(keras.callbacks.Callback):
        """SIGKILL at its point of the second epoch, as soon as some checkpoint stands."""

        epoch = 0

        def at(self, point):
            if kill and self.epoch == 1 and case.point == point:
                checkpoints = directory / "checkpoints"
                wait_until(lambda: any(checkpoints.glob("[0-9]*/manifest.json")))
                os.kill(os.getpid(), signal.SIGKILL)

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.at("between epochs")
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            points = {0: "first batch", STEPS // 2: "mid-epoch", STEPS - 1: "last batch"}
            self.at(points.get(batch, ""))

        def on_test_batch_end(self, batch, logs=None):
            self.at("in validation")

        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    anew = not any((directory / "checkpoints").glob("[0-9]*"))
    keras.utils.set_random_seed(7 if anew else 8)
    model = build(case.model)
    data, held_out = make_data(case.data, len(model.outputs))
    plan = {"name": "p", "when": "every 1 steps", "when_busy": "wait", "keep": "last 3"}
    kit = sk.SaveKit({"plans": [plan | changes]}, directory=directory, data=data)
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=0, min_delta=0.3)
    callbacks = [Kill(), kit] if "schedule" in case.model else [plateau, Kill(), kit]
    history = model.fit(
        data, shuffle=False, validation_data=held_out, epochs=EPOCHS,
        verbose=0, callbacks=callbacks,
    )  # fmt: skip
    # What the last validation left in them is in the history, also where nothing was left to do.
    model.reset_metrics()
    outcome = {
        "digest": digest(model),
        "history": history.history,
        "decisions": [plateau.best, plateau.wait],
        "random": np.random.random(),
    }
    level = [kit.resumed.level, *kit.resumed.reasons] if kit.resumed else None
    out.write_text(json.dumps({"outcome": outcome, "level": level}))


def session(case, directory, *, kill=False):
    """Run one session in a process of its own; what it wrote, None if it was killed."""
    out = directory.with_suffix(".json")
    command = [sys.executable, SCRIPT, "--child", *vars(case).values(), directory, out]
    ended = subprocess.run(
        [*command, *(["--kill"] if kill else [])],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    expected = -signal.SIGKILL if kill else 0
    if ended.returncode != expected:
        raise RuntimeError(f"{case}: exit status {ended.returncode}\n{ended.stderr[-3000:]}")
    return None if kill else json.loads(out.read_text())


def disturbed(case, place):
    """Kill a training, resume it, and return how it ended."""
    directory = place / "-".join(vars(case).values()).replace(" ", "_")
    session(case, directory, kill=True)
    return session(case, directory)


def undisturbed(case, place):
    """The same training, which nothing disturbs."""
    return session(case, place / f"whole-{case.model}-{case.data}".replace(" ", "_"))


def difference(case, whole, found):
    """What differs, in words; empty if nothing does."""
    if found["level"] != ["exact"]:
        return f"resumed as {found['level']}"
    names = [key for key, was in whole["outcome"].items() if found["outcome"][key] != was]
    return f"differs in {', '.join(names)}" if names else ""


def wait_until(happened):
    from training_builders import wait_until

    wait_until(happened)


def cases():
    return [Case(*each) for each in itertools.product(MODELS, DATA, POINTS)]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--sample", type=int)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    chosen = cases()
    if given.sample is not None:
        chosen = random.Random(given.seed).sample(chosen, given.sample)
    failures, wholes = {}, {}
    with tempfile.TemporaryDirectory() as place:
        for number, case in enumerate(chosen, start=1):
            key = case.model, case.data
            if key not in wholes:
                wholes[key] = undisturbed(case, Path(place))
            failures[case] = difference(case, wholes[key], disturbed(case, Path(place)))
            print(f"{number}/{len(chosen)} {case}: {failures[case] or 'equal'}", flush=True)
    if given.sample is None:
        TABLE.write_text(table(failures))
    bad = sum(1 for each in failures.values() if each)
    print(f"{len(failures) - bad} of {len(failures)} ended exactly where nothing disturbed them")
    sys.exit(1 if bad else 0)


def table(failures):
    """Kill points against models and data, as a page."""
    lines = [
        "# Killed and resumed trainings, compared with undisturbed ones",
        "",
        "Reference, written by `make exact`. Each training is killed with SIGKILL at one point of",
        "its second epoch and resumed in a new process. `equal` means that all of these equal",
        "those of the undisturbed training: the digest of all variables, the history, decisions of",
        "`ReduceLROnPlateau`, and the next random number. `make test` repeats three of the cases.",
        "",
        f"| model | data | {' | '.join(POINTS)} |",
        f"|---|---|{'---|' * len(POINTS)}",
    ]
    for model, data in itertools.product(MODELS, DATA):
        cells = [failures[Case(model, data, point)] or "equal" for point in POINTS]
        lines.append(f"| {model} | {data} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        *names, where, out = [each for each in sys.argv[2:] if each != "--kill"]
        child(Case(*names), Path(where), Path(out), kill="--kill" in sys.argv)
    else:
        main()
