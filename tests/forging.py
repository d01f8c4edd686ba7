"""Bytes that are changed on purpose so that their xxh3_128 stays the same.

XXH3 is no cryptographic hash. Of inputs over 240 bytes it takes blocks of 1024: 16 stripes
of 8 lanes of 64 bits. To accumulator i each stripe adds the product of the halves of lane i
(after an exclusive or with a secret that everyone knows), to accumulator i^1 the lane itself;
a block's end mixes the accumulators, reversibly. Who keeps both sums of each lane of a block
keeps the digest. Four lanes can be chosen so that they bring any two sums about.
https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
"""

from __future__ import annotations

import struct

BLOCK, STRIPES, LANES = 1024, 16, 8
FREE = 12 * 64  # bytes of a block that may be anything; the rest makes up for them
_LOW, _ALL = 2**32 - 1, 2**64
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def forged(content: bytes, at: int, new: bytes) -> bytes:
    """`content` with `new` at byte `at`, where a block begins, and the same xxh3_128."""
    assert at % BLOCK == 0
    assert len(new) <= FREE
    assert at + 2 * BLOCK < len(content)  # the last block is taken otherwise
    old = content[at : at + BLOCK]
    block = new + old[len(new) :]
    lanes = [_lane(old, block, lane) for lane in range(LANES)]
    words = [lanes[lane][stripe] for stripe in range(STRIPES) for lane in range(LANES)]
    return content[:at] + struct.pack("<128Q", *words) + content[at + BLOCK :]


def _lane(old: bytes, new: bytes, lane: int) -> list[int]:
    """The lane of the new block, its last four words such that both sums are the old ones."""
    keys = [
        int.from_bytes(_SECRET[8 * (stripe + lane) :][:8], "little") for stripe in range(STRIPES)
    ]
    was, words = (list(struct.unpack("<128Q", each))[lane::LANES] for each in (old, new))
    *_, low, high, one, most = keys
    words = words[:-4]
    left = (_products(was, keys) - _products(words, keys)) % _ALL
    many, few = divmod(left, _LOW)
    fixed = one ^ (few << 32 | 1), most ^ (many << 32 | _LOW)
    sums = (sum(was) - sum(words) - sum(fixed)) % _ALL
    # A product with a half that is 0 is 0, whatever the other half is.
    of_low = low & ~_LOW | ((sums - high) & _LOW)
    of_high = (sums - of_low) % _ALL
    return [*words, of_low, of_high, *fixed]


def _products(words: list[int], keys: list[int]) -> int:
    halves = (word ^ key for word, key in zip(words, keys, strict=False))
    return sum((each & _LOW) * (each >> 32) for each in halves)
