"""Every text that a request can hold, found in the contract; and characters that deceive."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from mesh.cli.call import message_class

DECEIVING: Final = (
    *(chr(number) for number in (*range(0x20), *range(0x7F, 0xA0))),  # controls
    *"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",  # of direction
    *"\u2028\u2029",  # line separators
    *"\u200b\u2060\u2063\ufeff\u00ad\u180e\u034f\u3164\U000e0001\U000e0041",  # of no width
)
"""Characters that no text of one line may hold, wherever they stand in it."""

# Any: the stubs say that a descriptor may be missing where there is always one.
Path = tuple[Any, ...]
_DEPTH: Final = 8


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a message a text may stand; in a map as its key or its value."""

    path: Path

    @property
    def name(self) -> str:
        """The fields on the way."""
        return ".".join(field.name for field in self.path)

    @property
    def field(self) -> Any:
        """The field that is the text."""
        return self.path[-1]

    def holding(self, text: str, message: Message) -> Message:
        """The message, with this text in this place of it, set or instead of what was there."""
        _put(message, self.path, text)
        return message


def places(type_name: str) -> Iterator[Place]:
    """All places of a type of messages."""
    yield from map(Place, _paths(message_class(type_name).DESCRIPTOR, ()))


def _paths(descriptor: Any, before: Path) -> Iterator[Path]:
    if len(before) > _DEPTH:
        return
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield (*before, field)
        elif field.message_type is not None:
            yield from _paths(field.message_type, (*before, field))


def _put(message: Any, path: Path, text: str) -> None:
    field, *rest = path
    value = getattr(message, field.name)
    if not rest:
        if field.is_repeated:
            value.append(text)
        else:
            setattr(message, field.name, text)
    elif field.message_type.GetOptions().map_entry:
        _put_in_map(value, field, rest, text)
    elif field.is_repeated:
        _put(value[0] if value else value.add(), tuple(rest), text)
    else:
        value.SetInParent()
        _put(value, tuple(rest), text)


def _put_in_map(values: Any, field: Any, rest: list[Any], text: str) -> None:
    fields = field.message_type.fields_by_name
    key: Any
    inner: list[Any]
    if rest[0].name == "key":
        key, inner = text, []
    else:
        key, inner = ("key" if fields["key"].type == FieldDescriptor.TYPE_STRING else 1), rest[1:]
    if fields["value"].message_type is not None:
        values[key].SetInParent()
        if inner:
            _put(values[key], tuple(inner), text)
    else:
        values[key] = text if fields["value"].type == FieldDescriptor.TYPE_STRING else 1
