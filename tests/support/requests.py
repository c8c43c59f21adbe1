"""Requests made up from their protos: plausible in every field, or extreme in one of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from buf.validate import validate_pb2
from google.api import resource_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from contract.method import Method
from mesh.cli.call import message_class

_DEPTH: Final = 6
# Of the largest `oneof` that there is.
_CHOICES: Final = 8
_AMOUNTS: Final = ("amount", "supply", "fee", "allocation", "balance")
_PRINCIPALS: Final = ("principal", "owner", "spender", "recipient", "attestor", "controller")
_YEAR_1, _YEAR_10000 = -62_135_596_800, 253_402_300_800
_TIMES: Final = tuple(
    Timestamp(seconds=seconds, nanos=nanos)
    for seconds, nanos in (
        (_YEAR_1, 0), (-1, 999_999_999), (0, 0), (_YEAR_10000 - 1, 999_999_999), (_YEAR_10000, 0),
        (2**63 - 1, 0), (-(2**63), 0), (0, -1), (0, 2**31 - 1),
    )
)  # fmt: skip
_DURATIONS: Final = tuple(
    Duration(seconds=seconds, nanos=nanos)
    for seconds, nanos in (
        (0, 0), (0, 1), (-1, 0), (315_576_000_000, 999_999_999), (2**63 - 1, 0), (-(2**63), 0),
        (1, -1), (0, -(2**31)),
    )
)  # fmt: skip
_KNOWN: Final[Mapping[str, tuple[Message, ...]]] = {
    Timestamp.DESCRIPTOR.full_name: _TIMES,
    Duration.DESCRIPTOR.full_name: _DURATIONS,
}
_PLAIN: Final[Mapping[str, Message]] = {
    Timestamp.DESCRIPTOR.full_name: Timestamp(seconds=2_000_000_000),
    Duration.DESCRIPTOR.full_name: Duration(seconds=86_400),
}
_LIMITS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), -1, 0, 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), -1, 0, 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**31, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**53 + 1, 2**63, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-1, 0, 2**31 - 1),
}
_EXTREME_AMOUNTS: Final = ("0", str(2**63), str(2**127), str(2**128 - 1), "9" * 39)


@dataclass(frozen=True, slots=True)
class Filler:
    """Fills requests with something sensible in each field.

    Attributes:
        principal: who is named wherever somebody is.
        ledger: that exists.
        choice: which member of a `oneof` is set; a large one counts from the start again.
    """

    principal: str
    ledger: str
    choice: int = 0

    def filled(self, type_name: str, depth: int = _DEPTH) -> Any:
        """A message of a type."""
        message = message_class(type_name)()
        for field in message.DESCRIPTOR.fields:
            members = field.containing_oneof.fields if field.containing_oneof else [field]
            is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
            deep = field.message_type is not None and depth == 0
            if field is members[self.choice % len(members)] and not is_map and not deep:
                self._fill(message, field, depth)
        return message

    def _fill(self, message: Any, field: Any, depth: int) -> None:
        target = getattr(message, field.name)
        if field.message_type is not None:
            kind = field.message_type.full_name
            value = _PLAIN.get(kind) or self.filled(kind, depth - 1)
            (target.add() if field.is_repeated else target).CopyFrom(value)
        elif field.is_repeated:
            target.append(self._scalar(field))
        else:
            setattr(message, field.name, self._scalar(field))

    def _scalar(self, field: Any) -> Any:
        if field.type == field.TYPE_BYTES:
            return b"x" * 32
        if field.type == field.TYPE_STRING:
            return self._text(field)
        if field.type == field.TYPE_BOOL:
            return False
        return field.enum_type.values[-1].number if field.enum_type else 1

    def _text(self, field: Any) -> str:
        options = field.GetOptions().Extensions
        kind = options[resource_pb2.resource_reference].type.partition("/")[2]
        if kind == "Ledger" or field.name == "ledger":
            return self.ledger
        if kind or field.name in ("name", "parent"):
            return f"{kind.lower()}s/{uuid4()}"
        if field.name == "request_id" or options[validate_pb2.field].string.uuid:
            return str(uuid4())
        if field.name.endswith(_AMOUNTS):
            return "1000000"
        return self.principal if field.name.endswith(_PRINCIPALS) else "Some"


def extremes(method: Method, principal: str, ledger: str) -> Iterator[tuple[str, Message]]:
    """Requests of a method with one value at the edge of its type, and which value that is."""
    seen: set[str] = set()
    for choice in range(_CHOICES):
        request = Filler(principal, ledger, choice).filled(method.request_type)
        for path, steps, field in list(_leaves(request, "")):
            if path in seen:
                continue
            seen.add(path)
            for value in _edges(field):
                changed = type(request)()
                changed.CopyFrom(request)
                _put(changed, steps, field, value)
                yield f"{path}={value!r}".replace("\n", " "), changed


Step = tuple[str, bool]


def _leaves(message: Any, prefix: str) -> Iterator[tuple[str, tuple[Step, ...], FieldDescriptor]]:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is None or field.message_type.full_name in _KNOWN:
            yield path, (), field
        elif not field.message_type.GetOptions().map_entry:
            inner = value[0] if field.is_repeated else value
            step = (field.name, field.is_repeated)
            for found, steps, leaf in _leaves(inner, f"{path}."):
                yield found, (step, *steps), leaf


def _put(message: Any, steps: tuple[Step, ...], field: FieldDescriptor, value: Any) -> None:
    for name, repeated in steps:
        message = getattr(message, name)[0] if repeated else getattr(message, name)
    if field.message_type is not None:
        target = getattr(message, field.name)
        (target[0] if field.is_repeated else target).CopyFrom(value)
    elif field.is_repeated:
        getattr(message, field.name)[0] = value
    else:
        setattr(message, field.name, value)


def _edges(field: FieldDescriptor) -> tuple[Any, ...]:
    if field.message_type is not None:
        return _KNOWN[field.message_type.full_name]
    if field.type == field.TYPE_STRING and field.name.endswith(_AMOUNTS):
        return _EXTREME_AMOUNTS
    if field.type == field.TYPE_BYTES:
        return (b"\0", b"\xff" * 31, b"\xff" * 4096)
    return _LIMITS.get(field.cpp_type, ())
