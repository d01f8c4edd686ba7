"""The entry of `savekit`: find a command by its name, run it, and report errors.

It knows no command: see the package. A command returns its exit status.

Exit status: 0 success, 1 a problem was found, 2 wrong usage or an unusable policy,
130 interrupted.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence

import click

from keras_savekit import cli
from keras_savekit._version import __version__
from keras_savekit.errors import SavekitError
from keras_savekit.verify.loader.isolation import import_path

INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended


def main() -> None:
    """Run `savekit` and end the process."""
    gc.set_threshold(100_000)  # the process is short: collecting garbage costs more than it frees
    # An empty entry in PYTHONPATH is the working directory, whose files this user may not own.
    sys.path[:] = import_path(sys.path)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run `savekit` with `arguments` and return its exit status; raise no error."""
    try:
        status = savekit.main(list(arguments), prog_name="savekit", standalone_mode=False)
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
        # click and rich raise SystemExit when the reader of the output is gone.
        return _discard_output()
    return status if isinstance(status, int) else 0


def _discard_output() -> int:
    # Otherwise the interpreter flushes the rest at exit and prints an error.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    return BROKEN_PIPE


class _CommandFiles(click.Group):
    """A group whose commands are the modules of this package, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted(_modules())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name; return None if there is none."""
        module = _modules().get(cmd_name)
        if module is None:
            return None
        command = importlib.import_module(f"{cli.__name__}.{module}").command
        assert isinstance(command, click.Command)
        return command


def _modules() -> dict[str, str]:
    """Map the name of each command to the name of its module; import none."""
    modules = [found.name for found in pkgutil.iter_modules(cli.__path__)]
    return {
        module.replace("_", "-"): module
        for module in modules
        if module != "main" and not module.startswith("_")
    }


@click.group(
    name="savekit",
    cls=_CommandFiles,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="savekit")
def savekit() -> None:
    """List, verify and convert checkpoints of Keras models; check save policies."""
