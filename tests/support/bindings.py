"""What the REST rules of a method bind, read from the descriptors: fields, forms, misspellings."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from contract.method import Http, Method
from mesh.cli.call import message_class

_VARIABLE: Final = re.compile(r"\{([^=}]+)(?:=([^}]*))?\}")


@dataclass(frozen=True, slots=True)
class Binding:
    """One REST rule of a method, and a path that it matches."""

    method: Method
    http: Http

    @property
    def path(self) -> str:
        return _VARIABLE.sub(lambda found: (found[2] or "*").replace("*", "x"), self.http.path)

    @property
    def descriptor(self) -> Any:
        """Of the request."""
        return message_class(self.method.request_type).DESCRIPTOR

    @property
    def bound(self) -> set[str]:
        """Fields that the path or the body gives, what is above them, and one below each."""
        variables = {found[1] for found in _VARIABLE.finditer(self.http.path)}
        whole = {field.name for field in self.descriptor.fields}
        body = {"*": whole, "": set()}.get(self.http.body, {self.http.body})
        given = variables | body
        parents = {name.rpartition(".")[0] for name in given} - {""}
        children = {
            f"{name}.{below.name}"
            for name in given
            for below in _fields(self.descriptor.fields_by_name.get(name.partition(".")[0]))[:1]
            if "." not in name
        }
        return given | parents | children

    @property
    def free(self) -> set[str]:
        """Fields that the query may give."""
        variables = {found[1].partition(".")[0] for found in _VARIABLE.finditer(self.http.path)}
        return set() if self.http.body else {f.name for f in self.descriptor.fields} - variables


def bindings(methods: Iterator[Method]) -> list[Binding]:
    """Every REST rule of the methods that callers outside may reach."""
    return [
        Binding(method, http)
        for method in methods
        if method.audience.from_outside
        for http in method.http
    ]


def camel(name: str) -> str:
    """A path of fields as JSON names them."""
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)


def forms(name: str) -> Iterator[str]:
    """Queries that name a field."""
    for spelled in dict.fromkeys((name, camel(name))):
        yield f"{spelled}=x"
        first, last = ord(spelled[0]), ord(spelled[-1])
        yield f"%{first:02x}{spelled[1:]}=x"
        yield f"{spelled[:-1]}%{last:02X}=x"
    yield "&".join([f"{name}=x"] * 2)
    yield f"{name}="
    yield name
    yield f"&&{name}=x"
    if "." in name:
        yield name.replace(".", "%2E") + "=x"
    if "_" in name:
        yield name.replace("_", "%5f") + "=x"


def misspelled(bound: Iterable[Binding]) -> Iterator[tuple[Binding, str, str, Any]]:
    """Bodies with one field that is not known: its path, the field that was meant, the body.

    Each field of each body is among them; what is below one, only where its type is met first.
    """
    met: set[str] = set()
    for binding in bound:
        root = binding.descriptor
        if binding.http.body != "*":
            root = root.fields_by_name[binding.http.body].message_type
        for path, meant, body in _misspelled(root, "", met):
            yield binding, path, meant, body


def _misspelled(message: Any, prefix: str, met: set[str]) -> Iterator[tuple[str, str, Any]]:
    for field in message.fields:
        wrong = f"{field.json_name}q"
        yield prefix + wrong, field.json_name, {wrong: None}
        if _fields(field) and field.message_type.full_name not in met:
            met.add(field.message_type.full_name)
            inside = f"{prefix}{field.json_name}."
            for path, meant, body in _misspelled(field.message_type, inside, met):
                yield path, meant, {field.json_name: [body] if field.is_repeated else body}


def _fields(field: Any) -> list[Any]:
    """The fields below a field of one of our own messages."""
    message: Any = field.message_type if field is not None else None
    if message is None or not message.full_name.startswith("icto."):
        return []
    return [] if message.GetOptions().map_entry else list(message.fields)
