"""Checkpoints for Keras: saved beside the training, verified, resumed exactly.

    import keras_savekit as sk

    kit = sk.SaveKit("policy.yaml")
    model.fit(data, epochs=20, callbacks=[kit])

Importing the package starts neither TensorFlow nor Keras: each name is loaded
when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keras_savekit._version import __version__
from keras_savekit.registration import register

if TYPE_CHECKING:
    from keras_savekit.callbacks import FullModelSaver, SaveKit, WeightsSaver
    from keras_savekit.convert.conversion import to_keras
    from keras_savekit.convert.ops import allow_ops
    from keras_savekit.data.source import resumable
    from keras_savekit.determinism import Determinism, check_determinism
    from keras_savekit.errors import (
        CheckpointError,
        ConversionError,
        DataError,
        DirectoryError,
        DirectoryInUseError,
        MismatchError,
        ModelError,
        PolicyError,
        ResumeError,
        SaveError,
        SavekitError,
        SavekitWarning,
    )
    from keras_savekit.files import save_model, save_weights
    from keras_savekit.fit.restoration import restore
    from keras_savekit.model.rebuild import load_model, load_weights
    from keras_savekit.policy.plan import Policy, SavePlan
    from keras_savekit.policy.yaml.load import load_policy, parse_policy
    from keras_savekit.resume.select import Restored

_HOMES = {
    "callbacks": ("FullModelSaver", "SaveKit", "WeightsSaver"),
    "determinism": ("Determinism", "check_determinism"),
    "convert.conversion": ("to_keras",),
    "convert.ops": ("allow_ops",),
    "errors": (
        "CheckpointError",
        "ConversionError",
        "DataError",
        "DirectoryError",
        "DirectoryInUseError",
        "MismatchError",
        "ModelError",
        "PolicyError",
        "ResumeError",
        "SaveError",
        "SavekitError",
        "SavekitWarning",
    ),
    "model.rebuild": ("load_model", "load_weights"),
    "policy.plan": ("Policy", "SavePlan"),
    "fit.restoration": ("restore",),
    "resume.select": ("Restored",),
    "policy.yaml.load": ("load_policy", "parse_policy"),
    "files": ("save_model", "save_weights"),
    "data.source": ("resumable",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CheckpointError",
    "ConversionError",
    "DataError",
    "Determinism",
    "DirectoryError",
    "DirectoryInUseError",
    "FullModelSaver",
    "MismatchError",
    "ModelError",
    "Policy",
    "PolicyError",
    "Restored",
    "ResumeError",
    "SaveError",
    "SaveKit",
    "SavePlan",
    "SavekitError",
    "SavekitWarning",
    "WeightsSaver",
    "__version__",
    "allow_ops",
    "check_determinism",
    "load_model",
    "load_policy",
    "load_weights",
    "parse_policy",
    "restore",
    "resumable",
    "save_model",
    "save_weights",
    "to_keras",
]

register()


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
