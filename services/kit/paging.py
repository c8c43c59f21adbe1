"""Pages: a size that is capped, and an opaque token that says where the last page ended.

Pages follow a key, never an offset, so that a page costs the same wherever it is.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Final, TypeVar
from uuid import UUID

from mesh.contract import PAGE_SIZE_LIMIT
from services.kit.errors import Error, invalid

T = TypeVar("T")
DEFAULT_PAGE_SIZE: Final = 50
MAX_POSITION: Final = 2**63 - 1
"""Largest number that a row is found by."""


def page_size(requested: int) -> int:
    """Rows to return: 50 when not asked for, at most 100 (AIP-158: more is capped, no error)."""
    return min(requested or DEFAULT_PAGE_SIZE, PAGE_SIZE_LIMIT)


def encode_token(*key: str | int) -> str:
    """A page token for the key of the last row returned."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode_token(token: str, *kinds: type) -> tuple[str | int, ...] | None:
    """The key in a page token, or None for the first page.

    Raises:
        Error: INVALID_ARGUMENT, we did not make this token.
    """
    if not token:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (binascii.Error, UnicodeError, ValueError):
        key = None
    if not isinstance(key, list) or len(key) != len(kinds):
        raise _foreign()
    if not all(_is_key(part, kind) for part, kind in zip(key, kinds, strict=True)):
        raise _foreign()
    return tuple(key)


def _is_key(part: object, kind: type) -> bool:
    """Whether a part is of this kind, and a database can look for it and for what follows."""
    if type(part) is not kind:
        return False
    return 0 <= part < MAX_POSITION if isinstance(part, int) else str(part).isprintable()


def _foreign() -> Error:
    return invalid("page_token", "must be one that a list returned", "INVALID_PAGE_TOKEN")


def as_uuid(part: str | int) -> UUID:
    """A part of a page token as an id.

    Raises:
        Error: INVALID_ARGUMENT, we did not make this token.
    """
    try:
        return UUID(str(part))
    except ValueError:
        raise _foreign() from None


def cut(rows: Sequence[T], size: int, key: Callable[[T], str]) -> tuple[Sequence[T], str]:
    """Splits `size + 1` fetched rows into the page and the token for the next one."""
    if len(rows) <= size:
        return rows, ""
    page = rows[:size]
    return page, key(page[-1])
