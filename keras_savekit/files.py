"""Save and load models and weights outside of `fit`.

Saving writes a file completely, verifies it and then gives it its name; until then, the
previous file of that name stays. Loading compares a file of this package with the digests
taken from memory before it builds a model. It checks other files for harmful content and
leaves them to stock Keras.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_savekit.base.key import Key
from keras_savekit.base.moment import Moment
from keras_savekit.base.tensors import Blueprint
from keras_savekit.errors import (
    CheckpointError,
    MismatchError,
    ModelError,
    SaveError,
    SavekitWarning,
)
from keras_savekit.formats import single_file
from keras_savekit.formats.checkpoint import write_text
from keras_savekit.formats.embedded_code import code_in, code_of_compile
from keras_savekit.formats.model_format import ModelFormat, Save
from keras_savekit.formats.registry import FORMATS, find_format, format_of
from keras_savekit.formats.single_file import architecture_path
from keras_savekit.formats.weights_h5 import ARCHITECTURE_FILE
from keras_savekit.model.assign import (
    computed_values,
    read_tensors,
    require_same,
    restore_variables,
)
from keras_savekit.model.capture import Capture
from keras_savekit.model.layer_loading import Extras, rollback_on_error
from keras_savekit.model.live_variables import require_built
from keras_savekit.model.lone_file import compile_as_saved, has_optimizer
from keras_savekit.model.rebuild import StoredModel, build_errors, rebuild, require_no_code
from keras_savekit.model.saving_walk import load_by_walk
from keras_savekit.model.stock_weights import read_stock_weights
from keras_savekit.model.structure import LiveModel
from keras_savekit.store import syscalls
from keras_savekit.store.atomic import discard, disk_errors, make_scratch, publish_file
from keras_savekit.store.manifest import MANIFEST, Depth, Finding
from keras_savekit.store.manifest_json import read_manifest, read_outline, to_json
from keras_savekit.store.read_errors import unreadable
from keras_savekit.store.run import resolve_link
from keras_savekit.verify.bytes import check_bytes
from keras_savekit.verify.loader.client import LoaderClient
from keras_savekit.verify.tensors import check_structure, range_digests_of


def save_model(model: Any, path: str | os.PathLike[str], *, verify: Depth = "load") -> None:
    """Save the whole model as one `.h5` or `.keras` file that stock Keras reads.

    The file contains architecture, weights, optimizer, compile settings and seed
    generators. The model does not change, and its training may continue at once.

    path: ends in `.h5` or `.keras`. One rename replaces a previous file there, after the
        new one is verified.
    verify: `bytes` reads the file back; `structure` every tensor. `load` also loads the
        file with stock Keras in a separate process and compares every weight; `predict`
        compares outputs too. If a good file does not load so with stock Keras, it is not
        portable: that is a SavekitWarning and no error.

    Raises ModelError if the model cannot be saved, SaveError if the file is not good,
    DirectoryError if the disk refuses. A previous file at `path` then stays.
    """
    target = _target(path, "model")
    with _verified_files(model, target, verify) as scratch:
        publish_file(scratch / format_of(target).file, target)


def save_weights(model: Any, path: str | os.PathLike[str], *, verify: Depth = "structure") -> None:
    """Save the weights and the optimizer as stock Keras does, and the architecture beside them.

    path: ends in `.weights.h5`. The architecture goes into a `.json` file beside it, in the
        form that `keras.models.model_from_json` reads.
    verify: as for `save_model`.

    Raises as `save_model` does. Each of the two files is complete at any time; the
    architecture is published first.
    """
    target = _target(path, "weights")
    with _verified_files(model, target, verify) as scratch:
        publish_file(scratch / ARCHITECTURE_FILE, single_file.architecture_path(target))
        publish_file(scratch / format_of(target).file, target)


def load_model(
    path: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = True,  # noqa: A002 - Keras's own name for it
    safe_mode: bool = True,
    key: bytes | None = None,
) -> Any:
    """Load the model in a `.h5`, `.keras` or `.weights.h5` file or in a checkpoint's directory.

    From a file of this package, every weight, every seed generator and, with `compile`,
    every variable of the optimizer is restored bit for bit, with all settings of
    `compile`. So are the metrics that the model has before its first batch: the loss, and
    its own. Keras creates the metrics of `compile` with that batch, and resets all metrics
    then. From other files, stock Keras restores what it can.

    custom_objects: classes and functions, by the names under which they were saved.
        Registered ones are found without it.
    compile: whether to compile the model, if it was compiled when it was saved.
    safe_mode: False runs code that the file contains: lambdas, and graphs that `to_keras`
        embedded. Graphs that this process made itself run in either mode.
    key: that the checkpoint must be signed with (`signing` in the policy).

    Raises CheckpointError if the file is damaged, harmful, or no model;
    ModelError if the model needs code that is not given.
    """
    path = Path(path)
    stored = _read_stored(path, None if key is None else Key(key))
    with keras.saving.custom_object_scope(dict(custom_objects or {})):
        if stored is None:
            return _load_foreign(path, compile=compile, safe_mode=safe_mode)
        return rebuild(stored, compile=compile, safe_mode=safe_mode)


def _load_foreign(path: Path, *, compile: bool, safe_mode: bool) -> Any:  # noqa: A002
    """Let stock Keras load a file without a manifest, and restore what it leaves in the file."""
    ours = compile and path.suffix == FORMATS["h5"].suffix and has_optimizer(path)
    if safe_mode:
        config, *compiled = _foreign_configurations(path)
        for settings in compiled:
            require_no_code(path, config, settings)
    with build_errors(path):
        model = keras.models.load_model(path, compile=compile and not ours, safe_mode=safe_mode)
        if ours:
            compile_as_saved(model, path)
    return model


def load_weights(model: Any, path: str | os.PathLike[str], *, key: bytes | None = None) -> None:
    """Set the model's weights from a file or a checkpoint's directory: all or none.

    The optimizer does not change, except from a `.keras` file of stock Keras, whose reader
    restores it too. Files may be of this package or of stock Keras.

    key: that the checkpoint must be signed with (`signing` in the policy).

    Raises MismatchError, naming every difference (missing, extra, other shape,
    other dtype), or CheckpointError; the model is then unchanged. Raises ModelError
    if the model is not built.
    """
    path = Path(path)
    require_built(model)
    stored = _read_stored(path, None if key is None else Key(key))
    if stored is not None:
        tensors = read_tensors(stored.directory, stored.manifest)
        require_same(model, stored.manifest, ("weight",), str(path))
        extras = Extras(computed_values(stored.manifest, tensors), {})
        with rollback_on_error(model):
            restore_variables(model, tensors, ("weight",), extras, str(path))
    elif getattr(find_format(path.name), "save", None) == "weights":
        values, weights = read_stock_weights(model, path)
        with rollback_on_error(model):
            failures = load_by_walk(model, values)
            if failures:
                what = "layers refuse their weights:\n  " + "\n  ".join(failures)
                raise MismatchError(what, str(path), "nothing was changed")
            for name, weight in weights.items():  # its layer may have rounded it
                weight.assign(values[name])
    else:
        with rollback_on_error(model), build_errors(path):
            model.load_weights(path)


def _target(path: str | os.PathLike[str], save: Save) -> Path:
    if "://" in os.fspath(path):
        remedy = "save it here and copy it there"
        raise ModelError("is not a path in this machine's file system", os.fspath(path), remedy)
    target = Path(path).absolute()
    if format_of(target).save != save:
        suffixes = [known.suffix for known in FORMATS.values() if known.save == save]
        remedy = f"give it a name ending in {' or '.join(suffixes)}"
        raise ModelError("this is not saved under such a name", str(path), remedy)
    return target


def portability_warnings(blueprint: Blueprint, formats: Iterable[ModelFormat]) -> tuple[str, ...]:
    """Return the warnings for a model that is saved in these formats."""
    losing = [format_ for format_ in formats if "asset" in format_.stock_loses]
    lost = _lost_assets(blueprint, losing) if losing and blueprint.assets else ""
    return tuple(filter(None, (lost, _contained_code(blueprint))))


def _lost_assets(blueprint: Blueprint, formats: Iterable[ModelFormat]) -> str:
    """Name the assets of this model that stock Keras does not restore from these formats."""
    layers = ", ".join(sorted({str(Path(name).parent) for name in blueprint.assets}))
    suffixes = " and ".join(sorted({known.suffix for known in formats}))
    return (
        f"stock Keras does not read the vocabularies of {layers} from {suffixes} files; "
        "keras_savekit.load_model does, and .keras files work with both"
    )


def _contained_code(blueprint: Blueprint) -> str:
    """Name the parts of this model that contain Python code, which loads only if trusted."""
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
def _verified_files(model: Any, target: Path, verify: Depth) -> Iterator[Path]:
    """Yield a scratch directory beside `target` with verified files."""
    live = LiveModel(model)
    for text in portability_warnings(live.blueprint, [format_of(target)]):
        warnings.warn(text, SavekitWarning, stacklevel=4)
    snapshot = Capture(live)(Moment(), {}, {})
    scratch = make_scratch(target)
    try:
        with disk_errors("write", target):
            name = format_of(target).file
            manifest = single_file.write(scratch / name, snapshot, time.time())
            if format_of(target).architecture_file:
                architecture = live.blueprint.model_config.encode()
                beside = write_text(scratch / ARCHITECTURE_FILE, architecture)
                manifest = replace(manifest, files=(*manifest.files, beside))
            syscalls.write_new(scratch / MANIFEST, to_json(manifest))
        _require_good(scratch, target, verify)
        yield scratch
    finally:
        discard(scratch)


def _require_good(scratch: Path, target: Path, verify: Depth) -> None:
    with LoaderClient() as checker:
        found = checker.verify(scratch, time.time(), verify)
    if not found.good:
        raise SaveError(
            f"the written file is not good: {found.findings[0]}",
            str(target),
            "nothing there was changed; save again, and report the problem if it persists",
        )
    if found.not_portable:
        what = f"{target} is {found.not_portable_shown()}"
        warnings.warn(what, SavekitWarning, stacklevel=4)
    elif found.note:
        what = f"{target} is good as far as depth {found.depth}: {found.note}"
        warnings.warn(what, SavekitWarning, stacklevel=4)


def _read_stored(path: Path, key: Key | None) -> StoredModel | None:
    """Check what this package wrote at `path`; None if there is no manifest of it."""
    if not path.is_dir() and _is_in_checkpoint(path):
        path = path.parent
    if key is not None and not path.is_dir():
        remedy = "give the directory of a checkpoint, or no key"
        raise CheckpointError("only checkpoints of a run are signed", str(path), remedy)
    if path.is_dir():
        path = resolve_link(path)
        manifest = read_manifest(path, key)
        stored = StoredModel.checkpoint(path, manifest)
        promised = {entry.name for entry in manifest.files}
        # A damaged HDF5 file must not be opened: the library may never return.
        parts = range_digests_of(manifest)
        findings = check_bytes(path, manifest, sha256=key is not None, range_digests=parts)
        _require_none(path, [finding for finding in findings if finding.where in promised])
    elif not path.is_file():
        raise CheckpointError("no such file or directory", str(path), "check the path")
    else:
        known = find_format(path.name) or FORMATS["h5"]  # Keras reads HDF5 under any name
        known.require_harmless(path)
        found = single_file.read_manifest(path)
        if found is None:
            return None
        stored, parts = StoredModel(path.parent, found, architecture_path(path)), {}
    _require_none(path, check_structure(stored.directory, stored.manifest, range_digests=parts))
    return stored


def _is_in_checkpoint(file: Path) -> bool:
    """Whether a file is the model's file of the checkpoint in its directory."""
    try:
        return file.is_file() and read_outline(file.parent).model_file == file.name
    except CheckpointError:  # no manifest, or a file of another program under that name
        return False


def _require_none(path: Path, findings: Sequence[Finding]) -> None:
    if findings:
        more = f" and {len(findings) - 1} more" if findings[1:] else ""
        raise CheckpointError(f"is damaged: {findings[0]}{more}", str(path))


def _foreign_configurations(path: Path) -> tuple[Any, Any, Any]:
    """Read what a file without a manifest says: the model, and how Keras and we compile it.

    None for what is missing, which Keras reports.
    """
    try:
        known = format_of(path)
        if known.save == "weights":  # by its name; stock Keras looks for a model in it too
            known = FORMATS["h5"]
        texts = known.read_texts(path, path)
        config, compiled = json.loads(texts.model), json.loads(texts.training)
        inside = config.get("compile_config") if isinstance(config, dict) else None
        return config, inside if compiled is None else compiled, json.loads(texts.compile)
    except (KeyError, ModelError):
        return None, None, None
    except (OSError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise unreadable("its architecture cannot be read", str(path), error) from error
