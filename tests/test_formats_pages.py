"""Memory for transfers without the page cache."""

from pathlib import Path

import pytest

from keras_savekit.formats.directio.memory import LARGE, PAGE, allocate_pages

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def in_large_pages(address):
    """Bytes in large pages of the mapping that an address is in."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            begin, _, end = first.partition("-")
            inside = int(begin, 16) <= address < int(end, 16)
        elif inside and first == "AnonHugePages:":
            return int(line.split()[1]) * 1024
    return 0


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("size", [0, 1, PAGE, PAGE + 1, LARGE - 1, LARGE, 2 * LARGE + 3])
def test_memory_begins_at_a_page_and_has_the_requested_size(size, large):
    memory = allocate_pages(size, large=large)
    assert memory.nbytes == size
    assert memory.ctypes.data % PAGE == 0
    memory[:] = 1
    assert memory.sum(dtype=int) == size


@pytest.mark.skipif(
    not _SETTING.exists() or "[never]" in _SETTING.read_text(), reason="no large pages here"
)
def test_memory_that_is_used_often_is_in_large_pages():
    memory = allocate_pages(4 * LARGE + 1, large=True)
    assert memory.ctypes.data % LARGE == 0
    memory[:] = 1
    assert in_large_pages(memory.ctypes.data) >= 4 * LARGE
