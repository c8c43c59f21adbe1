"""What runs where: the contract's services with the numbers of one installation.

`mesh.toml` only says what differs from the contract:

    [edge]
    port = 9090
    [services.token_deployer]
    replicas = 5
    [limits.WRITE]
    capacity = 500
    per_second = 200
"""

import contextlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Final, TypeVar

from contract import sign_in
from contract.model import Contract
from contract.rate_limits import Bucket
from contract.service import Service
from contract.sign_in import AUDIENCE_PATTERN, ORIGIN_PATTERN
from icto.policy.v1 import policy_pb2 as policy

T = TypeVar("T")

DEFAULT_EDGE_PORT: Final = 8080
DEFAULT_METRICS_PORT: Final = 9464
DEFAULT_MAX_CONNECTIONS: Final = 20_000
HEALTH_INTERVAL: Final = 0.5
RESERVED_CONNECTIONS: Final = 3
"""Of PostgreSQL's connections, those kept for its superusers."""
# What a service or a limit is, the protos alone say; how it is run, an installation may change.
_FIXED: Final = frozenset(
    {"mesh_name", "proto_services", "methods", "shard_key", "by_address", "listeners"}
)


_PORT: Final = (1, 65_535)
_PERCENT: Final = (1, 100)
_MANY: Final = (1, 1_000_000)
_BYTES: Final = (64 * 1024, 1_000_000_000)
# Both ends count. More than a hundred of a thing on one machine is a slip of the finger.
_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "Edge.port": _PORT,
    "Edge.max_connections": _MANY,
    "Edge.stream_idle_timeout": (0.1, 3600),
    "Observability.metrics_port": _PORT,
    "Observability.jaeger_port": _PORT,
    "Observability.trace_ratio": (0, 1),
    "DatabaseLimits.pool": (1, 100),
    "DatabaseLimits.max_connections": (10, 10_000),
    "Topology.health_interval": (0.05, 60),
    "Service.replicas": (1, 100),
    "Service.streams_per_principal": _MANY,
    "Service.streams_per_address": _MANY,
    "Breaker.max_connections": _MANY,
    "Breaker.max_pending_requests": _MANY,
    "Breaker.max_requests": _MANY,
    "Breaker.retry_budget_percent": _PERCENT,
    "Ejection.consecutive_failures": _MANY,
    "Ejection.failure_percent": _PERCENT,
    "Ejection.base_time": (0.1, 60),  # Envoy's longest ejection
    "Ejection.max_percent": _PERCENT,
    "Bucket.capacity": _MANY,
    "Bucket.per_second": _MANY,
    "Bucket.bytes": _BYTES,
    "Bucket.bytes_per_second": _BYTES,
}
# What a text must match, and how that is said.
_TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "Edge.address": (r"[0-9A-Fa-f.:]+", "an IP address"),
    "Edge.cors_origins": (r"[a-z][a-z0-9+.-]*://[A-Za-z0-9._:\[\]-]+", "like https://app.example"),
    "Edge.origins": (ORIGIN_PATTERN, "like https://icto.example, in small letters"),
    "Edge.audience": (AUDIENCE_PATTERN, "a name without spaces, of 100 characters at most"),
    "Observability.metrics_address": (r"[0-9A-Fa-f.:]+", "an IP address"),
    "Observability.log_level": (
        "debug|info|warning|error|critical",
        "debug, info, warning, error or critical",
    ),
    "Service.balancing": (
        "|".join(name.removeprefix("BALANCING_") for name in policy.Balancing.keys()[1:]),
        "LEAST_REQUEST or ROUND_ROBIN",
    ),
}
_ADDRESSES: Final = frozenset({"Edge.address", "Observability.metrics_address"})


_NO_PROXIES: Final = (
    "edge.https is set without edge.trusted_proxies: behind the proxy that ends https everybody has"
    " its address, and one client who is limited locks all others out. Name the proxy:"
    ' trusted_proxies = ["10.0.0.0/8"].'
)


