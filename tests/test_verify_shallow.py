"""Verification at the depths bytes and structure."""

import json
import os
from dataclasses import replace
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
from test_store_builders import (
    BIAS,
    KERNEL,
    LAYER,
    digest,
    fake_checkpoint,
    file_entry,
    reads_of,
    tensor,
    tiny_checkpoint,
    write_manifest,
)

from keras_savekit.errors import UnverifiableError
from keras_savekit.formats import config_digest
from keras_savekit.formats.directio.writer import PIECE
from keras_savekit.store import syscalls
from keras_savekit.store.manifest import FileEntry, Manifest, Verification
from keras_savekit.store.manifest_json import read_manifest, to_json
from keras_savekit.verify.bytes import check_bytes
from keras_savekit.verify.depths import verify_files
from keras_savekit.verify.tensors import check_structure


def kinds(findings):
    return sorted({(each.kind, each.where) for each in findings})


def bytes_found(directory, manifest=None):
    return kinds(check_bytes(directory, manifest or read_manifest(directory)))


def stored(directory, write, *tensors):
    """A checkpoint whose model.h5 is an empty file that `write` has changed."""
    with h5py.File(directory / "model.h5", "w") as file:
        write(file)
    return write_manifest(directory, tensors=tensors)


def structure_found(directory, write, *tensors):
    manifest = stored(directory, write, *tensors)
    assert check_bytes(directory, manifest) == ()
    findings = check_structure(directory, manifest)
    return sorted(each.kind for each in findings)


# Depth bytes.


def test_one_flipped_bit_in_every_512th_byte_is_always_found(tmp_path):
    fake_checkpoint(tmp_path)
    flipped = 0
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for position in range(0, len(whole), 512):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << (position // 512) % 8
            path.write_bytes(damaged)
            assert not verify_files(tmp_path, "bytes", 0.0).good
            flipped += 1
        path.write_bytes(whole)
    assert flipped > 20
    assert verify_files(tmp_path, "bytes", 0.0).good


def test_missing_extra_long_and_short_files_are_all_found_together(tmp_path):
    for name in ("gone.bin", "long.bin", "short.bin", "same.bin", "other.bin"):
        (tmp_path / name).write_bytes(b"content")
    manifest = write_manifest(tmp_path)
    (tmp_path / "gone.bin").unlink()
    (tmp_path / "long.bin").write_bytes(b"content and more")
    (tmp_path / "short.bin").write_bytes(b"con")
    (tmp_path / "other.bin").write_bytes(b"CONTENT")
    (tmp_path / "extra.bin").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "deep").touch()
    (tmp_path / "verification.json").write_bytes(to_json(Verification("bytes", 0.0)))
    assert bytes_found(tmp_path, manifest) == [
        ("digest", "other.bin"),
        ("extra", "extra.bin"),
        ("extra", "folder"),
        ("extra", "folder/deep"),
        ("missing", "gone.bin"),
        ("size", "long.bin"),
        ("size", "short.bin"),
    ]


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../outside.bin", "a/../../outside.bin", "", ".", "a\0b"]
)
def test_names_that_lead_out_are_findings_and_are_never_opened(tmp_path, monkeypatch, name):
    (tmp_path / "outside.bin").write_bytes(b"secret")
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    manifest = write_manifest(directory, files=(FileEntry(name, 6, digest(b"secret")),))
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    assert bytes_found(directory, manifest) == [("escape", name)]
    assert ("escape", name) in kinds(check_structure(directory, manifest))


@pytest.mark.parametrize("name", ["link.bin", "folder/file.bin"])
def test_links_are_findings_even_if_their_targets_are_right(tmp_path, name):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file.bin").write_bytes(b"x")
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    manifest = write_manifest(directory, files=(FileEntry(name, 1, digest(b"x")),))
    (directory / "link.bin").symlink_to("../outside/file.bin")
    (directory / "folder").symlink_to("../outside")
    assert ("link", name) in bytes_found(directory, manifest)


