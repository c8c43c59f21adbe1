"""The rules of REST requests as the edge's Lua filter reads them, derived from the contract.

For each path and verb: the fields that the path or the body gives, which the query must not name,
and the names that the body may have.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto

from contract.descriptors import messages
from contract.method import Http, Method
from contract.model import Contract

_VARIABLE: Final = re.compile(r"\{([^=}]+)(?:=([^}]*))?\}")
_WHOLE: Final = "*"
_READING: Final = "GET"
_NO_TYPE: Final = 0
"""Below a field that holds no message of ours, everything is the transcoder's to judge."""


def request_rules(contract: Contract) -> str:
    """The Lua filter that looks at requests before the transcoder does."""
    tables = _Tables(messages(contract.descriptors))
    tree: dict[str, Any] = {}
    for method in contract.methods():
        if method.audience.from_outside:
            for http in method.http:
                _leaf(tree, http.path)[http.verb] = tables.rule(method, http)
    source = (resources.files("mesh.edge") / "request_rules.lua").read_text()
    return f"local TREE = {_lua(tree)}\nlocal TYPES = {_lua(tables.types)}\n{source}"


def _leaf(tree: dict[str, Any], template: str) -> dict[str, Any]:
    """Where the rules of a path are kept: under its parts, then under its custom verb."""
    plain = _VARIABLE.sub(lambda found: found[2] or _WHOLE, template)
    head, _, last = plain.strip("/").rpartition("/")
    name, _, verb = last.partition(":")
    node = tree
    for part in (*filter(None, head.split("/")), name):
        node = node.setdefault(part, {})
    leaf: dict[str, Any] = node.setdefault(f":{verb}", {})
    return leaf


@dataclass
class _Tables:
    """Types of bodies, numbered as they are met. The first has no field."""

    messages: Mapping[str, DescriptorProto]
    types: list[dict[str, int]] = field(default_factory=lambda: [{}])
    _numbers: dict[str, int] = field(default_factory=dict)

    def rule(self, method: Method, http: Http) -> dict[str, Any]:
        """What the path, the query and the body of one REST rule must look like."""
        request = self.messages[f".{method.request_type}"]
        variables = [found[1] for found in _VARIABLE.finditer(http.path)]
        given = [f.name for f in request.field] if http.body == _WHOLE else [http.body]
        bound = sorted({_plain(name) for name in (*variables, *given) if name})
        rule: dict[str, Any] = {"bound": bound}
        if method.audience.public:
            rule["public"] = True
        if method.sends_events:
            rule["events"] = True
        if http.verb != _READING:
            rule["fields"] = self._body(method, http, request)
        return rule

    def _body(self, method: Method, http: Http, request: DescriptorProto) -> int:
        if http.body == _WHOLE:
            number = self._number(f".{method.request_type}", request)
            if not method.mutates:
                # Clients send one with every POST, and where nothing changes it does no harm.
                self.types[number - 1] |= {"request_id": _NO_TYPE, "requestId": _NO_TYPE}
            return number
        return next((self._below(f) for f in request.field if f.name == http.body), 1)

    def _below(self, one: FieldDescriptorProto) -> int:
        known = self.messages.get(one.type_name)
        ours = one.type_name.startswith(".icto.") and known is not None
        if not ours or known is None or known.options.map_entry:
            return _NO_TYPE
        return self._number(one.type_name, known)

    def _number(self, name: str, message: DescriptorProto) -> int:
        if name not in self._numbers:
            fields: dict[str, int] = {}
            self.types.append(fields)
            self._numbers[name] = len(self.types)
            for one in message.field:
                fields[one.name] = fields[one.json_name] = self._below(one)
        return self._numbers[name]


def _plain(name: str) -> str:
    """A field however it is spelled, as the Lua filter compares it."""
    return name.replace("_", "").lower()


def _lua(value: Any) -> str:
    """A value of ours as a Lua literal."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f'["{key}"]={_lua(below)}' for key, below in value.items()) + "}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return "{" + ",".join(map(_lua, value)) + "}"
    return f'"{value}"' if isinstance(value, str) else str(value)
