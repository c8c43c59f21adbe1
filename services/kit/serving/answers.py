"""How large answers are, and the refusal of one that is larger than what every hop takes.

The contract proves of each method that its answers fit, from the bounds of their fields. What is
larger all the same was written past those bounds. It is refused here with a reason of its own: a
hop that cuts it off further on blames the request.
"""

import logging
from functools import cache
from math import ceil
from typing import Final

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message

from contract.descriptors import descriptor_bytes
from contract.errors import Code, Error
from contract.fields import Messages
from contract.limits import LARGEST_ANSWER
from contract.method import Method
from contract.sizes import Sizes

log = logging.getLogger(__name__)

_STEP: Final = 64
# No message makes more JSON of a byte than this small an answer would need to be too large.
_SMALL: Final = 128 * 1024
# What the edge escapes and Python does not: one character becomes six.
_ESCAPED_AT_THE_EDGE: Final = "<>\x7f"
_ESCAPE: Final = 5


def check(method: Method, answer: bytes) -> None:
    """Passes when an answer fits.

    Raises:
        Error: INTERNAL, it is larger than what every hop takes.
    """
    if len(answer) > LARGEST_ANSWER.wire:
        raise _too_large(method, len(answer), LARGEST_ANSWER.wire)
    if len(answer) <= _SMALL or not method.http:
        return
    if _sizes().json_of(f".{method.response_type}", len(answer)) > LARGEST_ANSWER.json:
        written = json_bytes(_parsed(method, answer))
        if written > LARGEST_ANSWER.json:
            raise _too_large(method, written, LARGEST_ANSWER.json)


def _parsed(method: Method, answer: bytes) -> Message:
    kind = descriptor_pool.Default().FindMessageTypeByName(method.response_type)
    return message_factory.GetMessageClass(kind).FromString(answer)


def _too_large(method: Method, size: int, limit: float) -> Error:
    log.error("%s: an answer of %d bytes was not sent", method.full_name, size)
    return Error(
        Code.INTERNAL,
        "RESPONSE_TOO_LARGE",
        f"The answer has {size} bytes, and {limit:.0f} at most can be sent. There is nothing wrong"
        " with the request; a list answers a smaller page.",
        metadata={"bytes": str(size), "limit": f"{limit:.0f}"},
    )


def json_bytes(message: Message) -> int:
    """Bytes of a message as the edge writes it as JSON, or somewhat more. Costs a writing of it."""
    try:
        text = json_format.MessageToJson(
            message, always_print_fields_with_no_presence=True, indent=None
        )
    except (json_format.SerializeToJsonError, TypeError):  # it has no form as JSON at all
        return ceil(json_bytes_at_most(message))
    return len(text) + _ESCAPE * sum(map(text.count, _ESCAPED_AT_THE_EDGE))


def json_bytes_at_most(message: Message) -> float:
    """A bound of `json_bytes` that costs little: by the type and the bytes of a message alone."""
    return _at_most(message.DESCRIPTOR.full_name, -(-message.ByteSize() // _STEP))


@cache
def _at_most(name: str, steps: int) -> float:
    return _sizes().json_of(f".{name}", steps * _STEP, summary=True)


@cache
def _sizes() -> Sizes:
    files = FileDescriptorSet.FromString(descriptor_bytes()).file
    return Sizes(Messages(files), carried={})
