r"""How large a message can be at most, from the bounds of its fields: on the wire, and as JSON.

JSON is counted as the edge writes it, where it takes most: a byte of text may become six (`<` is
written `\u003c`), bytes become base64, every number is written as its longest, and fields that are
not set are named all the same. A message is taken apart into everything that may stand in it, each
with its number, the bytes that it takes at least, and the JSON that it makes at most.

What callers send came in a request, so it has no more bytes than the largest request that carries
it. Within those bytes stands what makes most JSON of each of them: a fractional knapsack, which is
an upper bound whatever it is filled with.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Final

from contract.fields import FieldFacts, Kind, Messages

_NUMBERS: Final[Mapping[int, tuple[int, int]]] = {
    Kind.TYPE_BOOL: (1, 5),
    Kind.TYPE_INT32: (10, 11),
    Kind.TYPE_SINT32: (5, 11),
    Kind.TYPE_UINT32: (5, 10),
    Kind.TYPE_FIXED32: (4, 10),
    Kind.TYPE_SFIXED32: (4, 11),
    Kind.TYPE_FLOAT: (4, 24),
    Kind.TYPE_INT64: (10, 22),
    Kind.TYPE_SINT64: (10, 22),
    Kind.TYPE_UINT64: (10, 22),
    Kind.TYPE_FIXED64: (8, 22),
    Kind.TYPE_SFIXED64: (8, 22),
    Kind.TYPE_DOUBLE: (8, 26),
}
"""Of each kind of number: most bytes on the wire, and most characters in JSON with its quotes."""
_VALUES: Final[Mapping[str, tuple[int, int]]] = {
    ".google.protobuf.Timestamp": (22, 32),
    ".google.protobuf.Duration": (22, 28),
}
"""Messages that JSON writes as a text: most bytes on the wire, and most characters."""
_ENUM: Final = (10, 11)
"""An enum: most bytes on the wire, and most characters of a value that has no name."""
_LENGTH: Final = 4
"""Bytes of a length, below 2^28."""
_QUOTES: Final = 4
"""Around a text, or around base64 with its padding."""
_ESCAPED: Final = 6
_BASE64: Final = 4 / 3


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of a message at most; infinite where nothing bounds them.

    Attributes:
        wire: as it travels between services and to gRPC clients.
        json: as the edge writes it for REST clients.
    """

    wire: float
    json: float

    def __add__(self, other: "Size") -> "Size":
        return Size(self.wire + other.wire, self.json + other.json)

    def times(self, count: float) -> "Size":
        """So many of them."""
        return Size(self.wire * count, self.json * count)

    def within(self, other: "Size") -> "Size":
        """The smaller of both."""
        return Size(min(self.wire, other.wire), min(self.json, other.json))


_ELEMENT: Final = Size(1 + _LENGTH, 1)
"""What an element of a list takes beside itself."""


@dataclass(frozen=True, slots=True)
class _Item:
    """Something that may stand in a message.

    Attributes:
        count: so often at most.
        least: bytes that each takes at least.
        most: bytes that each takes at most.
        json: JSON that each makes at most.
        owed: a service fills it in, beside what a caller sent.
        path: its name, for people.
    """

    count: float
    least: float
    most: float
    json: float
    owed: bool
    path: str


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a message, or a field that is set, is without what need not stand in it: see `_Item`."""

    least: float = 0
    most: float = 0
    json: float = 0

    def __add__(self, other: "_Frame") -> "_Frame":
        return _Frame(self.least + other.least, self.most + other.most, self.json + other.json)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a message something stands.

    Attributes:
        path: its name, for people.
        count: how often there may be one.
        owed: see `_Item`.
        sent: within a message that callers sent, whose bytes are bounded together.
        summary: fields that only a Get tells are empty.
        above: the messages around it.
    """

    path: str = ""
    count: float = 1
    owed: bool = False
    sent: bool = False
    summary: bool = False
    above: tuple[str, ...] = ()

    def at(self, field: FieldFacts) -> "_Place":
        """The place of a field of the message that stands here."""
        path = f"{self.path}.{field.name}".lstrip(".")
        owed = self.owed or field.output_only or field.optional or _has_default(field)
        return replace(self, path=path, owed=owed)

    def item(self, frame: _Frame) -> _Item:
        """What may stand here."""
        return _Item(self.count, frame.least, frame.most, frame.json, self.owed, self.path)


