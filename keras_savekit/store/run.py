"""A run's directory: list, open, remove, quarantine, link.

Every change is complete or not there: what a crash leaves behind has a
temporary name and goes at the next `sweep`. Writing is for the holder of
`lock`; reading needs no lock, and finds whole checkpoints at any time. Names
are never followed out of the directory. What to keep, what to verify and what
to resume from is decided elsewhere.

Only what carries one of our names in full is removed, renamed or replaced
(`naming`, `belongings`): anything else in the directory is the user's and stays.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from keras_savekit.base.key import Key
from keras_savekit.errors import CheckpointError, DirectoryError
from keras_savekit.store import belongings, run_info, syscalls
from keras_savekit.store.atomic import (
    disk_errors,
    made_link,
    no_more_open_than,
    publish,
    read_link,
    replace_link,
    scratch_for,
    sync_directory,
    temporary_name,
    write_bytes_durably,
)
from keras_savekit.store.checkpoint_lock import hold_exclusive, hold_shared, is_read
from keras_savekit.store.event_log import EventLog
from keras_savekit.store.manifest import (
    PINNED,
    VERIFICATION,
    Finding,
    Manifest,
    Verification,
    read_outline,
    read_verification,
    to_json,
    without_load_findings,
)
from keras_savekit.store.naming import LONGEST_PID, CheckpointName, Leftover
from keras_savekit.store.read_errors import unverifiable
from keras_savekit.store.run_info import RUN, DamagedError, RunInfo
from keras_savekit.store.run_lock import RunLock

CHECKPOINTS = "checkpoints"
QUARANTINE = "quarantine"

Link = Literal["latest", "best"]
LINKS: tuple[Link, ...] = ("latest", "best")
# Called with a place in quarantine and the names of what was moved there.
Rescued = Callable[[Path, tuple[str, ...]], None]
_TRIES = 3
_EXTRA = "was in a checkpoint that was removed, and is not part of it"
Status = Literal["verified", "unverified", "failed"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One published checkpoint whose manifest could be read.

    verification: its last, None if there is none that can be read.
    pinned: a person said that it stays.
    """

    path: Path
    manifest: Manifest
    verification: Verification | None
    pinned: bool = False

    @property
    def name(self) -> str:
        """The name of its directory."""
        return os.path.basename(self.path)  # noqa: PTH119  # of ten thousand, in a list

    @property
    def status(self) -> Status:
        """What its last verification says."""
        found = self.verification
        if found is None or (found.good and not found.done):
            return "unverified"
        return "verified" if found.good else "failed"


def by_age(checkpoint: Checkpoint) -> tuple[int, str]:
    """What checkpoints are sorted by: the step, then the name."""
    return checkpoint.manifest.moment.step, checkpoint.name


class Scan(NamedTuple):
    """Everything that stands among the checkpoints.

    checkpoints: by step, then name.
    damaged: what has a checkpoint's name and is none, by name, with what is wrong with it.
    foreign: names that no checkpoint has. They are the user's, and left alone.
    """

    checkpoints: list[Checkpoint]
    damaged: list[tuple[str, CheckpointError]]
    foreign: list[str]


