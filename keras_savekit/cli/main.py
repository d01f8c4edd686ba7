"""The command `savekit`: what it takes, and how it ends.

Only declares: each command's work is in a module of its own, imported when it
runs, so that `savekit --help` answers at once.

Exit codes: 0 good, 1 something wrong was found, 2 used wrongly, 130 interrupted.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from keras_savekit._version import __version__
from keras_savekit.errors import SavekitError
from keras_savekit.verify.loader.isolation import import_path

INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell reports of a program that ends so

_DIRECTORY = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1)
_key_env = click.option(
    "--key-env",
    metavar="NAME",
    help="Variable with the key: what is not signed with it is refused, whatever the run says.",
)


def main() -> None:
    """Runs `savekit` and ends the process."""
    gc.set_threshold(100_000)  # a life too short for garbage to be worth looking for
    # An empty entry in PYTHONPATH means the working directory, which may be anybody's run.
    sys.path[:] = import_path(sys.path)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs `savekit` with `arguments` and returns its exit code; no error leaves it."""
    try:
        code = _savekit.main(list(arguments), prog_name="savekit", standalone_mode=False)
        sys.stdout.flush()
    except SavekitError as error:
        click.echo(f"savekit: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("savekit: interrupted", err=True)
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # The latter is how click and rich answer a reader that went away.
        return _nobody_reads()
    return code if isinstance(code, int) else 0


def _nobody_reads() -> int:
    # Else the interpreter would try to write the rest, and complain.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return BROKEN_PIPE


@click.group(name="savekit", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="savekit")
def _savekit() -> None:
    """Checkpoints for Keras: look at them, check them, check policies."""


@_savekit.command(name="list")
@click.argument("directory", type=_DIRECTORY)
@click.option("--json", "as_json", is_flag=True, help="For programs instead of people.")
def _list(directory: Path, as_json: bool) -> int:
    """List the checkpoints of the run in DIRECTORY."""
    from keras_savekit.cli import list as listing

    return listing.run(directory, as_json=as_json)


@_savekit.command(name="verify")
@click.argument("directory", type=_DIRECTORY)
@click.option(
    "--depth",
    type=click.Choice(["bytes", "structure", "load", "predict"]),
    default="structure",
    show_default=True,
    help="bytes: files and digests. structure: every tensor too. load: stock Keras loads it too."
    " predict: and gives the same outputs.",
)
@_key_env
@click.option("--json", "as_json", is_flag=True, help="For programs instead of people.")
def _verify(directory: Path, depth: str, key_env: str | None, as_json: bool) -> int:
    """Verify all checkpoints of the run in DIRECTORY, or the one checkpoint there.

    The outcome is recorded, unless a training is using the directory. "bad" is a
    checkpoint with evidence of damage, "open" one that could not be verified: the
    system failed to read it, or time or memory did not suffice. Ends with 1 if any
    is bad or open. A checkpoint that is whole and that stock Keras does not load as
    it was saved is "not portable", which does not change the exit status: --json
    says "portable": false.
    """
    from keras_savekit.cli import verify

    return verify.run(directory, verify.as_depth(depth), as_json=as_json, key_env=key_env)


@_savekit.command(name="resume-plan")
@click.argument("directory", type=_DIRECTORY)
@_key_env
@click.option("--json", "as_json", is_flag=True, help="For programs instead of people.")
def _resume_plan(directory: Path, key_env: str | None, as_json: bool) -> int:
    """Say from which checkpoint in DIRECTORY a training would go on, and why.

    Reads every tensor of it. Ends with 1 if there is none.
    """
    from keras_savekit.cli import resume_plan

    return resume_plan.run(directory, as_json=as_json, key_env=key_env)


@_savekit.command(name="check")
@click.argument("policy", type=_FILE)
def _check(policy: Path) -> int:
    """Check the policy in the file POLICY and say what it does.

    Ends with 2, and every problem with its line, if it cannot be used.
    """
    from keras_savekit.policy.yaml.load import load_policy

    click.echo(load_policy(policy).describe())
    return 0


@_savekit.command(name="explain")
@click.argument("policy", type=_FILE)
@click.option("--steps-per-epoch", type=_COUNT, help="Batches in an epoch.")
@click.option("--epochs", type=_COUNT, help="Epochs of the training.")
@click.option("--step-seconds", type=click.FloatRange(min=0, min_open=True), help="Time of a step.")
def _explain(
    policy: Path, steps_per_epoch: int | None, epochs: int | None, step_seconds: float | None
) -> int:
    """Say in English what the policy in the file POLICY does.

    With --steps-per-epoch and --epochs also when the predictable triggers would
    fire and what would then be kept; with --step-seconds those in time too.
    """
    from keras_savekit.cli import explain

    if (steps_per_epoch is None) != (epochs is None):
        raise click.UsageError("--steps-per-epoch and --epochs go together")
    return explain.run(policy, steps_per_epoch, epochs, step_seconds)


@_savekit.command(name="schema")
def _schema() -> int:
    """Print the JSON Schema of a policy, for editors and other programs."""
    import json

    from keras_savekit.policy.yaml.schema import policy_schema

    click.echo(json.dumps(policy_schema(), indent=2))
    return 0


@_savekit.command(name="from-keras")
@click.argument("callback")
def _from_keras(callback: str) -> int:
    """Print the policy that does what a stock CALLBACK does.

    CALLBACK is written as in a program: "ModelCheckpoint('best.h5', save_best_only=True)".
    It is read, never run.
    """
    from keras_savekit.policy.from_keras import from_keras

    click.echo(from_keras(callback).to_yaml(), nl=False)
    return 0


@_savekit.command(name="convert")
@click.argument("source", type=_FILE)
@click.argument("target", type=_FILE)
@click.option("--call", default="__call__", help="Function or signature of a SavedModel.")
@click.option("--input", "inputs", multiple=True, help="Node of a frozen graph; may be repeated.")
@click.option("--output", "outputs", multiple=True, help="Output to take; may be repeated.")
@click.option("--checkpoint", type=_FILE, help="Where the weights come from.")
@click.option("--constants-as-weights", is_flag=True, help="Of a frozen graph: to be trained.")
@click.option("--frozen", is_flag=True, help="Make no weight trainable.")
@click.option("--allow-op", "allowed", multiple=True, help="Let the graph hold this operation.")
@click.option("--size", type=_COUNT, default=8, help="Of open axes, when outputs are compared.")
def _convert(
    source: Path, target: Path, constants_as_weights: bool, frozen: bool, **options: Any
) -> int:
    """Turn the TensorFlow model in SOURCE into the Keras model TARGET.

    SOURCE is the directory of a SavedModel or a frozen graph ending in .pb, TARGET
    ends in .h5, .keras or .weights.h5. What was written is loaded and gives
    the outputs of SOURCE bit for bit before it takes its place; ends with 1 if not.
    """
    from keras_savekit.cli import convert

    constants = "weights" if constants_as_weights else "keep"
    asked = convert.Asked(**options, constants=constants, trainable=not frozen)
    return convert.run(source, target, asked)


@_savekit.command(name="pin")
@click.argument("directory", type=_DIRECTORY)
@click.argument("name")
def _pin(directory: Path, name: str) -> int:
    """Have the checkpoint NAME of the run in DIRECTORY never removed.

    NAME is as `savekit list` shows it, or `latest` or `best`. A training that
    runs heeds it from its next save on.
    """
    from keras_savekit.cli import pin

    return pin.run(directory, name, pinned=True)


@_savekit.command(name="unpin")
@click.argument("directory", type=_DIRECTORY)
@click.argument("name")
def _unpin(directory: Path, name: str) -> int:
    """Give the pinned checkpoint NAME back to the policy's rules."""
    from keras_savekit.cli import pin

    return pin.run(directory, name, pinned=False)
