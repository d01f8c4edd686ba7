"""Builders: checkpoints small enough to be damaged in every way, and crashes on demand."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import xxhash

from keras_savekit.base.key import Key
from keras_savekit.base.moment import Moment
from keras_savekit.store import syscalls
from keras_savekit.store.manifest import MANIFEST, FileEntry, Manifest, TensorEntry
from keras_savekit.store.manifest_json import read_manifest, to_json
from keras_savekit.store.naming import CheckpointName
from keras_savekit.store.prepare import prepare
from keras_savekit.store.run import RunDirectory
from keras_savekit.store.run_lock import RunLock
from keras_savekit.store.run_writer import RunWriter
from keras_savekit.verify.depths import verify_files

LAYER = "/model_weights/dense/seq/dense"
KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4)
BIAS = np.array([0.5, np.nan, np.inf, -0.0], np.float32)


def digest(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def tensor(name: str, value: np.ndarray, place: str, dtype: str = "") -> TensorEntry:
    content = digest(np.ascontiguousarray(value).tobytes())
    return TensorEntry(
        "weight", 0, name, value.shape, dtype or value.dtype.name, content, (f"model.h5:{place}",)
    )


def file_entry(path: Path) -> FileEntry:
    data = path.read_bytes()
    return FileEntry(path.name, len(data), digest(data))


def write_manifest(directory: Path, step: int = 5, plan: str = "latest", **changes) -> Manifest:
    """A manifest that fits the files in `directory`, but for `changes`."""
    ours = (MANIFEST, "verification.json")
    found = sorted(directory.iterdir())
    files = [e for e in found if e.suffix in (".h5", ".bin", ".json") and e.name not in ours]
    tensors = ()
    if (directory / "model.h5").exists():
        tensors = (
            tensor("dense/kernel", KERNEL, f"{LAYER}/kernel"),
            tensor("dense/bias", BIAS, f"{LAYER}/bias"),
        )
    fields = {
        "run": "r",
        "plan": plan,
        "save": "model",
        "reasons": ("every 5 steps",),
        "moment": Moment(epoch=1, batch=2, step=step, logs={"loss": 0.25, "val_loss": np.nan}),
        "created": 1000.0,
        "model_file": "model.h5" if tensors or not files else files[0].name,
        "files": tuple(file_entry(each) for each in files),
        "tensors": tensors,
        "versions": {"keras": "3"},
    }
    manifest = Manifest(**(fields | changes))
    numbered = (replace(each, index=number) for number, each in enumerate(manifest.tensors))
    manifest = replace(manifest, tensors=tuple(numbered))
    (directory / MANIFEST).write_bytes(to_json(manifest))
    return manifest


def fake_checkpoint(directory: Path, step: int = 5, plan: str = "latest") -> Manifest:
    """Fills an empty directory with a model file and the manifest that fits it."""
    with h5py.File(directory / "model.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential"})
        file.attrs["training_config"] = json.dumps({"loss": "mean_squared_error"})
        file.create_dataset(f"{LAYER}/kernel", data=KERNEL)
        file.create_dataset(f"{LAYER}/bias", data=BIAS)
    return write_manifest(directory, step, plan)


def tiny_checkpoint(directory: Path, step: int = 5, plan: str = "latest") -> Manifest:
    """The same without a model: two files of bytes."""
    (directory / "a.bin").write_bytes(b"a" * 100)
    (directory / "b.bin").write_bytes(b"")
    return write_manifest(directory, step, plan)


def add(run: RunWriter, step: int, plan: str = "latest", build=tiny_checkpoint) -> str:
    """Publishes a checkpoint and returns its name."""
    name = str(CheckpointName(step, plan))
    scratch = run.new_scratch(name)
    build(scratch, step, plan)
    run.publish(scratch, name)
    return name


class NoLock(RunLock):
    """A held lock without system calls, for tests that count them or let them fail."""

    held = True


def unlocked(path: Path, key: Key | None = None) -> RunWriter:
    """A writer that leaves the run's lock to others."""
    return RunWriter(RunDirectory(path, key), NoLock(path))


def prepared(path: Path) -> RunWriter:
    prepare(RunDirectory(path))
    return unlocked(path)


class Crash(BaseException):
    """The process is gone: nothing of ours may catch this."""


STEPS = ("open", "write", "fsync", "rename", "replace", "symlink", "unlink", "mkdir", "rmdir")


@contextmanager
def crash_before_step(number: int) -> Iterator[list[str]]:
    """Every call of the system from the one with this number on crashes; yields those before."""
    done: list[str] = []
    real = {name: getattr(os, name) for name in STEPS}

    def dying(name):
        def call(*args, **kwargs):
            if len(done) >= number:
                raise Crash(name)
            done.append(name)
            return real[name](*args, **kwargs)

        return call

    for name in STEPS:
        setattr(os, name, dying(name))
    try:
        yield done
    finally:
        for name in STEPS:
            setattr(os, name, real[name])


def crashes_everywhere(action, again) -> Iterator[int]:
    """Runs `action` on what `again` makes, once for every step at which it can crash.

    Yields after each crash, for the world to be looked at; ends when `action`
    got through.
    """
    for number in range(200):
        subject = again()
        with crash_before_step(number):
            try:
                action(subject)
            except Crash:
                pass
            else:
                return
        yield subject
    raise AssertionError("never got through")


def test_the_fake_checkpoint_is_good_at_every_shallow_depth(tmp_path):
    manifest = fake_checkpoint(tmp_path)
    assert repr(read_manifest(tmp_path)) == repr(manifest)
    assert verify_files(tmp_path, "structure", 1.0).findings == ()


def reads_of(call):
    """The result, and how many bytes were read by way of the disk."""
    read = []

    def count(name, real, *given):
        result = real(*given)
        read.extend([result] * (name == "preadv"))
        return result

    with syscalls.watched(count):
        result = call()
    return result, sum(read)
