"""Which entries of a run's directory and of a checkpoint are ours."""

import errno
import os

import pytest
from test_store_builders import add, fake_checkpoint, prepared

from keras_savekit.errors import CheckpointError
from keras_savekit.store.belongings import is_ours, list_belongings
from keras_savekit.store.naming import Leftover
from keras_savekit.store.read_errors import system_failure


def make(path, kind):
    {
        "file": path.touch,
        "directory": path.mkdir,
        "link": lambda: path.symlink_to("elsewhere"),
        "pipe": lambda: os.mkfifo(path),
    }[kind]()


@pytest.mark.parametrize(
    ("place", "leftover", "target", "kind", "ours"),
    [
        ("", "writing", "savekit.json", "file", True),
        ("", "writing", "savekit.json", "link", False),
        ("", "writing", "savekit.json", "pipe", False),
        ("", "writing", "notes.json", "file", False),
        ("", "link", "latest", "link", True),
        ("", "link", "latest", "directory", False),
        ("", "link", "mine", "link", False),
        ("checkpoints", "scratch", "000000005-latest", "directory", True),
        ("checkpoints", "scratch", "000000005-latest", "file", False),
        ("checkpoints", "scratch", "mine", "directory", False),
        ("quarantine", "scratch", "000000005-latest", "directory", False),
    ],
)
def test_an_entry_is_ours_by_name_type_and_place(tmp_path, place, leftover, target, kind, ours):
    make(tmp_path / "entry", kind)
    assert is_ours(Leftover(leftover, target, 1, "0" * 8), place, tmp_path / "entry") is ours
    assert not is_ours(Leftover(leftover, target, 1, "0" * 8), place, tmp_path / "gone")


def test_a_checkpoint_is_its_files_the_manifest_last_and_everything_else_is_foreign(tmp_path):
    run = prepared(tmp_path)
    path = run.checkpoints_path / add(run, 1, build=fake_checkpoint)
    (path / "mine").mkdir()
    (path / "mine" / "model.h5").touch()
    (path / "link").symlink_to("model.h5")
    found = list_belongings(path)
    assert "model.h5" in found.files
    assert found.files[-1] == "manifest.json"
    assert (found.folders, sorted(found.foreign)) == ((), ["link", "mine"])


def translated(number):
    try:
        try:
            raise OSError(number, "a failure below")
        except OSError as below:
            raise CheckpointError("cannot be read") from below
    except CheckpointError as error:
        return error


def test_a_seek_before_a_files_beginning_is_of_its_content_and_other_causes_are_of_the_system():
    assert system_failure(translated(errno.EINVAL)) == 0
    assert system_failure(translated(errno.EIO)) == errno.EIO
