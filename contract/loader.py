"""The compiled protos, read into one typed Contract.

Everything that the mesh, the services and the documents know about a method comes from here: who
may call it, its deadline, whether a retry is safe, its rate limit, its REST mapping. A contract
that leaves a gap does not load; `ContractError` then names each method and the rule it breaks.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum, IntEnum
from functools import cache, cached_property
from importlib import resources
from math import inf
from typing import Any, Final

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from google.protobuf.duration_pb2 import Duration

from contract.fields import Messages
from contract.room import Room
from contract.sizes import Size, Sizes
from icto.policy.v1 import policy_pb2 as policy

OPERATOR: Final = "operator"
"""Mesh identity of whoever holds the run directory. It calls; nothing calls it."""

PROXY: Final = "envoy"
"""Mesh identity of Envoy itself, when it has something to tell."""

GATEWAY: Final = "gateway"
"""The service that speaks for the whole mesh at the edge: sign-in, health, reflection."""

EVERY_SERVICE: Final = "*"
_STREAMS: Final = ("streams_per_principal", "streams_per_address")
_FEATURE_FLAGS: Final = ".icto.config.v1.FeatureFlags"
HTTP_BODY: Final = "google.api.HttpBody"
DEFAULT_MAX_REQUEST_BYTES: Final = 64 * 1024
"""What a method admits that says nothing. A method that admits more is large."""
PAGE_SIZE_LIMIT: Final = 100
PAGE_BYTES: Final = 1024 * 1024
"""Bytes of JSON by which a page of a list ends, whatever number was asked for."""

LARGEST_ANSWER: Final = Size(wire=4 * 1024 * 1024, json=24 * 1024 * 1024)
"""The largest message that a method may answer with. gRPC clients take 4 MiB unless told otherwise.
Nobody bounds JSON; this much of it keeps the memory of the edge in bounds."""
_EVENT_BYTES: Final = 1024
"""Of a server-sent event beside its data: id, name, and how it is framed."""

JSON_FACTOR: Final = 2
"""How many times as large as what it says JSON may be."""
MAX_HEADER_KB: Final = 16
"""Largest head of a call that the edge lets in, in KiB. Replicas take twice that: Envoy adds to it,
and what they refuse themselves has no shape of ours."""


class ContractError(Exception):
    """The contract leaves a gap. `problems` has a line for each: method, then rule."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("the contract is refused:\n" + "\n".join(f"  {p}" for p in self.problems))


class Kind(Enum):
    """Shape of a method."""

    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    CLIENT_STREAM = "client_stream"
    BIDI_STREAM = "bidi_stream"


class RetrySafety(Enum):
    """The standard `idempotency_level`: what a second attempt may do."""

    UNSAFE = "unsafe"
    SAFE = "safe"
    IDEMPOTENT = "idempotent"


class Criticality(IntEnum):
    """What is refused first under overload: the smaller, the sooner."""

    SHEDDABLE = 1
    NORMAL = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True)
class Audience:
    """Who may call. The parts add up; at least one is set."""

    public: bool
    user: bool
    owner: str
    permission: str
    roles: frozenset[str]
    services: frozenset[str]

    @property
    def from_outside(self) -> bool:
        """Whether the edge routes to the method at all."""
        return self.public or self.signed_in

    @property
    def signed_in(self) -> bool:
        """Whether some users may call because they are signed in."""
        return self.user or bool(self.owner) or bool(self.permission)

    def admits_service(self, mesh_name: str) -> bool:
        """Whether a mesh service may call."""
        everyone = EVERY_SERVICE in self.services and mesh_name != OPERATOR
        return mesh_name in self.services or everyone


@dataclass(frozen=True, slots=True)
class Http:
    """One REST mapping of a method."""

    verb: str
    path: str
    body: str