class RunDirectory:
    """The directory of one run. Making this object touches nothing on disk.

    key: that its manifests are signed with, and must be.
    """

    def __init__(self, path: Path, key: Key | None = None) -> None:
        self.path = path
        self.key = key
        self.checkpoints_path = path / CHECKPOINTS
        self.quarantine_path = path / QUARANTINE
        self.events = EventLog(path / "events.jsonl")
        self.lock = RunLock(path)

    @property
    def exists(self) -> bool:
        """Whether this is the directory of a run."""
        return self.checkpoints_path.is_dir() or (self.path / RUN).is_file()

    def prepare(self, plans: Iterable[str] = ()) -> None:
        """Makes the directories that are missing and proves that they can be written.

        plans: the names of the plans that will save here.

        Raises DirectoryError if they cannot, a name in them would be longer than the
        file system allows, or a version wrote them that this one does not know.
        """
        _require_short(self.path, plans)
        with suppress(DamagedError):  # see `recover_run_info`
            self.run_info()
        _require_own(self.checkpoints_path)
        _require_own(self.quarantine_path)
        for directory in (self.path, self.checkpoints_path, self.quarantine_path):
            with disk_errors("make the directory", directory):
                _make_durably(directory, within=self.path)
            probe = temporary_name("writing", directory / "probe")
            with disk_errors("write into the directory", directory):
                syscalls.write_new(probe, b"")
                syscalls.unlink(probe)
        probe = self.checkpoints_path / "probe"
        before, after = temporary_name("scratch", probe), temporary_name("removing", probe)
        with disk_errors("rename a directory", self.checkpoints_path):
            syscalls.mkdir(before)
            syscalls.rename(before, after)
            syscalls.rmdir(after)

    def lost(self) -> tuple[str, ...]:
        """What the file system lacks, each with what is lost by that. For the lock's holder."""
        probe = temporary_name("writing", self.path / "probe")
        link = temporary_name("link", self.path / "probe")
        with disk_errors("write into the directory", self.path):
            synced = syscalls.write_new(probe, b"", sync=True)
            syscalls.unlink(probe)
            linked = made_link(probe.name, link)
            if linked:
                syscalls.unlink(link)
            names_synced = sync_directory(self.path)
        lacks = (
            (synced, "syncing of files: a loss of power may damage the newest checkpoints"),
            (names_synced, "syncing of directories: a loss of power may take the newest ones"),
            (linked, "links: latest and best are text files that hold the path"),
            (not self.lock.lost, self.lock.lost),
        )
        return tuple(text for has, text in lacks if not has)

    # Reading.

    def scan(self) -> Scan:
        """All checkpoints, and whatever stands among them that is none."""
        foreign, found = [], {}
        for name in self.names():
            if CheckpointName.parse(name) is None:
                foreign.append(name)
            else:
                found[name] = self._opened(name)
        checkpoints = [each for each in found.values() if isinstance(each, Checkpoint)]
        damaged = [
            (name, each)
            for name, each in found.items()
            # Else removed since it was listed: the run goes on while we look.
            if isinstance(each, CheckpointError) and os.path.lexists(self.checkpoints_path / name)
        ]
        checkpoints.sort(key=by_age)
        return Scan(checkpoints, damaged, foreign)

    def names(self) -> list[str]:
        """What stands among the checkpoints, whatever it is, by name."""
        return list(_visible(self.checkpoints_path))

    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints whose manifest can be read, by step, then name."""
        return self.scan().checkpoints

    def damaged(self) -> list[tuple[str, CheckpointError]]:
        """What has a checkpoint's name and is none, by name, with the reason."""
        return self.scan().damaged

    def foreign(self) -> list[str]:
        """Names among the checkpoints that no checkpoint has, hidden ones left out."""
        return [name for name in self.names() if CheckpointName.parse(name) is None]

    def open(self, name: str) -> Checkpoint:
        """The checkpoint `name`.

        Raises CheckpointError if there is none, or it is not what its name says,
        DirectoryError if the checkpoints are not in the run's own directory.
        """
        _require_own(self.checkpoints_path)
        path = self.checkpoints_path / name
        parsed = CheckpointName.parse(name)
        if parsed is None:
            raise CheckpointError("not the name of a checkpoint", str(path))
        try:
            mode = os.lstat(path).st_mode
        except OSError as error:
            known = unverifiable(error, str(path))
            raise known or CheckpointError("there is no such checkpoint", str(path)) from error
        if stat.S_ISLNK(mode):
            raise CheckpointError("is a link; links are not followed", str(path))
        if not stat.S_ISDIR(mode):
            raise CheckpointError("is not a directory", str(path))
        manifest = read_outline(path)
        found = (manifest.moment.step, manifest.plan)
        if found != (parsed.step, parsed.plan):
            raise CheckpointError(
                f"the manifest is of another checkpoint: step {found[0]}, plan {found[1]}",
                str(path),
            )
        recorded = _verification(path)
        return Checkpoint(
            path,
            manifest,
            recorded and without_load_findings(recorded),
            os.path.exists(f"{path}/{PINNED}"),  # noqa: PTH110
        )

    def linked(self, which: Link) -> str | None:
        """The name of the checkpoint that a link leads to, None if it leads to none."""
        name = self._named_by(which)
        return name if name is not None and (self.checkpoints_path / name).is_dir() else None

    def occupied(self, which: Link) -> bool:
        """Whether something that is no link of ours has the link's name. It is left alone."""
        return os.path.lexists(self.path / which) and self._named_by(which) is None

    def _named_by(self, which: Link) -> str | None:
        """The checkpoint's name in a link of ours, whether there is such a checkpoint or not."""
        return _checkpoint_in(read_link(self.path / which))

    def quarantined(self) -> list[tuple[str, Verification | None]]:
        """What was moved to quarantine, by name, each with what was found wrong with it."""
        return [
            (name, _verification(self.quarantine_path / name))
            for name in _visible(self.quarantine_path)
        ]

    def run_info(self) -> RunInfo | None:
        """What the directory says about its run, None if it says nothing yet.

        Raises DamagedError if that is malformed, DirectoryError if it cannot be read, or
        is of a format that this version does not know.
        """
        return run_info.read(self.path / RUN)

    # For anyone, while training goes on too.

    def pin(self, name: str, *, pinned: bool) -> None:
        """Have the checkpoint `name` never removed by a policy, or take that back.

        Raises CheckpointError if there is no such checkpoint, DirectoryError if
        the disk refuses.
        """
        with self.reading(name) as path, disk_errors("pin", path):
            if not pinned:
                syscalls.unlink(path / PINNED, missing_ok=True)
            elif not os.path.lexists(path / PINNED):  # a link there leads elsewhere
                syscalls.write_new(path / PINNED, b"")
            sync_directory(path)

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """The path of the checkpoint `name`, which nobody removes or sets aside meanwhile.

        Raises CheckpointError if there is no such checkpoint, or it is just being removed.
        """
        path = self.open(name).path
        with hold_shared(path):
            if not path.is_dir():  # it went between the two
                raise CheckpointError("there is no such checkpoint", str(path))
            yield path

    def being_read(self, name: str) -> bool:
        """Whether anyone reads the checkpoint `name` now, in this process or another."""
        return is_read(self.checkpoints_path / name)

    # Writing: for the holder of the lock.

    def write_run_info(self, policy: Mapping[str, Any]) -> RunInfo:
        """Records the policy as resolved; the run's id is made the first time, then kept."""
        return run_info.write(self.path / RUN, policy)

    def recover_run_info(self) -> str:
        """Moves a damaged `savekit.json` to quarantine; returns what was done, empty if nothing.

        The run's id is taken from the newest checkpoint; if there is none, the next
        `write_run_info` makes a new one. Raises DirectoryError if the disk refuses.
        """
        try:
            self.run_info()
            return ""
        except DamagedError as error:
            reason = error.what
        newest = next(reversed(self.checkpoints()), None)
        finding = Finding("unreadable", RUN, reason)
        target = self._to_quarantine(self.path / RUN, (finding,))
        if newest is None:
            source = "the run gets a new id"
        else:
            run_info.write(self.path / RUN, {}, newest.manifest.run)
            source = f"the run's id was taken from {newest.name}"
        return f"{RUN} was damaged ({reason}): moved to {target}, and {source}"

    def remake_checkpoints(self) -> bool:
        """Makes `checkpoints/` again if it was deleted; returns whether it was.

        Raises DirectoryError if the disk refuses, or the run's directory is gone too.
        """
        if os.path.lexists(self.checkpoints_path):
            return False
        with disk_errors("make the directory again", self.checkpoints_path):
            syscalls.mkdir(self.checkpoints_path, no_more_open_than(self.path))
            sync_directory(self.path)
        return True

    def new_scratch(self, name: str) -> Path:
        """Makes an empty directory in which the checkpoint `name` can be written."""
        return scratch_for(self._place(name))

    def publish(self, scratch: Path, name: str) -> Path:
        """Makes a finished scratch directory the checkpoint `name`; see `commit.publish`."""
        target = self._place(name)
        publish(scratch, target)
        return target

    def record(self, name: str, verification: Verification) -> Checkpoint:
        """Writes down how a verification of the checkpoint `name` ended.

        Raises CheckpointError if there is no such checkpoint, DirectoryError if
        the disk refuses; the verification before it then still stands.
        """
        checkpoint = self.open(name)
        self._write_verification(checkpoint.path, verification)
        return replace(checkpoint, verification=verification)

    def remove(self, name: str, rescued: Rescued = lambda place, names: None) -> bool:
        """Removes the checkpoint `name` and the links to it, unless someone is reading it.

        What a user put inside of it is moved to quarantine first.

        rescued: called with the place and the names of what was moved there.

        Returns whether it is gone now.

        Raises DirectoryError if the disk refuses, or there is something else of that
        name. It is then whole, or gone from the list with some files left for `sweep`.
        """
        path = self._place(name)
        if not os.path.lexists(path):
            return True
        if path.is_symlink() or not path.is_dir():
            raise DirectoryError("is no checkpoint and is left alone", str(path))
        with hold_exclusive(path) as ours:
            if not ours:
                return False
            self._unlink_from(name)
            condemned = temporary_name("removing", path)
            with disk_errors("remove", path):
                syscalls.rename(path, condemned)
                sync_directory(self.checkpoints_path)
        self._delete_ours(condemned, name, rescued)
        return True

    def _delete_ours(self, condemned: Path, name: str, rescued: Rescued) -> None:
        """Deletes the files of what was a checkpoint; moves anything else to quarantine."""
        with disk_errors("remove", condemned):
            for _ in range(_TRIES):
                found = belongings.of_checkpoint(condemned)
                if found.foreign:
                    findings = tuple(Finding("extra", each, _EXTRA) for each in found.foreign)
                    place = self._moved(condemned, name, found.foreign, findings)
                    rescued(place, found.foreign)
                try:
                    found.delete()
                    return
                except OSError as error:  # more came while we looked
                    if error.errno != errno.ENOTEMPTY:
                        raise
        raise DirectoryError("cannot remove: files appear in it", str(condemned))

    def _moved(
        self, source: Path, name: str, parts: Iterable[str], findings: tuple[Finding, ...]
    ) -> Path:
        target = self._new_in_quarantine(name, findings)
        for part in parts:
            place = _free(target / part)
            for folder in reversed(place.relative_to(target).parents[:-1]):
                with suppress(FileExistsError):
                    syscalls.mkdir(target / folder)
            syscalls.rename(source / part, place)
            sync_directory(place.parent)
        sync_directory(self.quarantine_path)
        return target

    def _new_in_quarantine(self, name: str, findings: tuple[Finding, ...]) -> Path:
        """A new directory there, which says why."""
        self._require_quarantine()
        target = _free(self.quarantine_path / name)
        syscalls.mkdir(target)
        verification = Verification("bytes", self.events.now(), findings)
        write_bytes_durably(target / VERIFICATION, to_json(verification), through=self.path)
        return target

    def _to_quarantine(self, path: Path, findings: tuple[Finding, ...]) -> Path:
        with disk_errors("quarantine", path):
            return self._moved(path.parent, path.name, (path.name,), findings)

    def _require_quarantine(self) -> None:
        _require_own(self.quarantine_path)
        if not self.quarantine_path.is_dir():
            syscalls.mkdir(self.quarantine_path, no_more_open_than(self.path))

    def quarantine(self, name: str, verification: Verification) -> Path:
        """Moves what has a checkpoint's name, damaged or not, out, and says why beside it.

        Arguments:
            name: of a checkpoint. What has another name is the user's.
            verification: what was found, at which depth, and when.

        Returns where it is now. Raises DirectoryError if the disk refuses; it
        is then still listed, or already in quarantine, and never in between.
        """
        path = self._place(name)
        with disk_errors("quarantine", path):
            path.lstat()
            self._require_quarantine()
            target = _free(self.quarantine_path / name)
            self._unlink_from(name)
            # The reason first: what stands in quarantine always says why.
            bare = path.is_symlink() or not path.is_dir()
            if bare or (path / VERIFICATION).is_dir():
                syscalls.mkdir(target)  # what has no room for it inside gets a directory around it
                self._write_verification(target, verification)
                syscalls.rename(path, target / name)
                sync_directory(target)
            else:
                self._write_verification(path, verification)
                syscalls.rename(path, target)
            sync_directory(self.quarantine_path)
            sync_directory(self.checkpoints_path)
        return target

    def link(self, which: Link, name: str | None) -> None:
        """Makes `latest` or `best` lead to the checkpoint `name`, or to none.

        Raises DirectoryError if there is no such checkpoint, or something that is no
        link of ours has the link's name; that is then what it was.
        """
        link = self.path / which
        if name is None:
            if self._named_by(which) is not None:
                with disk_errors("remove the link", link):
                    syscalls.unlink(link)
                    sync_directory(self.path)
            return
        path = self._place(name)
        if path.is_symlink() or not path.is_dir():
            raise DirectoryError("there is no such checkpoint to link to", str(path))
        target, text = f"{CHECKPOINTS}/{name}", read_link(link)
        if text == target:
            return
        if os.path.lexists(link) and _checkpoint_in(text) is None:
            raise DirectoryError("is no link of ours and is left alone", str(link), "move it away")
        replace_link(link, target)

    def sweep(self) -> list[str]:
        """Removes what crashes left behind, and links of ours that lead nowhere.

        For the holder of the lock: another writer's scratch looks the same. Without the
        lock only what dead processes left is removed.
        Returns the names that were removed, relative to the run's directory.
        """
        gone: list[str] = []
        _require_own(self.checkpoints_path)
        _require_own(self.quarantine_path)
        for place in ("", CHECKPOINTS, QUARANTINE):
            for entry in _entries(self.path / place):
                left, path = Leftover.parse(entry), self.path / place / entry
                if left is None or not belongings.left_by_us(left, place, path):
                    continue
                # Whoever tries whether the directory can be written has no lock yet.
                tried = left.target == belongings.PROBE and left.pid != os.getpid()
                if (tried or not self.lock.held) and belongings.running(left.pid):
                    continue
                if self._swept(left, path):
                    gone.append(str(path.relative_to(self.path)))
        for which in LINKS:
            if self._named_by(which) is not None and self.linked(which) is None:
                self.link(which, None)
                gone.append(which)
        return gone

    def _swept(self, left: Leftover, path: Path) -> bool:
        if left.target != belongings.PROBE and left.kind == "removing":
            self._delete_ours(path, left.target, lambda place, names: None)
            return True
        with disk_errors("remove", path):
            if left.target != belongings.PROBE:
                _delete(path)
            elif path.is_dir() and not path.is_symlink():
                try:
                    syscalls.rmdir(path)
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:
                        raise
                    return False
            else:
                syscalls.unlink(path)
        return True

    def _opened(self, name: str) -> Checkpoint | CheckpointError:
        try:
            return self.open(name)
        except CheckpointError as error:
            return error

    def _place(self, name: str) -> Path:
        if CheckpointName.parse(name) is None:
            raise DirectoryError(
                f"{name!r} is not the name of a checkpoint", str(self.checkpoints_path)
            )
        return self.checkpoints_path / name

    def _unlink_from(self, name: str) -> None:
        # Before it goes: a link never leads to something missing.
        for which in LINKS:
            if self.linked(which) == name:
                self.link(which, None)

    def _write_verification(self, path: Path, verification: Verification) -> None:
        # Through the parent: a temporary file inside would be a finding after a crash.
        write_bytes_durably(
            path / VERIFICATION, to_json(verification), through=self.checkpoints_path
        )


