"""Who saves: this package, its peers, and threads that only write the same bytes.

A side is a name. `run` trains beside it and tells what `workloads.train` does, and
of a side that says so, when its saves were durable and verified.
"""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from workloads import PIECE, OfOneSession, Scale, standard, train

import keras_savekit as sk

SAVEKIT = {
    "SaveKit": {},
    "SaveKit, memory: low": {"memory": "low"},
}
FLOORS = {"a thread, buffered": False, "a thread, O_DIRECT": True}
# Those that write before they return: for them nothing depends on how often they save.
WAITING = {
    "ModelCheckpoint .h5": ("m.h5", False),
    "ModelCheckpoint .keras": ("m.keras", False),
    "ModelCheckpoint .weights.h5": ("m.weights.h5", True),
    "BackupAndRestore": None,
}
BESIDE = ("OrbaxCheckpoint", "tf.train.Checkpoint, async")
PEERS = (*WAITING, *BESIDE)


def missing(side: str) -> str:
    """What a side lacks to run here, if anything."""
    if side == "ModelCheckpoint .h5":
        try:
            keras.callbacks.ModelCheckpoint("m.h5")
        except ValueError:
            return f"that of Keras {keras.__version__} takes no such name"
    if side != "OrbaxCheckpoint":
        return ""
    if not hasattr(keras.callbacks, "OrbaxCheckpoint"):
        return f"Keras {keras.__version__} has none"
    return "" if importlib.util.find_spec("orbax") else "orbax-checkpoint is not installed"


def kit(directory: Path, when: Any, memory: str = "kept", **plan: Any) -> sk.SaveKit:
    """This package's callback. It keeps two checkpoints, so that it removes one at each save."""
    given = {"name": "p", "when": when, "keep": "last 2", "verify": "bytes"}
    policy = {"resume": "never", "memory": memory, "plans": [{**given, **plan}]}
    return sk.SaveKit(policy, directory=directory)


class AsyncCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """`tf.train.Checkpoint` as its documentation has it be asynchronous."""

    def __init__(self, directory: Path, every: int) -> None:
        super().__init__()
        self._every, self._done = every, 0
        self._prefix = str(directory / "checkpoint")
        self._options = tf.train.CheckpointOptions(experimental_enable_async_checkpoint=True)

    def set_model(self, model: Any) -> None:
        """The optimizer has its variables by now. Of Keras's own an async save raises."""
        super().set_model(model)
        held = [each.value for each in [*model.variables, *model.optimizer.variables]]
        self._checkpoint = tf.train.Checkpoint(values=held)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save where it is due."""
        self._done += 1
        if self._done % self._every == 0:
            self._checkpoint.write(self._prefix, self._options)

    def finish(self) -> None:
        """Wait for the last save."""
        self._checkpoint.sync()


class Floor(OfOneSession):
    """A thread that writes `size` bytes from memory, syncs and renames them.

    due: after how many steps.
    direct: past the page cache.
    durable: seconds of each from the hook to the rename being synced.
    """

    def __init__(self, directory: Path, due: Iterable[int], size: int, direct: bool) -> None:
        super().__init__()
        self._directory, self._due, self._direct = directory, set(due), direct
        directory.mkdir()
        self._data = mmap.mmap(-1, size + -size % mmap.PAGESIZE)  # begins and ends at a page
        for at in range(0, len(self._data), mmap.PAGESIZE):
            self._data[at] = 1
        self._asked: queue.SimpleQueue[float] = queue.SimpleQueue()
        self.durable: list[float] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Ask for a save where it is due."""
        if batch + 1 in self._due:
            self._asked.put(time.perf_counter())

    def finish(self) -> None:
        """Wait for the last save."""
        self._asked.put(0.0)
        self._thread.join()

    def _run(self) -> None:
        while asked := self._asked.get():
            self._write(self._directory / "scratch")
            (self._directory / "scratch").rename(self._directory / "saved")
            folder = os.open(self._directory, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
            self.durable.append(time.perf_counter() - asked)

    def _write(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | (os.O_DIRECT if self._direct else 0)
        descriptor = os.open(path, flags)
        whole = memoryview(self._data)
        for at in range(0, len(whole), PIECE):
            piece = whole[at : at + PIECE]
            while piece:
                piece = piece[os.write(descriptor, piece) :]
        os.fsync(descriptor)
        os.close(descriptor)


def run(
    side: str,
    place: Path,
    scale: Scale,
    *,
    every: int,
    saves: int,
    batch_size: int = 64,
    made: Callable[[Scale], keras.Model] = standard,
) -> dict[str, Any]:
    """Train with a side saving into the empty directory `place`; "nothing" saves nothing."""
    lacking = missing(side)
    if lacking:
        return {"skipped": lacking}
    model = made(scale)
    if side in SAVEKIT:
        callback: Any = kit(place, f"every {every} steps", **SAVEKIT[side])
    elif side == "nothing":
        callback = None
    else:
        callback = _peer(side, place, every)
    after = getattr(callback, "finish", None)
    found = train(model, callback, every=every, saves=saves, batch_size=batch_size, after=after)
    del found["hooks"]  # those of the saves are there
    if side in SAVEKIT:
        found |= logged(place)
    return found


def _peer(side: str, place: Path, every: int) -> Any:
    if side == "BackupAndRestore":
        return keras.callbacks.BackupAndRestore(str(place), save_freq=every)
    if side == "OrbaxCheckpoint":
        return keras.callbacks.OrbaxCheckpoint(str(place), save_freq=every)
    if side == "tf.train.Checkpoint, async":
        return AsyncCheckpoint(place, every)
    name, weights = WAITING[side]
    path = str(place / name)
    return keras.callbacks.ModelCheckpoint(path, save_freq=every, save_weights_only=weights)


def logged(directory: Path, plan: str = "") -> dict[str, Any]:
    """What a run's events say of its saves.

    plan: those of all plans, or of the one whose name ends so.
    durable: seconds from the hook to the rename being synced.
    lag: from there until it was verified.
    depths: down to which.
    """
    lines = (directory / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    events = [each for each in events if each.get("name", "").endswith(plan)]
    saved = {each["name"]: each for each in events if each["kind"] == "saved"}
    verified = {each["name"]: each for each in events if each["kind"] == "verified"}
    kinds = [each["kind"] for each in events]
    return {
        "durable": [each["waited"] + each["seconds"] for each in saved.values()],
        "lag": [verified[name]["time"] - saved[name]["time"] for name in saved if name in verified],
        "depths": [verified[name]["depth"] for name in saved if name in verified],
        "bytes": [each["bytes"] for each in saved.values()],
        "shared": [each["shared"] for each in saved.values()],
        "left out": kinds.count("replaced") + kinds.count("skipped") + kinds.count("failed"),
        "removed": kinds.count("removed"),
    }