class Sizes:
    """Sizes of the messages of a contract.

    Attributes:
        unbounded: paths of fields that nothing bounds, as far as they were met.
    """

    def __init__(self, messages: Messages, carried: Mapping[str, int]) -> None:
        """`carried` has, by message, bytes of the largest request that carries it."""
        self._messages = messages
        self._carried = carried
        self._known: dict[tuple[str, bool], Size] = {}
        self._frames: dict[str, _Frame] = {}
        self._dearest: dict[tuple[str, bool], Sequence[_Item]] = {}
        self.unbounded: list[str] = []

    def of(self, name: str, *, summary: bool = False, path: str = "") -> Size:
        """The largest that a message can be. `path` names it in `unbounded`."""
        key = name, summary
        if key not in self._known:
            self._known[key] = Size(inf, inf)  # what it is within itself
            self._known[key] = self._of(name, _Place(path, summary=summary))
        return self._known[key]

    def page(self, name: str, count: int, end: Size) -> Size:
        """The largest page of a list: so many elements at most, and it ends once it is so large."""
        fields = self._messages[name].fields
        lists = [field for field in fields if field.many and field.is_message]
        others = [field for field in fields if field not in lists]
        total = _whole(self._frame(name), self._content(others, _Place()))
        for field in lists:
            element = self.of(field.of, summary=True, path=field.name) + _ELEMENT
            total += element.times(count).within(end + element)
        return total

    def json_of(self, name: str, wire: int, *, summary: bool = False) -> float:
        """Most JSON that a message of so many bytes makes, also where a text is past its bound."""
        key = name, summary
        if key not in self._dearest:
            items = self._items(name, _Place(sent=True, summary=summary))
            dear = (item for item in items if item.json > _ESCAPED * item.least)
            self._dearest[key] = _dearest_first(dear)
        json, left = _filled(self._dearest[key], wire)
        return self._frame(name).json + json + left * _ESCAPED

    def _of(self, name: str, place: _Place) -> Size:
        frame, items = self._frame(name), list(self._items(name, place))
        whole = _whole(frame, items)
        budget = self._carried.get(name)
        if budget is None:
            self.unbounded += [one.path for one in items if one.count * one.most == inf]
            return whole
        sent = list(self._items(name, replace(place, sent=True)))
        owed = _whole(_Frame(), (item for item in sent if item.owed))
        others = _dearest_first(item for item in sent if not item.owed)
        json, _ = _filled(others, budget)
        return whole.within(Size(budget + frame.most, frame.json + json) + owed)

    def _items(self, name: str, place: _Place) -> Iterator[_Item]:
        """What may stand in a message beside its frame."""
        if name in place.above:
            yield _Item(inf, 1, inf, inf, place.owed, place.path)
            return
        inside = replace(place, above=(*place.above, name))
        yield from self._content(self._messages[name].fields, inside)

    def _content(self, fields: Iterable[FieldFacts], place: _Place) -> Iterator[_Item]:
        for field in fields:
            if place.summary and field.whole_by_get:
                continue
            if field.many:
                yield from self._repeated(field, place.at(field))
            elif field.is_message:
                yield from self._message(field, place.at(field))
            else:
                yield from self._scalar(field, place.at(field))

    def _scalar(self, field: FieldFacts, place: _Place) -> Iterator[_Item]:
        if field.optional:
            yield place.item(self._set(field))
        yield from _characters(field, place)

    def _message(self, field: FieldFacts, place: _Place) -> Iterator[_Item]:
        if self._stands_alone(field, place):
            yield place.item(self._alone(field, place) + _Frame(0, field.tag, _named(field)))
            return
        if not _is_framed(field):
            yield place.item(self._set(field))
        if field.of not in _VALUES:
            yield from self._items(field.of, place)

    def _repeated(self, field: FieldFacts, place: _Place) -> Iterator[_Item]:
        many = replace(place, count=place.count * field.items)
        comma = _Frame(json=1)
        if self._stands_alone(field, place):
            yield many.item(self._alone(field, place) + _Frame(0, field.tag) + comma)
        elif field.is_message or field.text:
            yield many.item(self._value(field, ()) + _Frame(field.tag, field.tag) + comma)
        else:  # packed
            yield many.item(self._value(field, ()) + comma)
        yield from _characters(field, many)
        if field.is_message and field.of not in _VALUES and not self._stands_alone(field, place):
            yield from self._items(field.of, many)

    def _stands_alone(self, field: FieldFacts, place: _Place) -> bool:
        """Whether a message has a bound of its own: callers sent it, and it is in no other such."""
        return field.is_message and not place.sent and field.of in self._carried

    def _alone(self, field: FieldFacts, place: _Place) -> _Frame:
        size = self.of(field.of, summary=place.summary, path=place.path)
        return _Frame(0, _LENGTH + size.wire, size.json)

    def _frame(self, name: str, above: tuple[str, ...] = ()) -> _Frame:
        """Braces, what is named though it is not set, and what must be set."""
        if name not in self._frames:
            self._frames[name] = self._framed(name, above)
        return self._frames[name]

    def _framed(self, name: str, above: tuple[str, ...]) -> _Frame:
        total = _Frame(json=2)
        if name in above:
            return total
        message, above = self._messages[name], (*above, name)
        for field in message.fields:
            if field.many:
                total += _Frame(json=_named(field) + 2)
            elif field.oneof is None and field.required:
                total += self._set(field, above)
            elif field.oneof is None and not field.is_message and not field.optional:
                named = self._set(field, above)
                total += _Frame(0, named.most, named.json)
        for number, required in enumerate(message.oneofs):
            members = [self._set(f, above) for f in message.fields if f.oneof == number]
            total += _one_of(members, required=required)
        return total

    def _set(self, field: FieldFacts, above: tuple[str, ...] = ()) -> _Frame:
        """A field with a value: as little of it as there may be, and what that is named by."""
        head = _Frame(field.tag, field.tag, _named(field))
        first = _Frame(1, 0, _ESCAPED) if field.text and field.required else _Frame()
        return head + self._value(field, above) + first

    def _value(self, field: FieldFacts, above: tuple[str, ...]) -> _Frame:
        """A number, a message with its length, or the length and the quotes of a text."""
        if field.kind in _NUMBERS:
            return _Frame(1, *_NUMBERS[field.kind])
        if field.kind == Kind.TYPE_ENUM:
            wire, json = _ENUM
            names = (len(name) + 2 for name in self._messages.values(field.of))
            return _Frame(1, wire, max(json, *names))
        if field.text:
            return _Frame(1, _LENGTH, _QUOTES)
        if field.of in _VALUES:
            wire, json = _VALUES[field.of]
            return _Frame(1, 1 + wire, json)
        return _Frame(1, _LENGTH) + self._frame(field.of, above)


