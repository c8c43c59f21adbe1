"""Requests that are too large: what their sender may do instead, where the protos say it."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet

from contract.descriptors import descriptor_bytes, messages
from icto.policy.v1 import policy_pb2 as policy

_MESSAGE: Final = FieldDescriptorProto.TYPE_MESSAGE


@cache
def instead_of_many(message: str) -> str:
    """What somebody does who has more than fits into such a message; "" where nothing is said.

    It is said on a field of the message, or of a message within it (`instead_of_many`).
    """
    return next(_said(f".{message}", _messages(), set()), "")


def _said(message: str, known: Mapping[str, DescriptorProto], seen: set[str]) -> Iterator[str]:
    if message in seen or message not in known:
        return
    seen.add(message)
    for field in known[message].field:
        words = field.options.Extensions[policy.instead_of_many]
        if words:
            yield words
        if field.type == _MESSAGE:
            yield from _said(field.type_name, known, seen)


@cache
def _messages() -> Mapping[str, DescriptorProto]:
    return messages(FileDescriptorSet.FromString(descriptor_bytes()))
