"""Which code a saved configuration would have Keras import."""

import pytest

from keras_savekit.formats.embedded_code import names_in


def names(*layers, known=()):
    return list(names_in({"layers": list(layers)}, lambda name: name in known))


def layer(module, class_name, **more):
    return {"module": module, "class_name": class_name, "config": {}, **more}


@pytest.mark.parametrize("module", [None, 5, ["keras"], "keras.layers", "keras", "builtins"])
def test_what_has_no_module_or_is_of_keras_is_not_named(module):
    assert names(layer(module, "Dense")) == []


def test_a_class_or_a_function_of_another_module_is_named_unless_it_is_known():
    own = layer("mine.layers", "Own", registered_name="mine>Own")
    function = {"module": "mine", "class_name": "function", "config": "swish2"}
    assert names(own, function) == ["mine.layers.Own", "mine.swish2"]
    assert names(own, function, known=("mine>Own", "swish2")) == []
    assert names(layer("kerasmine", "Own")) == ["kerasmine.Own"]