def test_files_in_subfolders_are_checked_too(tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "words").write_bytes(b"a b")
    manifest = write_manifest(tmp_path, files=(FileEntry("assets/words", 3, digest(b"a b")),))
    assert bytes_found(tmp_path, manifest) == []
    (tmp_path / "assets" / "words").write_bytes(b"a c")
    assert bytes_found(tmp_path, manifest) == [("digest", "assets/words")]


def test_no_check_waits_for_a_pipe_or_a_device(tmp_path):
    tiny_checkpoint(tmp_path)
    (tmp_path / "a.bin").unlink()
    os.mkfifo(tmp_path / "a.bin")
    (tmp_path / "verification.json").mkdir()
    assert bytes_found(tmp_path) == [("extra", "verification.json"), ("unreadable", "a.bin")]


def test_an_error_of_the_disk_is_no_finding_and_the_rest_is_checked(tmp_path, monkeypatch):
    tiny_checkpoint(tmp_path)

    def failing(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(UnverifiableError, match=r"Input/output error.*a\.bin"):
        bytes_found(tmp_path)
    outcome = verify_files(tmp_path, "structure", 1.0)
    assert (outcome.good, outcome.done) == (True, False)
    assert outcome.note == "could not be verified: cannot be read: Input/output error [a.bin]"
    (tmp_path / "b.bin").write_bytes(b"no longer empty")
    assert bytes_found(tmp_path) == [("size", "b.bin")]


def test_files_are_read_from_the_disk_and_leave_no_cache_behind(tmp_path, monkeypatch):
    tiny_checkpoint(tmp_path)
    (tmp_path / "a.bin").write_bytes(os.urandom(2 * PIECE + 5))
    manifest = write_manifest(tmp_path)
    calls = []
    real = {"posix_fadvise": os.posix_fadvise, "preadv": os.preadv}

    def recording(name):
        def call(*args):
            calls.append(f"drop {args[3]}" if name == "posix_fadvise" else "read")
            return real[name](*args)

        return call

    for name in real:
        monkeypatch.setattr(os, name, recording(name))
    manifest = replace(manifest, files=(file_entry(tmp_path / "a.bin"),))
    assert bytes_found(tmp_path, manifest) == [("extra", "b.bin")]
    drop = f"drop {os.POSIX_FADV_DONTNEED}"
    assert calls[0] == calls[-1] == drop
    assert calls.count("read") == 3


def test_many_small_tensors_are_read_together(tmp_path, monkeypatch):
    names = [f"{number:04}" for number in range(500)]

    def write(file):
        for name in names:
            file.create_dataset(name, data=BIAS)

    tensors = [replace(tensor(each, BIAS, each), index=int(each)) for each in names]
    manifest = stored(tmp_path, write, *tensors)
    calls = []
    with syscalls.watched(lambda name, call, *args: (calls.append(name), call(*args))[1]):
        assert check_structure(tmp_path, manifest) == ()
    assert 0 < calls.count("preadv") < 10


def test_tensors_with_known_offsets_are_digested_while_the_file_is_read(tmp_path):
    values = np.random.default_rng(1).normal(size=(2, 500_000)).astype(np.float32)

    def write(file):
        for name, value in zip("ab", values, strict=True):
            file.create_dataset(name, data=value)

    stored(tmp_path, write)
    with h5py.File(tmp_path / "model.h5") as file:
        offsets = {name: file[name].id.get_offset() for name in "ab"}
    tensors = {
        name: replace(tensor(name, value, name), index=index)
        for index, (name, value) in enumerate(zip("ab", values, strict=True))
    }
    known = [replace(each, offsets=(offsets[name],)) for name, each in tensors.items()]
    # A wrong offset makes the tensor be read again and is no finding.
    wrong = [replace(each, offsets=(offsets["a"] + 8,)) for each in tensors.values()]
    size = (tmp_path / "model.h5").stat().st_size
    for said, most in ((known, size + 2**20), (wrong, 2 * size + 2**20), (tensors.values(), None)):
        write_manifest(tmp_path, tensors=tuple(said))
        found, read = reads_of(lambda: verify_files(tmp_path, "structure", 0.0))
        assert found == Verification("structure", 0.0)
        assert most is None or read <= most
        if said is not known:
            assert read > size + values.nbytes / 2


def test_a_tensor_that_was_written_wrongly_is_found_then_too(tmp_path):
    stored(tmp_path, lambda file: file.create_dataset("a", data=KERNEL + 1))
    with h5py.File(tmp_path / "model.h5") as file:
        offset = file["a"].id.get_offset()
    wrong = replace(tensor("a", KERNEL, "a"), offsets=(offset,))
    write_manifest(tmp_path, tensors=(wrong,))
    (finding,) = verify_files(tmp_path, "structure", 0.0).findings
    assert (finding.kind, finding.where) == ("tensor", "model.h5:a")


# Depth structure.


def test_a_changed_tensor_is_named_even_if_the_file_is_as_written(tmp_path):
    def write(file):
        file.create_dataset(f"{LAYER}/kernel", data=KERNEL + 1)
        file.create_dataset(f"{LAYER}/bias", data=BIAS)

    wrong, right = (
        tensor("dense/kernel", KERNEL, f"{LAYER}/kernel"),
        tensor("dense/bias", BIAS, f"{LAYER}/bias"),
    )
    manifest = stored(tmp_path, write, wrong, right)
    (finding,) = verify_files(tmp_path, "structure", 0.0).findings
    assert str(finding) == (
        f"weight dense/kernel is not what was in memory [model.h5:{LAYER}/kernel]"
    )
    (extra,) = check_structure(tmp_path, replace(manifest, tensors=(right,)))
    assert str(extra) == f"is not in the manifest [model.h5:{LAYER}/kernel]"


VALUES = np.array([[1.5, -0.0, np.nan], [np.inf, -np.inf, 1e-40]])


@pytest.mark.parametrize(
    ("own", "in_file"),
    [
        ("float32", "float32"),
        ("float64", "float64"),
        ("float16", "float32"),
        ("float32", "float64"),
        ("bfloat16", "float32"),
        ("bfloat16", "V2"),
        ("float8_e4m3fn", "float32"),
        ("float8_e5m2", "V1"),
        ("int64", "int64"),
        ("uint8", "uint8"),
        ("bool", "bool"),
        ("complex64", "complex64"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "shuffle": True}])
def test_tensors_of_every_dtype_are_compared_as_the_variable_had_them(
    tmp_path, own, in_file, options
):
    dtype = np.dtype(getattr(ml_dtypes, own, own))
    with np.errstate(all="ignore"):
        value = (VALUES if dtype.kind in "fcV" else np.arange(1, 7).reshape(2, 3)).astype(dtype)

    def write(file, value=value):
        data = value.view(in_file) if in_file.startswith("V") else value.astype(in_file)
        dataset = file.create_dataset("x", data=data, **options)
        if in_file.startswith("V"):
            dataset.attrs["dtype"] = own

    assert structure_found(tmp_path, write, tensor("x", value, "x", own)) == []
    other = value.copy()
    other[0, 0] = 0
    found = structure_found(tmp_path, lambda file: write(file, other), tensor("x", value, "x", own))
    assert found == ["tensor"]


def test_every_bit_pattern_of_bfloat16_survives_being_widened(tmp_path):
    value = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    wide = (value.view(np.uint16).astype(np.uint32) << 16).view(np.float32)

    def write(file):
        file["x"] = wide

    assert structure_found(tmp_path, write, tensor("x", value, "x", "bfloat16")) == []


def test_a_widened_value_that_was_never_a_bfloat16_is_found(tmp_path):
    value = np.array([1.0], ml_dtypes.bfloat16)

    def write(file):
        file["x"] = np.array([1.0 + 2**-20], np.float32)

    assert structure_found(tmp_path, write, tensor("x", value, "x", "bfloat16")) == ["tensor"]


@pytest.mark.parametrize("value", [np.float32(1.5), np.zeros((0, 3), np.float32), np.int64(7)])
def test_scalars_and_empty_tensors_are_tensors(tmp_path, value):
    value = np.asarray(value)

    def write(file):
        file["x"] = value

    assert structure_found(tmp_path, write, tensor("x", value, "x")) == []


def test_large_tensors_are_compared_piece_by_piece(tmp_path):
    value = np.arange(3_000_001, dtype=np.float32)

    def write(file):
        file["plain"] = value
        file.create_dataset("chunked", data=value, chunks=(10_007,))

    tensors = [tensor(name, value, name) for name in ("plain", "chunked")]
    assert structure_found(tmp_path, write, *tensors) == []


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (KERNEL.T, "shape"),
        (KERNEL.reshape(-1), "shape"),
        (KERNEL.astype(">f4"), "dtype"),
        (KERNEL.astype("f2"), "dtype"),
        (KERNEL.astype("i4"), "dtype"),
        (KERNEL.view("V4"), "dtype"),
        (h5py.Empty("f4"), "shape"),
    ],
)
def test_a_dataset_that_does_not_fit_is_found(tmp_path, data, kind):
    def write(file):
        file["x"] = data

    assert structure_found(tmp_path, write, tensor("x", KERNEL, "x")) == [kind]


