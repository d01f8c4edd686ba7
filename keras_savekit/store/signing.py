"""Signatures: HMAC-SHA256 (RFC 2104) of a manifest's text, by whoever has the key.

The seal tells of accidents, the signature of whoever changes a checkpoint and
makes a new seal. It covers everything before it; the manifest covers the files.
"""

from __future__ import annotations

import hashlib
import hmac

_LINE = b',\n  "signature": "%s"'
_LENGTH = len(_LINE % bytes(64))


def signed(body: bytes, key: bytes) -> bytes:
    """JSON without its closing brace, with a signature behind it."""
    return body + _LINE % _signature(body, key)


def wrong_with(body: bytes, key: bytes) -> str:
    """What is wrong with the signature at the end of this text; empty if it is right."""
    text, line = body[:-_LENGTH], body[-_LENGTH:]
    if not line.startswith(_LINE.partition(b"%s")[0]):
        return "is not signed"
    if not hmac.compare_digest(line, _LINE % _signature(text, key)):
        return "its signature is wrong: it was made with another key, or changed since"
    return ""


def _signature(text: bytes, key: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).hexdigest().encode()
