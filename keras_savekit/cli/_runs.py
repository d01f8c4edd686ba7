"""How commands open the directory of a run and find its signing key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from keras_savekit.errors import DirectoryError

if TYPE_CHECKING:
    from keras_savekit.base.key import Key
    from keras_savekit.store.run import RunDirectory


def open_run(directory: Path) -> RunDirectory:
    """Return the run in `directory`; raise DirectoryError if there is none."""
    from keras_savekit.store.run import RunDirectory

    run = RunDirectory(directory)
    if not directory.is_dir():
        raise DirectoryError("no such directory", str(directory))
    if not run.exists:
        raise DirectoryError(
            "not the directory of a run",
            str(directory),
            "give the directory that the policy names; `checkpoints` is in it",
        )
    return run


def signing_key(run: RunDirectory | None, variable: str | None) -> Key | None:
    """Return the key that must have signed the checkpoints of a run, None if none is required.

    variable: the environment variable with the key, named by the user. Without it, the
        policy in the run's directory names the variable. Whoever can write checkpoints
        can change that policy too.

    Raises SavekitError if the variable is not set.
    """
    from keras_savekit.policy.signing import secret_in, secret_of

    if variable is not None:
        return secret_in(variable, os.environ, "--key-env")
    info = run.run_info() if run is not None else None
    return secret_of(info.policy, os.environ) if info is not None else None


def checkpoint_name(run: RunDirectory, name: str) -> str:
    """Return the name of the checkpoint that a link such as `latest` leads to, else `name`."""
    from keras_savekit.store.run import LINKS

    links = {which: run.linked(which) for which in LINKS if which == name}
    return next(iter(links.values()), None) or name
