"""Whether every request inwards has room for the public message that it carries, and its envelope.

Without that room a service accepts what the next one refuses. How large a message can be follows
from the bounds of its fields, and from the largest public request that carries it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Protocol

from buf.validate import validate_pb2
from google.api.field_behavior_pb2 import OUTPUT_ONLY, field_behavior
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto

COMPLETION_BYTES: Final = 32 * 1024
"""What services fill into a message before they hand it on: amounts, counts, moments."""

Field = FieldDescriptorProto
_NUMBER: Final = 10
_TAG_AND_LENGTH: Final = 8
_WIDEST: Final = 4


class Method(Protocol):
    """What counts of a method."""

    @property
    def full_name(self) -> str:
        """`package.Service/Method`."""
        ...

    @property
    def request_type(self) -> str:
        """Full name of its request."""
        ...

    @property
    def max_request_bytes(self) -> int:
        """Largest request that it takes."""
        ...


@dataclass(frozen=True)
class Room:
    """The messages of a contract, by full name with a dot in front."""

    messages: Mapping[str, DescriptorProto]

    def problems(self, doors: Iterable[Method], inner: Iterable[Method]) -> Iterator[str]:
        """Methods that services call with less room than they need.

        `doors` are called from outside, `inner` by services; a method may be both.
        """
        largest = self._through(doors)
        for method in inner:
            needed = self._needed(f".{method.request_type}", largest)
            if needed > method.max_request_bytes:
                yield (
                    f"{method.full_name}: max_request_bytes is {method.max_request_bytes}, but what"
                    f" it carries inwards takes {needed}"
                )

    def _through(self, doors: Iterable[Method]) -> dict[str, int]:
        """By message, bytes of the largest public request that it may come in."""
        largest: dict[str, int] = {}
        for door in doors:
            for name in self._within(f".{door.request_type}", set()):
                largest[name] = max(largest.get(name, 0), door.max_request_bytes)
        return largest

    def _within(self, name: str, seen: set[str]) -> set[str]:
        """Messages of ours that callers send in a message."""
        for field in self._sent(name):
            if field.type_name.startswith(".icto.") and field.type_name not in seen:
                seen.add(field.type_name)
                self._within(field.type_name, seen)
        return seen

    def _needed(self, request: str, largest: Mapping[str, int]) -> float:
        """Bytes that a request takes at most; 0 when it carries nothing from outside."""
        carried = [field for field in self._sent(request) if field.type_name in largest]
        if not carried:
            return 0
        return sum(
            _TAG_AND_LENGTH + self._arrived(field, largest)
            if field in carried
            else self._of_field(field, ())
            for field in self._sent(request)
        )

    def _arrived(self, field: Field, largest: Mapping[str, int]) -> float:
        """A message as it may have come in, completed."""
        bounded = _count(field) * self._of(field.type_name, ())
        return min(bounded, largest[field.type_name] + COMPLETION_BYTES)

    def _of(self, name: str, above: tuple[str, ...]) -> float:
        """Bytes of a message at most, by the bounds of its fields."""
        if name in above or name not in self.messages:
            return inf
        return sum(self._of_field(field, (*above, name)) for field in self.messages[name].field)

    def _of_field(self, field: Field, above: tuple[str, ...]) -> float:
        is_message = field.type == Field.TYPE_MESSAGE
        one = self._of(field.type_name, above) if is_message else _text(field)
        return _count(field) * (_TAG_AND_LENGTH + one)

    def _sent(self, name: str) -> Iterator[Field]:
        """Fields that callers fill in."""
        for field in self.messages[name].field if name in self.messages else ():
            extensions: Any = field.options.Extensions
            if OUTPUT_ONLY not in extensions[field_behavior]:
                yield field


def _count(field: Field) -> float:
    """How often a field may be there."""
    if field.label != Field.LABEL_REPEATED:
        return 1
    rules = field.options.Extensions[validate_pb2.field]
    return rules.repeated.max_items or rules.map.max_pairs or inf


def _text(field: Field) -> float:
    """Bytes of a value that is no message."""
    rules = field.options.Extensions[validate_pb2.field]
    if field.label == Field.LABEL_REPEATED:
        rules = rules.repeated.items
    if field.type == Field.TYPE_BYTES:
        return rules.bytes.max_len or rules.bytes.len or len(rules.bytes.const) or inf
    if field.type != Field.TYPE_STRING:
        return _NUMBER
    text = rules.string
    characters = text.max_len or text.len or len(text.const) or (36 if text.uuid else inf)
    return text.max_bytes or text.len_bytes or _WIDEST * characters
