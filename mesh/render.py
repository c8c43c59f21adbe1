"""Contract and topology, rendered to Envoy's configuration.

Templates are YAML; what Envoy reads is JSON, which it parses several times faster. Each function
here gives one file's content; `mesh/envoy.py` writes them.
"""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import jinja2
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from contract import wire
from contract.identities import GATEWAY, PROXY
from contract.limits import JSON_FACTOR, LARGEST_ANSWER, MAX_HEADER_KB
from contract.method import Method
from contract.model import Contract
from contract.tokens import COOKIE, ISSUER, cookie_audience
from mesh import denylist
from mesh.edge import local_replies
from mesh.edge.request_rules import request_rules
from mesh.topology import Topology
from observability import EXPORT_MILLISECONDS, names
from observability.metrics import DURATION_BUCKETS

NO_AUDIENCE: Final = "nobody"
"""The audience of tokens until the gateway has told its own."""
_EGRESS: Final = "routes-egress-"
_STREAM_GRACE_SECONDS: Final = 5
"""How long after its longest life a stream that its replica did not end is cut."""
# `x-client-trace-id` would have Envoy keep a trace, whatever the ratio.
_STRIPPED: Final = (
    *wire.IDENTITY_HEADERS, *wire.CALLERS_TRACE.values(), wire.HEADER_CALLERS_DEADLINE,
    "x-envoy-original-path", "baggage", "x-client-trace-id",
)  # fmt: skip
_FRONT_HEADERS: Final = (
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-forwarded-client-cert",
    "x-request-id",
)


@dataclass(frozen=True, slots=True)
class Paths:
    """Where Envoy finds its files and sockets on this machine."""

    config: Path
    sockets: Path

    @property
    def admin(self) -> Path:
        """Envoy's own admin interface."""
        return self.sockets / "admin.sock"

    @property
    def otlp(self) -> Path:
        """The collector of traces."""
        return self.sockets / "otlp.sock"

    def egress(self, identity: str) -> Path:
        """The listener through which an identity calls."""
        return self.sockets / f"egress-{identity}.sock"

    def resource(self, name: str) -> Path:
        """A file of resources."""
        return self.config / f"{name}.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who calls through the mesh, and what they may call."""

    name: str
    socket: Path
    methods: tuple[Method, ...]


class Renderer:
    """Renders one installation."""

    def __init__(self, contract: Contract, topology: Topology, paths: Paths) -> None:
        self._contract = contract
        self._topology = topology
        self._paths = paths
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("mesh"),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,  # noqa: S701  # YAML, not HTML; every value is ours
        )

    def bootstrap(self) -> dict[str, Any]:
        """What Envoy is started with."""
        return self._render("bootstrap", node="icto-node")

    @property
    def resources(self) -> tuple[str, ...]:
        """The files of resources, by name. Envoy wants a file for each set of routes."""
        egress = (_EGRESS + name for name in self._contract.identities)
        return ("clusters", "listeners", "routes-edge", *egress)

    def resource(self, name: str) -> dict[str, Any]:
        """The content of one of `resources`."""
        if not name.startswith(_EGRESS):
            return self._render(name)
        return self._render("routes-egress", identity=self._identity(name.removeprefix(_EGRESS)))

    def _identity(self, name: str) -> Identity:
        return Identity(name, self._paths.egress(name), self._contract.callable_by(name))

    def check(self) -> dict[str, Any]:
        """All of it as one static bootstrap: `envoy --mode validate` does not read other files."""
        routes = {
            route["name"]: route
            for name in self.resources
            if name.startswith("routes-")
            for route in self.resource(name)["resources"]
        }
        listeners = self.resource("listeners")["resources"]
        for listener in listeners:
            manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
            name = manager.pop("rds")["route_config_name"]
            manager["route_config"] = _untyped(routes[name])
            for http_filter in manager["http_filters"]:
                if http_filter.pop("config_discovery", None):
                    http_filter["typed_config"] = self._discovered(http_filter["name"])
        static = {
            "listeners": [_untyped(listener) for listener in listeners],
            "clusters": [_untyped(c) for c in self.resource("clusters")["resources"]],
        }
        bootstrap = self.bootstrap()
        del bootstrap["dynamic_resources"]
        return bootstrap | {"static_resources": static}

    def _discovered(self, name: str) -> dict[str, Any]:
        """The first configuration of a filter that Envoy reads from a file of its own."""
        empty = denylist.resource(())
        first = empty if name == denylist.FILTER else self.tokens(no_keys(), NO_AUDIENCE)
        typed_config: dict[str, Any] = first["resources"][0]["typed_config"]
        return typed_config

    def tokens(self, jwks: str, audience: str) -> dict[str, Any]:
        """How access tokens are verified: with a JWK set as JSON, and for which audience."""
        return self._render("tokens", jwks=jwks, audience=audience)

    def endpoints(self, mesh_name: str, sockets: Sequence[str]) -> dict[str, Any]:
        """The replicas of a service."""
        return self._render("endpoints", mesh_name=mesh_name, endpoints=sockets)

    def _render(self, name: str, **values: Any) -> dict[str, Any]:
        text = self._templates.get_template(f"{name}.yaml.j2").render(self._context | values)
        rendered: dict[str, Any] = yaml.load(text, Loader=_Loader)  # noqa: S506  # a safe loader
        return rendered

    @cached_property
    def _context(self) -> dict[str, Any]:
        edge = [m for m in self._contract.methods() if m.audience.from_outside]
        return {
            "topology": self._topology,
            "services": list(self._topology.services.values()),
            "paths": self._paths,
            "names": names,
            "wire": wire,
            "export_milliseconds": EXPORT_MILLISECONDS,
            "duration_buckets": _flow([1000 * seconds for seconds in DURATION_BUCKETS]),
            "file_source": self._file_source,
            "service_name": "envoy",
            "gateway": GATEWAY,
            "proxy": PROXY,
            "issuer": ISSUER,
            "cookie": COOKIE,
            "cookie_audience": cookie_audience,
            "trusted_proxies": [_cidr(text) for text in self._topology.edge.trusted_proxies],
            "edge_methods": edge,
            "stream_grace_seconds": _STREAM_GRACE_SECONDS,
            "identities": [self._identity(name) for name in self._contract.identities],
            "rest_services": sorted({m.service for m in edge if m.http}),
            "descriptors": base64.b64encode(edge_descriptors(self._contract)).decode(),
            "max_request_bytes": largest_body(self._contract),
            "max_response_bytes": int(LARGEST_ANSWER.wire),
            "max_header_kb": MAX_HEADER_KB,
            "cors_origins": [{"exact": origin} for origin in self._topology.edge.cors_origins],
            "stripped_headers": self._stripped,
            "reason_cel": local_replies.cel("reason"),
            "detail_cel": local_replies.cel("detail"),
            "title_cel": local_replies.title_cel(),
            "error_shape": error_shape(),
            "media_type": (resources.files("mesh.edge") / "media_type.lua").read_text(),
            "request_rules": request_rules(self._contract),
            "role_regex": role_regex,
            "route_class": _flow(_of_route("class")),
            "route_bytes": _flow(_of_route("bytes")),
            "principal": _flow(_PRINCIPAL),
            "anonymous": _flow(_ANONYMOUS),
            "deny_filter": denylist.FILTER,
        }

    @property
    def _stripped(self) -> tuple[str, ...]:
        """Headers that nobody outside may send."""
        # Envoy drops these by itself, where it goes by the address of who connects.
        behind_proxies = _FRONT_HEADERS if self._topology.edge.trusted_proxies else ()
        return (*_STRIPPED, *behind_proxies)

    def _file_source(self, name: str) -> str:
        # No `watched_directory`: with it, each file that is replaced makes Envoy read all of them.
        source = {"path": str(self._paths.resource(name))}
        return _flow({"resource_api_version": "V3", "path_config_source": source})


