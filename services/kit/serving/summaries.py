"""Summaries: what a list shows of a resource. Fields that only a Get tells are empty.

Which those are is said in the protos (`whole_by_get`), so that no list keeps names of its own.
"""

from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from icto.policy.v1 import policy_pb2 as policy


def summarize(message: Message) -> None:
    """Empties every large field of a message, however deep it lies."""
    large, around = _plan(message.DESCRIPTOR)
    for name in large:
        message.ClearField(name)
    for name, repeated in around:
        inner: Any = getattr(message, name)
        if repeated:
            for one in inner:
                summarize(one)
        elif message.HasField(name):
            summarize(inner)


@cache
def _plan(descriptor: Descriptor) -> tuple[tuple[str, ...], tuple[tuple[str, bool], ...]]:
    """The large fields of a message, and the fields around such, with whether they repeat."""
    large = tuple(field.name for field in descriptor.fields if _is_large(field))
    around = tuple(
        (field.name, field.is_repeated)
        for field in descriptor.fields
        if field.name not in large
        and field.message_type is not None
        and _holds_large(field.message_type, frozenset({descriptor.full_name}))
    )
    return large, around


def _holds_large(descriptor: Descriptor, above: frozenset[str]) -> bool:
    if descriptor.full_name in above:
        return False
    within = above | {descriptor.full_name}
    return any(
        _is_large(field)
        or (field.message_type is not None and _holds_large(field.message_type, within))
        for field in descriptor.fields
    )


def _is_large(field: FieldDescriptor) -> bool:
    extensions: Any = field.GetOptions().Extensions
    return bool(extensions[policy.whole_by_get])
