"""A run's directory."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_store_builders import add, crashes_everywhere, prepared, tiny_checkpoint, unlocked

from keras_savekit.errors import CheckpointError, DirectoryError, DirectoryInUseError
from keras_savekit.store.manifest import Finding, Verification
from keras_savekit.store.naming import Leftover
from keras_savekit.store.prepare import prepare
from keras_savekit.store.run import LINKS, RunDirectory, resolve_link
from keras_savekit.store.run_lock import RunLock
from keras_savekit.store.run_writer import RunWriter
from keras_savekit.verify.depths import verify_files

GOOD = Verification("structure", 2.0)
BAD = Verification("bytes", 2.0, (Finding("digest", "a.bin", "changed"),))


def names(run):
    return [each.name for each in run.checkpoints()]


def assert_opens(run):
    """The law: whatever happened, what is listed is whole, and links lead to it."""
    reopened = prepared(run.path)
    reopened.sweep()
    scan = reopened.scan()
    assert scan.damaged == []
    for each in scan.checkpoints:
        assert verify_files(each.path, "bytes", 0.0).good
    for which in LINKS:
        if os.path.lexists(run.path / which):
            assert (run.path / which / "manifest.json").exists()
    leftover = [path for path in run.path.rglob("*") if Leftover.parse(path.name)]
    assert leftover == []


def test_making_the_object_touches_nothing(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "a")
    assert not run.exists
    assert run.checkpoints() == []
    assert run.run_info() is None
    assert run.linked("latest") is None
    assert list(tmp_path.iterdir()) == []


def test_a_writer_is_made_from_the_held_lock_of_its_directory_only(tmp_path):
    run = prepared(tmp_path / "run")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="needs the held lock"):
        RunWriter(run, RunLock(run.path))
    with (
        RunLock(tmp_path / "other") as other,
        pytest.raises(ValueError, match="needs the held lock"),
    ):
        RunWriter(run, other)
    with RunWriter.acquire(run) as writer:
        assert add(writer, 1) in names(run)
        with pytest.raises(DirectoryInUseError):
            RunWriter.acquire(run)
    RunWriter.acquire(run).release()


def test_a_reader_has_no_way_to_change_checkpoints():
    changes = {name for name in vars(RunWriter) if not name.startswith("_")}
    assert {"publish", "record", "remove", "quarantine", "link", "sweep"} <= changes
    assert not [name for name in changes if hasattr(RunDirectory, name)]


def test_prepare_makes_all_directories_and_may_be_repeated(tmp_path):
    run = prepared(tmp_path / "runs" / "a")
    prepare(run)
    assert run.exists
    assert sorted(path.name for path in run.path.iterdir()) == ["checkpoints", "quarantine"]
    assert list(run.checkpoints_path.iterdir()) == []


def test_a_directory_below_a_file_is_refused_with_advice(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryError, match="choose another directory"):
        prepare(RunDirectory(tmp_path / "file" / "run"))


def test_a_directory_that_cannot_be_written_is_refused_with_the_reason():
    with pytest.raises(DirectoryError, match="cannot make the directory"):
        prepare(RunDirectory(Path("/proc/savekit")))


def test_checkpoints_are_listed_by_step_then_name(tmp_path):
    run = prepared(tmp_path)
    for step, plan in [(10**9, "b"), (5, "b"), (5, "a"), (999_999_999, "a")]:
        add(run, step, plan)
    expected = ["000000005-a", "000000005-b", "999999999-a", "1000000000-b"]
    assert names(run) == expected


def test_a_verification_is_recorded_and_read_back(tmp_path):
    run = prepared(tmp_path)
    name = add(run, 5)
    assert run.open(name).status == "unverified"
    assert run.record(name, GOOD).status == "verified"
    assert run.open(name).verification == GOOD
    run.record(name, BAD)
    assert run.open(name).status == "failed"
    assert verify_files(run.open(name).path, "bytes", 0.0).good


def test_a_verification_that_cannot_be_read_counts_as_none(tmp_path):
    run = prepared(tmp_path)
    name = add(run, 5)
    run.record(name, GOOD)
    path = run.checkpoints_path / name / "verification.json"
    path.write_bytes(path.read_bytes().replace(b"2.0", b"3.0"))
    assert run.open(name).status == "unverified"


def test_what_is_no_checkpoint_is_listed_as_damaged_with_the_reason(tmp_path):
    run = prepared(tmp_path / "run")
    good = add(run, 1)
    (run.checkpoints_path / add(run, 2) / "manifest.json").unlink()
    moved = run.checkpoints_path / add(run, 3)
    moved.rename(moved.with_name("000000004-latest"))
    (run.checkpoints_path / "notes.txt").touch()
    (run.checkpoints_path / "000000006-latest").touch()
    (tmp_path / "elsewhere").mkdir()
    tiny_checkpoint(tmp_path / "elsewhere", 5)
    (run.checkpoints_path / "000000005-latest").symlink_to(tmp_path / "elsewhere")
    scan = run.scan()
    assert [each.name for each in scan.checkpoints] == [good]
    assert {name: error.what for name, error in scan.damaged} == {
        "000000002-latest": "manifest.json is missing",
        "000000004-latest": "the manifest is of another checkpoint: step 3, plan latest",
        "000000005-latest": "is a link; links are not followed",
        "000000006-latest": "is not a directory",
    }
    assert scan.foreign == run.foreign() == ["notes.txt"]


@pytest.mark.parametrize("name", ["../000000001-latest", "", ".", "latest", "000000001-latest/"])
def test_names_that_are_none_open_nothing(tmp_path, name):
    run = prepared(tmp_path)
    add(run, 1)
    with pytest.raises(CheckpointError, match="not the name of a checkpoint"):
        run.open(name)
    with pytest.raises(DirectoryError, match="is not the name of a checkpoint"):
        run.link("latest", name)
    with pytest.raises(DirectoryError, match="is not the name of a checkpoint"):
        run.new_scratch(name)


@pytest.mark.parametrize(
    "name", ["..", "../checkpoints", "", "a/b", ".scratch-x", "notes", "000000001"]
)
def test_nothing_outside_can_be_removed_or_set_aside(tmp_path, name):
    run = prepared(tmp_path)
    for action in (run.remove, lambda each: run.quarantine(each, BAD)):
        with pytest.raises(DirectoryError, match="is not the name of a checkpoint"):
            action(name)


def test_removing_takes_the_links_along(tmp_path):
    run = prepared(tmp_path)
    one, two = add(run, 1), add(run, 2)
    run.link("latest", two)
    run.link("best", one)
    run.remove(two)
    assert names(run) == [one]
    assert not (run.path / "latest").is_symlink()
    assert run.linked("best") == one
    run.remove(two)  # once more does nothing


def test_removing_a_link_among_the_checkpoints_leaves_what_it_leads_to(tmp_path):
    run = prepared(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    (run.checkpoints_path / "000000001-p").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DirectoryError, match="left alone"):
        run.remove("000000001-p")
    assert (run.checkpoints_path / "000000001-p").is_symlink()
    assert (tmp_path / "elsewhere" / "file").exists()


def test_links_are_relative_and_lead_to_checkpoints_only(tmp_path):
    run = prepared(tmp_path / "run")
    name = add(run, 1)
    run.link("latest", name)
    assert str((run.path / "latest").readlink()) == f"checkpoints/{name}"
    assert run.linked("latest") == name
    with pytest.raises(DirectoryError, match="no such checkpoint to link to"):
        run.link("latest", "000000009-latest")
    assert run.linked("latest") == name
    run.link("latest", None)
    run.link("latest", None)
    assert run.linked("latest") is None
    (run.path / "best").symlink_to(tmp_path.parent)
    assert run.linked("best") is None


def test_quarantine_moves_a_checkpoint_and_says_why(tmp_path):
    run = prepared(tmp_path)
    name = add(run, 1)
    run.link("latest", name)
    path = run.quarantine(name, BAD)
    assert path == run.quarantine_path / name
    assert names(run) == []
    assert run.linked("latest") is None
    assert run.quarantined() == [(name, BAD)]
    add(run, 1)
    assert run.quarantine(name, BAD).name == f"{name}.2"


def test_whatever_has_a_checkpoints_name_can_be_quarantined(tmp_path):
    run = prepared(tmp_path)
    (run.checkpoints_path / "000000003-stray").write_text("mine")
    (run.checkpoints_path / "000000001-empty").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run.checkpoints_path / "000000002-link").symlink_to(elsewhere)
    for name, _ in run.damaged():
        run.quarantine(name, BAD)
    assert run.damaged() == []
    assert run.quarantined() == [
        ("000000001-empty", BAD),
        ("000000002-link", BAD),
        ("000000003-stray", BAD),
    ]
    assert (run.quarantine_path / "000000003-stray" / "000000003-stray").read_text() == "mine"
    assert list(elsewhere.iterdir()) == []


def test_setting_aside_what_is_not_there_is_an_error(tmp_path):
    run = prepared(tmp_path)
    with pytest.raises(DirectoryError, match="cannot quarantine: No such file"):
        run.quarantine("000000001-latest", BAD)


def test_sweep_removes_what_crashes_left_and_nothing_else(tmp_path):
    run = prepared(tmp_path)
    name = add(run, 1)
    scratch = run.new_scratch("000000002-latest")
    tiny_checkpoint(scratch)
    removing = ".removing-000000007-p~2-1-0badcafe"
    (run.checkpoints_path / removing).mkdir()
    (run.path / ".writing-savekit.json-1-0badcafe").touch()
    (run.path / ".link-latest-1-0badcafe").symlink_to("gone")
    (run.path / ".mine").touch()
    (run.path / "latest").symlink_to("checkpoints/000000009-latest")
    assert sorted(run.sweep()) == sorted(
        [
            f"checkpoints/{scratch.name}",
            f"checkpoints/{removing}",
            ".writing-savekit.json-1-0badcafe",
            ".link-latest-1-0badcafe",
            "latest",
        ]
    )
    assert names(run) == [name]
    assert (run.path / ".mine").exists()
    assert run.sweep() == []


def test_no_link_leads_to_a_checkpoint_that_was_set_aside_or_removed(tmp_path):
    run = prepared(tmp_path)
    bad, gone, good = (add(run, step) for step in (1, 2, 3))
    run.link("latest", bad)
    run.link("best", good)
    run.quarantine(bad, BAD)
    assert not os.path.lexists(tmp_path / "latest")
    run.link("latest", gone)
    assert run.remove(gone)
    assert not os.path.lexists(tmp_path / "latest")
    assert run.linked("best") == good


@pytest.mark.parametrize("target", ["checkpoints/000000009-latest", "../elsewhere", "."])
def test_a_link_of_a_run_that_leads_to_none_of_its_checkpoints_is_not_followed(tmp_path, target):
    run = prepared(tmp_path / "run")
    name = add(run, 1)
    run.link("latest", name)
    assert resolve_link(run.path / "latest") == run.checkpoints_path / name
    assert resolve_link(run.path) == run.path
    (tmp_path / "elsewhere").mkdir()
    tiny_checkpoint(tmp_path / "elsewhere")
    (run.path / "best").symlink_to(target)
    with pytest.raises(CheckpointError, match="leads to no checkpoint of its run"):
        resolve_link(run.path / "best")


def test_directories_within_a_run_are_no_more_open_than_it_and_those_above_obey_the_umask(tmp_path):
    def mode(path):
        return path.stat().st_mode & 0o777

    tmp_path.chmod(0o700)
    before = os.umask(0o022)
    try:
        made = prepared(tmp_path / "runs" / "a").path
        closed = tmp_path / "closed"
        closed.mkdir(0o700)
        prepared(closed)
    finally:
        os.umask(before)
    assert (mode(made.parent), mode(made), mode(made / "checkpoints")) == (0o755, 0o755, 0o755)
    assert (mode(closed / "checkpoints"), mode(closed / "quarantine")) == (0o700, 0o700)


def test_the_run_keeps_its_id_and_takes_the_newest_policy(tmp_path):
    run = prepared(tmp_path)
    first = run.write_run_info({"version": 1})
    second = unlocked(tmp_path).write_run_info({"version": 1, "limit": float("inf")})
    assert len(first.run) == 32
    assert second.run == first.run == run.run_info().run
    text = json.loads((tmp_path / "savekit.json").read_text(), parse_constant=pytest.fail)
    assert text["policy"] == {"version": 1, "limit": "Infinity"}
    assert text["format"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 2}', "directory format 2 is not known.*\n.*update this one"),
    ],
)
def test_a_run_that_this_version_cannot_read_is_refused(tmp_path, text, message):
    (tmp_path / "savekit.json").write_text(text)
    run = unlocked(tmp_path)
    for action in (
        run.run_info,
        lambda: prepare(run),
        run.recover_run_info,
        lambda: run.write_run_info({}),
    ):
        with pytest.raises(DirectoryError, match=message):
            action()
    assert (tmp_path / "savekit.json").read_text() == text
    assert not run.quarantine_path.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "malformed"),
        (b'{"format": 1}', "malformed: run"),
        (b"\xff\0", "malformed"),
        (b"", "mal"),
    ],
)
@pytest.mark.parametrize("steps", [(), (1, 2)])
def test_what_a_damaged_file_says_of_the_run_is_recovered(tmp_path, text, message, steps):
    run = prepared(tmp_path)
    for step in steps:
        add(run, step)
    (tmp_path / "savekit.json").write_bytes(text)
    for action in (run.run_info, lambda: run.write_run_info({})):
        with pytest.raises(DirectoryError, match=message):
            action()
    prepare(run)
    said = run.recover_run_info()
    assert message in said
    info = run.write_run_info({"version": 1})
    if steps:
        assert "taken from 000000002-latest" in said
        assert info.run == "r"
    else:
        assert "new id" in said
        assert len(info.run) == 32
    assert (run.quarantine_path / "savekit.json" / "savekit.json").read_bytes() == text
    ((name, verification),) = run.quarantined()
    assert name == "savekit.json"
    assert message in verification.findings[0].what
    assert run.recover_run_info() == ""


def test_links_that_are_the_users_are_left_alone(tmp_path):
    run = prepared(tmp_path)
    name = add(run, 1)
    (run.path / "latest").symlink_to("checkpoints/notes")
    (run.path / "best").write_text("my best one\n")
    for which in LINKS:
        assert run.occupied(which)
        with pytest.raises(DirectoryError, match="is no link of ours and is left alone"):
            run.link(which, name)
        run.link(which, None)
    assert run.sweep() == []
    assert str((run.path / "latest").readlink()) == "checkpoints/notes"
    assert (run.path / "best").read_text() == "my best one\n"


def test_what_a_user_put_into_a_checkpoint_is_moved_to_quarantine_when_it_is_removed(tmp_path):
    run = prepared(tmp_path / "run")
    path = run.checkpoints_path / add(run, 1)
    (path / "notes.txt").write_text("mine")
    (path / "plots").mkdir()
    (path / "plots" / "a.png").write_bytes(b"png")
    (path / "link").symlink_to(tmp_path)
    (path / "verification.json").mkdir()  # our name, and no file
    rescued = []
    assert run.remove(path.name, lambda *given: rescued.append(given))
    assert list(run.checkpoints_path.iterdir()) == []
    place = run.quarantine_path / path.name
    assert rescued == [(place, ("link", "notes.txt", "plots", "verification.json"))]
    assert (place / "notes.txt").read_text() == "mine"
    assert (place / "plots" / "a.png").read_bytes() == b"png"
    assert (place / "link").readlink() == tmp_path
    assert (place / "verification.json.2").is_dir()
    assert not (place / "a.bin").exists()
    ((_, verification),) = run.quarantined()
    assert {each.where for each in verification.findings} == set(rescued[0][1])


def test_a_crash_while_a_checkpoint_is_removed_loses_nothing_of_the_users(tmp_path):
    counter = iter(range(1000))

    def again():
        run = prepared(tmp_path / str(next(counter)))
        path = run.checkpoints_path / add(run, 1)
        (path / "deep").mkdir()
        (path / "deep" / "notes.txt").write_text("mine")
        return run

    for run in crashes_everywhere(lambda run: run.remove("000000001-latest"), again):
        run.sweep()
        (found,) = run.path.rglob("notes.txt")
        assert found.read_text() == "mine"
        assert not [path for path in run.path.rglob("*") if Leftover.parse(path.name)]


def test_a_deleted_directory_of_checkpoints_is_made_again(tmp_path):
    run = prepared(tmp_path / "run")
    assert not run.remake_checkpoints()
    run.checkpoints_path.rmdir()
    assert run.remake_checkpoints()
    assert add(run, 1) in names(run)
    shutil.rmtree(run.path)
    with pytest.raises(DirectoryError, match="cannot make the directory again"):
        run.remake_checkpoints()


def test_a_path_too_long_for_names_of_checkpoints_is_refused_before_anything_is_made(tmp_path):
    deep = tmp_path
    while len(str(deep)) < 3900:
        deep = deep / ("d" * 60)
    length = 4095 - len(
        "/checkpoints/.removing-100000000000000000-p~9-4194304-01234567/verification.json"
    )
    fits = deep / ("e" * (length - len(str(deep)) - 1))
    with pytest.raises(DirectoryError, match="would have 4096 bytes, and the system allows 4095"):
        prepare(RunDirectory(fits.with_name(fits.name + "e")), ["p"])
    with pytest.raises(DirectoryError, match="choose a directory with a shorter path"):
        prepare(RunDirectory(fits), ["p", "pp"])
    with pytest.raises(DirectoryError, match="would have 256 bytes, and the file system allows"):
        prepare(RunDirectory(tmp_path / ("d" * 256)))
    assert list(tmp_path.iterdir()) == []
    run = unlocked(fits)
    prepare(run, ["p"])
    run.record(add(run, 10**17, "p"), GOOD)
    run.remove("100000000000000000-p")


def actions():
    def save(run):
        add(run, 9)
        run.record("000000009-latest", GOOD)
        run.link("latest", "000000009-latest")

    return {
        "save": save,
        "remove": lambda run: run.remove("000000001-latest"),
        "remove what is linked": lambda run: run.remove("000000002-latest"),
        "quarantine": lambda run: run.quarantine("000000002-latest", BAD),
        "link": lambda run: run.link("best", "000000002-latest"),
        "unlink": lambda run: run.link("latest", None),
        "run info": lambda run: run.write_run_info({}),
        "sweep": lambda run: (run.new_scratch("000000003-latest") / "a").touch() or run.sweep(),
    }


@pytest.mark.parametrize("action", actions())
def test_a_crash_at_any_step_leaves_a_directory_that_opens(tmp_path, action):
    counter = iter(range(1000))

    def again():
        run = prepared(tmp_path / str(next(counter)))
        add(run, 1)
        run.link("latest", add(run, 2))
        run.link("best", "000000001-latest")
        return run

    crashes = 0
    for run in crashes_everywhere(actions()[action], again):
        crashes += 1
        assert_opens(run)
    assert crashes >= 2


LOOP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store_builders import add, prepared
from keras_savekit.store.run_writer import RunWriter
run = RunWriter.acquire(prepared(Path(sys.argv[1])))
run.sweep()
first = max((each.manifest.moment.step for each in run.checkpoints()), default=0)
for step in range(first + 1, 100_000):
    name = add(run, step)
    run.link("latest", name)
    run.events.append("saved", name=name)
    for each in run.checkpoints()[:-2]:
        run.remove(each.name)
    if step == first + 3:
        print("going", flush=True)
"""


def test_a_writer_killed_at_any_time_leaves_a_directory_that_opens(tmp_path):
    run = RunDirectory(tmp_path)
    before = 0
    for delay in (0.0, 0.007, 0.019):
        with subprocess.Popen(
            [sys.executable, "-c", LOOP, str(tmp_path), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout.readline() == "going\n"
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        assert_opens(run)
        newest = run.checkpoints()[-1].manifest.moment.step
        assert newest >= before + 3
        assert len(run.events.read()) >= newest - 3
        before = newest
