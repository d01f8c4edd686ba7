"""Publishing: complete, or not at all."""

import errno
import os
import stat

import pytest
from test_store_builders import STEPS, crashes_everywhere

from keras_savekit.errors import DirectoryError
from keras_savekit.store import atomic
from keras_savekit.store.atomic import make_scratch, publish, replace_link, write_bytes_durably
from keras_savekit.store.naming import Leftover


def filled(target):
    scratch = make_scratch(target)
    (scratch / "a").write_bytes(b"a")
    (scratch / "deep").mkdir()
    (scratch / "deep" / "b").write_bytes(b"b")
    return scratch


def content(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def names(directory):
    return sorted(path.name for path in directory.iterdir())


WHOLE = {"a": b"a", "deep/b": b"b"}


def failing(monkeypatch, name, code, *, only=lambda *_: True):
    real = getattr(os, name)

    def call(*args, **kwargs):
        if only(*args):
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    monkeypatch.setattr(atomic.os, name, call)


def test_publishing_gives_the_directory_its_name(tmp_path):
    scratch = filled(tmp_path / "x")
    assert scratch.name.startswith(f".scratch-x-{os.getpid()}-")
    publish(scratch, tmp_path / "x")
    assert content(tmp_path / "x") == WHOLE
    assert names(tmp_path) == ["x"]


def test_every_file_and_directory_is_synced_before_the_rename(tmp_path, monkeypatch):
    scratch = filled(tmp_path / "x")
    calls, paths = [], {}
    real = {name: getattr(os, name) for name in STEPS}

    def opened(path, *args, **kwargs):
        descriptor = real["open"](path, *args, **kwargs)
        paths[descriptor] = os.path.relpath(path, tmp_path).replace(scratch.name, "S")
        return descriptor

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(paths[fd]), real["fsync"](fd)))
    monkeypatch.setattr(os, "rename", lambda *a: (calls.append("rename"), real["rename"](*a)))
    publish(scratch, tmp_path / "x")
    assert calls.index("S/deep/b") < calls.index("S/deep") < calls.index("S")
    assert calls.index("S/a") < calls.index("S")
    assert calls[-2:] == ["rename", "."]


def test_a_crash_at_any_step_of_publishing_leaves_all_or_nothing(tmp_path):
    seen = set()
    counter = iter(range(1000))

    def again():
        target = tmp_path / str(next(counter)) / "x"
        target.parent.mkdir()
        return filled(target), target

    for scratch, target in crashes_everywhere(lambda pair: publish(*pair), again):
        seen.add(target.exists())
        assert content(target if target.exists() else scratch) == WHOLE
    assert seen == {True, False}


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_what_stands_already_is_never_overwritten(tmp_path, kind):
    target = tmp_path / "x"
    {
        "directory": target.mkdir,
        "file": target.touch,
        "link": lambda: target.symlink_to("nowhere"),
    }[kind]()
    scratch = filled(target)
    with pytest.raises(DirectoryError, match="already exists and is never overwritten"):
        publish(scratch, target)
    assert content(scratch) == WHOLE


def test_a_link_in_a_scratch_directory_is_not_published(tmp_path):
    scratch = filled(tmp_path / "x")
    (scratch / "link").symlink_to("/etc/passwd")
    with pytest.raises(DirectoryError, match="link is not a plain file"):
        publish(scratch, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["fsync", "rename", "open"])
def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path, monkeypatch, name):
    scratch = filled(tmp_path / "x")
    failing(monkeypatch, name, errno.ENOSPC)
    with pytest.raises(DirectoryError, match=r"No space left.*\n  free some space"):
        publish(scratch, tmp_path / "x")
    monkeypatch.undo()
    assert content(scratch) == WHOLE
    assert not (tmp_path / "x").exists()


def test_file_systems_that_cannot_sync_a_directory_are_tolerated(tmp_path, monkeypatch):
    scratch = filled(tmp_path / "x")
    is_directory = lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode)  # noqa: E731
    failing(monkeypatch, "fsync", errno.EINVAL, only=is_directory)
    publish(scratch, tmp_path / "x")
    assert content(tmp_path / "x") == WHOLE


def test_permissions_are_those_of_the_umask(tmp_path):
    tmp_path.chmod(0o755)
    before = os.umask(0o027)
    try:
        scratch = make_scratch(tmp_path / "x")
        write_bytes_durably(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE(scratch.stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_crash_at_any_step_of_writing_leaves_the_old_or_the_new_file(tmp_path):
    seen = set()
    path = tmp_path / "file"

    def again():
        path.write_bytes(b"old")
        return path

    for _ in crashes_everywhere(lambda path: write_bytes_durably(path, b"new"), again):
        seen.add(path.read_bytes())
        assert all(each == "file" or Leftover.parse(each) for each in names(tmp_path))
    assert seen == {b"old", b"new"}
    write_bytes_durably(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch, name):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    failing(monkeypatch, name, errno.EIO)
    with pytest.raises(DirectoryError, match="cannot write: Input/output error"):
        write_bytes_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_crash_at_any_step_of_linking_leaves_the_old_or_the_new_link(tmp_path):
    seen = set()
    link = tmp_path / "link"

    def again():
        link.unlink(missing_ok=True)
        link.symlink_to("old")
        return link

    for _ in crashes_everywhere(lambda link: replace_link(link, "new"), again):
        seen.add(str(link.readlink()))
    assert seen == {"old", "new"}


def test_a_link_never_replaces_what_is_no_link(tmp_path):
    (tmp_path / "link").write_text("mine")
    with pytest.raises(DirectoryError, match="is not a link"):
        replace_link(tmp_path / "link", "x")
    assert (tmp_path / "link").read_text() == "mine"
