"""The contract: every gap is refused by method and rule, and what is said is read."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from google.api.http_pb2 import CustomHttpPattern, HttpRule
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
)
from google.protobuf.duration_pb2 import Duration

from contract import bounds, loader
from contract.environment import Environment
from contract.method import Criticality, Http, Kind, Method, RetrySafety
from contract.model import Contract, ContractError
from contract.service import ANSWER_RETENTION, ANSWERS, Breaker, Ejection, Retention
from icto.policy.v1 import policy_pb2 as policy
from tests.support.protos import (
    NO_HTTP,
    PACKAGE,
    Field,
    contract_of,
    field,
    message,
    method,
    service,
)

WRITES = MethodOptions.IDEMPOTENT
POST = HttpRule(post="/v1/things", body="*")
WITH_ID = message("Request", field("request_id"))
PAGED = message("Request", field("page_size", Field.TYPE_INT32), field("page_token"))


def read(descriptors: FileDescriptorSet, environment: str = "test") -> Contract:
    return loader.read(descriptors, environment)


def problems(one: MethodDescriptorProto, request: DescriptorProto | None = None) -> list[str]:
    with pytest.raises(ContractError) as caught:
        read(contract_of(service(one), request=request))
    return list(caught.value.problems)


def accepted(one: MethodDescriptorProto, request: DescriptorProto | None = None) -> Method:
    (found,) = read(contract_of(service(one), request=request)).methods()
    return found


def audience(**parts: Any) -> policy.Audience:
    return policy.Audience(**parts)


BROKEN: list[tuple[str, MethodDescriptorProto, DescriptorProto | None]] = [
    ("no audience: who may call it?", method(audience=None, http=NO_HTTP), None),
    (
        "audience names services that do not exist: ghosts",
        method(audience=audience(user=True, services=["ghosts", "things"])),
        None,
    ),
    ("no deadline", method(deadline=None), None),
    (
        "deadline_ceiling is below the deadline",
        method(deadline_ceiling=Duration(seconds=1)),
        None,
    ),
    ("no rate_limit class", method(rate_limit=None), None),
    (
        "it has a google.api.http mapping, but only services may call it",
        method(audience=audience(services=["things"])),
        None,
    ),
    (
        "a typed stream has no google.api.http mapping; its sibling streams HttpBody",
        method(streams=(False, True)),
        None,
    ),
    ("users may call it, but it has no google.api.http mapping", method(http=NO_HTTP), None),
    (
        "on_behalf_of without a calling service in the audience",
        method(on_behalf_of=True),
        None,
    ),
    ("there is no feature 'teleport' in FeatureFlags", method(feature="teleport"), None),
    (
        "it is public and writes: say why under anonymous_write",
        method(audience=audience(public=True), level=WRITES, http=POST),
        WITH_ID,
    ),
    (
        "anonymous_write is for public methods that write",
        method(anonymous_write="because"),
        None,
    ),
    (
        "anonymous_write is for public methods that write",
        method(audience=audience(public=True), anonymous_write="because"),
        None,
    ),
    (
        "it writes, but its request has no request_id",
        method(level=WRITES, http=POST),
        None,
    ),
    (
        "it writes, but its request has no request_id",
        method(level=MethodOptions.IDEMPOTENCY_UNKNOWN, http=POST),
        None,
    ),
    *(
        (
            "it takes a stream: browsers and REST have none, and no request id covers one",
            method(streams=(True, answers), http=NO_HTTP),
            None,
        )
        for answers in (False, True)
    ),
    (
        "a stream of answers writes nothing",
        method(streams=(False, True), level=MethodOptions.IDEMPOTENT, http=NO_HTTP),
        None,
    ),
    (
        "a read that admits more than 64 KiB is of class DEPLOY, and sheddable",
        method(max_request_bytes=65537, rate_limit=policy.RATE_LIMIT_CLASS_WRITE),
        None,
    ),
    (
        "a read that admits more than 64 KiB is of class DEPLOY, and sheddable",
        method(max_request_bytes=65537, rate_limit=policy.RATE_LIMIT_CLASS_DEPLOY),
        None,
    ),
    (
        "class DEPLOY has too few bytes for the largest request of this method",
        method(
            max_request_bytes=3 * 2**20,
            rate_limit=policy.RATE_LIMIT_CLASS_DEPLOY,
            criticality=policy.CRITICALITY_SHEDDABLE,
        ),
        None,
    ),
    (
        "class STREAM has too few bytes for the largest request of this method",
        method(
            max_request_bytes=65537,
            rate_limit=policy.RATE_LIMIT_CLASS_STREAM,
            level=WRITES,
            http=POST,
        ),
        WITH_ID,
    ),
    (
        "no rate_limit class",
        method(max_request_bytes=65537, rate_limit=None, level=WRITES, http=POST),
        WITH_ID,
    ),
    (
        "a list without `int32 page_size`",
        method("ListThings"),
        message("Request", field("page_token")),
    ),
    (
        "a list without `int32 page_size`",
        method("ListThings"),
        message("Request", field("page_size", Field.TYPE_INT64), field("page_token")),
    ),
    (
        "a list without `string page_token`",
        method("SearchThings"),
        message("Request", field("page_size", Field.TYPE_INT32)),
    ),
    (
        "a list without `string page_token`",
        method("ListThings"),
        message(
            "Request",
            field("page_size", Field.TYPE_INT32),
            field("page_token", Field.TYPE_BYTES),
        ),
    ),
]


@pytest.mark.parametrize(("rule", "one", "request_"), BROKEN, ids=[rule for rule, _, _ in BROKEN])
def test_a_method_that_breaks_one_rule_is_refused_by_method_and_rule(
    rule: str, one: MethodDescriptorProto, request_: DescriptorProto | None
) -> None:
    assert problems(one, request_) == [f"{PACKAGE}.ThingService/{one.name}: {rule}"]


def test_bytes_are_not_counted_by_address() -> None:
    signs_in = policy.RATE_LIMIT_CLASS_SIGN_IN
    large = method(max_request_bytes=65537, rate_limit=signs_in, level=WRITES, http=POST)
    by_principal, enough = problems(large, WITH_ID)
    assert by_principal.endswith("which are counted by principal, not by address")
    assert enough.endswith("has too few bytes for the largest request of this method")


def test_a_method_that_says_nothing_is_refused() -> None:
    """Default deny: a method without options does not load."""
    bare = MethodDescriptorProto(
        name="Forgotten", input_type=f".{PACKAGE}.Request", output_type=f".{PACKAGE}.Response"
    )
    told = problems(bare)
    assert all(problem.startswith(f"{PACKAGE}.ThingService/Forgotten: ") for problem in told)
    rules = " ".join(told)
    for rule in ("no audience", "no deadline", "no rate_limit class", "no request_id"):
        assert rule in rules


def test_every_problem_is_told_at_once() -> None:
    one, two = method("GetOne", deadline=None), method("GetTwo", rate_limit=None)
    with pytest.raises(ContractError, match=r"GetOne: no deadline\n.*GetTwo: no rate_limit"):
        read(contract_of(service(one, two)))


def test_a_service_says_which_process_serves_it() -> None:
    with pytest.raises(ContractError, match="ThingService: no mesh_name: which process"):
        read(contract_of(service(method(), mesh_name="")))


def test_a_setting_of_a_mesh_service_is_written_once() -> None:
    first = service(method(), name="AService", replicas=2)
    second = service(method(), name="BService", replicas=2)
    with pytest.raises(ContractError) as caught:
        read(contract_of(first, second))
    assert caught.value.problems == (f"{PACKAGE}.BService: replicas of things is written twice",)


def test_proto_services_of_one_mesh_name_share_a_process() -> None:
    first = service(method(), name="AService", replicas=3)
    second = service(method(), name="BService", shard_key="thing")
    (things,) = read(contract_of(first, second)).services.values()
    assert (things.replicas, things.shard_key) == (3, "thing")
    assert things.proto_services == (f"{PACKAGE}.AService", f"{PACKAGE}.BService")
    assert [m.service for m in things.methods] == list(things.proto_services)


def test_a_service_exists_in_its_environments_alone() -> None:
    descriptors = contract_of(service(method(), environments=["test", "local"]))
    assert list(read(descriptors, "test").services) == ["things"]
    assert list(read(descriptors, "production").services) == []
    assert list(read(contract_of(service(method())), "production").services) == ["things"]


def test_what_is_not_said_has_a_default() -> None:
    (things,) = read(contract_of(service(method()))).services.values()
    (found,) = things.methods
    assert (things.replicas, things.balancing) == (1, "LEAST_REQUEST")
    assert things.breaker == Breaker()
    assert things.ejection == Ejection()
    assert (found.deadline, found.deadline_ceiling) == (2.0, 2.0)
    assert found.criticality is Criticality.NORMAL
    assert found.max_request_bytes == 64 * 1024
    assert (found.mutates, found.retriable) == (False, True)


def test_what_is_said_is_read() -> None:
    settings = service(
        method(
            "PutThing",
            level=WRITES,
            http=POST,
            audience=audience(
                owner="thing", permission=policy.PERMISSION_VIEW_AUDIT_LOGS, services=["*"]
            ),
            deadline=Duration(nanos=500_000_000),
            deadline_ceiling=Duration(seconds=3),
            rate_limit=policy.RATE_LIMIT_CLASS_WRITE,
            criticality=policy.CRITICALITY_CRITICAL,
            max_request_bytes=10,
            allowed_when_suspended=True,
            allowed_in_maintenance=True,
            allowed_in_emergency_stop=True,
            on_behalf_of=True,
            audit_action="PutThing",
            cycle_cost=7,
        ),
        replicas=2,
        balancing=policy.BALANCING_ROUND_ROBIN,
        breaker=policy.Breaker(max_connections=1, max_requests=2),
        ejection=policy.Ejection(base_time=Duration(seconds=4), max_percent=10),
    )
    loaded = read(contract_of(settings, request=WITH_ID))
    (things,) = loaded.services.values()
    (found,) = things.methods
    assert things.balancing == "ROUND_ROBIN"
    assert things.breaker == replace(Breaker(), max_connections=1, max_requests=2)
    assert things.ejection == replace(Ejection(), base_time=4.0, max_percent=10)
    assert (found.deadline, found.deadline_ceiling) == (0.5, 3.0)
    assert (found.rate_limit, found.criticality) == ("WRITE", Criticality.CRITICAL)
    assert found.retry_safety is RetrySafety.IDEMPOTENT
    assert (found.mutates, found.retriable, found.has_request_id) == (True, True, True)
    assert (found.audit_action, found.cycle_cost, found.max_request_bytes) == ("PutThing", 7, 10)
    assert found.audience.roles == {"ADMIN", "READ_ONLY", "SUPER_ADMIN"}
    assert found.audience.permission == "VIEW_AUDIT_LOGS"
    assert loaded.method(f"/{PACKAGE}.ThingService/PutThing") is found


def test_a_method_is_found_by_its_path_or_not_at_all() -> None:
    loaded = read(contract_of(service(method())))
    assert loaded.method(f"/{PACKAGE}.ThingService/GetThing").name == "GetThing"
    with pytest.raises(KeyError):
        loaded.method("/nothing")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (HttpRule(get="/a"), (Http("GET", "/a", ""),)),
        (HttpRule(patch="/a", body="*"), (Http("PATCH", "/a", "*"),)),
        (
            HttpRule(custom=CustomHttpPattern(kind="HEAD", path="/a")),
            (Http("HEAD", "/a", ""),),
        ),
        (
            HttpRule(put="/a", body="*", additional_bindings=[HttpRule(delete="/b")]),
            (Http("PUT", "/a", "*"), Http("DELETE", "/b", "")),
        ),
    ],
)
def test_rest_mappings_are_read(rule: HttpRule, expected: tuple[Http, ...]) -> None:
    assert accepted(method(http=rule)).http == expected


@pytest.mark.parametrize(
    ("streams", "kind"),
    [
        ((False, False), Kind.UNARY),
        ((False, True), Kind.SERVER_STREAM),
    ],
)
def test_the_shape_of_a_method_is_read(streams: tuple[bool, bool], kind: Kind) -> None:
    http = HttpRule(get="/v1/things") if kind is Kind.UNARY else NO_HTTP
    assert accepted(method(streams=streams, http=http)).kind is kind


def test_a_stream_of_bodies_may_have_a_rest_mapping() -> None:
    """It carries the messages of the typed stream beside it, which says how large they are."""
    body = "google.api.HttpBody"
    typed = method("WatchThing", streams=(False, True), http=NO_HTTP)
    events = method("WatchThingEvents", streams=(False, True), response=f".{body}")
    loaded = read(contract_of(service(typed, events)))
    assert [m.response_type for m in loaded.methods()] == [f"{PACKAGE}.Response", body]
    assert loaded.largest_answers[f"/{PACKAGE}.ThingService/WatchThingEvents"].wire < 2048
    (problem,) = problems(events)
    assert "it streams HttpBody, and no typed stream is named like it" in problem


def test_a_public_write_that_says_why_is_accepted() -> None:
    one = method(
        audience=audience(public=True), level=WRITES, http=POST, anonymous_write="Signing in."
    )
    assert accepted(one).anonymous_write == "Signing in."


def test_a_list_with_page_bounds_is_accepted() -> None:
    assert accepted(method("ListThings"), PAGED).name == "ListThings"


def test_a_known_feature_is_accepted() -> None:
    descriptors = contract_of(service(method(feature="gold")))
    flags = DescriptorProto(name="FeatureFlags")
    flags.field.add(name="gold")
    descriptors.file.append(
        FileDescriptorProto(name="config.proto", package="icto.config.v1", message_type=[flags])
    )
    (found,) = read(descriptors).methods()
    assert found.feature == "gold"


@pytest.mark.parametrize(
    ("parts", "outside", "signed_in"),
    [
        ({"public": True}, True, False),
        ({"user": True}, True, True),
        ({"owner": "thing"}, True, True),
        ({"permission": policy.PERMISSION_MANAGE_ADMINS}, True, True),
        ({"services": ["things"]}, False, False),
    ],
)
def test_an_audience_says_whether_it_reaches_outside(
    parts: dict[str, Any], *, outside: bool, signed_in: bool
) -> None:
    http = None if outside else NO_HTTP
    found = accepted(method(audience=audience(**parts), http=http)).audience
    assert (found.from_outside, found.signed_in) == (outside, signed_in)


def test_every_service_does_not_mean_the_operator() -> None:
    everybody = accepted(method(audience=audience(services=["*"]), http=NO_HTTP)).audience
    operator = accepted(method(audience=audience(services=["operator"]), http=NO_HTTP)).audience
    assert everybody.admits_service("things")
    assert not everybody.admits_service("operator")
    assert operator.admits_service("operator")
    assert not operator.admits_service("things")


def test_who_may_call_what_is_found_by_caller() -> None:
    loaded = read(
        contract_of(
            service(
                method("GetAll", audience=audience(services=["*"]), http=NO_HTTP),
                method("GetOwn", audience=audience(services=["operator"]), http=NO_HTTP),
                method("GetMine"),
            )
        )
    )
    assert [m.name for m in loaded.callable_by("things")] == ["GetAll"]
    assert [m.name for m in loaded.callable_by("operator")] == ["GetOwn"]
    assert loaded.identities == ("things", "operator")


def test_protos_of_others_are_left_alone() -> None:
    descriptors = contract_of()
    descriptors.file[0].package = "grpc.sample.v1"
    descriptors.file[0].service.append(service(MethodDescriptorProto(name="Anything")))
    assert read(descriptors).services == {}


def test_the_gateway_offers_health_and_reflection_for_all() -> None:
    loaded = read(contract_of(service(method(), mesh_name="gateway")))
    offered = {m.full_name: m for m in loaded.methods() if not m.service.startswith(PACKAGE)}
    outside = {name for name, m in offered.items() if m.audience.public}
    assert all(m.mesh_name == "gateway" for m in offered.values())
    assert set(offered) - outside == {"opentelemetry.proto.collector.logs.v1.LogsService/Export"}
    assert outside == {
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/List",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }


@pytest.mark.parametrize("environment", list(Environment))
def test_our_own_contract_holds_in_every_environment(environment: Environment) -> None:
    bounds.check(loader.load(environment))


def test_only_signing_in_writes_without_a_user() -> None:
    """Pinned: whoever adds to this list explains it here."""
    written = {
        m.full_name
        for m in loader.load(Environment.PRODUCTION).methods()
        if m.mutates and m.audience.public
    }
    assert written == {
        "icto.identity.v1.IdentityService/CreateChallenge",
        "icto.identity.v1.IdentityService/SignIn",
    }
    signing_in = [loader.load(Environment.PRODUCTION).method(f"/{name}") for name in written]
    assert {m.rate_limit for m in signing_in} == {"SIGN_IN"}


def test_the_lab_is_there_for_tests_alone() -> None:
    assert "lab" in loader.load(Environment.TEST).services
    assert "lab" not in loader.load(Environment.LOCAL).services
    assert "lab" not in loader.load(Environment.PRODUCTION).services


def test_every_class_of_calls_has_a_limit() -> None:
    """F-60."""
    loaded = loader.load(Environment.PRODUCTION)
    assert {m.rate_limit for m in loaded.methods()} <= set(loaded.buckets)
    assert all(b.capacity > 0 and b.per_second > 0 for b in loaded.buckets.values())


def test_every_write_of_a_user_is_audited() -> None:
    """F-21, F-60: nothing that a person does to a row goes unrecorded."""
    silent = {
        m.full_name
        for m in loader.load(Environment.PRODUCTION).methods()
        if m.mutates and m.audience.signed_in and not m.audit_action
    }
    assert silent == set()


def test_what_a_service_forgets_is_read_and_every_service_forgets_answers() -> None:
    month = Duration(seconds=30 * 24 * 3600)
    said = [policy.Retention(what="drafts", since="they were made", period=month, per_user=7)]
    found = read(contract_of(service(method(), retention=said))).services["things"].retention
    assert found["drafts"] == Retention("they were made", timedelta(days=30), 7)
    assert found[ANSWERS] == ANSWER_RETENTION
    assert ANSWER_RETENTION.period == timedelta(hours=24)


def test_large_requests_are_counted_by_principal_and_by_a_class_that_is_named() -> None:
    """A bucket of an address is everybody's behind it; without a class only that is told."""

    def told(rate_limit: policy.RateLimitClass.ValueType) -> str:
        large = method(max_request_bytes=65537, rate_limit=rate_limit, level=WRITES, http=POST)
        return " ".join(problems(large, WITH_ID))

    by_address = told(policy.RATE_LIMIT_CLASS_SIGN_IN)
    assert "counted by principal, not by address" in by_address
    unnamed = told(policy.RATE_LIMIT_CLASS_UNSPECIFIED)
    assert "no rate_limit class" in unnamed
    assert "64 KiB" not in unnamed
