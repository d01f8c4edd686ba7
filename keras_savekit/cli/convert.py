"""`savekit convert`: a TensorFlow model in a file that Keras reads, compared before it is there.

The one command that starts TensorFlow: what it converts is TensorFlow's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from keras_savekit.errors import ConversionError, shown
from keras_savekit.formats.registry import FORMATS, find_format, format_of
from keras_savekit.store.atomic import publish_file, scratch_for

_DIFFERS = 1


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says of the source: the arguments of `to_keras`."""

    call: str = "__call__"
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    checkpoint: Path | None = None
    constants: str = "keep"
    trainable: bool = True
    allowed: tuple[str, ...] = ()
    size: int = 8


def run(source: Path, target: Path, asked: Asked) -> int:
    """Converts `source`, writes `target`, prints its weights, and returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_savekit.convert import compare_outputs, conversion
    from keras_savekit.convert.ops import allow_ops
    from keras_savekit.convert.tracing import SourceOptions
    from keras_savekit.model.rebuild import load_model

    options = SourceOptions(
        asked.inputs or None, _one_or_all(asked.outputs), asked.call, asked.constants
    )
    with allow_ops(*asked.allowed), _scratch(target) as scratch:
        made = conversion.convert(
            str(source), options, None, asked.checkpoint, trainable=asked.trainable
        )
        _echo_weights(made.model)
        _save(made.model, scratch)
        difference = compare_outputs.compare(made, load_model(scratch), asked.size)
        if difference is not None:
            click.echo(f"savekit: {difference}; {target} was not written", err=True)
            return _DIFFERS
        for written in sorted(scratch.parent.iterdir()):
            publish_file(written, target.parent / written.name)
    click.echo(f"{shown(target)}: outputs equal those of {shown(source)} bit for bit")
    return 0


def _one_or_all(names: tuple[str, ...]) -> Any:
    return names[0] if len(names) == 1 else list(names) or None


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """Where the file lies until it has been compared."""
    target = target.absolute()
    if find_format(target.name) is None:
        what = "a Keras model is not saved under such a name"
        *others, last = (known.suffix for known in FORMATS.values())
        raise ConversionError(what, str(target), f"end it in {', '.join(others)} or {last}")
    folder = scratch_for(target)
    try:
        yield folder / target.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _save(model: Any, path: Path) -> None:
    from keras_savekit.files import save_model, save_weights

    if format_of(path).save == "weights":
        save_weights(model, path)
    else:
        save_model(model, path)


def _echo_weights(model: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("weight", "shape", "dtype", "trainable")
    trained = {id(weight) for weight in model.trainable_weights}
    for weight in model.weights:
        trainable = "yes" if id(weight) in trained else "no"
        table.add_row(shown(weight.path), str(tuple(weight.shape)), weight.dtype, trainable)
    console = Console(highlight=False)
    console.print(table)
    click.echo(f"{len(model.weights)} weights, {model.count_params():,} numbers")