def followed(path: Path) -> Path:
    """A directory, or the checkpoint that a run's link `latest` or `best` leads to.

    Raises CheckpointError if such a link, or one among a run's checkpoints, leads out of the run.
    """
    if path.parent.name == CHECKPOINTS and path.is_symlink():
        raise CheckpointError("is a link; links are not followed", str(path))
    if path.name not in LINKS or not path.is_symlink() or not (path.parent / CHECKPOINTS).is_dir():
        return path
    run = RunDirectory(path.parent)
    name = run.linked(path.name)
    if name is None:
        raise CheckpointError("leads to no checkpoint of its run", str(path))
    return run.open(name).path


def _checkpoint_in(text: str | None) -> str | None:
    """The checkpoint's name in the text of a link of ours; None if it is none of ours."""
    folder, _, name = (text or "").partition("/")
    return name if folder == CHECKPOINTS and CheckpointName.parse(name) else None


def _verification(path: Path) -> Verification | None:
    try:
        return read_verification(path)
    except CheckpointError:
        return None  # says nothing that can be trusted, so the checkpoint is unverified


def _entries(directory: Path) -> list[str]:
    with disk_errors("list", directory):
        try:
            return sorted(syscalls.listdir(directory))
        except FileNotFoundError:
            return []


def _visible(directory: Path) -> Iterator[str]:
    _require_own(directory)
    return (name for name in _entries(directory) if not name.startswith("."))


