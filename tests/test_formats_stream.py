"""Files written without the page cache, and blocks that two files share."""

import errno
import hashlib
import os
import shutil
import subprocess

import numpy as np
import pytest
import xxhash

from keras_savekit.formats.directio.memory import PAGE
from keras_savekit.formats.directio.writer import PIECE, FileWriter
from keras_savekit.store import syscalls

RANDOM = np.random.default_rng(5)
BYTES = RANDOM.integers(0, 256, 3 * PIECE + 12345, np.uint8)
CUTS = {
    "one piece": [len(BYTES)],
    "pages, then the rest": [PIECE, PAGE, 1],
    "crumbs": [1, 7, PAGE - 8, 3, PAGE, 2 * PAGE + 5],
    "nothing at all": [],
    "empty pieces": [0, 5, 0],
}


def pieces(sizes):
    at = 0
    for size in sizes:
        yield BYTES[at : at + size].data
        at += size


def aligned(size):
    memory = np.empty(size + PAGE, np.uint8)
    begin = -memory.ctypes.data % PAGE
    memory[begin : begin + size] = BYTES[:size]
    return memory[begin : begin + size]


@pytest.mark.parametrize("sizes", CUTS.values(), ids=CUTS.keys())
def test_a_file_contains_what_was_written_and_has_its_digest(tmp_path, sizes):
    with FileWriter(tmp_path / "f") as stream:
        for piece in pieces(sizes):
            stream.write(piece)
    written = (tmp_path / "f").read_bytes()
    assert written == BYTES[: sum(sizes)].tobytes()
    assert stream.size == sum(sizes)
    assert stream.digest() == xxhash.xxh3_128_hexdigest(written)


@pytest.mark.parametrize("sizes", CUTS.values(), ids=CUTS.keys())
def test_the_sha256_of_a_file_is_computed_on_request(tmp_path, sizes):
    source = os.memfd_create("the same bytes")
    os.write(source, BYTES.data)
    entries = []
    for wanted in (True, False):
        with FileWriter(tmp_path / f"{wanted}", sha256=wanted) as stream, stream.share_with(source):
            for piece in pieces(sizes):  # shared or not: the bytes that were given count
                stream.write(piece)
        entries.append(stream.entry())
    os.close(source)
    expected = hashlib.sha256(BYTES[: sum(sizes)].data).hexdigest()
    assert [each.sha256 for each in entries] == [expected, None]
    assert (tmp_path / "True").read_bytes() == (tmp_path / "False").read_bytes()


def directness(path, *given):
    """The buffers that were written without a copy."""
    direct = []

    def look(name, call, *arguments):
        if name == "pwrite":
            flags = syscalls.fcntl.fcntl(arguments[0], syscalls.fcntl.F_GETFL)
            address = np.frombuffer(arguments[1], np.uint8).ctypes.data
            direct.append((bool(flags & os.O_DIRECT), address, len(arguments[1])))
        return call(*arguments)

    with syscalls.watched(look), FileWriter(path) as stream:
        for piece in given:
            stream.write(piece.data)
    return direct


def test_whole_pages_of_aligned_memory_are_written_without_a_copy(tmp_path):
    tensor = aligned(PIECE + 100)
    header = BYTES[:PAGE]
    found = directness(tmp_path / "f", header, tensor)
    if not found[0][0]:
        pytest.skip("this file system refuses O_DIRECT")
    assert [size for _, _, size in found] == [PAGE, PIECE, 100]
    assert found[1][:2] == (True, tensor.ctypes.data)
    assert found[2][0] is False  # the last page is not whole
    assert (tmp_path / "f").read_bytes() == header.tobytes() + tensor.tobytes()


def test_a_file_system_that_takes_the_flag_and_refuses_the_write_is_written_to_as_usual(tmp_path):
    def refuse(name, call, *arguments):
        if name == "pwrite":
            flags = syscalls.fcntl.fcntl(arguments[0], syscalls.fcntl.F_GETFL)
            if flags & os.O_DIRECT:
                raise OSError(errno.EINVAL, "no")
        return call(*arguments)

    with syscalls.watched(refuse), FileWriter(tmp_path / "f") as stream:
        stream.write(BYTES.data)
    assert (tmp_path / "f").read_bytes() == BYTES.tobytes()


def test_a_short_write_continues_where_it_ended(tmp_path):
    def short(name, call, *arguments):
        if name == "pwrite" and len(arguments[1]) > 1000:
            return call(arguments[0], arguments[1][:777], arguments[2])
        return call(*arguments)

    small = BYTES[: PIECE // 64]
    with syscalls.watched(short), FileWriter(tmp_path / "f") as stream:
        stream.write(small.data)
    assert (tmp_path / "f").read_bytes() == small.tobytes()


def test_a_full_disk_is_the_reported_error(tmp_path):
    def full(name, call, *arguments):
        if name == "pwrite":
            raise OSError(errno.ENOSPC, "No space left on device")
        return call(*arguments)

    with pytest.raises(OSError, match="No space left"), syscalls.watched(full):  # noqa: SIM117
        with FileWriter(tmp_path / "f") as stream:
            stream.write(BYTES.data)


def shared_write(base, path):
    """A file whose middle is shared with `base`."""
    head, middle = BYTES[PAGE : 2 * PAGE], aligned(PIECE + PAGE + 9)
    descriptor = os.open(base, os.O_RDONLY)
    try:
        with FileWriter(path) as stream:
            stream.write(head.data)
            with stream.share_with(descriptor):
                stream.write(middle.data)
            stream.write(head[:55].data)
    finally:
        os.close(descriptor)
    assert path.read_bytes() == head.tobytes() + middle.tobytes() + head[:55].tobytes()
    assert stream.digest() == xxhash.xxh3_128_hexdigest(path.read_bytes())
    return stream.shared


def base_file(directory):
    base = directory / "base"
    base.write_bytes(bytes(PAGE) + aligned(PIECE + PAGE + 9).tobytes())
    return base


def test_a_disk_that_shares_no_blocks_is_written_to_in_full(tmp_path):
    def refuse(name, call, *arguments):
        if name == "clone":
            raise OSError(errno.EOPNOTSUPP, "no")
        return call(*arguments)

    with syscalls.watched(refuse):
        assert shared_write(base_file(tmp_path), tmp_path / "f") == 0


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mkfs.xfs"), reason="needs root and XFS")
def test_unchanged_bytes_are_shared_if_the_file_system_can(tmp_path):
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(400 * 2**20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mount], check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        assert shared_write(base_file(mount), mount / "f") == PIECE + PAGE
    finally:
        subprocess.run(["umount", mount], check=True)
