"""Operations of TensorFlow with outside effects need permission."""

import inspect
import re

import pytest
import tensorflow as tf

from keras_savekit.convert.ops import (
    STATEFUL_RANDOM,
    allow_ops,
    require_allowed,
)
from keras_savekit.errors import ConversionError

# Words in argument names of operations that read or write somewhere.
PLACES = re.compile(
    r"filename|file_pattern|vocab_file|chunk_file|path$|^path|^directory|address|server|url"
    r"|database|data_source|output_stream|service|^pattern$|descriptor_source"
)
# These arguments are patterns of text, not of files.
HARMLESS = {"RegexFullMatch", "RegexReplace", "StaticRegexFullMatch", "StaticRegexReplace"}


def _operations():
    for name in dir(tf.raw_ops):
        operation = getattr(tf.raw_ops, name)
        if callable(operation) and not name.startswith("_"):
            yield name, inspect.signature(operation).parameters


def _refused(kind):
    try:
        require_allowed([(kind, "node")], "", checkpoints=False)
    except ConversionError:
        return True
    return False


def test_every_operation_with_an_argument_for_a_place_is_refused():
    with_place = {name for name, given in _operations() if any(map(PLACES.search, given))}
    assert len(with_place) > 50
    assert {name for name in with_place - HARMLESS if not _refused(name)} == set()


def test_common_operations_are_allowed_and_outside_effects_are_not():
    known = {name for name, _ in _operations()}
    common = {"MatMul", "ReadVariableOp", "TensorArrayReadV3", "While", "StatefulPartitionedCall"}
    assert not any(map(_refused, common))
    assert {"ReadFile", "PyFunc", "SaveV2", "WriteSummary", "PrintV2"} <= known
    assert all(map(_refused, ("ReadFile", "EagerPyFunc", "SaveV2", "WriteSummary", "PrintV2")))


def test_random_operations_with_a_state_in_their_kernel_are_known():
    seeded = {name for name, given in _operations() if {"seed", "seed2"} <= set(given)}
    drawing = {
        name
        for name in seeded
        if not re.search("Dataset|Iterator|Record|Cudnn|SeedGenerator|Queue|Hits", name)
    }
    assert drawing <= STATEFUL_RANDOM


def test_an_operation_is_allowed_only_inside_the_context():
    with allow_ops("ReadFile"):
        with allow_ops("WriteFile"):
            require_allowed([("ReadFile", "a"), ("WriteFile", "b")], "")
        with pytest.raises(ConversionError, match="WriteFile"):
            require_allowed([("WriteFile", "b")], "")
    with pytest.raises(ConversionError, match=r"ReadFile \(a\) \[here\]"):
        require_allowed([("ReadFile", "a")], "here")


def test_python_cannot_be_allowed():
    with allow_ops("PyFunc"), pytest.raises(ConversionError, match="no file can contain"):
        require_allowed([("PyFunc", "a")], "")
