"""Ids: UUIDv7 that carry the bucket of their shard key, so that an id alone routes.

Layout after RFC 9562: 48 bits of Unix milliseconds, version, 12 random bits, variant, then the
10-bit bucket and 52 random bits. Time order is kept, and the time can be read back.
"""

import hashlib
import os
import time
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from contract.errors import invalid

BUCKETS: Final = 1024
FEE_LEDGER: Final = "ledgers/icp"
"""Name of the ledger that fees are paid on: the one whose name has no id."""
_BUCKET_SHIFT: Final = 52


def bucket_of_key(key: str) -> int:
    """Bucket of a shard key: the first 10 bits of its SHA-256."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:2], "big") >> 6


def new_id(shard_key: str) -> UUID:
    """A fresh id for a row that is sharded by `shard_key`."""
    return make_id(time.time_ns() // 1_000_000, bucket_of_key(shard_key), os.urandom(8))


def make_id(milliseconds: int, bucket: int, entropy: bytes) -> UUID:
    """An id of the given time and bucket. `entropy` is 8 random bytes."""
    random = int.from_bytes(entropy, "big")
    value = (milliseconds & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76 | (random >> 52) << 64
    value |= 0b10 << 62 | bucket << _BUCKET_SHIFT | random & ((1 << _BUCKET_SHIFT) - 1)
    return UUID(int=value)


def bucket_of(identifier: UUID) -> int:
    """Bucket that an id carries."""
    return identifier.int >> _BUCKET_SHIFT & (BUCKETS - 1)


def time_of(identifier: UUID) -> datetime:
    """When an id was made, to the millisecond."""
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, UTC)


def resource_name(collection: str, identifier: UUID) -> str:
    """`collection/{id}`."""
    return f"{collection}/{identifier}"


def parse_name(collection: str, name: str, field: str = "name") -> UUID:
    """The id in `collection/{id}`.

    Raises:
        Error: INVALID_ARGUMENT, the name has another form.
    """
    prefix, _, text = name.partition("/")
    try:
        identifier = UUID(text)
    except ValueError:
        identifier = None
    if prefix != collection or identifier is None or str(identifier) != text:
        raise invalid(field, f"must have the form '{collection}/<id>'", "INVALID_NAME")
    return identifier
