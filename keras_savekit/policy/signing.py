"""Where the key is that the manifests of a run are signed with. The key itself is in no policy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from keras_savekit.base.key import Key, environment_bytes
from keras_savekit.errors import SavekitError
from keras_savekit.policy.fields import Value, wrong

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
VARIABLE = re.compile(rf"env\s+({_NAME.pattern})")


def _read_key(value: object) -> str:
    if not isinstance(value, str) or not VARIABLE.fullmatch(value):
        # What it is instead is not said: it may be the key.
        raise wrong("must be env NAME, the variable that holds the key, and never the key itself")
    return value


def read_signing(value: object) -> object:
    """`value` if it looks like a Signing. Else a WrongValueError that repeats none of it."""
    if isinstance(value, Mapping) and set(value) <= {"key"}:
        return value
    if value is None or isinstance(value, Signing):
        return value
    raise wrong("must be a mapping with nothing but key: env NAME, and never the key itself")


class Signing(Value):
    """That manifests are signed, and looked at for that, with the key in a variable."""

    key: Annotated[str, BeforeValidator(_read_key)] = Field(
        description="env NAME: the variable that holds the key"
    )

    def secret(self, environ: Mapping[str, str]) -> Key:
        """The key. Raises SavekitError if the variable is not set, or empty."""
        name = self.key.split()[1]
        return _held(name, environ, "signing.key")


def secret_of(policy: Mapping[str, Any], environ: Mapping[str, str]) -> Key | None:
    """The key of a policy as a run's directory has it; None if it signs nothing."""
    found = policy.get("signing")
    return Signing(**found).secret(environ) if isinstance(found, Mapping) else None


def secret_in(name: str, environ: Mapping[str, str], where: str) -> Key:
    """The key in a variable that was named elsewhere. Raises SavekitError if there is none.

    where: it was named.
    """
    if not _NAME.fullmatch(name):
        raise SavekitError(
            "must be the name of the variable that holds the key, and never the key itself",
            where,
            "set a variable such as RUN_KEY, and give that name",
        )
    return _held(name, environ, where)


def _held(name: str, environ: Mapping[str, str], where: str) -> Key:
    text = environ.get(name, "")
    if not text:
        raise SavekitError(
            f"checkpoints are signed with the key in {name}, which is not set",
            where,
            f"set {name} to the key of this run; nothing was changed",
        )
    return Key(environment_bytes(text), name)
