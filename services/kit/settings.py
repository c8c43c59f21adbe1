"""Typed settings of a replica, read from its environment.

A field `database_url` is read from `ICTO_DATABASE_URL`. A value that is missing or of the wrong
type stops the start with a message that names the variable. No environment set means production,
which allows the least.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

from contract.environment import PREFIX, Environment

T = TypeVar("T")


class SettingsError(Exception):
    """A setting that cannot be used. The message names the variable and what it must be."""


class Secret(str):
    """A string that does not print."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'" if self else "''"

    __str__ = __repr__

    def __format__(self, specification: str) -> str:
        return format(repr(self), specification)

    def reveal(self) -> str:
        """The value itself."""
        return str.__str__(self)


_NO_SECRET: Final = Secret()


@dataclass(frozen=True, slots=True)
class Settings:
    """What every replica needs to know."""

    environment: Environment = Environment.PRODUCTION
    instance: str = "local-0"
    listen: str = "127.0.0.1:9000"
    """gRPC target to serve on: `unix:/path` or `host:port`."""
    egress: str = ""
    """gRPC target of this service's own listener in Envoy."""
    database_url: Secret = _NO_SECRET
    database_pool: int = 8
    """Most connections that one replica opens."""
    database_connections: int = 0
    """Most connections that all replicas together may open, checked against the server. 0: own."""
    otlp_endpoint: str = ""
    trace_ratio: float = 1.0
    """Share of traces that begin here and are kept."""
    log_level: str = "info"
    state_directory: Path = Path("state")
    """Where a service may keep files that must not be in its database."""
    drain_seconds: float = 1.5
    """How long a replica that is told to stop keeps answering, so that every Envoy sees it go."""
    grace_seconds: float = 10.0
    """How long calls in flight may take after that."""
    health_interval: float = 0.5
    """Seconds between two probes of a replica."""
    heartbeat_seconds: float = 10.0
    """How often a quiet event stream says that it lives; shorter than every idle timeout."""
    streams_per_principal: int = 0
    """Streams that a principal holds open at a time. 0: as the contract says."""
    streams_per_address: int = 0
    """Streams that an address holds open at a time. 0: as the contract says."""


def load(kind: type[T], environ: Mapping[str, str]) -> T:
    """Reads a settings dataclass from `ICTO_*` variables.

    Raises:
        SettingsError: a variable is missing or has the wrong type.
    """
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for item in fields(kind):  # type: ignore[arg-type]  # T is a dataclass by convention
        variable = PREFIX + item.name.upper()
        if variable in environ:
            values[item.name] = _convert(variable, hints[item.name], environ[variable])
        elif _is_required(item):
            raise SettingsError(f"{variable} is not set, and it has no default.")
    return kind(**values)


def _is_required(item: "Field[Any]") -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _convert(variable: str, kind: type[Any], text: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value = kind(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(text)  # noqa: TRY301  # told as any other garbled value
    except (KeyError, ValueError):
        expected = f"one of {', '.join(kind)}" if issubclass(kind, StrEnum) else kind.__name__
        raise SettingsError(f"{variable} is {text!r}; it must be {expected}.") from None
    return value