@dataclass(frozen=True, slots=True)
class Method:
    """One method and its policy. Durations in seconds."""

    service: str
    name: str
    mesh_name: str
    kind: Kind
    request_type: str
    response_type: str
    audience: Audience
    deadline: float
    deadline_ceiling: float
    rate_limit: str
    criticality: Criticality
    max_request_bytes: int
    retry_safety: RetrySafety
    http: tuple[Http, ...] = ()
    has_request_id: bool = False
    allowed_when_suspended: bool = False
    feature: str = ""
    allowed_in_maintenance: bool = False
    allowed_in_emergency_stop: bool = False
    on_behalf_of: bool = False
    audit_action: str = ""
    cycle_cost: int = 0
    anonymous_write: str = ""

    @property
    def full_name(self) -> str:
        """`package.Service/Method`, the form of OpenTelemetry's `rpc.method`."""
        return f"{self.service}/{self.name}"

    @property
    def path(self) -> str:
        """The path on the wire."""
        return f"/{self.full_name}"

    @property
    def large(self) -> bool:
        """Whether it admits so much that its cost is counted in bytes.

        Such a call takes long because it has much to look through: to send it twice would do the
        work twice, and help nobody.
        """
        return self.max_request_bytes > DEFAULT_MAX_REQUEST_BYTES

    @property
    def hedged(self) -> bool:
        """Whether the edge asks a second replica when the first one takes long."""
        return self.retry_safety is RetrySafety.SAFE and not self.large

    @property
    def mutates(self) -> bool:
        """Whether a call may change something."""
        return self.kind is Kind.UNARY and self.retry_safety is not RetrySafety.SAFE

    @property
    def retriable(self) -> bool:
        """Whether the mesh may send a call twice."""
        return self.retry_safety is not RetrySafety.UNSAFE

    @property
    def lists(self) -> bool:
        """Whether it answers with a page of a list."""
        return self.kind is Kind.UNARY and self.name.startswith(("List", "Search"))

    @property
    def sends_events(self) -> bool:
        """Whether it streams server-sent events, which the kit keeps from being quiet."""
        return self.response_type == HTTP_BODY and self.kind is not Kind.UNARY

    @property
    def takes_cookie(self) -> bool:
        """Whether a browser's cookie signs its REST calls in.

        An EventSource can send nothing else. A page of somebody else's could make a browser send
        one, too, so it counts only for what is read, and read alone.
        """
        return self.sends_events and {http.verb for http in self.http} == {"GET"}


@dataclass(frozen=True, slots=True)
class Breaker:
    """When Envoy stops queueing for a service, for each Envoy and priority."""

    # HTTP/2 needs one for each replica; whoever needs more than a thousand loses them somewhere.
    max_connections: int = 1024
    # Wait for a connection, as all do when replicas start: half of what may be at work after that.
    max_pending_requests: int = 1024
    # At a service's hundred or so calls a second and core, more than it answers within a deadline:
    # what would wait longer is better refused at once.
    max_requests: int = 2048
    # So that a service in trouble gets a quarter more calls at most, not three times as many.
    retry_budget_percent: int = 25


@dataclass(frozen=True, slots=True)
class Ejection:
    """When Envoy stops using a replica that it does not reach, for a while. Seconds and percent."""

    # One lost connection takes the few calls along that were on it; five in a row are no accident.
    consecutive_failures: int = 5
    # Worse than a coin: fewer failures, a retry at another replica makes good.
    failure_percent: int = 50
    # Longer than a replica takes to start again; a health check that passes ends it sooner.
    base_time: float = 10.0
    # The other half must carry it all: with more away, a hiccup of the machine would be an outage.
    max_percent: int = 50


