"""Attribute names of OpenTelemetry's semantic conventions, as the installed package has them."""

import ast
import pkgutil
from collections.abc import Iterator
from importlib import import_module, resources
from types import ModuleType
from typing import Final

from observability import names

STATEMENT: Final = {
    names.DB_SYSTEM, names.DB_NAMESPACE, names.DB_QUERY_SUMMARY, names.DB_QUERY_TEXT,
    names.SERVER_ADDRESS,
}  # fmt: skip
"""What the span of every statement says."""
STATEMENT_FAILED: Final = {names.DB_RESPONSE_STATUS, names.ERROR_TYPE}
CALL: Final = {names.RPC_SYSTEM, names.RPC_METHOD, names.RPC_STATUS}
"""What the span of every call that is served says."""
SENT: Final = {
    names.MESSAGING_SYSTEM, names.MESSAGING_OPERATION_NAME, names.MESSAGING_OPERATION_TYPE,
    names.MESSAGING_DESTINATION,
}  # fmt: skip
"""What the span of every event, or batch of them, that is handed on says."""

_PACKAGES = ("opentelemetry.semconv.attributes", "opentelemetry.semconv._incubating.attributes")


def current() -> set[str]:
    """Names that may be used."""
    return {value for value, note in _constants() if not note.startswith("Deprecated")}


def _constants() -> Iterator[tuple[str, str]]:
    """Each constant's value, and the note that stands below it."""
    for package in _PACKAGES:
        for module in pkgutil.iter_modules(import_module(package).__path__):
            yield from _of(import_module(f"{package}.{module.name}"))


def _of(module: ModuleType) -> Iterator[tuple[str, str]]:
    package, _, name = module.__name__.rpartition(".")
    body = ast.parse((resources.files(package) / f"{name}.py").read_text()).body
    for statement, below in zip(body, [*body[1:], None], strict=True):
        match statement:
            case ast.AnnAssign(target=ast.Name(id=constant)) if constant.isupper():
                value = getattr(module, constant)
                if isinstance(value, str):
                    yield value, _text(below)


def _text(statement: ast.stmt | None) -> str:
    match statement:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return text.strip()
        case _:
            return ""
