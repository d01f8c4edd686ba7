"""Which checkpoints a resume looks at, in which order, and what it believes of them."""

import pytest
from test_store_builders import add, fake_checkpoint, prepared

from keras_savekit.resume.select import candidates
from keras_savekit.store.manifest import Finding, Verification

WRONG = (Finding("weights", "dense/kernel", "differs when it is loaded"),)


def candidate(run):
    (found,) = candidates(run, 9.0)
    return found


@pytest.mark.parametrize("depth", ["bytes", "structure", "load", "predict"])
def test_what_was_good_once_and_is_damaged_since_is_found_whatever_its_record_says(tmp_path, depth):
    run = prepared(tmp_path)
    name = add(run, 1, build=fake_checkpoint)
    run.record(name, Verification(depth, 2.0))
    assert candidate(run).verification == Verification(depth, 2.0)
    path = run.checkpoints_path / name / "model.h5"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert not candidate(run).verification.good
    assert candidate(run).verification.findings


@pytest.mark.parametrize("depth", ["bytes", "structure", "load", "predict"])
def test_recorded_findings_that_the_files_do_not_confirm_are_not_believed(tmp_path, depth):
    run = prepared(tmp_path)
    name = add(run, 1, build=fake_checkpoint)
    run.record(name, Verification(depth, 2.0, WRONG))
    verification = candidate(run).verification
    assert (verification.depth, verification.findings) == ("structure", ())


def test_what_is_not_verified_is_verified_now(tmp_path):
    run = prepared(tmp_path)
    name = add(run, 1, build=fake_checkpoint)
    run.record(name, Verification("structure", 2.0, note="no answer", done=False))
    assert candidate(run).verification == Verification("structure", 9.0)


def test_the_newest_comes_first_and_before_it_what_is_no_checkpoint(tmp_path):
    run = prepared(tmp_path)
    names = [add(run, step, build=fake_checkpoint) for step in (1, 2, 3)]
    (run.checkpoints_path / names[2] / "manifest.json").unlink()
    found = list(candidates(run, 9.0))
    assert [checkpoint.name for checkpoint in found] == [names[2], names[1], names[0]]
    assert [checkpoint.verification.good for checkpoint in found] == [False, True, True]
    assert "manifest.json is missing" in found[0].why_not()
