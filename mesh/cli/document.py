"""A YAML document as a message of the contract, with the line of everything that is wrong.

Fields have the names that they have in REST's JSON, or in the protos; values are written as in
REST's JSON, but whole numbers need no quotes where the API takes them as text.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NoReturn, TypeVar

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

M = TypeVar("M", bound=Message)

# YAML lets a short text stand for an endless one.
_MAX_NODES: Final = 200_000
_MAX_DEPTH: Final = 32
_WHOLE: Final = re.compile(r"-?[0-9]+")
_TAG: Final = "tag:yaml.org,2002:"
_WHOLE_NUMBERS: Final = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)


class DocumentError(Exception):
    """The document does not say what it should. The message names file, line and field."""


@dataclass
class Document(Generic[M]):
    """A message, and the line of each field that the document set."""

    file: str
    message: M
    lines: dict[str, int] = field(default_factory=dict)

    def place(self, path: str) -> str:
        """File and line of a field, or of the closest one around it that the document set."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return f"{self.file}:{self.lines[path]}" if path else self.file


def read(text: str, message: M, file: str) -> Document[M]:
    """Reads a document into an empty message.

    Raises:
        DocumentError: it is no such message.
    """
    document = Document(file, message)
    try:
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise DocumentError(f"{file}{line}: {error.problem or error}") from None
    except yaml.YAMLError as error:
        raise DocumentError(f"{file}: {error}") from None
    if root is None:
        raise DocumentError(f"{file} is empty.")
    _Reader(document).message(message, root, "", 0)
    return document


class _Reader:
    """Walks a document along the descriptor of its message."""

    def __init__(self, document: Document[Any]) -> None:
        self._document = document
        self._nodes = 0

    def message(self, message: Message, node: yaml.Node, path: str, depth: int) -> None:
        """Sets the fields of a message."""
        self._count(node, path, depth)
        if not isinstance(node, yaml.MappingNode):
            self._refuse(node, path, "must be a table of fields")
        known = _fields(message.DESCRIPTOR)
        seen: dict[str, str] = {}
        for key, value in node.value:
            found = known.get(str(key.value)) if isinstance(key, yaml.ScalarNode) else None
            if found is None:
                names = ", ".join(sorted({f.name for f in known.values()}))
                self._refuse(key, path, f"has no field {_shown(key)}; it has {names}")
            at = f"{path}.{found.name}" if path else found.name
            if found.name in seen:
                self._refuse(key, at, "is written twice")
            group = found.containing_oneof
            if group is not None:
                others = [name for name in seen if seen[name] == group.full_name]
                if others:
                    self._refuse(key, at, f"cannot stand beside {others[0]}")
            seen[found.name] = group.full_name if group is not None else ""
            self._document.lines[at] = key.start_mark.line + 1
            self._field(message, found, value, at, depth + 1)

    def _field(
        self, message: Message, found: FieldDescriptor, node: yaml.Node, path: str, depth: int
    ) -> None:
        self._count(node, path, depth)
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}null":
            self._refuse(node, path, "has no value")
        if not found.is_repeated:
            self._one(message, found, node, path, depth)
            return
        if not isinstance(node, yaml.SequenceNode):
            self._refuse(node, path, "must be a list")
        for index, item in enumerate(node.value):
            at = f"{path}[{index}]"
            self._document.lines[at] = item.start_mark.line + 1
            self._item(getattr(message, found.name), found, item, at, depth + 1)

    def _one(
        self, message: Message, found: FieldDescriptor, node: yaml.Node, path: str, depth: int
    ) -> None:
        if found.message_type is None:
            try:
                setattr(message, found.name, self._scalar(found, node, path))
            except (TypeError, ValueError):
                self._refuse(node, path, "is out of range")
            return
        inner: Message = getattr(message, found.name)
        inner.SetInParent()
        self._inner(inner, node, path, depth)

    def _item(
        self, items: Any, found: FieldDescriptor, node: yaml.Node, path: str, depth: int
    ) -> None:
        if found.message_type is None:
            items.append(self._scalar(found, node, path))
        else:
            self._inner(items.add(), node, path, depth)

    def _inner(self, inner: Message, node: yaml.Node, path: str, depth: int) -> None:
        text_form = _TEXT_FORMS.get(inner.DESCRIPTOR.full_name)
        if text_form is None:
            self.message(inner, node, path, depth)
            return
        example, parse = text_form
        try:
            parse(inner, self._text(node, path))
        except ValueError:
            self._refuse(node, path, f"must be written as {example}")

    def _scalar(self, found: FieldDescriptor, node: yaml.Node, path: str) -> Any:
        text = self._text(node, path)
        if found.enum_type is not None:
            value = found.enum_type.values_by_name.get(text)
            if value is None:
                names = [v.name for v in found.enum_type.values if v.number]
                self._refuse(node, path, f"must be one of {', '.join(names)}")
            return value.number
        if found.type == FieldDescriptor.TYPE_BOOL:
            if text not in ("true", "false"):
                self._refuse(node, path, "must be true or false")
            return text == "true"
        if found.type == FieldDescriptor.TYPE_BYTES:
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error:
                self._refuse(node, path, "must be written in base64")
        if found.cpp_type in _WHOLE_NUMBERS:
            if not _WHOLE.fullmatch(text):
                self._refuse(node, path, "must be a whole number")
            return int(text)
        return text

    def _text(self, node: yaml.Node, path: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self._refuse(node, path, "must be a single value")
        text: str = node.value
        # 1_000 is how YAML writes 1000.
        return text.replace("_", "") if node.tag == f"{_TAG}int" else text

    def _count(self, node: yaml.Node, path: str, depth: int) -> None:
        self._nodes += 1
        if self._nodes > _MAX_NODES or depth > _MAX_DEPTH:
            self._refuse(node, path, "is too large")

    def _refuse(self, node: yaml.Node, path: str, problem: str) -> NoReturn:
        line = node.start_mark.line + 1
        raise DocumentError(f"{self._document.file}:{line}: {path or 'the document'} {problem}.")


_TEXT_FORMS: Final[Mapping[str, tuple[str, Callable[[Any, str], None]]]] = {
    Timestamp.DESCRIPTOR.full_name: (
        "2027-01-31T12:00:00Z",
        lambda message, text: message.FromJsonString(text),
    ),
    Duration.DESCRIPTOR.full_name: (
        "86400s",
        lambda message, text: message.FromJsonString(text),
    ),
}
"""Messages that REST writes as text: an example, and how it is read."""


def _fields(descriptor: Any) -> dict[str, FieldDescriptor]:
    """Fields by either of their names."""
    return {name: f for f in descriptor.fields for name in (f.name, f.json_name)}


def _shown(node: yaml.Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else "of that kind"