def _characters(field: FieldFacts, place: _Place) -> Iterator[_Item]:
    """Characters of a text: a byte each that JSON escapes, or more bytes and one escape more."""
    if field.text is None:
        return
    one = _BASE64 if field.kind == Kind.TYPE_BYTES else 1 if field.text.plain else _ESCAPED
    count, more = place.count * field.text.length, field.text.widest - 1
    yield _Item(count, 1, 1, one, place.owed, place.path)
    if more:
        yield _Item(count, more, more, one, place.owed, place.path)


def _one_of(members: Sequence[_Frame], *, required: bool) -> _Frame:
    """One of them at most: the largest; where one must be set, at least the smallest."""
    if not members:
        return _Frame()
    return _Frame(
        min(one.least for one in members) if required else 0,
        max(one.most for one in members),
        max(one.json for one in members),
    )


def _whole(frame: _Frame, items: Iterable[_Item]) -> Size:
    """Everything that may stand in a message."""
    total = Size(frame.most, frame.json)
    for item in items:
        if item.count:
            total += Size(item.most, item.json).times(item.count)
    return total


def _dearest_first(items: Iterable[_Item]) -> Sequence[_Item]:
    """Items by the JSON that a byte of each makes, most first."""
    ordered = sorted(items, key=lambda item: item.json / item.least if item.least else inf)
    return tuple(reversed(ordered))


def _filled(dearest: Sequence[_Item], budget: float) -> tuple[float, float]:
    """Most JSON that so many bytes can make of these, and bytes that are left."""
    json, left = 0.0, budget
    for item in dearest:
        count = min(item.count, left / item.least) if item.least else item.count
        json += count * item.json
        left -= count * item.least
        if left <= 0:
            break
    return ceil(json), max(0.0, left)


def _is_framed(field: FieldFacts) -> bool:
    """Whether a field counts as a part of the message around it: see `Sizes._frame`."""
    return field.required or field.oneof is not None


def _has_default(field: FieldFacts) -> bool:
    """Whether a service fills in a time or a duration that is absent."""
    return field.of in _VALUES and not field.many and not _is_framed(field)


def _named(field: FieldFacts) -> int:
    """Characters of a field's name in JSON with its quotes, a colon and a comma."""
    return len(field.json_name) + 4