def external(file):
    raw = Path(file.filename).with_name("raw.bin")
    raw.write_bytes(KERNEL.tobytes())
    file.create_dataset("x", KERNEL.shape, "f4", external=[(str(raw), 0, KERNEL.nbytes)])


def virtual(file):
    layout = h5py.VirtualLayout(KERNEL.shape, "f4")
    layout[:] = h5py.VirtualSource(file.filename, "real", KERNEL.shape)
    file["real"] = KERNEL
    file.create_virtual_dataset("x", layout)


def soft(file):
    file["real"] = KERNEL
    file["x"] = h5py.SoftLink("/real")


def external_link(file):
    file["x"] = h5py.ExternalLink("other.h5", "/x")


@pytest.mark.parametrize("write", [external, virtual, soft, external_link])
def test_tensors_in_other_files_are_found_and_not_followed(tmp_path, write):
    found = structure_found(tmp_path, write, tensor("x", KERNEL, "x"))
    assert found == ["extra"] * (write in (virtual, soft)) + ["link"]


def test_a_link_on_the_way_to_a_tensor_is_found(tmp_path):
    def write(file):
        file["real/x"] = KERNEL
        file["soft"] = h5py.SoftLink("/real")

    found = structure_found(tmp_path, write, tensor("x", KERNEL, "soft/x"))
    assert found == ["extra", "link"]  # real/x, and soft


