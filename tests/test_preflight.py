"""Whether a snapshot is worth writing, and how much room it will take."""

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from keras_savekit.base.digests import tensor_digest
from keras_savekit.base.moment import Moment
from keras_savekit.base.tensors import Blueprint, Snapshot, Variable
from keras_savekit.policy.plan import Due, SavePlan
from keras_savekit.save import preflight


def snapshot(*values, role="weight", **logs):
    arrays = [np.asarray(value) for value in values]
    variables = tuple(
        Variable(role, index, f"v{index}", array.shape, array.dtype.name)
        for index, array in enumerate(arrays)
    )
    blueprint = Blueprint(variables, (), (), (), (), "{}", None, None, None, {})
    return Snapshot(blueprint, arrays, Moment(epoch=1, step=7, seconds=2.5, logs=logs), {})


GOOD = np.ones((2, 3), "float32")


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_is_found_though_every_weight_is(loss):
    assert preflight.find_not_finite(snapshot(GOOD, loss=loss)) == f"the loss is {loss}"


@pytest.mark.parametrize("logs", [{}, {"loss": 0.5}, {"loss": 0.0, "val_loss": np.nan}])
def test_a_finite_loss_or_none_is_no_reason(logs):
    assert preflight.find_not_finite(snapshot(GOOD, **logs)) == ""


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(dtype, value):
    bad = np.array([1, value, 1]).astype(dtype)
    assert (
        preflight.find_not_finite(snapshot(GOOD, bad)) == "v1 contains values that are not finite"
    )


def test_the_last_value_of_a_large_weight_is_looked_at():
    bad = np.zeros(preflight._BLOCK + 1, "float32")
    assert preflight.find_not_finite(snapshot(bad)) == ""
    bad[-1] = np.inf
    assert preflight.find_not_finite(snapshot(bad)) == "v0 contains values that are not finite"


def test_whole_numbers_and_what_is_no_weight_are_not_looked_at():
    assert preflight.find_not_finite(snapshot([1, 2], [True], np.array(["nan"]))) == ""
    assert preflight.find_not_finite(snapshot([np.nan], role="metric")) == ""


def test_the_room_that_is_foreseen_grows_with_the_tensors_and_is_rather_too_much():
    small, large = (preflight.predicted_bytes(snapshot(np.zeros(n, "float32"))) for n in (0, 1000))
    assert large - small == 4000
    assert small > 0
    assert preflight.predicted_bytes(snapshot(GOOD, GOOD)) > preflight.predicted_bytes(
        snapshot(np.concatenate([GOOD, GOOD]))
    )


def test_a_save_to_come_is_known_to_retention_as_its_checkpoint_will_be():
    due = Due(SavePlan(name="p", when="every epoch"), ("every epoch",))
    found = preflight.record_of(snapshot(GOOD, loss=0.5), due, 123, 9.0)
    assert (found.name, found.plan, found.step, found.verified) == ("step 7 of p", "p", 7, False)
    assert (found.epoch, found.seconds, found.created, found.bytes) == (1, 2.5, 9.0, 123)
    assert found.logs == {"loss": 0.5}


def test_weights_are_the_same_only_if_every_bit_and_their_number_are():
    manifest = SimpleNamespace(
        tensors=[
            SimpleNamespace(role="weight", digest=tensor_digest(GOOD)),
            SimpleNamespace(role="metric", digest="0"),
            SimpleNamespace(role="weight", digest=tensor_digest(-GOOD)),
        ]
    )
    assert preflight.has_same_weights(manifest, snapshot(GOOD, -GOOD))
    assert not preflight.has_same_weights(manifest, snapshot(GOOD, GOOD))
    assert not preflight.has_same_weights(manifest, snapshot(GOOD))
    assert not preflight.has_same_weights(manifest, snapshot(GOOD, -GOOD, GOOD))
