"""What a manifest says is what is read back."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store_builders import tiny_checkpoint

from keras_savekit.base.key import Key
from keras_savekit.base.moment import Moment
from keras_savekit.errors import CheckpointError
from keras_savekit.store.manifest import FileEntry, Finding, Manifest, TensorEntry, Verification
from keras_savekit.store.manifest_json import (
    is_signed,
    is_signed_with,
    read_manifest,
    read_verification,
    sign,
    to_json,
)

laws = settings(derandomize=True, deadline=None, max_examples=50)
texts = st.text(st.characters(codec="utf-8"), max_size=10)
floats = st.floats(allow_nan=True, allow_infinity=True)
counts = st.integers(0, 2**62)
moments = st.builds(Moment, counts, counts, counts, floats, st.dictionaries(texts, floats))
manifests = st.builds(
    Manifest,
    run=texts,
    plan=texts,
    save=st.sampled_from(["model", "weights"]),
    reasons=st.tuples(texts),
    moment=moments,
    created=floats,
    model_file=texts,
    files=st.tuples(st.builds(FileEntry, texts, counts, texts)),
    tensors=st.tuples(
        st.builds(
            TensorEntry,
            st.sampled_from(["weight", "optimizer", "metric", "seed"]),
            counts,
            texts,
            st.lists(counts, max_size=3).map(tuple),
            texts,
            texts,
            st.tuples(texts),
        )
    ),
    versions=st.dictionaries(texts, texts, max_size=2),
)
verifications = st.builds(
    Verification,
    st.sampled_from(["bytes", "structure", "load", "predict"]),
    floats,
    st.lists(st.builds(Finding, texts, texts, texts), max_size=2).map(tuple),
    texts,
    st.booleans(),
    st.lists(st.builds(Finding, texts, texts, texts), max_size=2).map(tuple),
)


def no_constants(name):
    raise AssertionError(f"{name} is not standard JSON")


@laws
@given(manifests)
def test_reading_a_written_manifest_is_identity(tmp_path_factory, manifest):
    directory = tmp_path_factory.getbasetemp()
    (directory / "manifest.json").write_bytes(to_json(manifest))
    assert repr(read_manifest(directory)) == repr(manifest)  # NaN is not equal to itself


@laws
@given(verifications)
def test_reading_a_written_verification_is_identity(tmp_path_factory, verification):
    directory = tmp_path_factory.getbasetemp()
    (directory / "verification.json").write_bytes(to_json(verification))
    assert repr(read_verification(directory)) == repr(verification)


def test_metrics_that_are_not_finite_stay_standard_json(tmp_path):
    manifest = tiny_checkpoint(tmp_path)
    assert np.isnan(manifest.moment.logs["val_loss"])
    text = json.loads((tmp_path / "manifest.json").read_text(), parse_constant=no_constants)
    assert text["moment"]["logs"] == {"loss": 0.25, "val_loss": "NaN"}


def test_a_flipped_bit_anywhere_in_a_manifest_is_seen(tmp_path):
    tiny_checkpoint(tmp_path)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            read_manifest(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 100, -1, -40])
def test_a_short_manifest_is_refused(tmp_path, length):
    tiny_checkpoint(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"malformed|changed since"):
        read_manifest(tmp_path)


def test_a_manifest_of_a_newer_format_says_so(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": 2, "all": "new"}')
    with pytest.raises(CheckpointError, match="format 2 is not known"):
        read_manifest(tmp_path)


def test_a_missing_manifest_and_one_behind_a_link_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is missing"):
        read_manifest(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    tiny_checkpoint(tmp_path / "elsewhere")
    (tmp_path / "manifest.json").symlink_to("elsewhere/manifest.json")
    with pytest.raises(CheckpointError, match="is not a plain file"):
        read_manifest(tmp_path)


def test_an_enormous_manifest_is_refused_unread(tmp_path):
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match="larger than any"):
        read_manifest(tmp_path)


def test_a_signature_is_of_one_text_and_one_key():
    body = b'{"format": 1'
    signed = sign(body, Key(b"a"))
    assert signed.startswith(body)
    assert json.loads(signed + b"}")["format"] == 1
    assert is_signed_with(signed, Key(b"a"))
    assert is_signed(signed)
    assert not is_signed_with(signed, Key(b"b"))
    assert not is_signed_with(signed.replace(b"1", b"2", 1), Key(b"a"))
    assert not is_signed(body)