def test_what_is_not_in_the_manifest_is_found_except_for_empty_groups(tmp_path):
    def write(file):
        file["known"] = KERNEL
        file.create_group("empty/too")
        file["empty/loop"] = file["empty"]
        file["empty/tensor"] = BIAS
        file["again"] = file["known"]
        file["soft"] = h5py.SoftLink("/nowhere")
        file["typed"] = np.dtype("f4")
        file["größe"] = 3

    found = check_structure(tmp_path, stored(tmp_path, write, tensor("x", KERNEL, "known")))
    assert kinds(found) == [
        ("extra", f"model.h5:/{name}")
        for name in ("again", "empty/tensor", "größe", "soft", "typed")
    ]


def test_at_most_a_hundred_extra_datasets_are_named(tmp_path):
    def write(file):
        for number in range(500):
            file[f"many/{number}"] = number

    assert structure_found(tmp_path, write) == ["extra"] * 100


ARCHITECTURE = {"class_name": "Sequential", "config": {"name": "a", "layers": [{"b": 1}]}}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ({**ARCHITECTURE, "compile_config": {"optimizer": "adam"}}, None),
        ({"class_name": "deserialize", "config": {"config": ARCHITECTURE}}, None),
        ({**ARCHITECTURE, "class_name": "Functional"}, "config"),
        ({**ARCHITECTURE, "config": {"name": "a", "layers": [{"b": 2}]}}, "config"),
        ([ARCHITECTURE], "config"),
        ({"class_name": "deserialize"}, "config"),
        (None, "missing"),
    ],
)
def test_an_architecture_other_than_the_one_that_was_saved_is_found(tmp_path, text, kind):
    def write(file):
        if text is not None:
            file.attrs["model_config"] = json.dumps(text)

    manifest = replace(stored(tmp_path, write), architecture=config_digest.digest(ARCHITECTURE))
    found = kinds(check_structure(tmp_path, manifest))
    assert found == ([(kind, "model.h5:model_config")] if kind else [])


