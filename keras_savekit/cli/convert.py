"""`savekit convert`: a TensorFlow model as a Keras file, written only if the outputs are equal.

The one command that starts TensorFlow in this process.
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

from keras_savekit.cli._options import COUNT, PATH
from keras_savekit.errors import ConversionError, printable_text

_OUTPUTS_DIFFER = 1


@dataclass(frozen=True, slots=True)
class _Options:
    """The options of the command; most are arguments of `to_keras`."""

    call: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    checkpoint: Path | None
    constants_as_weights: bool
    frozen: bool
    allowed: tuple[str, ...]
    size: int


@click.command
@click.argument("source", type=PATH)
@click.argument("target", type=PATH)
@click.option("--call", default="__call__", help="Function or signature of a SavedModel.")
@click.option("--input", "inputs", multiple=True, help="Node of a frozen graph; repeatable.")
@click.option("--output", "outputs", multiple=True, help="Output to use; repeatable.")
@click.option("--checkpoint", type=PATH, help="TensorFlow checkpoint with the weights.")
@click.option(
    "--constants-as-weights",
    is_flag=True,
    help="Make the constants of a frozen graph trainable.",
)
@click.option("--frozen", is_flag=True, help="Make no weight trainable.")
@click.option(
    "--allow-op", "allowed", multiple=True, help="Allow this operation in the graph; repeatable."
)
@click.option(
    "--size", type=COUNT, default=8, help="Length of open axes when outputs are compared."
)
def command(source: Path, target: Path, **options: Any) -> int:
    """Convert the TensorFlow model in SOURCE to the Keras model TARGET.

    SOURCE is the directory of a SavedModel, or a frozen graph whose name ends in
    .pb. TARGET ends in .h5, .keras or .weights.h5. The new file is loaded, and its
    outputs are compared with those of SOURCE, bit for bit. TARGET is written only
    if they are equal; otherwise the exit status is 1.
    """
    return _convert(source, target, _Options(**options))


def _convert(source: Path, target: Path, options: _Options) -> int:
    """Convert `source`, print its weights, write `target`, and return the exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_savekit.convert import compare_outputs, conversion
    from keras_savekit.convert.ops import allow_ops
    from keras_savekit.convert.tracing import SourceOptions
    from keras_savekit.files import load_model
    from keras_savekit.store.atomic import publish_file

    source_options = SourceOptions(
        options.inputs or None,
        _one_or_all(options.outputs),
        options.call,
        "weights" if options.constants_as_weights else "keep",
    )
    with allow_ops(*options.allowed), _scratch(target) as scratch:
        converted = conversion.convert(
            str(source), source_options, None, options.checkpoint, trainable=not options.frozen
        )
        _echo_weights(converted.model)
        _save(converted.model, scratch)
        difference = compare_outputs.compare(converted, load_model(scratch), options.size)
        if difference is not None:
            click.echo(f"savekit: {difference}; {target} was not written", err=True)
            return _OUTPUTS_DIFFER
        for file in sorted(scratch.parent.iterdir()):
            publish_file(file, target.parent / file.name)
    click.echo(
        f"{printable_text(target)}: outputs equal those of {printable_text(source)} bit for bit"
    )
    return 0


def _one_or_all(names: tuple[str, ...]) -> Any:
    return names[0] if len(names) == 1 else list(names) or None


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """Yield the path of the new file while its outputs are compared; remove what is left there."""
    from keras_savekit.formats.registry import FORMATS, find_format
    from keras_savekit.store.atomic import make_scratch

    target = target.absolute()
    if find_format(target.name) is None:
        *others, last = (known.suffix for known in FORMATS.values())
        raise ConversionError(
            "the name has no suffix of a Keras model",
            str(target),
            f"end it in {', '.join(others)} or {last}",
        )
    folder = make_scratch(target)
    try:
        yield folder / target.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _save(model: Any, path: Path) -> None:
    from keras_savekit.files import save_model, save_weights
    from keras_savekit.formats.registry import format_of

    if format_of(path).save == "weights":
        save_weights(model, path)
    else:
        save_model(model, path)


def _echo_weights(model: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("weight", "shape", "dtype", "trainable")
    trainable_ids = {id(weight) for weight in model.trainable_weights}
    for weight in model.weights:
        trainable = "yes" if id(weight) in trainable_ids else "no"
        shape = str(tuple(weight.shape))
        table.add_row(printable_text(weight.path), shape, weight.dtype, trainable)
    Console(highlight=False).print(table)
    click.echo(f"{len(model.weights)} weights, {model.count_params():,} numbers")