def _require_own(directory: Path) -> None:
    with disk_errors("look at", directory):
        linked = directory.is_symlink()
    if linked:
        remedy = "make it a directory; a link to the whole run is followed"
        raise DirectoryError("is a link, which is not followed", str(directory), remedy)


def _require_short(path: Path, plans: Iterable[str]) -> None:
    """Refuses a path in which the names of checkpoints would be too long for the file system."""
    here = next(each for each in (path, *path.parents) if os.path.lexists(each))
    try:
        longest_name, longest_path = (
            os.pathconf(here, f"PC_{each}_MAX") for each in ("NAME", "PATH")
        )
    except OSError:
        return  # it says no limits
    named = max(
        (CheckpointName(10**17, plan, 9) for plan in plans),
        key=lambda each: len(each.plan),
        default=None,
    )
    scratch = str(
        Leftover("removing", str(named or CheckpointName(10**17, "p")), LONGEST_PID, "0" * 8)
    )
    within = [len(os.fsencode(part)) for part in (*path.parts, scratch)]
    if max(within) > longest_name:
        raise DirectoryError(
            f"a name would have {max(within)} bytes, and the file system allows {longest_name}",
            str(path),
            "give the directory, or the policy's plans, shorter names",
        )
    length = len(os.fsencode(path / CHECKPOINTS / scratch / VERIFICATION))
    if length >= longest_path:
        raise DirectoryError(
            f"paths of checkpoints in it would have {length} bytes, and the system allows"
            f" {longest_path - 1}",
            str(path),
            "choose a directory with a shorter path",
        )


def _make_durably(directory: Path, within: Path) -> None:
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    for each in reversed(missing):
        syscalls.mkdir(each, no_more_open_than(each.parent) if within in each.parents else 0o777)
        sync_directory(each.parent)
    if not directory.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def _free(path: Path) -> Path:
    candidate, number = path, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        syscalls.unlink(path, missing_ok=True)
    else:
        syscalls.remove_tree(path)
