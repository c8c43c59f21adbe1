"""Every name that leaves a process or is stored, read from the code where it is loaded.

`tests/unit/test_public_names.py` compares them with `tests/public_names.txt`. A file may move and a
Python name may change, and no line of that file does. Where one is meant to change, the changelog
says why, and `python -m tests.support.public_names` writes the file anew.
"""

import ast
import importlib
import json
import logging
import pkgutil
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

import typer
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorSet
from opentelemetry.trace import NonRecordingSpan, SpanContext, use_span

from contract import loader
from contract.descriptors import descriptor_bytes
from contract.environment import PREFIX
from contract.model import Contract
from mesh import topology
from mesh.cli import app
from mesh.postgres import role_name
from mesh.rundir import RunDirectory
from observability.logs import JsonFormatter
from observability.metrics import Metrics
from schema_setup import migrations
from schema_setup.migrations import Migration
from schema_setup.packages import package_of
from services.backend.launches.domain import CREATE_TOKEN, TAKE_IN, Shape
from services.backend.launches.pipeline import LaunchPipeline
from services.backend.pipelines import DeployTokenPipeline
from services.invoice_storage.refunds import Refunds
from services.kit.journal.changes import ChangeFeed
from services.kit.journal.model import Definition
from services.kit.payouts.payouts import Payouts

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / "tests" / "public_names.txt"

