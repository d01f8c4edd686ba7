"""Where the signature stands in a manifest: a line behind all that it covers.

The seal tells of accidents, the signature of whoever changes a checkpoint and
makes a new seal. It covers everything before it; the manifest covers the files,
by their SHA-256 where it is signed.
"""

from __future__ import annotations

from keras_savekit.base.key import Key

_BEGIN, _END = b',\n  "signature": "', b'"'
_LENGTH = len(_BEGIN) + 64 + len(_END)


def signed(body: bytes, key: Key) -> bytes:
    """JSON without its closing brace, with a signature behind it."""
    return body + _BEGIN + key.signature(body) + _END


def is_signed(body: bytes) -> bool:
    """Whether a signature, of whomever, stands at the end of this text."""
    line = body[-_LENGTH:]
    return line.startswith(_BEGIN) and line.endswith(_END)


def is_signed_with(body: bytes, key: Key) -> bool:
    """Whether the signature at the end of this text was made with this key."""
    text, line = body[:-_LENGTH], body[-_LENGTH:]
    return is_signed(body) and key.verify(line[len(_BEGIN) : -len(_END)], text)
