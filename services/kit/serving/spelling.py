"""Principals are read in any case, as the Internet Computer's text form says, and kept in one.

Those in a request are written in lower case before anything looks at them, so that nothing behind
this, a key of a row above all, knows two spellings of one principal. What merely looks like one
stays: a principal carries a checksum.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.message import Message

from contract import principal

# A group of a principal with a capital in it, beside the hyphen that joins it to the next.
_CAPITAL: Final = re.compile(rb"[A-Z][2-7A-Za-z]{0,4}-|-[2-7A-Za-z]{0,4}[A-Z]")


def lower_principals(request: Message, raw: bytes) -> None:
    """Writes the principals of a request in lower case. `raw` is what it was parsed from."""
    if _CAPITAL.search(raw):
        _lower(request)


def _lower(message: Message) -> None:
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING and field.is_repeated:
            value[:] = [principal.canonical(text) for text in value]
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, principal.canonical(value))
        elif field.type == field.TYPE_MESSAGE:
            for below in _below(field, value):
                _lower(below)


def _below(field: Any, value: Any) -> Iterator[Message]:
    """The messages in a field; those of a map are left alone."""
    if field.message_type.GetOptions().map_entry:
        return
    yield from value if field.is_repeated else (value,)