def _hosts(address: str) -> Sequence[str]:
    """Names by which whoever is on this machine reaches what listens at an address.

    Of names that others have for it, it cannot know: they are in mesh.toml.
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return ()
    six = isinstance(ip, IPv6Address)
    named = f"[{ip}]" if six else str(ip)
    if ip.is_unspecified:
        return ("localhost", "127.0.0.1", *(["[::1]"] if six else []), named)
    return ("localhost", named) if ip.is_loopback else (named,)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


class TopologyError(Exception):
    """mesh.toml says something that cannot be. The message names the key."""


@dataclass(frozen=True, slots=True)
class Edge:
    """Where the platform is reached."""

    address: str = "127.0.0.1"
    port: int = DEFAULT_EDGE_PORT
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the API, for instance "https://app.example"."""
    origins: tuple[str, ...] = ()
    """Where people reach this installation, for instance "https://icto.example": they sign in at
    one of these origins and nowhere else. By default where it listens."""
    audience: str = ""
    """Name of this installation in challenges and tokens. By default one that it was given when it
    was made, and that no other has."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses, or ranges of them, of proxies in front of it whose `X-Forwarded-For` counts."""
    https: bool = False
    """Whether pages reach it by https, that something in front of it ends: cookies are sent by
    nothing else then."""
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    stream_idle_timeout: float = 60.0
    """Seconds after which an event stream, or a request on its way in, is cut when it is silent."""

    @property
    def own_origins(self) -> tuple[str, ...]:
        """The origins that people may sign in at."""
        listens = (f"http://{host}:{self.port}" for host in _hosts(self.address))
        return tuple(map(sign_in.origin_of, self.origins or listens))

    @property
    def unlisted(self) -> str:
        """What an operator should know who lists no origins; empty where there is no need to."""
        if self.origins or not (self.https or not _is_loopback(self.address)):
            return ""
        return (
            "[edge] origins in mesh.toml is empty: people can sign in at"
            f" {', '.join(self.own_origins)} and nowhere else. List there how they reach this"
            ' installation, for instance origins = ["https://icto.example"].'
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What can be meant so, and most likely is not."""
        behind = self.https and not self.trusted_proxies
        return tuple(filter(None, (self.unlisted, _NO_PROXIES if behind else "")))

    @property
    def heartbeat(self) -> float:
        """Seconds after which a quiet event stream beats: a lost beat or two cut nothing."""
        return self.stream_idle_timeout / 6


@dataclass(frozen=True, slots=True)
class Observability:
    """Where metrics are read, and what is traced."""

    metrics_address: str = "127.0.0.1"
    metrics_port: int = DEFAULT_METRICS_PORT
    jaeger_port: int = 16686
    """Of the Jaeger that `icto up --jaeger` starts."""
    trace_ratio: float = 1.0
    """Share of traces that begin here and are kept."""
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    """Connections to Postgres."""

    pool: int = 8
    """Most connections of one replica."""
    max_connections: int = 250
    """Of the embedded Postgres."""


@dataclass(frozen=True)
class Topology:
    """One installation."""

    edge: Edge
    observability: Observability
    database: DatabaseLimits
    health_interval: float
    """Seconds between two health checks of a replica. One that was killed is noticed at once, one
    that hangs within four of them: two must fail, each for almost an interval."""
    services: Mapping[str, Service]
    buckets: Mapping[str, Bucket]

    @property
    def replica_count(self) -> int:
        """Replicas of all services."""
        return sum(service.replicas for service in self.services.values())

    @property
    def origin(self) -> str:
        """Address of the edge, as a URL."""
        return _url(self.edge.address, self.edge.port)

    @property
    def metrics_url(self) -> str:
        """Where metrics are read."""
        seen = self.observability
        return f"{_url(seen.metrics_address, seen.metrics_port)}/metrics"

    def check_connections(self, available: int, remedy: str) -> None:
        """Passes when a server has room for the connections of every replica.

        Raises:
            TopologyError: it has not; `remedy` says how to give it more.
        """
        wanted = self.database_connections
        if wanted > available:
            raise TopologyError(
                f"{self.replica_count} replicas may open {wanted} connections to PostgreSQL"
                f" (database.pool = {self.database.pool} for each, and those that listen for"
                f" changes), and it has room for {available}. {remedy}, or lower database.pool or"
                " services.<name>.replicas in mesh.toml."
            )

    def check_embedded(self) -> None:
        """Passes when the embedded Postgres has room for the connections of every replica.

        Raises:
            TopologyError: it has not.
        """
        available = self.database.max_connections - RESERVED_CONNECTIONS
        self.check_connections(available, "Raise database.max_connections in mesh.toml")

    @property
    def database_connections(self) -> int:
        """Most connections that all replicas together may open."""
        return sum(
            service.replicas * (self.database.pool + service.listeners)
            for service in self.services.values()
        )


def load(
    contract: Contract, file: Path | None, overrides: Mapping[str, Any] | None = None
) -> Topology:
    """The contract with what a mesh.toml changes, and `overrides` over that.

    Raises:
        TopologyError: the file names something that does not exist or is not what it can be.
    """
    values = _read(file) if file is not None else {}
    try:
        return apply(contract, _over(values, overrides or {}))
    except TopologyError as error:
        raise TopologyError(f"{file}: {error}" if values else str(error)) from None


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def differences(before: Topology, now: Topology) -> list[str]:
    """What differs between two topologies of one contract, a line for each key."""
    old, new = dict(_leaves("", before)), dict(_leaves("", now))
    return [
        f"{key} is {new[key]!r} and was {old[key]!r}"
        for key in old
        if key in new and new[key] != old[key]
    ]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Each plain value below a dataclass or a table, by its key."""
    if isinstance(value, Mapping):
        items = list(value.items())
    elif is_dataclass(value):
        items = [(f.name, getattr(value, f.name)) for f in fields(value) if f.name not in _FIXED]
    else:
        yield path, value
        return
    for name, inner in items:
        yield from _leaves(f"{path}.{name}" if path else name, inner)


def _read(file: Path) -> dict[str, Any]:
    """What a mesh.toml says; nothing when there is none."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise TopologyError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise TopologyError(f"{file}: line {line} is not UTF-8; save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise TopologyError(f"{file}: {error}") from None


def _over(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables with others laid over them."""
    merged = dict(values)
    for key, value in overrides.items():
        below: Any = merged.get(key)
        nested = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = _over(below, value) if nested else value
    return merged


def apply(contract: Contract, values: Mapping[str, Any]) -> Topology:
    """The contract with overrides.

    Raises:
        TopologyError: an override names something that does not exist, is not what it can be, or
            does not go together with another one.
    """
    known = {"edge", "observability", "database", "health_interval", "services", "limits"}
    _check_keys("mesh.toml", values, known)
    made = Topology(
        edge=_section("edge", Edge(), values),
        observability=_section("observability", Observability(), values),
        database=_section("database", DatabaseLimits(), values),
        health_interval=_checked(
            "health_interval",
            "Topology.health_interval",
            values.get("health_interval", HEALTH_INTERVAL),
            HEALTH_INTERVAL,
        ),
        services=_merged("services", contract.services, values),
        buckets=_merged("limits", contract.buckets, values),
    )
    _check_ports(made.edge, made.observability)
    return made


def _check_ports(edge: Edge, seen: Observability) -> None:
    """Two who listen on one port: the second would not come up, and the first would not tell."""
    here, there = ip_address(edge.address), ip_address(seen.metrics_address)
    shared = here == there or here.is_unspecified or there.is_unspecified
    if shared and edge.port == seen.metrics_port:
        raise TopologyError(
            f"edge.port and observability.metrics_port are both {edge.port}; one of them must be"
            " another"
        )


def _merged(name: str, standard: Mapping[str, T], values: Mapping[str, Any]) -> dict[str, T]:
    overrides = values.get(name, {})
    _check_keys(name, overrides, set(standard))
    return {
        key: _override(f"{name}.{key}", item, overrides.get(key, {}))
        for key, item in standard.items()
    }


def _section(name: str, standard: T, values: Mapping[str, Any]) -> T:
    return _override(name, standard, values.get(name, {}))


def _override(path: str, standard: T, changes: Mapping[str, Any]) -> T:
    """A dataclass with some of its plain fields changed; nested dataclasses take tables."""
    current = {item.name: getattr(standard, item.name) for item in fields(standard)}  # type: ignore[arg-type]
    _check_keys(path, changes, set(current) - _FIXED)
    converted: dict[str, Any] = {}
    for key, value in changes.items():
        if isinstance(value, dict) and is_dataclass(current[key]):
            converted[key] = _override(f"{path}.{key}", current[key], value)
        else:
            field = f"{type(standard).__name__}.{key}"
            converted[key] = _checked(f"{path}.{key}", field, value, current[key])
    return replace(standard, **converted)  # type: ignore[type-var]


def _checked(path: str, field: str, value: Any, standard: Any) -> Any:
    """A value of the right type and within its field's bounds."""
    converted = _as_type(path, value, standard)
    low, high = _BOUNDS.get(field, (None, None))
    if low is not None and high is not None and not low <= converted <= high:
        raise TopologyError(f"{path} is {value!r}; it must be from {low} to {high}")
    if field in _TEXTS:
        pattern, words = _TEXTS[field]
        for text in (converted,) if isinstance(converted, str) else converted:
            if not re.fullmatch(pattern, text) or not (field not in _ADDRESSES or _is_ip(text)):
                raise TopologyError(f"{path} is {text!r}; it must be {words}")
    if field == "Edge.trusted_proxies":
        _check_networks(path, converted)
    return converted


def _is_ip(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ip_address(text))
    return False


def _check_networks(path: str, given: tuple[str, ...]) -> None:
    for text in given:
        try:
            network = ip_network(text)
        except ValueError as error:
            raise TopologyError(f"{path} is {text!r}: {error}; write 10.0.0.0/8, say") from None
        if network.prefixlen == 0:
            raise TopologyError(f"{path} is {text!r}: it would let everybody choose their address")


def _as_type(path: str, value: Any, standard: Any) -> Any:
    if isinstance(standard, tuple) and isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
    elif isinstance(standard, float) and type(value) is int:
        return float(value)
    if type(value) is not type(standard):
        raise TopologyError(
            f"{path} is {value!r}; it must be {type(standard).__name__}, for instance {standard!r}"
        )
    return value


def _check_keys(path: str, given: Any, known: set[str]) -> None:
    if not isinstance(given, Mapping):
        raise TopologyError(f"{path} must be a table")
    unknown = set(given) - known
    if unknown:
        raise TopologyError(
            f"{path} has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}"
        )