_PRINCIPAL: Final = {
    "metadata": {
        "source": "DYNAMIC",
        "descriptor_key": "principal",
        "metadata_key": {
            "key": "envoy.filters.http.jwt_authn",
            "path": [{"key": "jwt"}, {"key": "sub"}],
        },
    }
}
"""Part of what a limit goes by: who calls. Nobody who has not signed in."""

_ANONYMOUS: Final = {
    "header_value_match": {
        "descriptor_value": "anonymous",
        "expect_match": False,
        "headers": [{"name": wire.HEADER_PRINCIPAL, "present_match": True}],
    }
}
"""The opposite."""


def _of_route(key: str) -> dict[str, Any]:
    """Part of what a limit goes by: what the route says under a key. No limit without it."""
    return {
        "metadata": {
            "source": "ROUTE_ENTRY",
            "descriptor_key": key,
            "metadata_key": {"key": "icto", "path": [{"key": key}]},
        }
    }


class _Loader(yaml.CSafeLoader):
    """YAML without its surprises: `on` and `no` are words, not booleans."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


def no_keys() -> str:
    """Keys that verify nothing, until the gateway has told its own: Envoy refuses an empty set.

    Its key is a real one whose private half nobody has. For a made-up point, such as zeros, which
    is of small order, signatures can be found without any key.
    """
    raw = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    x = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    key = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "none", "x": x}
    return json.dumps({"keys": [key]})


def _cidr(text: str) -> str:
    """A range of addresses in Envoy's words."""
    network = ip_network(text)
    return _flow({"address_prefix": str(network.network_address), "prefix_len": network.prefixlen})


def _flow(value: object) -> str:
    """A value as YAML on one line."""
    return json.dumps(value)


def _untyped(resource: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resource.items() if key != "@type"}


def error_shape() -> str:
    """The Lua filter that gives errors their shape."""
    source = (resources.files("mesh.edge") / "error_shape.lua").read_text()
    return f"{local_replies.lua_tables()}\n{source}"


def role_regex(method: Method) -> str:
    """Matches a list of roles, separated by spaces, that holds one of the method's."""
    roles = "|".join(sorted(method.audience.roles))
    return f"(.* )?({roles})( .*)?"


def largest_body(contract: Contract) -> int:
    """Bytes of a body that the edge lets in: JSON takes more than what it says."""
    return JSON_FACTOR * max(
        m.max_request_bytes for m in contract.methods() if m.audience.from_outside
    )


def edge_descriptors(contract: Contract) -> bytes:
    """The descriptor set without source positions: what the transcoder needs, and no more."""
    stripped = FileDescriptorSet()
    stripped.CopyFrom(contract.descriptors)
    for file in stripped.file:
        file.ClearField("source_code_info")
    return stripped.SerializeToString()
