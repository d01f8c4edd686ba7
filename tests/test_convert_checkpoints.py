"""A converted model gets the values of a checkpoint, found by objects or by names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import convert_sources as sources
import numpy as np
import pytest
import tensorflow as tf

import keras_savekit as sk

ROWS = sources.batch(4, 4)


def test_a_checkpoint_of_any_parent_object_fills_the_model(tmp_path):
    trained, fresh = sources.Tree(), sources.Tree()
    for tree in (trained, fresh):
        tree(ROWS, is_training=False)
    for variable in trained.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    parent = tf.train.Checkpoint(model=trained, step=tf.Variable(7))
    path = parent.save(str(tmp_path / "ckpt"))
    for given in (path, tmp_path):
        model = sk.to_keras(fresh, inputs=(None, 4), checkpoint=given)
        assert np.array_equal(model(ROWS), tf.function(trained)(ROWS, False))


def _saved_by_names(path: Path, values: dict[str, Any]) -> str:
    """Write a checkpoint as TF 1 does."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in values.items():
            tf.compat.v1.get_variable(name, initializer=value)
        session.run(tf.compat.v1.global_variables_initializer())
        return tf.compat.v1.train.Saver().save(session, str(path))


def test_a_checkpoint_of_names_fills_the_model(tmp_path):
    values = {"weight": sources.batch(4, 2), "bias": np.ones(2, "float32"), "scale": 1.0}
    path = _saved_by_names(tmp_path / "old.ckpt", values)
    model = sk.to_keras(sources.closure(), inputs=(None, 4), checkpoint=path)
    assert np.array_equal(model(ROWS), tf.function(lambda x: x @ values["weight"] + 1)(ROWS))


def test_a_checkpoint_that_does_not_fit_is_refused_weight_by_weight(tmp_path):
    other = tf.train.Checkpoint(weight=tf.Variable(tf.zeros([3, 2])), scale=tf.Variable(1.0))
    path = other.save(str(tmp_path / "ckpt"))
    message = r"bias is missing.*|weight is float32\[3, 2\] in the checkpoint.*float32\[4, 2\]"
    with pytest.raises(sk.ConversionError, match=message):
        sk.to_keras(sources.closure(), inputs=(None, 4), checkpoint=path)
    with pytest.raises(sk.ConversionError, match="cannot be read as a checkpoint"):
        sk.to_keras(sources.closure(), inputs=(None, 4), checkpoint=tmp_path / "none")


def _shift(variables: Any) -> None:
    for variable in variables:
        variable.assign_add(tf.ones_like(variable))


def test_a_checkpoint_of_keras_2_fills_its_saved_model(tmp_path):
    model = sources.keras2_model()
    path = sources.keras2_saved_model(tmp_path / "keras2", model)
    _shift(model.variables)
    saved = tf.train.Checkpoint(net=model, step=tf.Variable(3)).save(str(tmp_path / "ckpt"))
    expected = tf.function(model)(ROWS, training=False)
    assert np.array_equal(sk.to_keras(path, checkpoint=saved)(ROWS), expected)


def test_a_checkpoint_of_a_module_fills_its_saved_model(tmp_path):
    module = sources.Named()
    tf.saved_model.save(module, str(tmp_path / "named"))
    _shift(module.variables)
    path = tf.train.Checkpoint(module).save(str(tmp_path / "ckpt"))
    model = sk.to_keras(tmp_path / "named", checkpoint=path)
    assert np.array_equal(model(ROWS), module(ROWS))


def test_a_checkpoint_of_tf_1_fills_its_saved_model(tmp_path):
    path = sources.tf1_saved_model(tmp_path / "tf1")
    weights = sk.to_keras(path).weights
    own = {weight.path.removeprefix("tf1/"): weight.numpy() + 1 for weight in weights}
    saved = _saved_by_names(tmp_path / "other.ckpt", {**own, "dense/kernel/Adam": np.zeros(3)})
    filled = sk.to_keras(path, checkpoint=saved)
    for weight in filled.weights:
        assert np.array_equal(weight, own[weight.path.removeprefix("tf1/")]), weight.path


def test_a_checkpoint_of_names_fills_the_weights_of_a_frozen_graph(tmp_path):
    path = sources.frozen_graph(tmp_path / "frozen.pb")
    kernel, head = sources.batch(4, 3), sources.batch(3, 2)
    saved = _saved_by_names(tmp_path / "old.ckpt", {"kernel": kernel, "head": head})
    model = sk.to_keras(path, constants="weights", checkpoint=saved)
    expected = tf.function(lambda x: tf.nn.relu(x @ kernel) @ head)(ROWS)
    assert np.array_equal(model(ROWS), expected)


@pytest.mark.parametrize("traced", [False, True])
def test_a_checkpoint_fills_a_function_by_the_names_of_its_variables(traced, tmp_path):
    function = sources.closure()
    weight, bias, scale = function.keeps
    saved = tf.train.Checkpoint(a=weight, b=bias, c=scale).save(str(tmp_path / "ckpt"))
    expected = function(ROWS)
    _shift((weight, bias))
    spec = tf.TensorSpec([None, 4])
    source = function.get_concrete_function(spec) if traced else function
    model = sk.to_keras(source, inputs=None if traced else spec, checkpoint=saved)
    assert np.array_equal(model(ROWS), expected)


def test_a_checkpoint_in_which_several_objects_fit_is_refused(tmp_path):
    one, other = sources.Named(), sources.Named()
    saved = tf.train.Checkpoint(old=one, new=other).save(str(tmp_path / "ckpt"))
    with pytest.raises(sk.ConversionError, match="several objects that fit the source: new, old"):
        sk.to_keras(one, checkpoint=saved)


def test_the_saved_object_itself_has_priority_over_its_parts(tmp_path):
    parent = sources.Named()
    parent.copy = sources.Named()
    _shift(parent.copy.variables)
    saved = tf.train.Checkpoint(parent).save(str(tmp_path / "ckpt"))
    model = sk.to_keras(sources.Named(), checkpoint=saved)
    assert np.array_equal(model(ROWS), parent(ROWS))