T = TypeVar("T")
_CAPITALS: Final = re.compile(r"_?[A-Z][A-Z0-9]*(_[A-Z0-9]+)*_?")
_CAMEL: Final = re.compile(r"[A-Z][a-z0-9]+([A-Z][a-z0-9]+)+")
_QUOTED_CAPITALS: Final = re.compile(r"""['"]([A-Z][A-Z0-9_]{3,})['"]""")
_METRIC: Final = re.compile(r"(icto|rpc|envoy|process|python)_[a-z_]+[a-z]")
_VARIABLE: Final = re.compile(r"\bICTO_[A-Z_]*[A-Z]\b")
_TOKEN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:/*+-]*")
_SHORTEST: Final = 4
_NO_COLUMN: Final = frozenset(
    {"PRIMARY", "UNIQUE", "CHECK", "FOREIGN", "CONSTRAINT", "EXCLUDE", "LIKE"}
)
_TABLES: Final = {"buckets": "limits"}
"""Fields of a topology that mesh.toml calls otherwise."""


def public_names() -> str:
    """All of them, one a line, under the kind that they are of."""
    kinds: dict[str, Iterable[str]] = {
        "service": _contract().services,
        "proto": _protos(),
        "action": (method.audit_action for method in _contract().methods()),
        "camel": _camel_words(),
        "capitals": _capitals(),
        "pipeline": _pipelines(),
        "migration": _migrations(),
        "sql": _sql(),
        "stored number": _numbers(),
        "role": [role_name("<installation>", "<service>")],
        "channel": [ChangeFeed(_ANYTHING, "", "<service>")._channel],
        "metric": _metrics(),
        "span": _spans(),
        "log field": _log_fields(),
        "constant": _constants(),
        "variable": _variables(),
        "mesh.toml": _toml_keys(),
        "run directory": _run_directory(),
        "command": _commands(),
    }
    lines = (f"{kind}: {name}" for kind, found in kinds.items() for name in sorted({*found} - {""}))
    return "\n".join(lines) + "\n"


class _Anything:
    """What constructors are given that only keep what they need later."""

    def __getattr__(self, name: str) -> Any:
        return _Anything()

    def __call__(self, *_: Any, **__: Any) -> Any:
        return _Anything()

    def __radd__(self, other: T) -> T:
        return other


_ANYTHING: Final[Any] = _Anything()


@cache
def _packages() -> tuple[str, ...]:
    """The packages of the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return tuple(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])


@cache
def _modules() -> tuple[ModuleType, ...]:
    names = list(_packages())
    for package in map(importlib.import_module, _packages()):
        below = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        names += [module.name for module in below]
    return tuple(map(importlib.import_module, names))


def _files(*suffixes: str) -> Iterator[Path]:
    for package in _packages():
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in suffixes:
                yield path


@cache
def _trees() -> tuple[ast.Module, ...]:
    return tuple(ast.parse(path.read_text()) for path in _files(".py"))


def _nodes(kind: type[T]) -> Iterator[T]:
    for tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, kind):
                yield node


@cache
def _strings() -> frozenset[str]:
    """Texts in the code, but for annotations and what `__all__` lists."""
    return frozenset(text for tree in _trees() for text in _said(tree))


def _said(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    if isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
    ):
        return
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _said(child)


# Protos.


def _contract() -> Contract:
    return loader.load("test")


def _protos() -> Iterator[str]:
    for file in FileDescriptorSet.FromString(descriptor_bytes()).file:
        if file.package.startswith("icto."):
            for service in file.service:
                for method in service.method:
                    yield f"{file.package}.{service.name}/{method.name}"
            for message in file.message_type:
                yield from _message(file.package, message)
            for enum in file.enum_type:
                yield from _enum(file.package, enum)
    for one in _contract().methods():
        yield from (f"{http.verb} {http.path}" for http in one.http)


def _message(scope: str, message: DescriptorProto) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    yield f"{name} {{{', '.join(f'{f.name} = {f.number}' for f in message.field)}}}"
    for inner in message.nested_type:
        yield from _message(name, inner)
    for enum in message.enum_type:
        yield from _enum(name, enum)


def _enum(scope: str, enum: EnumDescriptorProto) -> Iterator[str]:
    values = ", ".join(f"{value.name} = {value.number}" for value in enum.value)
    yield f"{scope}.{enum.name} {{{values}}}"


# Words in the code.


def _camel_words() -> Iterator[str]:
    """Actions that no proto names, and other words that are spelled like one."""
    known = {word for line in _protos() for word in re.findall(r"\w+", line)}
    for text in _strings():
        if _CAMEL.fullmatch(text) and text not in known:
            yield text


def _capitals() -> Iterator[str]:
    """Reasons of errors, wherever they are made, and other words in capitals."""
    for text in _strings():
        if _CAPITALS.fullmatch(text) and len(text) >= _SHORTEST:
            yield text
        yield from _QUOTED_CAPITALS.findall(text)
    for path in _files(".lua", ".sql", ".j2"):
        yield from _QUOTED_CAPITALS.findall(path.read_text())
    for call in _nodes(ast.Call):
        if isinstance(call.func, ast.Name) and call.func.id == "not_found" and call.args:
            yield f"{_template(call.args[0]).upper()}_NOT_FOUND"


def _template(node: ast.AST) -> str:
    """A text, with {} for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_template, node.values))
    return "{}"


def _numbers() -> Iterator[str]:
    """Values of our enums of numbers: so they stand in rows."""
    for module in _modules():
        for value in vars(module).values():
            ours = isinstance(value, type) and value.__module__.startswith(_packages())
            if ours and issubclass(value, IntEnum) and len(value):
                yield " ".join(f"{one.name}={one.value}" for one in value)


def _constants() -> Iterator[str]:
    """Public constants that are one word: headers, trailers, attributes of spans, cookies.

    Names of packages stay inside; the gateway's is a service's, too.
    """
    ours = {*_packages()} - {*_contract().services}
    for module in _modules():
        for name, value in vars(module).items():
            if name.isupper() and not name.startswith("_"):
                for text in value if isinstance(value, (tuple, frozenset)) else [value]:
                    if isinstance(text, str) and _TOKEN.fullmatch(text) and text not in ours:
                        yield text


# What is stored.


def _pipelines() -> Iterator[str]:
    launch = LaunchPipeline.__new__(LaunchPipeline)
    shapes = (Shape(origin, 2, 2) for origin in (CREATE_TOKEN, TAKE_IN))
    definitions: list[Definition] = [
        *map(launch.definition, shapes),
        DeployTokenPipeline(_ANYTHING).definition,
        Refunds(_ANYTHING, _ANYTHING).definition,
        Payouts(_ANYTHING, _ANYTHING, _ANYTHING)._definition,
    ]
    for definition in definitions:
        for step in definition.steps:
            yield f"{definition.name} {definition.version} {step.name}"


@cache
def _files_of_schemas() -> tuple[Migration, ...]:
    """Every file of SQL, as `kit_migrations` names it."""
    packages = map(package_of, _contract().services)
    return tuple(one for package in packages for one in migrations._all_steps(package))


def _migrations() -> Iterator[str]:
    """Rows of `kit_migrations`, and what files require."""
    for one in _files_of_schemas():
        yield f"{one.module} {one.number} {one.name}"
        for required in re.findall(r"^-- requires: (\S+)", one.sql, re.MULTILINE):
            yield f"{one.module} requires {required}"


def _sql() -> Iterator[str]:
    for one in _files_of_schemas():
        yield from (f"{one.module} {name}" for name in _sql_names(one.sql))
    for text in _strings():
        if re.search(r"\bCREATE\b", text):
            yield from _sql_names(text)


def _sql_names(text: str) -> Iterator[str]:
    plain = re.sub(r"--[^\n]*", "", text)
    created = r"\bCREATE (?:OR REPLACE |UNIQUE )*(INDEX|FUNCTION|TRIGGER)(?: IF NOT EXISTS)? (\w+)"
    for kind, name in re.findall(created, plain):
        if name != "ON":
            yield f"{kind} {name}"
    for created_table in re.finditer(r"\bCREATE TABLE(?: IF NOT EXISTS)? (\w+) *(\()?", plain):
        table = created_table[1]
        yield f"TABLE {table}"
        for column in _parts(plain[created_table.end() :]) if created_table[2] else ():
            yield f"TABLE {table} {column}"
    for table, changes in re.findall(r"\bALTER TABLE (\w+)([^;]*);", plain):
        for what in re.findall(r"\b((?:ADD|DROP|RENAME) (?:COLUMN|CONSTRAINT) \w+)", changes):
            yield f"TABLE {table} {what}"
    yield from (f"CONSTRAINT {name}" for name in re.findall(r"\bCONSTRAINT (\w+)", plain))


def _parts(text: str) -> Iterator[str]:
    """The columns of a table, from its opening bracket on."""
    depth, start = 1, 0
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0 or (depth == 1 and character == ","):
            word = text[start:position].split()[:1]
            if word and word[0] not in _NO_COLUMN and word[0].isidentifier():
                yield word[0]
            start = position + 1
        if depth == 0:
            return


def _run_directory() -> Iterator[str]:
    """Files that one release leaves for the next."""
    run = RunDirectory(Path("/run-directory"))
    for name in dir(RunDirectory):
        if isinstance(getattr(RunDirectory, name), property):
            value = getattr(run, name)
            if isinstance(value, Path) and value.is_relative_to(run.path):
                yield str(value.relative_to(run.path))


# What others watch.


def _metrics() -> Iterator[str]:
    registry = Metrics()._registry
    for collector in registry._collector_to_names:
        labels = getattr(collector, "_labelnames", ())
        described: Any = collector
        yield from (" ".join((one.name, one.type, *labels)) for one in described.describe())
    for text in _strings():
        if _METRIC.fullmatch(text):
            yield text


def _spans() -> Iterator[str]:
    for call in _nodes(ast.Call):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "start_span":
            yield _template(call.args[0])


def _log_fields() -> Iterator[str]:
    record = logging.makeLogRecord({"exc_info": (ValueError, ValueError(), None)})
    with use_span(NonRecordingSpan(SpanContext(1, 1, is_remote=False))):
        yield from json.loads(JsonFormatter("", "").format(record))
    for keyword in _nodes(ast.keyword):
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict):
            yield from (_template(key) for key in keyword.value.keys if key is not None)


# What operators write.


def _variables() -> Iterator[str]:
    for module in _modules():
        for name, value in vars(module).items():
            if name.endswith("Settings") and is_dataclass(value):
                yield from (PREFIX + item.name.upper() for item in fields(value))
    for path in _files(".py", ".j2", ".lua", ".sh"):
        yield from _VARIABLE.findall(path.read_text())


def _toml_keys() -> Iterator[str]:
    defaults = topology.load(_contract(), None)
    for item in fields(topology.Topology):
        name, value = item.name, getattr(defaults, item.name)
        name = _TABLES.get(name, name)
        one = next(iter(value.values())) if isinstance(value, Mapping) else value
        yield from _keys(f"{name}.*" if isinstance(value, Mapping) else name, one)


def _keys(path: str, value: Any) -> Iterator[str]:
    if not is_dataclass(value):
        yield path
        return
    for item in fields(value):
        if item.name not in topology._FIXED:
            yield from _keys(f"{path}.{item.name}", getattr(value, item.name))


def _commands() -> Iterator[str]:
    return _below("icto", typer.main.get_command(app))


def _below(path: str, command: Any) -> Iterator[str]:
    yield path
    for parameter in command.params:
        spelled = "|".join((*parameter.opts, *parameter.secondary_opts))
        variable = parameter.envvar or ""
        yield f"{path} {spelled} {variable}".rstrip()
    for name, inner in getattr(command, "commands", {}).items():
        yield from _below(f"{path} {name}", inner)


def main() -> None:
    """Writes the file anew."""
    FILE.write_text(public_names())


if __name__ == "__main__":
    main()
