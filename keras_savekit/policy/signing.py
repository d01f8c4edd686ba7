"""Where the key is that the manifests of a run are signed with. The key itself is in no policy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from keras_savekit.errors import SavekitError
from keras_savekit.policy.value import Value, show, wrong

VARIABLE = re.compile(r"env\s+([A-Za-z_][A-Za-z0-9_]*)")


def _read_key(value: object) -> str:
    if not isinstance(value, str) or not VARIABLE.fullmatch(value):
        shown = show(value) if not isinstance(value, str) else "a text of another form"
        raise wrong(f"must be env NAME, the variable that holds the key; got {shown}")
    return value


class Signing(Value):
    """That manifests are signed, and looked at for that, with the key in a variable."""

    key: Annotated[str, BeforeValidator(_read_key)] = Field(
        description="env NAME: the variable that holds the key"
    )

    def secret(self, environ: Mapping[str, str]) -> bytes:
        """The key. Raises SavekitError if the variable is not set, or empty."""
        found = VARIABLE.fullmatch(self.key)
        name = found[1] if found else ""
        text = environ.get(name, "")
        if not text:
            raise SavekitError(
                f"the policy signs checkpoints with the key in {name}, which is not set",
                "signing.key",
                f"set {name} to the key of this run; nothing was changed",
            )
        return text.encode("utf-8", "surrogateescape")


def secret_of(policy: Mapping[str, Any], environ: Mapping[str, str]) -> bytes | None:
    """The key of a policy as a run's directory has it; None if it signs nothing."""
    found = policy.get("signing")
    return Signing(**found).secret(environ) if isinstance(found, Mapping) else None
