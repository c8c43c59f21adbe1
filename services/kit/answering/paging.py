"""Pages: capped in rows and in bytes, and an opaque token that says where the last one ended.

Pages follow a key, never an offset, so that a page costs the same wherever it is.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from contract.errors import Error, invalid
from contract.limits import PAGE_BYTES, PAGE_SIZE_LIMIT
from services.kit.serving.answers import json_bytes, json_bytes_at_most
from services.kit.serving.summaries import summarize


class PageRequest(Protocol):
    """A request of a list."""

    page_size: int
    page_token: str


class Identified(Protocol):
    """A row that has an id."""

    @property
    def id(self) -> UUID:
        """By which the list is in order."""
        ...


T = TypeVar("T")
Row = TypeVar("Row", bound=Identified)
M = TypeVar("M", bound=Message)
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
    """Whether a part is of this kind, and one after which a database can look for more."""
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


def page(
    rows: Sequence[T], messages: Iterable[M | None], size: int, key: Callable[[T], str]
) -> tuple[list[M], str]:
    """The page of a list, and the token for the next one.

    A page ends after `size` rows, or earlier by its bytes as JSON; it has one message at least.
    Messages are summaries: a Get tells what is large in them.

    Args:
        rows: what was fetched: `size + 1` rows where there are more.
        messages: the message of each of the first `size` rows; None where there is nothing to show.
        size: rows asked for.
        key: the token for what follows a row.
    """
    shown: list[M] = []
    paired = list(zip(rows[:size], messages, strict=False))
    for _, message in paired:
        if message is not None:
            summarize(message)
    measure = _measure([message for _, message in paired if message is not None])
    room: float = PAGE_BYTES
    for position, (_, message) in enumerate(paired):
        if message is None:
            continue
        room -= measure(message)
        if room < 0 and shown:
            return shown, key(rows[position - 1])
        shown.append(message)
    return shown, key(rows[size - 1]) if len(rows) > size else ""


def _measure(messages: Sequence[Message]) -> Callable[[Message], float]:
    """How messages are measured: by a bound, unless that is too much for a page."""
    if sum(map(json_bytes_at_most, messages)) <= PAGE_BYTES:
        return json_bytes_at_most
    return json_bytes


@dataclass(frozen=True, slots=True)
class _Asked:
    """The page that a request asks for.

    Attributes:
        size: rows that it may have.
    """

    size: int

    @property
    def limit(self) -> int:
        """Rows to fetch: one more than the page has tells that there is another."""
        return self.size + 1


@dataclass(frozen=True, slots=True)
class ById(_Asked):
    """Of a list in the order of its rows' ids.

    Attributes:
        after: the id that the page before ended with; None on the first.
    """

    after: UUID | None

    def page(self, rows: Sequence[Row], messages: Iterable[M | None]) -> tuple[list[M], str]:
        """The page, as `page` makes it, and the token for the next one."""
        return page(rows, messages, self.size, lambda row: encode_token(str(row.id)))


@dataclass(frozen=True, slots=True)
class ByNumber(_Asked):
    """Of a list in the order of a number that each row has.

    Attributes:
        after: the number that the page before ended with; None on the first.
    """

    after: int | None

    def page(
        self, rows: Sequence[T], messages: Iterable[M | None], number: Callable[[T], int]
    ) -> tuple[list[M], str]:
        """The page, as `page` makes it, and the token for the next one."""
        return page(rows, messages, self.size, lambda row: encode_token(number(row)))


def by_id(request: PageRequest) -> ById:
    """What a request asks for of a list in the order of ids.

    Raises:
        Error: INVALID_ARGUMENT, its page token is none of ours.
    """
    cursor = decode_token(request.page_token, str)
    return ById(page_size(request.page_size), as_uuid(cursor[0]) if cursor else None)


def by_number(request: PageRequest) -> ByNumber:
    """What a request asks for of a list in the order of a number.

    Raises:
        Error: INVALID_ARGUMENT, its page token is none of ours.
    """
    cursor = decode_token(request.page_token, int)
    return ByNumber(page_size(request.page_size), int(cursor[0]) if cursor else None)
