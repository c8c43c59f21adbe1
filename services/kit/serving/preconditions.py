"""`If-Match` (RFC 9110, 13.1.1): a change that is made only of what its sender has seen."""

import re
from typing import Final

from contract.errors import Code, Error

REASON: Final = "IF_MATCH_FAILED"
"""Reason of a refusal; the edge makes HTTP's 412 of it."""

_ANYTHING: Final = "*"
# Entity tags. Bare ones are taken as well: people paste them without their quotes.
_TAG: Final = r'(?:W/)?(?:"[^"]*"|[^",\s/]+)'
_LIST: Final = re.compile(rf"\s*(?:{_TAG})?(?:\s*,\s*(?:{_TAG})?)*\s*")


def matches(condition: str, current: str) -> bool:
    """Whether an `If-Match` holds for what has the etag `current`, which stands in quotes.

    Compared strongly: a weak tag matches nothing.
    """
    if condition.strip() == _ANYTHING:
        return True
    if not _LIST.fullmatch(condition):
        return False
    tags: list[str] = re.findall(_TAG, condition)
    return any(tag.strip('"') == current.strip('"') for tag in tags)


def failed() -> Error:
    """What was seen is not what is there; or it has no etag, and so was not seen."""
    return Error(
        Code.FAILED_PRECONDITION,
        REASON,
        "If-Match names another state than there is; read it again, and then change it.",
    )
