"""Only evidence of damage moves a checkpoint to quarantine; whatever the system fails at, never."""

import ast
import errno
import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_store_builders import unlocked
from torture import worlds
from torture.forking import forked, wait

import keras_savekit
from keras_savekit.base.key import Key
from keras_savekit.cli.main import run as savekit
from keras_savekit.errors import (
    CheckpointError,
    DirectoryError,
    ResumeError,
    SavekitError,
    UnverifiableError,
)
from keras_savekit.formats.hdf5 import access
from keras_savekit.formats.hdf5.datasets import own_dataset
from keras_savekit.policy.plan import Due, Policy, SavePlan
from keras_savekit.resume import restore
from keras_savekit.resume.record import select_and_record
from keras_savekit.save.pipeline import Pipeline
from keras_savekit.store import syscalls
from keras_savekit.store.checkpoint_lock import hold_shared, is_read
from keras_savekit.store.manifest import Verification
from keras_savekit.store.naming import Leftover
from keras_savekit.store.prepare import prepare
from keras_savekit.store.read_errors import retry_unverifiable, system_failure, unverifiable
from keras_savekit.store.run import RunDirectory
from keras_savekit.store.run_writer import RunWriter
from keras_savekit.verify.depths import require_signed, verify_files

PLANS = (
    SavePlan(name="latest", when="every 1 steps", keep="last 3", verify="structure"),
    SavePlan(
        name="archive", format="keras", when="every 1 steps", keep="last 3", verify="structure"
    ),
)
NEWEST = "000000003-latest"
PROCESS_WIDE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
ERRORS = (
    errno.EIO, errno.EACCES, errno.EPERM, errno.ENOLCK, errno.ESTALE, errno.ETIMEDOUT,
    errno.EAGAIN, *PROCESS_WIDE,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Good checkpoints of two formats; the newest of each was not verified yet."""
    path = tmp_path_factory.mktemp("base") / "run"
    with worlds.unsynced():
        assert worlds.live(path, (1, 2, 3), PLANS).words == []
    for name in (NEWEST, "000000003-archive"):
        (path / "checkpoints" / name / "verification.json").unlink()
    return path


@pytest.fixture
def run(base, tmp_path):
    return Path(shutil.copytree(base, tmp_path / "run", symlinks=True))


def found(path):
    """The step that a resume takes, or what it raises."""
    try:
        loaded = select_and_record([unlocked(path)], 0.0).content
    except SavekitError as error:
        return error
    return None if loaded is None else loaded.checkpoint.manifest.moment.step


def listed(path):
    folders = (path / "checkpoints", path / "quarantine")
    return tuple(
        sorted(each.name for each in folder.iterdir() if Leftover.parse(each.name) is None)
        for folder in folders
    )


# What the system is asked, at the seam and below it.

BELOW = [
    (os, "open"), (os, "lstat"), (os, "stat"), (os, "scandir"), (os, "fstat"), (io, "open"),
]  # fmt: skip


class Failing:
    """Fails the call with number `at`, and with `always` every one after it."""

    def __init__(self, number=0, at=10**9, *, always=False, only=lambda arguments: True):
        self.number, self.at, self.always, self.only = number, at, always, only
        self.calls = 0

    def __call__(self, name, call, *arguments, **named):
        if self.only(arguments):
            self.calls += 1
            if self.calls > self.at and (self.always or self.calls == self.at + 1):
                raise OSError(self.number, os.strerror(self.number))
        return call(*arguments, **named)


@contextmanager
def everywhere(failing):
    """Around each call of the seam, and each of Python's that goes around it."""

    def around(name, call):
        return lambda *arguments, **named: failing(name, call, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch, syscalls.watched(failing):
        for module, name in BELOW:
            patch.setattr(module, name, around(name, getattr(module, name)))
        yield


def within(path):
    """Only calls that name something in this run, or descriptors."""

    def ours(arguments):
        if not arguments or not isinstance(arguments[0], (str, Path)):
            return bool(arguments)
        return str(arguments[0]).startswith(str(path / "checkpoints"))

    return ours


def models(arguments):
    """Only calls that name a model's file."""
    return "/model." in str(arguments[0])


def test_whatever_call_of_a_resume_fails_with_whatever_errno_nothing_good_is_moved(base, tmp_path):
    counting = Failing(only=within(path := shutil.copytree(base, tmp_path / "counted")))
    with worlds.unsynced(), everywhere(counting):
        assert found(path) == 3
    assert counting.calls > 60
    every = [(at, always) for at in range(counting.calls) for always in (False, True)]
    shift = random.Random(1).randrange(len(ERRORS))
    outcomes = set()
    for turn, (at, always) in enumerate(every):
        number = ERRORS[(turn + shift) % len(ERRORS)]
        path = shutil.copytree(base, tmp_path / f"{turn}")
        before = listed(path)
        with worlds.unsynced(), everywhere(Failing(number, at, always=always, only=within(path))):
            outcome = found(path)
        what = (at, always, errno.errorcode[number], outcome)
        assert listed(path) == before, what
        assert outcome is not None, what  # never from scratch
        if isinstance(outcome, SavekitError):
            assert isinstance(outcome, (ResumeError, DirectoryError)), what
        with worlds.unsynced():
            assert found(path) == 3, what
        assert listed(path) == before, what
        outcomes.add(type(outcome).__name__ if isinstance(outcome, SavekitError) else outcome)
        shutil.rmtree(path)
    assert {3, "ResumeError"} <= outcomes


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_a_checkpoint_that_cannot_be_read_is_skipped_and_stays_and_the_previous_one_is_used(
    run, number
):
    before = listed(run)
    failing = Failing(number, 0, always=True, only=lambda a: NEWEST in str(a[0]))
    with syscalls.watched(failing):
        outcome = found(run)
    assert listed(run) == before
    if number in PROCESS_WIDE:
        assert isinstance(outcome, ResumeError)
        assert "nothing was changed" in str(outcome)
    else:
        assert outcome == 3  # of the other plan
        log = (run / "events.jsonl").read_text()
        assert '"unverified"' in log
        assert os.strerror(number) in log
    assert found(run) == 3


def test_when_nothing_can_be_verified_a_training_does_not_start_from_scratch(run):
    before = listed(run)
    with syscalls.watched(Failing(errno.EIO, 0, always=True, only=models)):
        outcome = found(run)
    assert isinstance(outcome, ResumeError)
    assert "000000003-latest: could not be verified: cannot be read: Input/output" in str(outcome)
    assert listed(run) == before


def test_what_is_damaged_still_goes_while_the_unreadable_stays(run):
    checkpoints = run / "checkpoints"
    for each in checkpoints.iterdir():
        if each.name not in (NEWEST, "000000003-archive"):
            shutil.rmtree(each)
    worlds.damage(checkpoints / NEWEST / "model.h5")
    failing = Failing(errno.EIO, 0, always=True, only=lambda a: "3-archive/model" in str(a[0]))
    with syscalls.watched(failing):
        outcome = found(run)
    assert isinstance(outcome, ResumeError)
    assert listed(run) == (["000000003-archive"], [NEWEST])
    assert found(run) == 3


def test_a_file_that_is_missing_or_a_link_is_evidence(run):
    checkpoints = run / "checkpoints"
    (checkpoints / NEWEST / "model.h5").unlink()
    archive = checkpoints / "000000003-archive" / "model.keras"
    archive.rename(run / "elsewhere")
    archive.symlink_to(run / "elsewhere")
    assert found(run) == 2
    assert sorted(listed(run)[1]) == ["000000003-archive", NEWEST]


def test_restoring_outside_of_fit_skips_what_cannot_be_read_and_does_not_guess(run):
    directory = RunDirectory(run)
    failing = Failing(errno.EIO, 0, always=True, only=lambda a: f"{NEWEST}/model" in str(a[0]))
    with syscalls.watched(failing):
        loaded, skipped = restore._load(directory, "latest")
    assert loaded.checkpoint.name == "000000003-archive"
    assert skipped == (
        f"{NEWEST}: could not be verified: cannot be read: Input/output error [model.h5]",
    )
    for number, said in ((errno.EIO, "some could not be verified"), (errno.EMFILE, "ulimit -n")):
        failing = Failing(number, 0, always=True, only=models)
        with syscalls.watched(failing), pytest.raises(ResumeError, match=said):
            restore._load(directory, "latest")


def test_whether_anyone_reads_a_checkpoint_is_unknown_without_descriptors(run):
    path = run / "checkpoints" / NEWEST
    assert not is_read(path)
    with free_descriptors(0):
        assert is_read(path)
        assert not unlocked(run).remove(NEWEST)
        with pytest.raises(UnverifiableError), hold_shared(path):
            pass
    assert not is_read(run / "nothing")


def test_a_manifest_that_cannot_be_read_is_no_damage(run):
    failing = Failing(errno.EIO, 0, always=True, only=lambda a: f"{NEWEST}/manifest" in str(a[0]))
    before = listed(run)
    with syscalls.watched(failing):
        ((name, error),) = RunDirectory(run).damaged()
        assert (name, type(error)) == (NEWEST, UnverifiableError)
        assert found(run) == 3
    assert listed(run) == before


# Limits of the system, as they are.


@contextmanager
def free_descriptors(count):
    """In here, no more than `count` files can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = []
    while len(opened) <= count:
        opened.append(os.open(os.devnull, os.O_RDONLY))
    for each in opened:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened[count], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("count", range(8))
def test_a_process_without_descriptors_accuses_no_checkpoint(run, count):
    before = listed(run)
    with free_descriptors(count):
        outcome = found(run)
    assert listed(run) == before
    if outcome != 3:
        assert isinstance(outcome, (ResumeError, DirectoryError))
        assert "Too many open files" in str(outcome)
    assert outcome == 3 if count == 7 else outcome != 3 or count
    assert found(run) == 3


def big_snapshot(step):
    """64 MiB."""
    shape = (64, 2**18)
    weight = replace(worlds.BLUEPRINT.variables[0], shape=shape)
    blueprint = replace(worlds.BLUEPRINT, variables=(weight,))
    return replace(worlds.snapshot(step, shape), blueprint=blueprint)


def test_a_process_without_memory_accuses_no_checkpoint(tmp_path):
    path = tmp_path / "run"
    directory = RunDirectory(path)
    with worlds.unsynced():
        worlds.live(path, ())
        big = worlds.LATEST
        with RunWriter.acquire(directory) as writer:
            pipeline = Pipeline(writer, Policy(plans=[big]), "run", lambda: 0.0)
            for step in (1, 2):
                made = big_snapshot(step)
                pipeline.save(made, Due(big, ("test",)))
            pipeline.close()
            assert pipeline.outcomes.problems() == []
    before = listed(path)
    assert len(before[0]) == 2

    def poor(headroom):
        def work():
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + headroom * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            outcome = found(path)
            said.write_text("2" if outcome == 2 else f"{type(outcome).__name__}: {outcome}")

        return work

    seen = []
    for headroom in (2, 8, 24, 48, 60):
        said = tmp_path / f"said{headroom}"
        child = forked(poor(headroom), tmp_path / "error")
        assert wait(child, 60) == 0, (tmp_path / "error").read_text()
        seen.append(said.read_text())
        assert listed(path) == before, seen
    assert all(each == "2" or each.startswith("ResumeError") for each in seen), seen
    assert any("memory" in each for each in seen), seen
    assert found(path) == 2


# Verification beside a training.


def unverified_later(run, number):
    """A session whose verification cannot read what it wrote; of the second step on."""
    broken = lambda a: isinstance(a[0], (str, Path)) and "5-latest/model" in str(a[0])  # noqa: E731
    reading = {"open", "hdf5"}

    def watcher(name, call, *arguments):
        published = "checkpoints/0000" in str(arguments[0])
        if name in reading and published and broken(arguments):
            raise OSError(number, os.strerror(number))
        return None if name == "fsync" else call(*arguments)

    with syscalls.watched(watcher):
        return worlds.live(run, (4, 5, 6), PLANS)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE], ids=errno.errorcode.get)
def test_verification_that_cannot_read_leaves_a_checkpoint_unverified_and_tells_once(run, number):
    told = unverified_later(run, number)
    directory = RunDirectory(run)
    assert listed(run)[1] == []
    assert told.problems == []
    (notice,) = told.notices
    assert f"stays unverified: could not be verified: cannot be read: {os.strerror(number)}" in (
        notice
    )
    status = {each.name: each.status for each in directory.checkpoints()}
    assert status["000000005-latest"] == "unverified"
    assert status["000000004-latest"] == status["000000006-latest"] == "verified"
    with worlds.unsynced():
        again = worlds.live(run, (7,), PLANS)
    assert again.words == []
    status = {each.name: each.status for each in directory.checkpoints()}
    assert status["000000005-latest"] == "verified"


def test_what_could_not_be_verified_evicts_nothing_that_is_verified(run):
    plans = (SavePlan(name="latest", when="every 1 steps", keep="last 1", verify="structure"),)
    broken = lambda a: "5-latest/model.h5" in str(a[0]) and "/.scratch" not in str(a[0])  # noqa: E731

    def watcher(name, call, *arguments):
        if name in ("open", "hdf5") and broken(arguments):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return None if name == "fsync" else call(*arguments)

    with syscalls.watched(watcher):
        worlds.live(run, (4, 5), plans)
    names = {each.name: each.status for each in RunDirectory(run).checkpoints()}
    assert names["000000004-latest"] == "verified"
    assert names["000000005-latest"] == "unverified"


def test_a_step_whose_checkpoint_was_skipped_is_saved_again_beside_it(run):
    failing = Failing(errno.EACCES, 0, always=True, only=lambda a: "03-latest/man" in str(a[0]))
    with syscalls.watched(failing):
        told = worlds.live(run, (3,), PLANS[:1])
    assert told.stopped is None
    assert "000000003-latest~2" in listed(run)[0]
    assert listed(run)[1] == []


# The command.


def test_the_command_tells_what_it_could_not_verify_apart_from_what_is_bad(run, capsys):
    worlds.damage(run / "checkpoints" / "000000002-latest" / "model.h5")
    failing = Failing(errno.EIO, 0, always=True, only=lambda a: f"{NEWEST}/model" in str(a[0]))
    with syscalls.watched(failing):
        assert savekit(["verify", str(run)]) == 1
    shown = capsys.readouterr().out
    assert f"open  {NEWEST}  bytes" in shown
    assert "could not be verified: cannot be read: Input/output error [model.h5]" in shown
    assert "bad   000000002-latest" in shown
    assert "6 checked at depth structure, 1 bad, 1 could not be verified" in shown
    (run / "checkpoints" / "000000002-latest").rename(run / "gone")
    with syscalls.watched(Failing(errno.EIO, 0, always=True, only=failing.only)):
        assert savekit(["verify", str(run)]) == 1
    assert savekit(["verify", str(run)]) == 0


def test_the_plan_of_a_resume_says_that_a_training_would_not_start(run, capsys):
    with syscalls.watched(Failing(errno.EIO, 0, always=True, only=models)):
        assert savekit(["resume-plan", str(run)]) == 1
    shown = capsys.readouterr().out
    assert "could not be verified" in shown
    assert "a training would not start" in shown


def test_a_key_never_vouches_for_what_could_not_be_read(tmp_path):
    key = Key(b"k" * 32)
    directory = RunDirectory(tmp_path / "run", key)
    prepare(directory)
    with RunWriter.acquire(directory) as writer:
        pipeline = Pipeline(writer, Policy(plans=[worlds.LATEST]), "run", lambda: 0.0)
        pipeline.save(worlds.snapshot(1), Due(worlds.LATEST, ("test",)))
        pipeline.close()
    (checkpoint,) = directory.checkpoints()
    require_signed(checkpoint.path, key)
    failing = Failing(errno.EIO, 0, always=True, only=lambda a: "model.h5" in str(a[0]))
    with syscalls.watched(failing), pytest.raises(UnverifiableError):
        require_signed(checkpoint.path, key)


# What an exception says.


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EIO, "x"), errno.EIO),
        (MemoryError(), errno.ENOMEM),
        (
            OSError("Unable to open file (unable to lock file, errno = 37, error)"),
            37,
        ),
        (KeyError("Unable to open object (file read failed: time = x, errno = 5, error)"), 5),
        (RuntimeError("Can't get info (memory allocation failed)"), errno.ENOMEM),
        (OSError("Unable to open file (truncated file: eof = 9, sblock->base_addr = 0)"), 0),
        (OSError("Unable to synchronously open file (file signature not found)"), 0),
        (FileNotFoundError(errno.ENOENT, "x"), 0),
        (OSError(errno.ELOOP, "x"), 0),
        (OSError("Unable to open file (name = 'x', errno = 2, error message = 'No such')"), 0),
        (CheckpointError("malformed: out of memory", "x"), 0),
        (KeyError("object 'x' doesn't exist"), 0),
        (UnverifiableError("x"), errno.EIO),
    ],
    ids=str,
)
def test_an_exception_is_evidence_or_a_failure_of_the_system(error, number):
    assert system_failure(error) == number
    assert (unverifiable(error) is None) == (number == 0)


def test_what_a_library_raises_over_a_failure_of_the_system_is_no_evidence():
    def raised(number):
        try:
            try:
                raise OSError(number, "x")
            except OSError:
                raise zipfile.BadZipFile("File is not a zip file")  # noqa: B904 - as zipfile does
        except zipfile.BadZipFile as error:
            return error

    assert system_failure(raised(errno.EIO)) == errno.EIO
    assert system_failure(raised(errno.EINVAL)) == 0  # a seek in a file that is too short


def test_a_failure_is_tried_once_more_and_is_not_the_cause_of_what_is_found_then():
    answers = iter([UnverifiableError("x", number=5), KeyError("gone")])

    def read():
        raise next(answers)

    with pytest.raises(KeyError) as caught:
        retry_unverifiable(read)
    assert system_failure(caught.value) == 0


def test_a_dataset_that_cannot_be_looked_up_is_not_missing(tmp_path):
    class Links:
        def exists(self, _):
            raise RuntimeError("Can't determine (file read failed: errno = 5, error message = 'x')")

    class File:
        id = type("Id", (), {"links": Links()})

    with pytest.raises(RuntimeError, match="errno = 5"):
        own_dataset(File, "/a")


# Locks of HDF5's own.


def test_one_place_opens_hdf5_files():
    package = Path(keras_savekit.__file__).parent
    opening = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_use = isinstance(node, ast.Attribute) and node.attr in ("File", "h5f")
            if is_use and isinstance(node.value, ast.Name) and node.value.id == "h5py":
                opening.append((str(path.relative_to(package)), node.attr))
            if isinstance(node, ast.ImportFrom) and node.module == "h5py":
                opening.append((str(path.relative_to(package)), "from"))
    annotated = {("formats/hdf5/extract.py", "File"), ("formats/hdf5/template.py", "File")}
    assert set(opening) == annotated | {("formats/hdf5/access.py", "File")}
    for name, _ in annotated:  # as types only
        tree = ast.parse((package / name).read_text())
        called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not [each for each in called if ast.unparse(each) == "h5py.File"]


def test_files_are_opened_without_a_lock(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w", locking=False) as file:
        file["a"] = np.arange(3)
    before = h5py.File(tmp_path / "f.h5", "r", locking=True)
    with (
        before,
        access.open_for_reading(tmp_path / "f.h5") as file,
    ):  # already open, with a lock
        assert file["a"][()].tolist() == [0, 1, 2]


SHIM = r"""
#include <errno.h>
#include <stdlib.h>
int flock(int fd, int operation) { errno = atoi(getenv("FLOCK_ERRNO")); return -1; }
"""

WITHOUT_FLOCK = """
import errno, json, os, sys, fcntl, pathlib
os.environ["FLOCK_ERRNO"] = str(errno.ENOLCK)
import conftest, h5py, numpy as np
import training_builders as built
import keras_savekit as sk
from keras_savekit.cli.main import run as savekit
from keras_savekit.store.run import RunDirectory

out = {}
for name in ("ENOLCK", "ENOTSUP", "EINVAL", "EPERM", "EBADF"):
    number = getattr(errno, name)
    os.environ["FLOCK_ERRNO"] = str(number)
    path = pathlib.Path(sys.argv[1], name)
    path.mkdir()
    with open(path / "x", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            refused = 0
        except OSError as error:
            refused = error.errno
    depth = "load" if name == "ENOLCK" else "structure"
    form = "keras" if name == "EINVAL" else "h5"
    policy = built.policy(
        built.plan("every 1 steps", verify=depth, format=form, keep="last 20", when_busy="wait")
    )
    for epochs in (1, 2):
        data = built.data()
        kit = sk.SaveKit(policy, directory=path / "run", data=data)
        built.fit(built.model(), kit, on=data, epochs=epochs)
    run = path / "run"
    sk.load_model(run / "checkpoints" / "000000012-p")
    out[name] = {
        "refused": refused == number,
        "quarantine": os.listdir(run / "quarantine"),
        "resumed": kit.resumed.moment.step,
        "verified": sum(
            each.status == "verified" and each.verification.depth == depth
            for each in RunDirectory(run).checkpoints()
        ),
        "verify": savekit(["verify", str(run)]),
    }
try:
    h5py.File(run / "checkpoints" / "000000012-p" / "model.h5", "r", locking=True)
    out["hdf5"] = "locks"
except OSError as error:
    out["hdf5"] = str(error)
pathlib.Path(sys.argv[1], "out.json").write_text(json.dumps(out))
"""


@pytest.mark.slow
def test_a_training_on_a_file_system_without_flock_resumes_from_its_newest(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make flock() fail with")
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(shim), str(tmp_path / "shim.c")], check=True
    )
    environ = {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "FLOCK_ERRNO": str(errno.ENOLCK),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "PYTHONWARNINGS": "ignore",
    }
    environ.pop("HDF5_USE_FILE_LOCKING", None)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FLOCK, str(tmp_path)],
        env=environ, capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    out = json.loads((tmp_path / "out.json").read_text())
    assert "errno = " in out.pop("hdf5")  # so the shim is felt
    for name, each in out.items():
        expected = {
            "refused": True, "quarantine": [], "resumed": 6, "verified": 12, "verify": 0,
        }  # fmt: skip
        assert each == expected, name


def test_an_outcome_that_is_not_done_leaves_a_checkpoint_unverified(run):
    with syscalls.watched(Failing(errno.EIO, 0, always=True, only=within(run))):
        outcome = verify_files(run / "checkpoints" / NEWEST, "structure", 1.0)
    assert outcome == Verification("bytes", 1.0, (), outcome.note, done=False)
