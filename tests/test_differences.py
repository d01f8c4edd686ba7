"""What differs between a checkpoint and a model is named."""

import pytest

from keras_savekit.base.tensors import Variable
from keras_savekit.model.differences import (
    compare_optimizers,
    compare_variables,
    format_list,
    normalize_paths,
)


def weights(*names, shape=(2,)):
    return [Variable("weight", i, name, shape, "float32") for i, name in enumerate(names)]


@pytest.mark.parametrize(
    ("saved", "live"),
    [
        (["s/dense/kernel", "s/dense_1/kernel"], ["s_4/dense_7/kernel", "s_4/dense_8/kernel"]),
        (["dense_1/kernel", "dense_2/kernel"], ["dense/kernel", "dense_1/kernel"]),
        (["a/b_1/c", "a/b_2/c", "d/c"], ["a_2/b_3/c", "a_2/b_9/c", "d/c"]),
        (["s/dense/kernel", "s/gru/cell/bias"], ["dense_3/kernel", "cell/bias"]),
        (["run_a/dense/kernel", "run_a/dense/bias"], ["run_b/dense/kernel", "run_b/dense/bias"]),
    ],
)
def test_names_that_keras_numbers_anew_are_the_same(saved, live):
    assert compare_variables(weights(*saved), weights(*live)) == []


@pytest.mark.parametrize(
    ("saved", "live", "told"),
    [
        (["s/a/kernel", "s/b/kernel"], ["s/b/kernel", "s/a/kernel"], "s/a/kernel float32"),
        (["s/block_1/w", "s/block_2/w"], ["s/block_2/w", "s/block_1/w"], "s/block_1/w"),
        (["s/encoder/kernel", "s/x/k"], ["s/decoder/kernel", "s/x/k"], "s/decoder/kernel"),
        (["s/a/kernel", "s/b/kernel"], ["s/a/kernel"], "s/b/kernel float32[2] only in the check"),
        (["s/a/kernel"], ["s/a/kernel", "s/b/kernel"], "only in the model"),
    ],
)
def test_a_layer_renamed_reordered_added_or_gone_is_named(saved, live, told):
    assert told in "\n".join(compare_variables(weights(*saved), weights(*live)))


def test_another_shape_or_dtype_is_told_with_both():
    (told,) = compare_variables(weights("s/a/kernel"), weights("s/a/kernel", shape=(3,)))
    assert told == "s/a/kernel float32[2] in the checkpoint, s/a/kernel float32[3] in the model"


def test_ranks_keep_the_order_of_the_numbers():
    assert normalize_paths(["x_9/w", "x_10/w"]) == ["x#0/w#0", "x#1/w#0"]


def optimizer(name="Adam", **config):
    return {"class_name": name, "config": {"learning_rate": 0.1, "beta_1": 0.9, **config}}


def test_every_setting_of_the_optimizer_that_differs_is_named():
    assert compare_optimizers(optimizer(), optimizer(), 0.1) == {}
    assert compare_optimizers(optimizer(), optimizer(beta_1=0.8, learning_rate=1.0), 0.1) == {
        "beta_1": "the optimizer's beta_1 was 0.9, is 0.8",
        "learning_rate": "the optimizer's learning_rate was 0.1, is 1.0",
    }
    other = compare_optimizers(optimizer(), optimizer("SGD"), 0.1)
    assert other == {"class_name": "the optimizer was Adam, is SGD"}
    none = compare_optimizers(optimizer(), None, 0.1)
    assert none == {"class_name": "one of the two is not compiled"}


def test_a_learning_rate_that_a_callback_changed_does_not_differ_from_itself():
    assert compare_optimizers(optimizer(), optimizer(learning_rate=0.05), 0.05) == {}


def test_a_long_list_is_cut():
    assert format_list([str(n) for n in range(7)]).splitlines()[-1] == "  and 2 more"
