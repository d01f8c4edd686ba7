"""Crash states: what a loss of power may leave of a session, tried one by one.

A session is recorded call by call: it resumes past a damaged checkpoint, which it
sets aside, saves for three plans, records verifications, sets links, prunes. Then
every state that its disk may be in after any call is made, and a session begins there.

The model of the file system is the weakest that POSIX allows, that of ALICE (Pillai
et al., "All File Systems Are Not Created Equal", OSDI 2014), with renames atomic:

- what was written to a file is certain once that file was synced, else each write
  may be there, missing, torn at a sector, or have left zeros of its length;
- a name is certain once its directory was synced, else each change of names may be
  there or missing, whatever came before or after it, in any combination;
- syncing a file makes no name certain, syncing a directory no content.

All combinations are tried where there are few, else some drawn by the seed. States
that are alike are tried once. About 90 ms a state.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import xxhash

from keras_savekit.store import syscalls
from torture import worlds
from torture.score import Score

FULL = 8000
HARMLESS = ("preadv", "pread", "read", "listdir", "readlink", "flock", "chmod", "hdf5")
SECTOR = 512
FEW = 64  # combinations that are all tried
Fate = Literal["there", "missing", "torn", "zeros"]
NAME_FATES: tuple[Fate, ...] = ("there", "missing")
DATA_FATES: tuple[Fate, ...] = ("there", "missing", "torn", "zeros")


@dataclass(frozen=True)
class Names:
    """Names given and taken at one stroke: (directory, name, inode or None)."""

    changes: tuple[tuple[int, str, int | None], ...]

    @property
    def touches(self) -> set[int]:
        return {directory for directory, _, _ in self.changes}


@dataclass(frozen=True)
class Data:
    """Bytes written into a file, or its size set where there are none."""

    inode: int
    offset: int
    content: bytes | None

    @property
    def touches(self) -> set[int]:
        return {self.inode}


@dataclass(frozen=True)
class Sync:
    inode: int


Operation = Names | Data | Sync
Inode = dict[str, int] | bytes | str  # a directory, a file, a link


@dataclass
class Recording:
    """Stands around every call below `root`, and keeps what changes the disk."""

    root: Path
    start: dict[int, Inode] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    published: list[tuple[int, int]] = field(default_factory=list)  # (operations so far, step)

    def __post_init__(self) -> None:
        self._one = threading.Lock()
        self._descriptors: dict[int, tuple[int, int]] = {}  # inode, position
        self._read(self.root)
        self._now = {key: _copy(each) for key, each in self.start.items()}

    def __call__(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        with self._one:
            note = getattr(self, f"_{name}", None)
            assert note or name in ("open", *HARMLESS), f"{name} is not known to this model"
            there = name == "open" and os.path.lexists(arguments[0])
            # A recorded disk needs no syncing.
            result = None if name == "fsync" else call(*arguments)
            if name == "open":
                self._open(arguments[0], arguments[1], result, there=there)
            elif note is not None:
                note(*arguments)
            return result

    def _read(self, path: Path) -> int:
        inode = len(self.start)
        self.start[inode] = b""
        if path.is_symlink():
            self.start[inode] = str(path.readlink())
        elif path.is_file():
            self.start[inode] = path.read_bytes()
        else:
            self.start[inode] = {each.name: self._read(each) for each in sorted(path.iterdir())}
        return inode

    def _at(self, path: Path) -> int:
        inode = 0
        for part in path.relative_to(self.root).parts:
            inode = self._now[inode][part]
        return inode

    def _names(self, *changes: tuple[int, str, int | None]) -> None:
        self.operations.append(Names(changes))
        _apply(self._now, self.operations[-1])

    def _new(self, path: Path, what: Inode) -> int:
        inode = len(self._now)
        self._now[inode] = self.start[inode] = what
        self._now[inode] = _copy(what)
        self._names((self._at(path.parent), path.name, inode))
        return inode

    def _open(self, path: Path, flags: int, descriptor: int, *, there: bool) -> None:
        path = Path(path)
        if self.root not in (path, *path.parents):
            return
        inode = self._at(path) if there else self._new(path, b"")
        end = len(self._now[inode]) if flags & os.O_APPEND else 0
        self._descriptors[descriptor] = inode, end

    def _write(self, descriptor: int, data: Any) -> None:
        inode, position = self._descriptors[descriptor]
        self._pwrite(descriptor, data, position)
        self._descriptors[descriptor] = inode, position + len(data)

    def _pwrite(self, descriptor: int, data: Any, offset: int) -> None:
        self._data(Data(self._descriptors[descriptor][0], offset, bytes(data)))

    def _ftruncate(self, descriptor: int, size: int) -> None:
        self._data(Data(self._descriptors[descriptor][0], size, None))

    def _fallocate(self, descriptor: int, offset: int, size: int) -> None:
        inode = self._descriptors[descriptor][0]
        if offset + size > len(self._now[inode]):
            self._data(Data(inode, offset + size, None))

    def _data(self, data: Data) -> None:
        self.operations.append(data)
        _apply(self._now, data)

    def _fsync(self, descriptor: int) -> None:
        if descriptor in self._descriptors:
            self.operations.append(Sync(self._descriptors[descriptor][0]))

    def _close(self, descriptor: int) -> None:
        self._descriptors.pop(descriptor, None)

    def _mkdir(self, path: Path, mode: int) -> None:
        self._new(path, {})

    def _symlink(self, target: str, path: Path) -> None:
        self._new(path, target)

    def _rename(self, source: Path, target: Path) -> None:
        inode = self._at(source)
        self._names(
            (self._at(source.parent), source.name, None),
            (self._at(target.parent), target.name, inode),
        )

    _replace = _rename

    def _unlink(self, path: Path) -> None:
        self._names((self._at(path.parent), path.name, None))

    _rmdir = _unlink


def _copy(inode: Inode) -> Inode:
    return dict(inode) if isinstance(inode, dict) else inode


def _apply(state: dict[int, Inode], operation: Operation, fate: Fate = "there") -> None:
    if fate == "missing" or isinstance(operation, Sync):
        return
    if isinstance(operation, Names):
        for directory, name, inode in operation.changes:
            if inode is None:
                state[directory].pop(name, None)
            else:
                state[directory][name] = inode
        return
    old, at, new = state[operation.inode], operation.offset, operation.content
    if new is None:
        state[operation.inode] = old[:at].ljust(at, b"\0")
        return
    if fate == "torn":
        new = new[: (at + len(new) // 2) // SECTOR * SECTOR - at] if len(new) > SECTOR else b""
    elif fate == "zeros":
        new = bytes(len(new))
    state[operation.inode] = old[:at].ljust(at, b"\0") + new + old[at + len(new) :]


def uncertain(operations: list[Operation]) -> list[int]:
    """Which of these a loss of power may undo."""
    found = []
    synced: set[int] = set()
    for place in range(len(operations) - 1, -1, -1):
        operation = operations[place]
        if isinstance(operation, Sync):
            synced.add(operation.inode)
        elif not operation.touches & synced:
            found.append(place)
    return found[::-1]


def fates(operations: list[Operation], rng: random.Random) -> Iterator[dict[int, Fate]]:
    """What may have become of the uncertain ones: all combinations, or some."""
    open_ = uncertain(operations)
    choices = [DATA_FATES if isinstance(operations[p], Data) else NAME_FATES for p in open_]
    total = 1
    for each in choices:
        total *= len(each)
    if total <= FEW:
        for combination in itertools.product(*choices):
            yield dict(zip(open_, combination, strict=True))
        return
    yield {}
    yield dict.fromkeys(open_, "missing")
    for place in open_:
        yield {place: "missing"}
        yield {other: "missing" for other in open_ if other != place}
    for _ in range(FEW):
        yield {p: rng.choice(c) for p, c in zip(open_, choices, strict=True)}


def state_after(recording: Recording, number: int, fate: dict[int, Fate]) -> dict[int, Inode]:
    state = {key: _copy(each) for key, each in recording.start.items()}
    for place, operation in enumerate(recording.operations[:number]):
        _apply(state, operation, fate.get(place, "there"))
    return state


def make(state: dict[int, Inode], path: Path, inode: int = 0) -> None:
    """A state as a directory."""
    what = state[inode]
    if isinstance(what, dict):
        path.mkdir()
        for name, each in what.items():
            make(state, path / name, each)
    elif isinstance(what, str):
        path.symlink_to(what)
    else:
        path.write_bytes(what)


def _digest(state: dict[int, Inode], inode: int = 0) -> bytes:
    what = state[inode]
    found = xxhash.xxh3_128(type(what).__name__.encode())
    if isinstance(what, dict):
        for name in sorted(what):
            found.update(name.encode() + b"\0" + _digest(state, what[name]))
    else:
        found.update(what.encode() if isinstance(what, str) else what)
    return found.digest()


def record(base: Path) -> Recording:
    """A session in `base`; knows after which operation each checkpoint was promised."""
    recording = Recording(base)
    with syscalls.watched(recording), worlds.quiet():
        for step in (4, 5):
            told = worlds.live(base, (step,))
            assert not told.problems, told
            recording.published.append((len(recording.operations), step))
    return recording


def run(seed: int, count: int, scratch: Path) -> list[Score]:
    """As many different states as `count` says, or all."""
    base = scratch / "base"
    worlds.make_base(base)
    recording = record(base)
    points = _points(recording.operations, random.Random(seed))
    return [look(recording, points, count, scratch)]


def look(
    recording: Recording,
    points: Iterable[tuple[int, dict[int, Fate]]],
    count: int,
    scratch: Path,
) -> Score:
    """Begin a session in the states after so many operations with these fates."""
    seen: set[bytes] = set()
    failures = []
    with worlds.quiet(), worlds.unsynced():
        for number, fate in points:
            state = state_after(recording, number, fate)
            if (alike := _digest(state)) in seen:
                continue
            seen.add(alike)
            path = scratch / "state"
            make(state, path)
            found = list(_broken(path, recording, number))
            shutil.rmtree(path)
            lost = {place: each for place, each in fate.items() if each != "there"}
            failures += [f"after {number} operations, of them {lost}: {each}" for each in found[:1]]
            if len(seen) == count:
                break
    promise = (
        "any state that a power loss may leave: a resume finds the old checkpoint or the "
        "new one, never a partial one"
    )
    return Score(promise, len(seen), tuple(failures))


def _points(
    operations: list[Operation], rng: random.Random
) -> Iterator[tuple[int, dict[int, Fate]]]:
    """After every operation one state, then after every one another, until all are told."""
    numbers = rng.sample(range(len(operations) + 1), len(operations) + 1)
    left: dict[int, list[dict[int, Fate]]] = {}
    for turn in itertools.count():
        told = False
        for number in numbers:
            if turn == 0:
                left[number] = list(fates(operations[:number], rng))
                rng.shuffle(left[number])
            if left[number]:
                told = True
                yield number, left[number].pop()
        if not told:
            return


def _broken(path: Path, recording: Recording, number: int) -> Iterator[str]:
    directory = worlds.opened(path)
    for broken in worlds.faults_of(directory):
        if not broken.startswith(worlds.DAMAGED):
            yield broken
    promised = max((step for after, step in recording.published if after <= number), default=3)
    told = worlds.live(path, (9,))
    if told.words:
        yield f"the next session does not go on: {told.words}"
    if told.resumed not in (3, 4, 5) or told.resumed < promised:
        yield f"the next session resumes from step {told.resumed}, {promised} was promised"
    if any(worlds.DAMAGED not in each for each in told.passed):
        yield f"the next session passed over {told.passed}"
