"""A program that uses every public name with its types. It is checked by mypy and never run.

`assert_type` compares what a user's type checker sees. Where the package hands out an object of
Keras or TensorFlow, which are shipped without types, that is `Any`.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from typing_extensions import assert_type

import keras_savekit as sk


def policies(path: Path, text: str, environ: Mapping[str, str]) -> sk.Policy:
    read = sk.load_policy(path)
    assert_type(read, sk.Policy)
    assert_type(sk.load_policy(str(path), environ), sk.Policy)
    assert_type(sk.parse_policy(text), sk.Policy)
    assert_type(sk.parse_policy(text, source="mine.yaml", environ=environ), sk.Policy)
    assert_type(read.plans, tuple[sk.SavePlan, ...])
    assert_type(read.directory, str | None)
    assert_type(read.metrics(), frozenset[str])
    assert_type(read.describe(), str)
    assert_type(read.to_yaml(), str)
    plan = sk.SavePlan(name="latest", when="every epoch", keep="last 3")
    assert_type(plan.name, str)
    assert_type(plan.save, Literal["model", "weights"])
    assert_type(plan.verify, Literal["bytes", "structure", "load", "predict"])
    assert_type(plan.describe(), str)
    return sk.Policy(plans=(plan,), directory="runs/a")


def callbacks(policy: sk.Policy, data: Any, probe: Any) -> list[sk.SaveKit]:
    kit = sk.SaveKit(policy, directory=Path("runs/a"), data=data, probe=probe)
    assert_type(kit.resumed, sk.Restored | None)
    assert_type(kit.policy, sk.Policy)
    full = sk.FullModelSaver("runs/a", when="every 2 epochs", keep="last 3", verify="load")
    weights = sk.WeightsSaver("runs/a", "every epoch", data=data)
    return [kit, sk.SaveKit("policy.yaml"), sk.SaveKit({"plans": []}), full, weights]


def files(model: Any, path: "str | os.PathLike[str]", key: bytes) -> None:
    sk.save_model(model, path)
    sk.save_model(model, path, verify="predict")
    sk.save_weights(model, path, verify="bytes")
    sk.load_weights(model, path, key=key)
    loaded = sk.load_model(path, {"Mine": object}, compile=False, safe_mode=True, key=key)
    assert_type(loaded, Any)


def resumes(model: Any, directory: "str | os.PathLike[str]") -> sk.Restored:
    restored = sk.restore(model, directory, "best", on_mismatch="weights", key=None)
    assert_type(restored, sk.Restored)
    assert_type(restored.name, str)
    assert_type(restored.reasons, tuple[str, ...])
    assert_type(restored.moment.epoch, int)
    assert_type(restored.moment.step, int)
    assert_type(restored.moment.seconds, float)
    return restored


def data_of(arrays: Any, dataset: Callable[[int], Any]) -> Iterator[Any]:
    yield sk.resumable(arrays, arrays, batch_size=32, seed=7, shuffle=True)
    yield sk.resumable(dataset, steps_per_epoch=10)


def determinism(model_fn: Callable[[], Any], data_fn: Callable[[], Any]) -> bool:
    found = sk.check_determinism(model_fn, data_fn, steps=4)
    assert_type(found, sk.Determinism)
    assert_type(found.first, str | None)
    assert_type(found.exact, bool)
    return found.exact


def converted(source: Any) -> Any:
    allowed: AbstractContextManager[None] = sk.allow_ops("ReadFile")
    with allowed:
        return sk.to_keras(source, inputs=(None, 3), trainable=False, constants="weights")


def every_error(error: Exception) -> int:
    if isinstance(error, sk.PolicyError):
        assert_type([problem.line for problem in error.problems], list[int])
    kinds: tuple[type[sk.SavekitError], ...] = (
        sk.CheckpointError, sk.ConversionError, sk.DataError, sk.DirectoryError,
        sk.DirectoryInUseError, sk.MetricError, sk.MismatchError, sk.ModelError, sk.PolicyError,
        sk.ResumeError, sk.SaveError, sk.UnverifiableError,
    )  # fmt: skip
    warning: type[UserWarning] = sk.SavekitWarning
    assert issubclass(warning, UserWarning)
    if isinstance(error, kinds):
        assert_type(error, sk.SavekitError)
        assert_type((error.what, error.where, error.remedy), tuple[str, str, str])
        return error.exit_code
    assert_type(sk.__version__, str)
    return 0
