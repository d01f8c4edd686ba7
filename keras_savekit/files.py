"""One file outside `fit`: written whole, verified, and only then given its name.

What stood under that name stands there until a good file takes its place.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from keras_savekit.base.moment import Moment
from keras_savekit.base.tensors import Blueprint
from keras_savekit.errors import ModelError, SaveError, SavekitWarning
from keras_savekit.formats import single_file
from keras_savekit.formats.checkpoint import ARCHITECTURE_FILE, write_text
from keras_savekit.formats.embedded_code import code_in, code_of_compile
from keras_savekit.formats.model_format import ModelFormat, Save
from keras_savekit.formats.registry import FORMATS, format_of
from keras_savekit.model.capture import Capture
from keras_savekit.model.structure import LiveModel
from keras_savekit.store import syscalls
from keras_savekit.store.atomic import discard, disk_errors, make_scratch, publish_file
from keras_savekit.store.manifest import MANIFEST, Depth
from keras_savekit.store.manifest_json import to_json
from keras_savekit.verify.loader.client import LoadChecker


def save_model(model: Any, path: str | os.PathLike[str], *, verify: Depth = "load") -> None:
    """Save the whole model as one `.h5` or `.keras` file that stock Keras reads.

    Architecture, weights, optimizer, compile settings and seed generators. The
    model is not changed, and may be trained on at once.

    path: ends in `.h5` or `.keras`. What stood there is replaced by one rename,
        once the new file has been verified.
    verify: `structure` reads every tensor back; `bytes` the file. `load` also has a
        process of its own load the file with stock Keras and compare every weight,
        `predict` outputs too: a file that is whole and that stock Keras does not load so
        is not portable, which is a SavekitWarning and no error.

    Raises ModelError if the model cannot be saved, SaveError if the file is not
    good, DirectoryError if the disk refuses; what stood at `path` then still does.
    """
    target = _target(path, "model")
    with _written(model, target, verify) as scratch:
        publish_file(scratch / format_of(target).file, target)


def save_weights(model: Any, path: str | os.PathLike[str], *, verify: Depth = "structure") -> None:
    """Save the weights, and the optimizer's, as stock Keras does, with the architecture beside.

    path: ends in `.weights.h5`; the architecture goes into `.json` beside it,
        in the form `keras.models.model_from_json` reads.
    verify: as for `save_model`.

    Raises as `save_model` does. The architecture takes its place first: each of
    the two files is whole at any time.
    """
    target = _target(path, "weights")
    with _written(model, target, verify) as scratch:
        publish_file(scratch / ARCHITECTURE_FILE, single_file.architecture_beside(target))
        publish_file(scratch / format_of(target).file, target)


def _target(path: str | os.PathLike[str], save: Save) -> Path:
    if "://" in os.fspath(path):
        remedy = "save it here and copy it there"
        raise ModelError("is not a path of this machine's file system", os.fspath(path), remedy)
    target = Path(path).absolute()
    if format_of(target).save != save:
        suffixes = [known.suffix for known in FORMATS.values() if known.save == save]
        remedy = f"give it a name ending in {' or '.join(suffixes)}"
        raise ModelError("this is not saved under such a name", str(path), remedy)
    return target


def portability_warnings(blueprint: Blueprint, formats: Iterable[ModelFormat]) -> tuple[str, ...]:
    """What the user should know before files of this model are written in these formats."""
    losing = [known for known in formats if "asset" in known.stock_loses]
    lost = lost_by_stock(blueprint, losing) if losing and blueprint.assets else ""
    return tuple(filter(None, (lost, code_inside(blueprint))))


def lost_by_stock(blueprint: Blueprint, formats: Iterable[ModelFormat]) -> str:
    """Which assets of this model stock Keras does not restore from files in these formats."""
    layers = ", ".join(sorted({str(Path(name).parent) for name in blueprint.assets}))
    suffixes = " and ".join(sorted({known.suffix for known in formats}))
    return (
        f"stock Keras does not read the vocabularies of {layers} from {suffixes} files; "
        "keras_savekit.load_model does, and .keras files give them to both"
    )


def code_inside(blueprint: Blueprint) -> str:
    """Which parts of this model hold Python code, which nothing loads unless it is trusted."""
    if "__lambda__" not in blueprint.model_config + json.dumps(blueprint.compile_config):
        return ""
    config, compiled = json.loads(blueprint.model_config), blueprint.compile_config
    found = [*code_in(config, "the model"), *code_of_compile(compiled)]
    places = dict.fromkeys(place for place, what in found if what == "a lambda")
    return (
        f"a lambda is part of {', '.join(places)}: it is saved as Python code, which is loaded "
        "only with safe_mode=False, and not verified; use a function with a name, registered "
        "with keras.saving.register_keras_serializable()"
    )


@contextmanager
def _written(model: Any, target: Path, verify: Depth) -> Iterator[Path]:
    """A scratch directory beside `target` with verified files."""
    live = LiveModel(model)
    for told in portability_warnings(live.blueprint, [format_of(target)]):
        warnings.warn(told, SavekitWarning, stacklevel=4)
    snapshot = Capture(live)(Moment(), {}, {})
    scratch = make_scratch(target)
    try:
        with disk_errors("write", target):
            name = format_of(target).file
            manifest = single_file.write(scratch / name, snapshot, time.time())
            if manifest.save == "weights":
                text = live.blueprint.model_config.encode()
                beside = write_text(scratch / ARCHITECTURE_FILE, text)
                manifest = replace(manifest, files=(*manifest.files, beside))
            syscalls.write_new(scratch / MANIFEST, to_json(manifest))
        _require_good(scratch, target, verify)
        yield scratch
    finally:
        discard(scratch)


def _require_good(scratch: Path, target: Path, verify: Depth) -> None:
    with LoadChecker() as checker:
        found = checker.verify(scratch, time.time(), verify)
    if not found.good:
        raise SaveError(
            f"what was written is not good: {found.findings[0]}",
            str(target),
            "nothing there was changed; save again, and if it stays so, tell us",
        )
    if found.not_portable:
        what = f"{target} is {found.not_portable_shown()}"
        warnings.warn(what, SavekitWarning, stacklevel=4)
    elif found.note:
        what = f"{target} is good as far as depth {found.depth}: {found.note}"
        warnings.warn(what, SavekitWarning, stacklevel=4)