def test_places_that_do_not_exist_are_found(tmp_path):
    def write(file):
        file["group/x"] = KERNEL

    tensors = [tensor("x", KERNEL, place) for place in ("y", "group", "group/x/y", "", "a//b")]
    nowhere = replace(tensors[0], places=())
    other_file = replace(tensors[0], places=("other.h5:/x",))
    found = structure_found(tmp_path, write, *tensors, nowhere, other_file)
    assert found == ["missing"] * 7


def test_every_place_of_a_tensor_is_checked(tmp_path):
    def write(file):
        file["a"] = KERNEL
        file["b"] = KERNEL + 1

    twice = replace(tensor("x", KERNEL, "a"), places=("model.h5:a", "model.h5:b"))
    manifest = stored(tmp_path, write, twice)
    (finding,) = check_structure(tmp_path, manifest)
    assert (finding.kind, finding.where) == ("tensor", "model.h5:b")


def test_space_that_was_never_written_is_found_before_anything_is_allocated(tmp_path):
    shape = (2**20, 2**22)
    entry = replace(tensor("x", KERNEL, "x"), shape=shape)

    def plain(file):
        file.create_dataset("x", shape, "f4")

    def chunked(file):
        file.create_dataset("x", (8,), "f4", chunks=(2**28,), maxshape=(None,))

    assert structure_found(tmp_path, plain, entry) == ["size"]
    assert structure_found(tmp_path, chunked, replace(entry, shape=(8,))) == ["size"]


@pytest.mark.parametrize("name", ["model_config", "training_config"])
@pytest.mark.parametrize("text", ["{", "", b"\xff", 3, ["{}"]])
def test_configurations_that_are_not_json_are_found(tmp_path, name, text):
    def write(file):
        file.attrs[name] = text

    (kind,) = structure_found(tmp_path, write)
    assert kind in ("config", "unreadable")


def test_an_architecture_file_that_is_not_json_is_found(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps({"a": 1}))
    assert check_structure(tmp_path, write_manifest(tmp_path)) == ()
    (tmp_path / "model.json").write_text("{")
    assert kinds(check_structure(tmp_path, write_manifest(tmp_path))) == [("config", "model.json")]


def test_a_model_file_that_is_not_hdf5_is_found(tmp_path):
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 2000)
    manifest = write_manifest(tmp_path)
    assert check_bytes(tmp_path, manifest) == ()
    assert kinds(check_structure(tmp_path, manifest)) == [("unreadable", "model.h5")]


def test_structure_does_not_open_a_damaged_file_and_says_so(tmp_path):
    manifest = fake_checkpoint(tmp_path)
    assert isinstance(manifest, Manifest)
    path = tmp_path / "model.h5"
    damaged = bytearray(path.read_bytes())
    damaged[700] ^= 1
    path.write_bytes(damaged)
    verification = verify_files(tmp_path, "structure", 3.0)
    assert kinds(verification.findings) == [("digest", "model.h5")]
    assert (verification.depth, verification.when) == ("bytes", 3.0)
    assert verification.note == "damaged files are not opened: model.h5"


def test_a_damaged_manifest_is_a_finding(tmp_path):
    fake_checkpoint(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    verification = verify_files(tmp_path, "structure", 0.0)
    assert kinds(verification.findings) == [("manifest", "manifest.json")]
    assert kinds(verify_files(tmp_path / "gone", "bytes", 0.0).findings) == [
        ("manifest", "manifest.json")
    ]
