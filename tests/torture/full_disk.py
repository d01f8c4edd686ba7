"""A disk that is full for real: a small tmpfs, and a limit on the size of files.

A child process in a mount namespace of its own mounts the tmpfs, so that nothing
else of the machine sees it. What room is left when a session begins to save is
drawn by the seed; a file that stands in the way goes before the next session.

About 150 ms a try, 3 s for one with a real `fit`, of which there are two.
"""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keras_savekit.errors import SavekitError, SavekitWarning
from keras_savekit.store.naming import Leftover
from torture import worlds
from torture.score import Score

FULL = 1000
TMPFS = 2 * 2**20
ENOUGH_FOR_A_FIT = 50
KINDS = ("a full tmpfs", "RLIMIT_FSIZE")
PROMISE = (
    "{}: a save fails with one clear message, no good checkpoint is lost, saving "
    "continues afterwards"
)


def run(seed: int, count: int, scratch: Path) -> list[Score]:
    """Half of the tries with each kind, by a child that may mount."""
    alone = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    probe = [*alone, *_mount(scratch)]
    may_mount = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    child = [sys.executable, "-m", "torture.full_disk", str(scratch), str(seed), str(count)]
    command = [*alone, *child] if may_mount else [*child, "--no-tmpfs"]
    patience = count * 5 + 120
    here = Path(__file__).resolve().parent.parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=patience,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    found = json.loads(ended.stdout.splitlines()[-1])
    if not may_mount:
        found.append((f"{KINDS[0]}: could not be tried here, where nothing can be mounted", 0, ()))
    return [Score(promise, tries, tuple(failures)) for promise, tries, failures in found]


def _mount(where: Path) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"size={TMPFS}", "tmpfs", str(where)]


@contextmanager
def little_room(path: Path, room: int) -> Iterator[None]:
    """So much room is left on the tmpfs that `path` is on."""
    filler = path.parent / "filler"
    left = shutil.disk_usage(path).free - room
    try:
        with suppress(OSError):  # others write meanwhile; then there is no room at all
            filler.write_bytes(bytes(max(0, left)))
        yield
    finally:
        filler.unlink()


@contextmanager
def small_files(_: Path, size: int) -> Iterator[None]:
    """No file may become larger than `size`. Python ignores the signal, and is told EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


SCARCE: dict[str, tuple[Callable, str, int]] = {
    KINDS[0]: (little_room, os.strerror(errno.ENOSPC), 200_000),
    KINDS[1]: (small_files, os.strerror(errno.EFBIG), 20_000),
}


def one(path: Path, kind: str, room: int) -> Iterator[str]:
    scarce, words, _ = SCARCE[kind]
    worlds.live(path, (1, 2))
    before = worlds.good(worlds.opened(path))
    with scarce(path, room):
        told = worlds.live(path, range(3, 9))
        for left in path.rglob(".*"):
            if Leftover.parse(left.name) and told.stopped is None:
                yield f"{left.name} still takes room"
    for each in told.words:
        if words not in each:
            yield f"told: {each}"
    if len(set(told.words)) != len(told.words):
        yield f"told twice: {told.words}"
    directory = worlds.opened(path)
    yield from worlds.faults_of(directory)
    yield from worlds.lost_good(before, directory)
    after = worlds.live(path, (20,))
    if after.words or "000000020-latest" not in worlds.good(directory):
        yield f"saving does not go on: {after.words}"


def _fit(path: Path, kind: str) -> Iterator[str]:
    """A real `fit` that meets the full disk in its middle, and one after it."""
    import keras
    import training_builders as built

    import keras_savekit as sk

    scarce, words, _ = SCARCE[kind]
    policy = built.policy(built.plan("every 2 steps", keep="last 2"), directory=str(path))

    class Scarce(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.scarce = scarce(path, 3000)
                self.scarce.__enter__()

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                kit._session._pipeline._writer.join()
                self.scarce.__exit__(None, None, None)

    data = built.data()
    kit = sk.SaveKit(policy, data=data)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            history = built.fit(built.model(), Scarce(), kit, on=data, epochs=3)
        except SavekitError as error:
            yield f"training ended: {error}"
            return
    if len(history.epoch) != 3:
        yield f"only epochs {history.epoch}"
    ours = [str(each.message) for each in told if each.category is SavekitWarning]
    if not any(words in each for each in ours):
        yield f"nobody was told: {ours}"
    directory = worlds.opened(path)
    yield from (f"{name}: {error.what}" for name, error in directory.damaged())
    if not any(each.manifest.moment.step > 12 for each in directory.checkpoints()):
        yield "nothing was saved once there was room again"


def _tries(kind: str, scratch: Path, seed: int, count: int) -> tuple[str, int, list[str]]:
    rng = random.Random(seed)
    failures = []
    with worlds.quiet():
        for number in range(count):
            room = rng.randrange(SCARCE[kind][2])
            path = scratch / f"run{number}"
            failures += [
                f"{kind}, {room} bytes: {each}" for each in list(one(path, kind, room))[:1]
            ]
            shutil.rmtree(path)
    if count < ENOUGH_FOR_A_FIT:
        return PROMISE.format(kind), count, failures
    failures += [f"{kind}, a fit: {each}" for each in list(_fit(scratch / "fit", kind))[:1]]
    return PROMISE.format(kind), count + 1, failures


def main(scratch: Path, seed: int, count: int, *, tmpfs: bool) -> None:
    found = []
    if tmpfs:
        mounted = scratch / "mounted"
        mounted.mkdir()
        subprocess.run(_mount(mounted), check=True)
        found.append(_tries(KINDS[0], mounted, seed, count // 2))
        subprocess.run(["umount", str(mounted)], check=True)
    limited = scratch / "limited"
    limited.mkdir()
    found.append(_tries(KINDS[1], limited, seed, count - count // 2))
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    import conftest  # noqa: F401 - quiet, and on the CPU

    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), tmpfs=len(sys.argv) == 4)
