"""What is remembered of a run's checkpoints is what a fresh look would find."""

import os
import shutil

import pytest
from test_store_builders import add, fake_checkpoint, prepared, tiny_checkpoint

from keras_savekit.errors import CheckpointError
from keras_savekit.store import listing_cache, manifest_json
from keras_savekit.store.listing_cache import ListingCache
from keras_savekit.store.manifest import Finding, Verification
from keras_savekit.store.manifest_json import read_manifest, read_outline

GOOD = Verification("bytes", 1.0)
BAD = Verification("bytes", 2.0, (Finding("digest", "a.bin", "is other than promised"),))
FIRST, SECOND = "000000001-latest", "000000002-latest"


@pytest.fixture
def run(tmp_path):
    run = prepared(tmp_path / "run")
    for step in (1, 2):
        add(run, step)
    return run


@pytest.fixture
def opened(run, monkeypatch):
    """The names that were read, not remembered."""
    names = []
    real = run.open
    monkeypatch.setattr(run, "open", lambda name: (names.append(name), real(name))[1])
    return names


def another_tick(run):
    """The file system's clock has gone on since the run was last changed."""
    before = max(each.stat().st_ctime_ns for each in run.checkpoints_path.iterdir())
    probe = run.path / "probe"
    while not probe.exists() or probe.stat().st_ctime_ns <= before:
        probe.unlink(missing_ok=True)
        probe.touch()


@pytest.mark.parametrize("tick", [0, listing_cache._TICK], ids=["settled", "fresh"])
@pytest.mark.parametrize(
    "change",
    [
        lambda run: None,
        lambda run: run.record(FIRST, GOOD),
        lambda run: (run.record(FIRST, GOOD), run.record(FIRST, BAD)),
        lambda run: run.pin(SECOND, pinned=True),
        lambda run: run.remove(FIRST),
        lambda run: run.quarantine(FIRST, BAD),
        lambda run: shutil.rmtree(run.checkpoints_path / SECOND),
        lambda run: add(run, 3),
        lambda run: (run.checkpoints_path / FIRST / "manifest.json").unlink(),
        lambda run: (run.remove(FIRST), add(run, 1, build=fake_checkpoint)),
        lambda run: (run.checkpoints_path / "stray").touch(),
        lambda run: (run.record(FIRST, GOOD), (run.checkpoints_path / FIRST / "PINNED").touch()),
    ],
)
def test_a_change_from_outside_is_seen_at_the_next_look(run, change, tick, monkeypatch):
    monkeypatch.setattr(listing_cache, "_TICK", tick)
    looked = ListingCache(run)
    for _ in range(2):
        assert repr(looked.checkpoints()) == repr(run.checkpoints())
    another_tick(run)
    change(run)
    for _ in range(2):
        assert repr(looked.checkpoints()) == repr(run.checkpoints())


def test_what_has_not_changed_is_not_read_again(run, opened, monkeypatch):
    monkeypatch.setattr(listing_cache, "_TICK", 0)
    looked = ListingCache(run)
    another_tick(run)
    looked.checkpoints()
    run.pin(SECOND, pinned=True)
    opened.clear()
    assert [each.pinned for each in looked.checkpoints()] == [False, True]
    assert opened == [SECOND]


def test_what_has_just_changed_is_read_again(run, opened):
    looked = ListingCache(run)
    for _ in range(2):
        opened.clear()
        looked.checkpoints()
        assert opened == [FIRST, SECOND]


def test_an_outline_is_the_manifest_and_reads_no_tensor_until_it_is_asked_for(tmp_path):
    written = fake_checkpoint(tmp_path)
    outline = read_outline(tmp_path)
    assert isinstance(outline.tensors, manifest_json._TensorsOnDisk)
    assert repr(outline) == repr(written) == repr(read_manifest(tmp_path))
    assert manifest_json.to_json(outline) == manifest_json.to_json(written)
    assert tuple(outline.tensors) == written.tensors
    assert outline.tensors[1] == written.tensors[1]


def test_tensors_of_a_manifest_that_was_exchanged_meanwhile_are_refused(tmp_path):
    fake_checkpoint(tmp_path)
    outline = read_outline(tmp_path)
    fake_checkpoint(tmp_path, step=6)
    with pytest.raises(CheckpointError, match="changed since it was looked at"):
        len(outline.tensors)


@pytest.mark.parametrize("build", [tiny_checkpoint, fake_checkpoint])
def test_damage_is_told_by_an_outline_as_by_the_whole(tmp_path, build):
    build(tmp_path)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        for damaged in (
            whole[:position],
            whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :],
        ):
            path.write_bytes(damaged)
            said = []
            for read in (read_outline, read_manifest):
                with pytest.raises(CheckpointError) as caught:
                    read(tmp_path)
                said.append(str(caught.value))
            assert said[0] == said[1]


def test_a_pipe_in_place_of_a_manifest_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(CheckpointError, match="is not a plain file"):
        read_outline(tmp_path)