@dataclass(frozen=True, slots=True)
class Service:
    """One mesh service: the proto services that one process serves, and how it is run."""

    mesh_name: str
    proto_services: tuple[str, ...]
    methods: tuple[Method, ...]
    shard_key: str
    replicas: int
    balancing: str
    breaker: Breaker
    ejection: Ejection
    retention: Mapping[str, "Retention"] = field(default_factory=dict)
    listeners: int = 0
    """Connections to the database that each replica keeps beside its pool."""
    # A person follows a launch in each of their windows; an office shares an address.
    streams_per_principal: int = 16
    streams_per_address: int = 100


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a service keeps what nobody uses, from `since` on.

    Attributes:
        per_user: so many of one user at most meanwhile; 0 where that is bounded elsewhere.
    """

    since: str
    period: timedelta
    per_user: int = 0


ANSWERS: Final = "answers"
ANSWER_RETENTION: Final = Retention("a request was answered under its id", timedelta(hours=24))
"""What every service keeps, so that a repeat has the same answer."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A rate limit: calls at once, and calls added each second.

    Attributes:
        by_address: a token does not lead out of it: it is the address' for everybody.
        bytes: of requests to large methods, at once; 0 where the class has none.
        bytes_per_second: bytes added each second.
    """

    capacity: int
    per_second: int
    by_address: bool = False
    bytes: int = 0
    bytes_per_second: int = 0


@dataclass(frozen=True)
class Contract:
    """What the protos say, by mesh service and by method path."""

    services: Mapping[str, Service]
    buckets: Mapping[str, Bucket]
    descriptors: FileDescriptorSet = field(repr=False)

    def methods(self) -> Iterator[Method]:
        """All methods, service by service."""
        for service in self.services.values():
            yield from service.methods

    def method(self, path: str) -> Method:
        """The method with this path.

        Raises:
            KeyError: there is none.
        """
        return self._by_path[path]

    def callable_by(self, mesh_name: str) -> tuple[Method, ...]:
        """What a mesh identity may call."""
        return tuple(m for m in self.methods() if m.audience.admits_service(mesh_name))

    @property
    def identities(self) -> tuple[str, ...]:
        """Every identity that calls through the mesh: the services, and the operator."""
        return (*self.services, OPERATOR)

    @cached_property
    def largest_answers(self) -> Mapping[str, Size]:
        """The largest message that each method of ours answers with, by path."""
        answers = _Answers(self)
        return {m.path: answers.largest(m)[0] for m in self.methods() if answers.are_ours(m)}

    @cached_property
    def _by_path(self) -> Mapping[str, Method]:
        return {method.path: method for method in self.methods()}


def descriptor_bytes() -> bytes:
    """The descriptor set that was compiled at install."""
    return (resources.files("icto") / "descriptors.binpb").read_bytes()


@cache
def load(environment: str, *, proven: bool = False) -> Contract:
    """The installed contract, with the services that exist in `environment`.

    Args:
        environment: for instance "production".
        proven: whoever started this process has proven that every answer fits; it is not repeated,
            since it takes as long as all the rest.

    Raises:
        ContractError: it leaves a gap.
    """
    return read(FileDescriptorSet.FromString(descriptor_bytes()), environment, proven=proven)


def read(descriptors: FileDescriptorSet, environment: str, *, proven: bool = False) -> Contract:
    """Reads a descriptor set. `proven` as in `load`.

    Raises:
        ContractError: it leaves a gap.
    """
    reader = _Reader(descriptors)
    problems: list[str] = []
    services: dict[str, list[_Part]] = {}
    for package, proto in reader.proto_services():
        options = proto.options.Extensions[policy.service]
        full_name = f"{package}.{proto.name}"
        if not options.mesh_name:
            problems.append(f"{full_name}: no mesh_name: which process serves it?")
        services.setdefault(options.mesh_name, []).append(_Part(full_name, options, proto))
    known = frozenset(services) | {OPERATOR, EVERY_SERVICE}
    built: dict[str, Service] = {}
    for mesh_name, parts in sorted(services.items()):
        environments = {name for part in parts for name in part.options.environments}
        if environments and environment not in environments:
            continue
        built[mesh_name] = _service(reader, mesh_name, parts, known, problems)
    problems.extend(_without_room(reader, built))
    if GATEWAY in built:
        gateway = built[GATEWAY]
        built[GATEWAY] = replace(gateway, methods=(*gateway.methods, *_standard_methods()))
    contract = Contract(built, _buckets(), descriptors)
    if not proven:
        problems += _Answers(contract).problems()
    if problems:
        raise ContractError(problems)
    return contract


class _Answers:
    """How large the answers of methods are at most."""

    def __init__(self, contract: Contract) -> None:
        self._methods = {m.full_name: m for m in contract.methods()}
        messages = Messages(contract.descriptors.file)
        carried: dict[str, int] = {}
        for method in self._methods.values():
            for name in messages.within(f".{method.request_type}"):
                carried[name] = max(carried.get(name, 0), method.max_request_bytes)
        self._sizes = Sizes(messages, carried)

    def are_ours(self, method: Method) -> bool:
        """Whether the proto of a method is ours to bound."""
        return method.service.startswith("icto.")

    def problems(self) -> Iterator[str]:
        """Methods whose answers nothing bounds, or too little."""
        for method in filter(self.are_ours, self._methods.values()):
            _, broken = self.largest(method)
            yield from (f"{method.full_name}: {rule}" for rule in broken)

    def largest(self, method: Method) -> tuple[Size, list[str]]:
        """The largest message that a method answers with, and the rules that it breaks."""
        if method.response_type == HTTP_BODY:
            return self._events(method)
        self._sizes.unbounded.clear()
        name = f".{method.response_type}"
        if method.lists:
            end = Size(PAGE_BYTES, PAGE_BYTES)
            largest = self._sizes.page(name, PAGE_SIZE_LIMIT, end)
        else:
            largest = self._sizes.of(name)
        if largest.wire == inf:
            paths = ", ".join(dict.fromkeys(self._sizes.unbounded)) or "a message of the answer"
            return largest, [f"nothing bounds its answer: {paths}"]
        return largest, list(_too_large(method, largest))

    def _events(self, method: Method) -> tuple[Size, list[str]]:
        """Server-sent events carry the messages of the typed stream beside them, as JSON."""
        beside = self._methods.get(method.full_name.removesuffix("Events"))
        if beside is None or beside is method:
            return LARGEST_ANSWER, ["it streams HttpBody, and no typed stream is named like it"]
        largest, broken = self.largest(beside)
        events = Size(largest.json + _EVENT_BYTES, largest.json + _EVENT_BYTES)
        return events, broken or list(_too_large(method, events))


def _too_large(method: Method, largest: Size) -> Iterator[str]:
    if largest.wire > LARGEST_ANSWER.wire:
        yield (
            f"its answer may have {largest.wire:.0f} bytes;"
            f" {LARGEST_ANSWER.wire} are what every hop takes"
        )
    if method.http and largest.json > LARGEST_ANSWER.json:
        yield f"its answer may have {largest.json:.0f} bytes of JSON of {LARGEST_ANSWER.json}"


def _without_room(reader: "_Reader", services: Mapping[str, Service]) -> Iterator[str]:
    """Methods that services call with less room than what they carry inwards takes."""
    methods = [method for service in services.values() for method in service.methods]
    doors = [method for method in methods if method.audience.from_outside]
    inner = [method for method in methods if method.audience.services - {OPERATOR, PROXY}]
    yield from Room(reader.messages).problems(doors, inner)


def messages(descriptors: FileDescriptorSet) -> Mapping[str, DescriptorProto]:
    """Every message of a descriptor set by its full name, with a dot in front."""
    return _Reader(descriptors).messages


def _standard_methods() -> tuple[Method, ...]:
    """Standard services that the gateway offers for the whole mesh.

    Their protos are not ours, so their policy stands here.
    """
    audience = Audience(
        public=True,
        user=False,
        owner="",
        permission="",
        roles=frozenset(),
        services=frozenset({EVERY_SERVICE, OPERATOR}),
    )
    health, reflection = "grpc.health.v1", "grpc.reflection"
    check = Method(
        service=f"{health}.Health",
        name="Check",
        mesh_name=GATEWAY,
        kind=Kind.UNARY,
        request_type=f"{health}.HealthCheckRequest",
        response_type=f"{health}.HealthCheckResponse",
        audience=audience,
        deadline=3.0,
        deadline_ceiling=10.0,
        rate_limit="READ",
        criticality=Criticality.CRITICAL,
        max_request_bytes=DEFAULT_MAX_REQUEST_BYTES,
        retry_safety=RetrySafety.SAFE,
        allowed_when_suspended=True,
    )
    everything = replace(
        check,
        name="List",
        request_type=f"{health}.HealthListRequest",
        response_type=f"{health}.HealthListResponse",
    )
    stream = replace(
        check,
        name="Watch",
        kind=Kind.SERVER_STREAM,
        deadline=3600.0,
        deadline_ceiling=3600.0,
        rate_limit="STREAM",
        retry_safety=RetrySafety.UNSAFE,
    )
    info = replace(
        stream, name="ServerReflectionInfo", kind=Kind.BIDI_STREAM, deadline=30.0, rate_limit="READ"
    )
    versions = tuple(
        replace(
            info,
            service=f"{reflection}.{version}.ServerReflection",
            request_type=f"{reflection}.v1alpha.ServerReflectionRequest",
            response_type=f"{reflection}.v1alpha.ServerReflectionResponse",
        )
        for version in ("v1", "v1alpha")
    )
    return (check, everything, stream, *versions, _access_log(check))


def _access_log(like: Method) -> Method:
    """Envoy's account of what it refused, in OpenTelemetry's protocol."""
    package = "opentelemetry.proto.collector.logs.v1"
    return replace(
        like,
        service=f"{package}.LogsService",
        name="Export",
        request_type=f"{package}.ExportLogsServiceRequest",
        response_type=f"{package}.ExportLogsServiceResponse",
        audience=replace(like.audience, public=False, services=frozenset({PROXY})),
        max_request_bytes=1024 * 1024,
        retry_safety=RetrySafety.UNSAFE,
    )


@dataclass(frozen=True)
class _Part:
    """One proto service of a mesh service."""

    full_name: str
    options: policy.ServicePolicy
    proto: ServiceDescriptorProto


class _Reader:
    """Finds messages and services in a descriptor set."""

    def __init__(self, descriptors: FileDescriptorSet) -> None:
        self._files = descriptors.file
        self.messages: dict[str, DescriptorProto] = {}
        for file in descriptors.file:
            self._add_messages(f".{file.package}" if file.package else "", file.message_type)

    def _add_messages(self, scope: str, messages: Iterable[DescriptorProto]) -> None:
        for message in messages:
            name = f"{scope}.{message.name}"
            self.messages[name] = message
            self._add_messages(name, message.nested_type)

    @property
    def features(self) -> frozenset[str]:
        """The feature flags that there are."""
        flags = self.messages.get(_FEATURE_FLAGS)
        return frozenset(f.name for f in flags.field) if flags else frozenset()

    def proto_services(self) -> Iterator[tuple[str, ServiceDescriptorProto]]:
        """Our services, each with its package."""
        for file in self._files:
            if file.package.startswith("icto."):
                for service in file.service:
                    yield file.package, service


def _service(
    reader: _Reader, mesh_name: str, parts: list[_Part], known: frozenset[str], problems: list[str]
) -> Service:
    settings = _settings(mesh_name, parts, problems)
    methods = tuple(
        _method(reader, part, proto, known, problems)
        for part in parts
        for proto in part.proto.method
    )
    return Service(
        mesh_name=mesh_name,
        proto_services=tuple(part.full_name for part in parts),
        methods=methods,
        shard_key=settings.shard_key,
        replicas=settings.replicas or 1,
        balancing=policy.Balancing.Name(
            settings.balancing or policy.BALANCING_LEAST_REQUEST
        ).removeprefix("BALANCING_"),
        breaker=_breaker(settings.breaker),
        ejection=_ejection(settings.ejection),
        retention=_retention(settings.retention),
        listeners=settings.listeners,
        **_streams(settings),
    )


def _settings(mesh_name: str, parts: list[_Part], problems: list[str]) -> policy.ServicePolicy:
    """What the parts of a mesh service say together. Each fact must be written once."""
    merged = policy.ServicePolicy(mesh_name=mesh_name)
    for part in parts:
        for descriptor, _ in part.options.ListFields():
            name = descriptor.name
            if name == "mesh_name":
                continue
            if any(set_before.name == name for set_before, _ in merged.ListFields()):
                problems.append(f"{part.full_name}: {name} of {mesh_name} is written twice")
        merged.MergeFrom(part.options)
    return merged


def _streams(options: policy.ServicePolicy) -> dict[str, int]:
    """What is said of open streams."""
    said = {name: getattr(options, name) for name in _STREAMS}
    return {name: value for name, value in said.items() if value}


def _breaker(options: policy.Breaker) -> Breaker:
    standard = Breaker()
    return Breaker(
        options.max_connections or standard.max_connections,
        options.max_pending_requests or standard.max_pending_requests,
        options.max_requests or standard.max_requests,
        options.retry_budget_percent or standard.retry_budget_percent,
    )


def _ejection(options: policy.Ejection) -> Ejection:
    standard = Ejection()
    return Ejection(
        options.consecutive_failures or standard.consecutive_failures,
        options.failure_percent or standard.failure_percent,
        _seconds(options.base_time) or standard.base_time,
        options.max_percent or standard.max_percent,
    )


def _retention(options: Iterable[policy.Retention]) -> dict[str, Retention]:
    said = {
        one.what: Retention(one.since, timedelta(seconds=_seconds(one.period)), one.per_user)
        for one in options
    }
    return {ANSWERS: ANSWER_RETENTION, **said}


def _method(
    reader: _Reader,
    part: _Part,
    proto: MethodDescriptorProto,
    known: frozenset[str],
    problems: list[str],
) -> Method:
    extensions: Any = proto.options.Extensions
    options: policy.MethodPolicy = extensions[policy.method]
    request = reader.messages[proto.input_type]
    deadline = _seconds(options.deadline)
    criticality = options.criticality or policy.CRITICALITY_NORMAL
    method = Method(
        service=part.full_name,
        name=proto.name,
        mesh_name=part.options.mesh_name,
        kind=_kind(proto),
        request_type=proto.input_type.removeprefix("."),
        response_type=proto.output_type.removeprefix("."),
        audience=_audience(options.audience),
        deadline=deadline,
        deadline_ceiling=_seconds(options.deadline_ceiling) or deadline,
        rate_limit=policy.RateLimitClass.Name(options.rate_limit).removeprefix("RATE_LIMIT_CLASS_"),
        criticality=Criticality(criticality),
        max_request_bytes=options.max_request_bytes or DEFAULT_MAX_REQUEST_BYTES,
        retry_safety=_retry_safety(proto),
        http=tuple(_http(extensions[annotations_pb2.http])),
        has_request_id=any(f.name == "request_id" for f in request.field),
        allowed_when_suspended=options.allowed_when_suspended,
        feature=options.feature,
        allowed_in_maintenance=options.allowed_in_maintenance,
        allowed_in_emergency_stop=options.allowed_in_emergency_stop,
        on_behalf_of=options.on_behalf_of,
        audit_action=options.audit_action,
        cycle_cost=options.cycle_cost,
        anonymous_write=options.anonymous_write,
    )
    problems.extend(
        f"{method.full_name}: {rule}"
        for rule in _broken_rules(method, request, known, reader.features)
    )
    return method


def _audience(options: policy.Audience) -> Audience:
    permission, holders = "", frozenset[str]()
    if options.permission:
        permission = policy.Permission.Name(options.permission).removeprefix("PERMISSION_")
        holders = permission_holders(permission)
    return Audience(
        public=options.public,
        user=options.user,
        owner=options.owner,
        permission=permission,
        roles=holders,
        services=frozenset(options.services),
    )


@cache
def permission_holders(permission: str) -> frozenset[str]:
    """Names of the roles that hold a permission, the super-admin among them."""
    value = policy.Permission.DESCRIPTOR.values_by_name[f"PERMISSION_{permission}"]
    grant = value.GetOptions().Extensions[policy.grant]
    return frozenset(role_name(role) for role in (*grant.roles, policy.ROLE_SUPER_ADMIN))


@cache
def permissions_of(roles: frozenset[str]) -> frozenset[str]:
    """What people with these roles may do, for instance "MANAGE_USERS"."""
    names = (name.removeprefix("PERMISSION_") for name in policy.Permission.keys()[1:])
    return frozenset(name for name in names if roles & permission_holders(name))


def role_name(role: "policy.Role.ValueType") -> str:
    """A role as it stands in tokens, for instance "SUPER_ADMIN"."""
    return policy.Role.Name(role).removeprefix("ROLE_")


def _kind(proto: MethodDescriptorProto) -> Kind:
    return {
        (False, False): Kind.UNARY,
        (False, True): Kind.SERVER_STREAM,
        (True, False): Kind.CLIENT_STREAM,
        (True, True): Kind.BIDI_STREAM,
    }[proto.client_streaming, proto.server_streaming]


def _retry_safety(proto: MethodDescriptorProto) -> RetrySafety:
    return {
        MethodOptions.IDEMPOTENCY_UNKNOWN: RetrySafety.UNSAFE,
        MethodOptions.NO_SIDE_EFFECTS: RetrySafety.SAFE,
        MethodOptions.IDEMPOTENT: RetrySafety.IDEMPOTENT,
    }[proto.options.idempotency_level]


def _http(rule: HttpRule) -> Iterator[Http]:
    verb = rule.WhichOneof("pattern")
    if verb is None:
        return
    if verb == "custom":
        yield Http(rule.custom.kind, rule.custom.path, rule.body)
    else:
        yield Http(verb.upper(), getattr(rule, verb), rule.body)
    for additional in rule.additional_bindings:
        yield from _http(additional)


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _broken_rules(
    method: Method, request: DescriptorProto, known: frozenset[str], features: frozenset[str]
) -> Iterator[str]:
    """Rules that a method breaks, in words."""
    audience = method.audience
    if not (audience.from_outside or audience.services):
        yield "no audience: who may call it?"
    unknown = audience.services - known
    if unknown:
        yield f"audience names services that do not exist: {', '.join(sorted(unknown))}"
    if method.deadline <= 0:
        yield "no deadline"
    if method.deadline_ceiling < method.deadline:
        yield "deadline_ceiling is below the deadline"
    if method.rate_limit == "UNSPECIFIED":
        yield "no rate_limit class"
    yield from _http_rules(method)
    if method.on_behalf_of and not audience.services:
        yield "on_behalf_of without a calling service in the audience"
    if method.feature and method.feature not in features:
        yield f"there is no feature {method.feature!r} in FeatureFlags"
    yield from _write_rules(method)
    yield from _size_rules(method)
    if method.lists:
        yield from _page_rules(request)


def _http_rules(method: Method) -> Iterator[str]:
    # A transcoded stream cannot tell an error from its end, so a typed stream has no REST mapping:
    # its sibling streams google.api.HttpBody with events of its own.
    typed_stream = method.kind is not Kind.UNARY and method.response_type != HTTP_BODY
    if method.http and not method.audience.from_outside:
        yield "it has a google.api.http mapping, but only services may call it"
    if method.http and typed_stream:
        yield "a typed stream has no google.api.http mapping; its sibling streams HttpBody"
    if method.audience.from_outside and not method.http and not typed_stream:
        yield "users may call it, but it has no google.api.http mapping"


def _write_rules(method: Method) -> Iterator[str]:
    if method.kind in (Kind.CLIENT_STREAM, Kind.BIDI_STREAM):
        yield "it takes a stream: browsers and REST have none, and no request id covers one"
    if method.kind is Kind.SERVER_STREAM and method.retry_safety is RetrySafety.IDEMPOTENT:
        yield "a stream of answers writes nothing"
    anonymous = method.mutates and method.audience.public
    if anonymous and not method.anonymous_write:
        yield "it is public and writes: say why under anonymous_write"
    if method.anonymous_write and not anonymous:
        yield "anonymous_write is for public methods that write"
    if method.mutates and not method.anonymous_write and not method.has_request_id:
        yield "it writes, but its request has no request_id"


def _size_rules(method: Method) -> Iterator[str]:
    if not (method.large and method.audience.from_outside):
        return
    safe = method.retry_safety is RetrySafety.SAFE
    if safe and (method.rate_limit, method.criticality) != ("DEPLOY", Criticality.SHEDDABLE):
        yield "a read that admits more than 64 KiB is of class DEPLOY, and sheddable"
    bucket = _buckets().get(method.rate_limit)
    if bucket is None:
        return
    if bucket.by_address:
        yield "it admits more than 64 KiB, which are counted by principal, not by address"
    if not bucket.bytes_per_second or bucket.bytes < JSON_FACTOR * method.max_request_bytes:
        yield f"class {method.rate_limit} has too few bytes for the largest request of this method"


def _page_rules(request: DescriptorProto) -> Iterator[str]:
    fields = {f.name: f for f in request.field}
    size = fields.get("page_size")
    if size is None or size.type != FieldDescriptorProto.TYPE_INT32:
        yield "a list without `int32 page_size`"
    token = fields.get("page_token")
    if token is None or token.type != FieldDescriptorProto.TYPE_STRING:
        yield "a list without `string page_token`"


def _buckets() -> dict[str, Bucket]:
    buckets: dict[str, Bucket] = {}
    for value in policy.RateLimitClass.DESCRIPTOR.values:
        size = value.GetOptions().Extensions[policy.bucket]
        if size.capacity:
            name = value.name.removeprefix("RATE_LIMIT_CLASS_")
            buckets[name] = Bucket(
                size.capacity, size.per_second, size.by_address, size.bytes, size.bytes_per_second
            )
    return buckets
