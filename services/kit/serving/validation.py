"""Checks a request against its proto: required fields, and the bounds of `buf.validate`.

What a proto can say about a field is checked here, for every method; what needs judgement is
checked by `domain.py`. A text is one line that shows as itself, wherever it stands in a request,
unless its field says otherwise (`TextKind`). Times and durations are those of google.protobuf: the
years 1 to 9999, and 10,000 years; more is none.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.api.field_behavior_pb2 import REQUIRED, field_behavior
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from protovalidate import Validator

from contract.errors import Code, Error
from icto.policy.v1 import policy_pb2
from observability.printable import escape, find_hidden
from services.kit.serving import links

_MAX_VIOLATIONS: Final = 20
_YEAR_1, _YEAR_10000 = -62_135_596_800, 253_402_300_800
_MAX_DURATION: Final = 315_576_000_000
_NANOS: Final = 1_000_000_000


def _is_time(value: Any) -> bool:
    return bool(_YEAR_1 <= value.seconds < _YEAR_10000 and 0 <= value.nanos < _NANOS)


def _is_duration(value: Any) -> bool:
    return bool(
        abs(value.seconds) <= _MAX_DURATION
        and abs(value.nanos) < _NANOS
        and value.seconds * value.nanos >= 0
    )


_KNOWN: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    Timestamp.DESCRIPTOR.full_name: (_is_time, "must be in the years 1 to 9999"),
    Duration.DESCRIPTOR.full_name: (_is_duration, "must be 10,000 years at most"),
}
"""Messages that are no more than a value: what it must be, and how that is said."""


def _line(text: str) -> str:
    return _hides(find_hidden(text))


def _lines(text: str) -> str:
    return _hides(find_hidden(text, lines=True))


def _hides(character: str) -> str:
    return f"must not hold U+{ord(character):04X}" if character else ""


def _url(text: str) -> str:
    if not text or links.is_url(text):
        return ""
    return _line(text) or "must be an http or https URL as RFC 3986 writes it, without userinfo"


def _picture(text: str) -> str:
    if not text or links.is_picture(text):
        return ""
    return "must be an https URL, or a PNG, JPEG, GIF or WebP picture as data:image/png;base64,…"


_Judge = Callable[[str], str]
"""What is wrong with a text; "" when nothing is."""

_JUDGES: Final[Mapping[int, _Judge | None]] = {
    policy_pb2.TEXT_KIND_UNSPECIFIED: _line,
    policy_pb2.TEXT_KIND_LINES: _lines,
    policy_pb2.TEXT_KIND_URL: _url,
    policy_pb2.TEXT_KIND_PICTURE: _picture,
    policy_pb2.TEXT_KIND_RAW: None,
}
"""By TextKind; None where a text may hold anything."""

_Found = list[tuple[str, str]]
_Check = Callable[[Any, str, _Found], None]
"""Looks at the value of a field at a path, and adds what is wrong with it."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is looked at in messages of one type.

    Attributes:
        required: fields that must be there.
        checks: by field.
        lines: fields whose one text needs no check when it is printable ASCII.
    """

    required: tuple[str, ...]
    checks: Mapping[str, _Check]
    lines: frozenset[str]


class RequestValidator:
    """Validates requests; one for a process, since it keeps what it compiled."""

    def __init__(self) -> None:
        self._validator = Validator()
        self._plans: dict[tuple[str, bool], _Plan] = {}

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

    def _walk(self, message: Message, prefix: str) -> _Found:
        """What is wrong with the fields of a message, whatever their rules."""
        found: _Found = []
        _look(message, self._plan(message.DESCRIPTOR, raw=False), prefix, found)
        return found

    def _plan(self, descriptor: Any, *, raw: bool) -> _Plan:
        plan = self._plans.get((descriptor.full_name, raw))
        if plan is None:
            checks = ((field.name, self._check_of(field, raw=raw)) for field in descriptor.fields)
            plan = self._plans[descriptor.full_name, raw] = _Plan(
                required=tuple(field.name for field in descriptor.fields if _is_required(field)),
                checks={name: check for name, check in checks if check is not None},
                lines=frozenset(f.name for f in descriptor.fields if _is_of_lines(f)),
            )
        return plan

    def _check_of(self, field: FieldDescriptor, *, raw: bool) -> _Check | None:
        """How a field is looked at, `raw` inside of one that is; None when there is nothing to."""
        options: Any = field.GetOptions()
        text_kind = policy_pb2.TEXT_KIND_RAW if raw else options.Extensions[policy_pb2.text]
        kind: Any = field.message_type
        if kind is None:
            judge = _JUDGES[text_kind] if field.type == FieldDescriptor.TYPE_STRING else None
            return None if judge is None else _each(field, _judged(judge))
        raw = text_kind == policy_pb2.TEXT_KIND_RAW
        if kind.GetOptions().map_entry:
            return self._check_of_map(kind, raw=raw)
        if kind.full_name in _KNOWN:
            return _each(field, _known(*_KNOWN[kind.full_name]))

        plan: _Plan | None = None

        def enter(message: Message, path: str, found: _Found) -> None:
            nonlocal plan
            if plan is None:
                plan = self._plan(kind, raw=raw)  # only now: a message may hold its like
            _look(message, plan, f"{path}.", found)

        return _each(field, enter)

    def _check_of_map(self, entry: Any, *, raw: bool) -> _Check:
        key, value = (
            self._check_of(entry.fields_by_name[name], raw=raw) for name in ("key", "value")
        )

        def check(values: Any, path: str, found: _Found) -> None:
            for name in values:
                at = f"{path}[{escape(str(name))}]"
                if key is not None:
                    key(name, at, found)
                if value is not None:
                    value(values[name], at, found)

        return check


def _look(message: Message, plan: _Plan, prefix: str, found: _Found) -> None:
    """Adds what is wrong with the fields of a message, and of those in it."""
    fields = message.ListFields()
    if plan.required:
        present = {field.name for field, _ in fields}
        missing = (name for name in plan.required if name not in present)
        found += [(prefix + name, "is required") for name in missing]
    for field, value in fields:
        name = field.name
        # Nearly every text of nearly every call ends here.
        if name in plan.lines and value.isascii() and value.isprintable():
            continue
        check = plan.checks.get(name)
        if check is not None:
            check(value, prefix + name, found)


def _judged(judge: _Judge) -> _Check:
    def check(text: str, path: str, found: _Found) -> None:
        problem = judge(text)
        if problem:
            found.append((path, problem))

    return check


def _known(holds: Callable[[Any], bool], problem: str) -> _Check:
    def check(value: Any, path: str, found: _Found) -> None:
        if not holds(value):
            found.append((path, problem))

    return check


def _each(field: FieldDescriptor, check: _Check) -> _Check:
    """The check of every item where the field is a list, else of its one value."""
    if not field.is_repeated:
        return check

    def check_items(values: Any, path: str, found: _Found) -> None:
        for index, value in enumerate(values):
            check(value, f"{path}[{index}]", found)

    return check_items


def _element(element: Any) -> str:
    """A part of the path to a field."""
    place = f"[{element.subscript.value}]" if element.subscript else ""
    return f"{element.field_name or ''}{place}"


def _is_of_lines(field: FieldDescriptor) -> bool:
    options: Any = field.GetOptions()
    lines = (policy_pb2.TEXT_KIND_UNSPECIFIED, policy_pb2.TEXT_KIND_LINES)
    single = field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated
    return single and options.Extensions[policy_pb2.text] in lines


def _is_required(field: FieldDescriptor) -> bool:
    extensions: Any = field.GetOptions().Extensions
    return REQUIRED in extensions[field_behavior]
