"""Sign manifests with a key that is never shown.

Only the state of HMAC (RFC 2104) is kept, not the key. So no message, log or traceback can
contain the key, even if it prints this object.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import NoReturn

from keras_savekit.errors import SavekitError


class Key:
    """Signs texts with HMAC-SHA256, and compares signatures in constant time.

    secret: the key, not empty.
    variable: the environment variable that contained it.

    Cannot be pickled or copied, so that no other process gets the key.
    """

    __slots__ = ("_mac", "_variable")

    def __init__(self, secret: bytes, variable: str = "") -> None:
        if not secret:
            raise SavekitError("the key is empty", "", "give the key of the run; nothing was done")
        self._mac = hmac.new(secret, digestmod="sha256")
        self._variable = variable

    def signature(self, text: bytes) -> bytes:
        """Return the HMAC-SHA256 of `text`, in hex."""
        mac = self._mac.copy()
        mac.update(text)
        return mac.hexdigest().encode("ascii")

    def verify(self, signature: bytes, text: bytes) -> bool:
        """Whether `signature` is this key's signature of `text`."""
        return hmac.compare_digest(signature, self.signature(text))

    def remove_from(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return an environment without the key's variable and all others that contain the key."""
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
        raise TypeError("a key cannot be pickled or copied; create a new Key")


def environment_bytes(text: str) -> bytes:
    """Encode the value of an environment variable as the system does."""
    return text.encode("utf-8", "surrogateescape")
