"""Save and load models and weights outside of `fit`.

A file is written whole, verified, and only then given its name; until then, what was
under that name stays. What this package wrote is checked against the digests taken from
memory before a model is made of it. What others wrote is checked for harm and then left
to stock Keras.
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
from keras_savekit.model.assign import computed_of, read_tensors, require_same, set_all
from keras_savekit.model.capture import Capture
from keras_savekit.model.layer_loading import Extras, all_or_none
from keras_savekit.model.rebuild import Stored, building, rebuild, require_no_code
from keras_savekit.model.saving_walk import put
from keras_savekit.model.stock_weights import read_stock_weights
from keras_savekit.model.structure import LiveModel, require_built
from keras_savekit.store import syscalls
from keras_savekit.store.atomic import discard, disk_errors, publish_file, scratch_for
from keras_savekit.store.manifest import MANIFEST, Depth, Finding, read_manifest, to_json
from keras_savekit.store.read_errors import unreadable
from keras_savekit.store.run import followed
from keras_savekit.verify.bytes import check_bytes
from keras_savekit.verify.loader.client import LoaderClient
from keras_savekit.verify.tensors import check_structure, range_digests_of


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
        publish_file(scratch / ARCHITECTURE_FILE, single_file.architecture_path(target))
        publish_file(scratch / format_of(target).file, target)


def load_model(
    path: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = True,  # noqa: A002 - Keras's own name for it
    safe_mode: bool = True,
    key: bytes | None = None,
) -> Any:
    """The model in a `.h5`, `.keras` or `.weights.h5` file or in a checkpoint's directory.

    Of what this package wrote, every weight, seed generator and, with `compile`,
    every variable of the optimizer comes back bit for bit, with all settings
    that `compile` was given. So do metrics that the model has before its first
    batch: the loss, and its own; those of `compile` Keras makes with that batch,
    when it resets all of them. Of what others wrote: what stock Keras restores.

    custom_objects: classes and functions by the names they were saved under.
        Registered ones are found without.
    compile: whether to compile the model as it was, if it was.
    safe_mode: False lets code run that lies in the file: lambdas, and graphs that
        `to_keras` embedded. Graphs that this process made itself run without.
    key: that the checkpoint must be signed with (`signing` in the policy).

    Raises CheckpointError if the file is damaged, harmful, or no model;
    ModelError if the model needs code that is not given.
    """
    path = Path(path)
    stored = _stored(path, None if key is None else Key(key))
    with keras.saving.custom_object_scope(dict(custom_objects or {})):
        if stored is None:
            if safe_mode:
                require_no_code(path, *_foreign_configurations(path))
            with building(path):
                return keras.models.load_model(path, compile=compile, safe_mode=safe_mode)
        return rebuild(stored, compile=compile, safe_mode=safe_mode)


def load_weights(model: Any, path: str | os.PathLike[str], *, key: bytes | None = None) -> None:
    """Set the model's weights from a file or a checkpoint's directory: all or none.

    The optimizer is left alone, but by a `.keras` file of stock Keras, whose reader
    restores it too. Files may be of this package or of stock Keras.

    key: that the checkpoint must be signed with (`signing` in the policy).

    Raises MismatchError, naming every difference (missing, extra, other shape,
    other dtype), or CheckpointError; the model is then unchanged. ModelError if
    the model is not built.
    """
    path = Path(path)
    require_built(model)
    stored = _stored(path, None if key is None else Key(key))
    if stored is not None:
        tensors = read_tensors(stored.directory, stored.manifest)
        require_same(model, stored.manifest, ("weight",), str(path))
        extras = Extras(computed_of(stored.manifest, tensors), {})
        with all_or_none(model):
            set_all(model, tensors, ("weight",), extras, str(path))
    elif getattr(find_format(path.name), "save", None) == "weights":
        values, weights = read_stock_weights(model, path)
        with all_or_none(model):
            failures = put(model, values)
            if failures:
                what = "layers refuse their weights:\n  " + "\n  ".join(failures)
                raise MismatchError(what, str(path), "nothing was changed")
            for name, weight in weights.items():  # a layer may have rounded its own
                weight.assign(values[name])
    else:
        with all_or_none(model), building(path):
            model.load_weights(path)


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
    scratch = scratch_for(target)
    try:
        with disk_errors("write", target):
            name = format_of(target).file
            manifest = single_file.write(scratch / name, snapshot, time.time())
            if format_of(target).architecture_file:
                text = live.blueprint.model_config.encode()
                beside = write_text(scratch / ARCHITECTURE_FILE, text)
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


def _stored(path: Path, key: Key | None) -> Stored | None:
    """What this package wrote at `path`, checked; None for what others wrote."""
    if key is not None and not path.is_dir():
        remedy = "give the directory of a checkpoint, or no key"
        raise CheckpointError("only checkpoints of a run are signed", str(path), remedy)
    if path.is_dir():
        path = followed(path)
        manifest = read_manifest(path, key)
        stored = Stored.checkpoint(path, manifest)
        promised = {entry.name for entry in manifest.files}
        # A damaged HDF5 file must not even be opened: the library may never return.
        parts = range_digests_of(manifest)
        findings = check_bytes(path, manifest, sha256=key is not None, range_digests=parts)
        _require_none(path, [each for each in findings if each.where in promised])
    elif not path.is_file():
        raise CheckpointError("no such file or directory", str(path), "check the path")
    else:
        known = find_format(path.name) or FORMATS["h5"]  # Keras reads HDF5 under any name
        known.require_harmless(path)
        found = single_file.read_manifest(path)
        if found is None:
            return None
        stored, parts = Stored(path.parent, found, architecture_path(path)), {}
    _require_none(path, check_structure(stored.directory, stored.manifest, range_digests=parts))
    return stored


def _require_none(path: Path, findings: Sequence[Finding]) -> None:
    if findings:
        more = f" and {len(findings) - 1} more" if findings[1:] else ""
        raise CheckpointError(f"is damaged: {findings[0]}{more}", str(path))


def _foreign_configurations(path: Path) -> tuple[Any, Any]:
    """The same of a file by others; None for what is not there, which Keras reports."""
    try:
        known = format_of(path)
        if known.save == "weights":  # by its name; stock Keras looks for a model in it all the same
            known = FORMATS["h5"]
        texts = known.read_texts(path, path)
        config, compiled = json.loads(texts.model), json.loads(texts.training)
        inside = config.get("compile_config") if isinstance(config, dict) else None
        return config, inside if compiled is None else compiled
    except (KeyError, ModelError):
        return None, None
    except (OSError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise unreadable("its architecture cannot be read", str(path), error) from error
