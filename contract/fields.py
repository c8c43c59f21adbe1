"""What a proto says of a field that bears on its size: its kind, its bounds, and who sets it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any, Final

from buf.validate import validate_pb2
from google.api.field_behavior_pb2 import OUTPUT_ONLY, REQUIRED, field_behavior
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from icto.policy.v1 import policy_pb2 as policy

DEFAULT_TEXT: Final = 256
"""Characters of a text that is only ever answered and names no bound: ids, names, constants."""

Kind = FieldDescriptorProto
_UUID: Final = 36
_WIDEST: Final = 4
_SHORT_NUMBERS: Final = 16


@dataclass(frozen=True, slots=True)
class Text:
    """Bounds of a text or of bytes.

    Attributes:
        length: characters at most.
        widest: bytes of the widest character.
        plain: nothing in it is escaped in JSON.
    """

    length: float
    widest: int = 1
    plain: bool = False


@dataclass(frozen=True, slots=True)
class FieldFacts:
    """One field.

    Attributes:
        name: in the proto.
        json_name: in JSON.
        kind: its type, one of `FieldDescriptorProto.Type`.
        of: the message or enum that it is of, with a dot in front.
        items: how many there may be, infinite when nothing bounds them; 0 for a single one.
        text: bounds of a text, or of bytes; None for other kinds.
        tag: bytes of its number on the wire.
        required: it must be set.
        optional: a default is filled in where it is absent (proto3 `optional`).
        oneof: number of the choice that it is one of; None when it is in none.
        output_only: only services set it.
        whole_by_get: it is empty in lists.
    """

    name: str
    json_name: str
    kind: int
    of: str
    items: float
    text: Text | None
    tag: int
    required: bool
    optional: bool
    oneof: int | None
    output_only: bool
    whole_by_get: bool

    @property
    def many(self) -> bool:
        """Whether it is repeated."""
        return self.items > 0

    @property
    def is_message(self) -> bool:
        """Whether it holds messages."""
        return self.kind == Kind.TYPE_MESSAGE


@dataclass(frozen=True)
class MessageFacts:
    """One message: its fields, and which of its choices must be made.

    Attributes:
        fields: in the order of the proto.
        oneofs: for each choice whether one of its members must be set.
    """

    fields: tuple[FieldFacts, ...]
    oneofs: tuple[bool, ...]


class Messages:
    """Messages and enums of protos, by full name with a dot in front; each is read once."""

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self._files = tuple(files)
        self._read: dict[str, MessageFacts] = {}

    def __getitem__(self, name: str) -> MessageFacts:
        if name not in self._read:
            message = self._index[0][name]
            self._read[name] = MessageFacts(
                tuple(map(_facts, message.field)),
                tuple(
                    one.options.Extensions[validate_pb2.oneof].required
                    for one in message.oneof_decl
                ),
            )
        return self._read[name]

    def values(self, enum: str) -> tuple[str, ...]:
        """Names of the values of an enum."""
        return tuple(value.name for value in self._index[1][enum].value)

    def within(self, name: str) -> frozenset[str]:
        """A message of ours and every one of ours within it."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            one = waiting.pop()
            if one.startswith(".icto.") and one not in found:
                found.add(one)
                waiting += [field.of for field in self[one].fields if field.is_message]
        return frozenset(found)

    @cached_property
    def _index(self) -> tuple[Mapping[str, DescriptorProto], Mapping[str, EnumDescriptorProto]]:
        messages: dict[str, DescriptorProto] = {}
        enums: dict[str, EnumDescriptorProto] = {}

        def add(scope: str, inner: Iterable[DescriptorProto]) -> None:
            for message in inner:
                name = f"{scope}.{message.name}"
                messages[name] = message
                enums.update({f"{name}.{one.name}": one for one in message.enum_type})
                add(name, message.nested_type)

        for file in self._files:
            scope = f".{file.package}" if file.package else ""
            add(scope, file.message_type)
            enums.update({f"{scope}.{one.name}": one for one in file.enum_type})
        return messages, enums


def _facts(one: FieldDescriptorProto) -> FieldFacts:
    extensions: Any = one.options.Extensions
    behavior = extensions[field_behavior]
    rules = extensions[validate_pb2.field]
    many = one.label == Kind.LABEL_REPEATED
    bound = rules.repeated.max_items or rules.map.max_pairs or inf
    return FieldFacts(
        name=one.name,
        json_name=one.json_name or one.name,
        kind=one.type,
        of=one.type_name,
        items=bound if many else 0,
        text=_text(one.type, rules.repeated.items if many else rules),
        tag=1 if one.number < _SHORT_NUMBERS else 2,
        required=REQUIRED in behavior,
        optional=one.proto3_optional,
        oneof=one.oneof_index if one.HasField("oneof_index") and not one.proto3_optional else None,
        output_only=OUTPUT_ONLY in behavior,
        whole_by_get=extensions[policy.whole_by_get],
    )


def _text(kind: int, rules: "validate_pb2.FieldRules") -> Text | None:
    if kind == Kind.TYPE_BYTES:
        length = rules.bytes.max_len or rules.bytes.len or len(rules.bytes.const)
        return Text(length or inf, plain=True)
    if kind != Kind.TYPE_STRING:
        return None
    text = rules.string
    if text.max_bytes or text.len_bytes:
        return Text(text.max_bytes or text.len_bytes)
    if text.uuid:
        return Text(_UUID, plain=True)
    return Text(text.max_len or text.len or len(text.const) or DEFAULT_TEXT, _WIDEST)
