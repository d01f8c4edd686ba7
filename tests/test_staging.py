"""Copies of a snapshot's tensors in memory that is kept from save to save."""

import resource
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from keras_savekit.base.moment import Moment
from keras_savekit.base.tensors import Blueprint, Snapshot, Variable, in_host_memory
from keras_savekit.formats.directio.memory import PAGE
from keras_savekit.formats.directio.writer import PIECE
from keras_savekit.save.host_copy import HostBuffer

_MADV_PAGEOUT = 21  # Python has no name for it

VALUES = [
    np.arange(2**16, dtype="float32").reshape(256, 256),
    np.float32(3.5),
    np.zeros((0, 4), "float32"),
    np.arange(7, dtype="int64"),
    np.array([True, False]),
    np.arange(9, dtype="float32").astype(ml_dtypes.bfloat16),
    np.arange(2**18, dtype="float32").reshape(2, 2**17),
]


def snapshot(values, device="CPU:0"):
    variables = [
        Variable("weight", index, f"v{index}", np.shape(value), np.asarray(value).dtype.name)
        for index, value in enumerate(values)
    ]
    blueprint = Blueprint(tuple(variables), (), (), (), (), "{}", None, None, None, {})
    with tf.device(device):
        return Snapshot(blueprint, [tf.identity(value) for value in values], Moment(), {})


def same(tensors, values):
    return all(
        isinstance(tensor, np.ndarray)
        and tensor.dtype == np.asarray(value).dtype
        and tensor.shape == np.shape(value)
        and tensor.tobytes() == np.asarray(value).tobytes()
        for tensor, value in zip(tensors, values, strict=True)
    )


def test_copies_hold_the_same_bits_and_large_ones_begin_at_a_page():
    given = snapshot(VALUES)
    HostBuffer().copy_out(given)
    assert same(given.tensors, VALUES)
    assert [given.tensors[at].ctypes.data % PAGE for at in (0, 6)] == [0, 0]


def test_memory_is_used_again_once_nobody_needs_the_snapshot_in_it():
    memory = HostBuffer()
    first = snapshot(VALUES)
    memory.copy_out(first)
    place = first.tensors[0].ctypes.data
    del first
    second = snapshot(VALUES)
    memory.copy_out(second)
    assert second.tensors[0].ctypes.data == place


def test_a_snapshot_that_is_still_to_be_written_is_not_written_over():
    memory = HostBuffer()
    first, second = snapshot(VALUES), snapshot([value + value for value in VALUES[:2]])
    memory.copy_out(first)
    memory.copy_out(second)
    assert same(first.tensors, VALUES)
    assert not isinstance(second.tensors[0], np.ndarray)  # written from where it is


def test_a_second_plan_finds_the_copies_of_the_first():
    memory = HostBuffer()
    given = snapshot(VALUES)
    memory.copy_out(given)
    copies = list(given.tensors)
    memory.copy_out(given)
    assert all(after is before for after, before in zip(given.tensors, copies, strict=True))


def test_memory_grows_with_what_is_to_be_held():
    memory = HostBuffer()
    memory.copy_out(snapshot(VALUES[:1]))
    larger = snapshot(VALUES * 3)
    memory.copy_out(larger)
    assert same(larger.tensors, VALUES * 3)


def test_memory_that_was_preallocated_is_there_before_the_first_snapshot():
    values = [np.ones(2**24, "float32"), *VALUES]
    memory, given = HostBuffer(), snapshot(values)
    variables = given.blueprint.variables
    # Those of a metric come later.
    memory.preallocate([variable for variable in variables if variable.dtype != "bool"])
    memory._mapping.join(60)
    place = memory._kept.ctypes.data
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory.copy_out(given)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert same(given.tensors, values)
    assert given.tensors[0].ctypes.data == place
    assert faults < values[0].nbytes // PAGE // 2


def test_a_snapshot_waits_for_the_memory_that_is_being_preallocated():
    memory, given = HostBuffer(), snapshot(VALUES)
    memory.preallocate(given.blueprint.variables)
    memory.copy_out(given)
    assert same(given.tensors, VALUES)


def lazily_free():
    """Bytes that this process has offered to the system."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("LazyFree"))


def test_low_memory_is_the_systems_to_take_while_no_snapshot_is_in_it():
    memory, values = HostBuffer(low=True), [np.arange(2**23, dtype="float32")]
    given = snapshot(values)
    memory.copy_out(given)
    before = lazily_free()
    del given
    assert lazily_free() - before >= values[0].nbytes
    memory._kept.base.obj.madvise(_MADV_PAGEOUT)  # it takes everything now
    assert not memory._kept[: values[0].nbytes].any()
    again = snapshot(values)
    memory.copy_out(again)
    assert same(again.tensors, values)
    assert lazily_free() <= before


def test_low_memory_that_was_preallocated_is_the_systems_to_take_too():
    memory, given = HostBuffer(low=True), snapshot([np.arange(2**23, dtype="float32")])
    before = lazily_free()
    memory.preallocate(given.blueprint.variables)
    memory._mapping.join()
    assert lazily_free() - before >= 4 * 2**23


def test_memory_that_holds_the_next_snapshot_already_is_not_offered():
    memory, values = HostBuffer(low=True), [np.arange(2**23, dtype="float32")]
    first, second = snapshot(values), snapshot(values)
    memory.copy_out(first)
    returned = memory._borrower
    del first
    memory.copy_out(second)
    before = lazily_free()
    memory._take_back(returned)  # by a thread that comes late
    assert lazily_free() == before


def test_memory_is_kept_where_it_need_not_be_low():
    memory, given = HostBuffer(), snapshot([np.arange(2**23, dtype="float32")])
    memory.copy_out(given)
    before = lazily_free()
    del given
    assert lazily_free() == before


def test_what_callbacks_remember_is_not_copied():
    given = snapshot(VALUES[:1])
    remembered = given.tensors[0] = np.ones((256, 256), "float32")
    HostBuffer().copy_out(given)
    assert given.tensors[0] is remembered


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.slow
def test_tensors_of_a_device_come_to_the_host_in_pieces(low):
    # A second logical device is made before TensorFlow runs anything: a process of its own.
    code = f"import conftest, test_staging; test_staging.from_a_device({low})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def from_a_device(low):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    wide = np.arange(3 * PIECE // 4 + 5, dtype="float32")
    values = [*VALUES, wide, wide.reshape(1, -1), wide[: 3 * 7 * 2**16].reshape(3, 7, 2**16)]
    given = snapshot(values, "CPU:1")
    assert not any(in_host_memory(tensor) for tensor in given.tensors)
    largest = 0
    pulled = type(given.tensors[0]).numpy

    def counted(tensor):
        nonlocal largest
        largest = max(largest, pulled(tensor).nbytes)
        return pulled(tensor)

    type(given.tensors[0]).numpy = counted
    HostBuffer(low=low).copy_out(given)
    assert same(given.tensors, values)
    assert 0 < largest <= PIECE
