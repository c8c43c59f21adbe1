"""The compiled protos, read into one typed Contract.

Everything that the mesh, the services and the documents know about a method comes from here: who
may call it, its deadline, whether a retry is safe, its rate limit, its REST mapping. A contract
that leaves a gap does not load; `ContractError` then names each method and the rule it breaks.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any, Final

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor_pb2 import (
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from google.protobuf.duration_pb2 import Duration

from contract.descriptors import descriptor_bytes, messages
from contract.identities import EVERY_SERVICE, GATEWAY, OPERATOR, PROXY
from contract.limits import DEFAULT_MAX_REQUEST_BYTES
from contract.method import Audience, Criticality, Http, Kind, Method, RetrySafety
from contract.method_rules import broken_rules
from contract.model import Contract, ContractError
from contract.rate_limits import buckets
from contract.roles import permission_holders
from contract.room import Room
from contract.service import ANSWER_RETENTION, ANSWERS, Breaker, Ejection, Retention, Service
from contract.standard_methods import standard_methods
from icto.policy.v1 import policy_pb2 as policy

_STREAMS: Final = ("streams_per_principal", "streams_per_address")
_FEATURE_FLAGS: Final = ".icto.config.v1.FeatureFlags"


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
        built[GATEWAY] = replace(gateway, methods=(*gateway.methods, *standard_methods()))
    contract = Contract(built, buckets(), descriptors)
    if not proven:
        problems += contract.answers.problems()
    if problems:
        raise ContractError(problems)
    return contract


def _without_room(reader: "_Reader", services: Mapping[str, Service]) -> Iterator[str]:
    """Methods that services call with less room than what they carry inwards takes."""
    methods = [method for service in services.values() for method in service.methods]
    doors = [method for method in methods if method.audience.from_outside]
    inner = [method for method in methods if method.audience.services - {OPERATOR, PROXY}]
    yield from Room(reader.messages).problems(doors, inner)


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
        self.messages = messages(descriptors)

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
        for rule in broken_rules(method, request, known, reader.features)
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
