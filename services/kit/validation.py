"""Checks a request against its proto: required fields, and the bounds of `buf.validate`.

What a proto can say about a field is checked here, for every method; what needs judgement is
checked by `domain.py`. No text may hold U+0000: the database keeps none, and nobody means it. A
time or a duration must be one: the wire carries others, of which nothing can be made.
"""

from collections.abc import Iterator
from typing import Any, Final

from google.api.field_behavior_pb2 import REQUIRED, field_behavior
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from protovalidate import Validator

from services.kit.errors import Code, Error

_MAX_VIOLATIONS: Final = 20


class RequestValidator:
    """Validates requests; one for a process, since it keeps what it compiled."""

    def __init__(self) -> None:
        self._validator = Validator()
        self._required: dict[str, tuple[str, ...]] = {}

    def check(self, request: Message) -> None:
        """Passes, or names every field that is wrong.

        Raises:
            Error: INVALID_ARGUMENT with a violation for each field.
        """
        violations = tuple(self._violations(request))[:_MAX_VIOLATIONS]
        if violations:
            summary = "; ".join(f"{field}: {problem}" for field, problem in violations)
            raise Error(Code.INVALID_ARGUMENT, "INVALID_FIELD", summary, violations=violations)

    def _violations(self, request: Message) -> Iterator[tuple[str, str]]:
        yield from self._walk(request, "")
        for violation in self._validator.collect_violations(request):
            elements = violation.proto.field.elements if violation.proto.field else ()
            path = ".".join(map(_element, elements))
            yield path, violation.proto.message or violation.proto.rule_id or "is not valid"

    def _walk(self, message: Message, prefix: str) -> Iterator[tuple[str, str]]:
        """What is wrong with the fields of our own messages, whatever their rules."""
        descriptor: Any = message.DESCRIPTOR
        fields = message.ListFields()
        present = {field.name for field, _ in fields}
        for name in self._required_fields(descriptor):
            if name not in present:
                yield prefix + name, "is required"
        for field, value in fields:
            problem = _problem(value)
            if problem:
                yield prefix + field.name, problem
            if field.message_type is None or not field.message_type.full_name.startswith("icto."):
                continue
            if field.message_type.GetOptions().map_entry:
                continue
            if not field.is_repeated:
                yield from self._walk(value, f"{prefix}{field.name}.")
                continue
            for index, item in enumerate(value):
                yield from self._walk(item, f"{prefix}{field.name}[{index}].")

    def _required_fields(self, descriptor: Any) -> tuple[str, ...]:
        known = self._required.get(descriptor.full_name)
        if known is None:
            known = tuple(field.name for field in descriptor.fields if _is_required(field))
            self._required[descriptor.full_name] = known
        return known


def _element(element: Any) -> str:
    """A part of the path to a field."""
    place = f"[{element.subscript.value}]" if element.subscript else ""
    return f"{element.field_name or ''}{place}"


def _problem(value: Any) -> str:
    """What is wrong with a value, whatever field it is in; "" when nothing is."""
    if isinstance(value, str) and "\0" in value:
        return "must not hold U+0000"
    if isinstance(value, Timestamp | Duration):
        try:
            value.ToNanoseconds()
        except ValueError:
            return "is out of range"
    return ""


def _is_required(field: FieldDescriptor) -> bool:
    extensions: Any = field.GetOptions().Extensions
    return REQUIRED in extensions[field_behavior]
