"""The key that manifests are signed with: used, never shown.

Only what HMAC made of it is kept (RFC 2104), so that no message, log or traceback
can repeat it, however a value that holds it is printed.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import NoReturn

from keras_savekit.errors import SavekitError


class Key:
    """Signs texts with HMAC-SHA256, and compares signatures in constant time.

    secret: the key, not empty.
    variable: of the environment, that it was in.

    Cannot be pickled or copied: a process that needs no key gets none.
    """

    __slots__ = ("_mac", "_variable")

    def __init__(self, secret: bytes, variable: str = "") -> None:
        if not secret:
            raise SavekitError("the key is empty", "", "give the key of the run; nothing was done")
        self._mac = hmac.new(secret, digestmod="sha256")
        self._variable = variable

    def signature(self, text: bytes) -> bytes:
        """HMAC-SHA256 of `text`, in hex."""
        mac = self._mac.copy()
        mac.update(text)
        return mac.hexdigest().encode("ascii")

    def verify(self, signature: bytes, text: bytes) -> bool:
        """Whether this is its signature of `text`."""
        return hmac.compare_digest(signature, self.signature(text))

    def remove_from(self, environ: Mapping[str, str]) -> dict[str, str]:
        """An environment without the variable that the key was in, and all that hold the same."""
        return {
            name: value
            for name, value in environ.items()
            if name != self._variable and not self._is(value)
        }

    def _is(self, text: str) -> bool:
        own = self.signature(b"")
        return bool(text) and Key(environment_bytes(text)).verify(own, b"")

    def __repr__(self) -> str:
        return "Key(hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is neither pickled nor copied; give it anew")


def environment_bytes(text: str) -> bytes:
    """What an environment variable holds, as the system has it."""
    return text.encode("utf-8", "surrogateescape")
