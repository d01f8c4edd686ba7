"""Reading without the page cache: any range, directly into memory, with digests of parts."""

import errno
import os

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from keras_savekit.formats.directio.memory import PAGE, allocate_pages
from keras_savekit.formats.directio.reader import FileReader, RangeDigests
from keras_savekit.formats.directio.writer import PIECE
from keras_savekit.store import syscalls

DATA = np.random.default_rng(0).integers(0, 256, 2 * PIECE + 4321, dtype=np.uint8).tobytes()


@pytest.fixture
def descriptor(tmp_path):
    (tmp_path / "file").write_bytes(DATA)
    with syscalls.opened(tmp_path / "file", os.O_RDONLY) as descriptor:
        yield descriptor


def test_a_reader_yields_any_range_in_pieces_of_whole_units(descriptor):
    ranges = [(0, len(DATA)), (4095, 8), (5, 3 * 4096), (PIECE - 7, PIECE + 16), (1, 8), (9, 8)]
    with FileReader(descriptor) as reader:
        for offset, size in ranges:
            pieces = [bytes(each) for each in reader.pieces(offset, size, 8)]
            assert b"".join(pieces) == DATA[offset : offset + size - size % 8]
            assert all(len(each) % 8 == 0 for each in pieces)
        last = b"".join(bytes(each) for each in reader.pieces(len(DATA) - 10, 100))
        assert last == DATA[-10:]
        assert list(reader.pieces(len(DATA) + 5, 8)) == []


@pytest.mark.parametrize("shift", [0, 8], ids=["page-aligned memory", "other memory"])
@pytest.mark.parametrize("offset", [0, PAGE, 3, 2 * PIECE])
def test_memory_is_filled_from_any_byte_on_as_far_as_the_file_goes(descriptor, offset, shift):
    for size in (0, 5, PAGE, 3 * PAGE + 7, PIECE + 1, len(DATA)):
        memory = allocate_pages(size + shift)[shift:]
        with FileReader(descriptor) as reader:
            there = reader.fill(offset, memory.data)
        expected = DATA[offset : offset + size]
        assert there == len(expected)
        assert memory[:there].tobytes() == expected


def test_whole_pages_are_read_without_a_copy(descriptor):
    memory = allocate_pages(2 * PAGE + 10)
    seen = []

    def look(name, call, *given):
        if name == "preadv":
            address = np.frombuffer(given[1][0], np.uint8).ctypes.data
            seen.append((address == memory.ctypes.data, len(given[1][0])))
        return call(*given)

    with syscalls.watched(look), FileReader(descriptor) as reader:
        reader.fill(PAGE, memory.data)
    assert seen[0] == (True, 2 * PAGE)
    assert [there for there, _ in seen[1:]] == [False]


def test_an_error_that_occurs_twice_is_raised(descriptor):
    failures = []

    def failing(name, call, *given):
        if name == "preadv" and failures:
            raise OSError(failures.pop(), "no")
        return call(*given)

    with syscalls.watched(failing), FileReader(descriptor) as reader:
        failures.append(errno.EIO)
        assert b"".join(map(bytes, reader.pieces(0, 10))) == DATA[:10]
        failures += [errno.EIO, errno.EIO]
        with pytest.raises(OSError, match="no"):
            list(reader.pieces(PIECE, 10))


def test_a_file_system_that_takes_the_flag_and_refuses_the_read_is_read_as_usual(descriptor):
    def refuse(name, call, *given):
        if name == "preadv":
            if syscalls.fcntl.fcntl(given[0], syscalls.fcntl.F_GETFL) & os.O_DIRECT:
                raise OSError(errno.EINVAL, "no")
            return call(given[0], given[1], given[2])
        return call(*given)

    with syscalls.watched(refuse), FileReader(descriptor) as reader:
        assert b"".join(map(bytes, reader.pieces(7, len(DATA)))) == DATA[7:]


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 90))), st.integers(1, 64))
def test_ranges_have_their_digests_for_any_size_of_pieces(ranges, piece):
    data = DATA[:256]
    parts = RangeDigests(ranges)
    for again in range(2):
        for at in range(0, len(data), piece):
            parts.update(memoryview(data)[at : at + piece])
        past, expected = 0, {}
        for begin, size in sorted(each for each in ranges if each[1]):
            if begin >= past:
                past = begin + size
                if past <= len(data):
                    expected[begin, size] = xxhash.xxh3_128_hexdigest(data[begin:past])
        assert parts.digests == expected
        if not again:
            parts.restart()
