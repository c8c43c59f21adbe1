"""Memos that mark a service's own transfers on a ledger, so that they can be found there."""

import hashlib


def of(kind: str, key: str) -> bytes:
    """32 bytes that name one transfer of ours."""
    return hashlib.sha256(f"icto-{kind}:{key}".encode()).digest()
