"""What Envoy is told: numbers that no caller sees, but on which the platform's safety rests."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from contract import loader, wire
from contract.limits import JSON_FACTOR
from contract.method import Criticality, Method
from mesh import topology
from mesh.render import Paths, Renderer, no_keys

CONTRACT: Final = loader.load("production")
HERE: Final = Path("/nowhere")
PRINCIPALS: Final = 10_000
"""Active at one time: more than Envoy's 20, by far."""


@cache
def rendered(name: str) -> Any:
    chosen = topology.load(CONTRACT, None)
    return Renderer(CONTRACT, chosen, Paths(HERE, HERE)).resource(name)["resources"]


def clusters() -> list[Any]:
    """The clusters of services."""
    return [cluster for cluster in rendered("clusters") if cluster["name"] in CONTRACT.services]


def manager(**edge: Any) -> Any:
    """What the edge makes of a connection, with some of mesh.toml's words about it."""
    chosen = topology.apply(CONTRACT, {"edge": edge})
    listeners = Renderer(CONTRACT, chosen, Paths(HERE, HERE)).resource("listeners")["resources"]
    return listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]


def limits() -> Any:
    """The edge's rate limits."""
    (edge, *_) = rendered("listeners")
    filters = edge["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    (found,) = [f for f in filters if f["name"] == "envoy.filters.http.local_ratelimit"]
    return found["typed_config"]


def routes() -> list[tuple[Method, Any]]:
    """The route of each method, at the edge and from service to service."""
    methods = {method.full_name: method for method in CONTRACT.methods()}
    hosts = [
        rendered(name)[0]["virtual_hosts"][0]
        for name in ("routes-edge", *(f"routes-egress-{i}" for i in CONTRACT.identities))
    ]
    found = [
        (methods[route["name"]], route["route"])
        for host in hosts
        for route in host["routes"]
        if route.get("name") in methods
    ]
    assert {method.full_name for method, _ in found} >= methods.keys() - {_ACCESS_LOG}
    return found


_ACCESS_LOG: Final = "opentelemetry.proto.collector.logs.v1.LogsService/Export"


def test_critical_methods_have_a_breaker_class_of_their_own() -> None:
    for method, route in routes():
        critical = method.criticality is Criticality.CRITICAL
        assert route["priority"] == ("HIGH" if critical else "DEFAULT"), method.full_name
    assert any(method.criticality is Criticality.CRITICAL for method, _ in routes())
    for cluster in clusters():
        thresholds = cluster["circuit_breakers"]["thresholds"]
        assert [one["priority"] for one in thresholds] == ["DEFAULT", "HIGH"]


def test_replicas_are_ejected_by_what_does_not_reach_them_alone() -> None:
    for cluster in clusters():
        ejection = CONTRACT.services[cluster["name"]].ejection
        assert cluster["outlier_detection"] == {
            "interval": "1s",
            "base_ejection_time": f"{ejection.base_time}s",
            "max_ejection_time": "60s",
            "max_ejection_percent": ejection.max_percent,
            "always_eject_one_host": True,
            "split_external_local_origin_errors": True,
            "enforcing_consecutive_5xx": 0,
            "enforcing_failure_percentage": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "consecutive_local_origin_failure": ejection.consecutive_failures,
            "failure_percentage_threshold": ejection.failure_percent,
            "failure_percentage_minimum_hosts": 2,
            "failure_percentage_request_volume": 50,
            "enforcing_failure_percentage_local_origin": 100,
        }


def test_calls_are_never_spread_over_replicas_known_to_be_dead() -> None:
    for cluster in clusters():
        assert cluster["common_lb_config"]["healthy_panic_threshold"] == {"value": 0}
        assert cluster["ignore_health_on_host_removal"] is True


def test_there_are_more_buckets_than_principals_at_one_time() -> None:
    assert limits()["max_dynamic_descriptors"] >= PRINCIPALS


def test_whoever_writes_without_signing_in_is_limited_by_address() -> None:
    """CreateChallenge and SignIn: a token of somebody else's must not lead out of the limit."""
    anonymous = [m for m in CONTRACT.methods() if m.anonymous_write]
    assert {m.name for m in anonymous} == {"CreateChallenge", "SignIn"}
    keys = {
        tuple(entry["key"] for entry in limit["entries"])
        for limit in limits()["descriptors"]
        if limit["entries"][0]["value"] in {m.rate_limit for m in anonymous}
    }
    assert keys == {("class", "remote_address")}
    assert [
        [next(iter(action)) for action in limit["actions"]] for limit in limits()["rate_limits"]
    ] == [
        ["metadata", "metadata"],
        ["metadata", "header_value_match", "remote_address"],
        ["metadata", "remote_address"],
        # By bytes, which no method has that takes so little.
        ["metadata", "metadata"],
        ["metadata", "header_value_match", "remote_address"],
    ]


def test_what_admits_much_is_sent_once_and_counted_by_its_bytes() -> None:
    """To send it twice because it takes long would do the work twice."""
    large = 0
    for method, route in routes():
        retries = route.get("retry_policy", {})
        twice = {"per_try_timeout", "hedge_policy"} & {*retries, *route}
        assert not (twice and method.large), method.full_name
        large += method.large
    assert large
    buckets = {
        limit["entries"][0]["value"]: limit["token_bucket"]
        for limit in limits()["descriptors"]
        if limit["entries"][0]["key"] == "bytes"
    }
    for method in (m for m in CONTRACT.methods() if m.audience.from_outside and m.large):
        bucket = buckets[method.rate_limit]
        assert bucket["max_tokens"] >= JSON_FACTOR * method.max_request_bytes
    by_bytes = [limit for limit in limits()["rate_limits"] if "hits_addend" in limit]
    assert [limit["hits_addend"] for limit in by_bytes] == [{"format": "%BYTES_RECEIVED%"}] * 2


def test_no_proxy_is_believed_that_is_not_named() -> None:
    assert manager()["use_remote_address"] is True
    assert "original_ip_detection_extensions" not in manager()
    named = manager(trusted_proxies=["10.0.0.0/8", "2001:db8::1"])
    (detection,) = named["original_ip_detection_extensions"]
    assert detection["typed_config"]["xff_trusted_cidrs"] == {
        "cidrs": [
            {"address_prefix": "10.0.0.0", "prefix_len": 8},
            {"address_prefix": "2001:db8::1", "prefix_len": 128},
        ]
    }


def test_nothing_of_a_callers_trace_comes_in_but_as_a_link() -> None:
    (edge, *inside) = rendered("listeners")
    (strip,) = manager_of(edge)["early_header_mutation_extensions"]
    mutations = strip["typed_config"]["mutations"]
    removed = [mutation.get("remove") for mutation in mutations]
    for theirs, ours in wire.CALLERS_TRACE.items():
        (moved,) = [
            position
            for position, mutation in enumerate(mutations)
            if mutation.get("append", {}).get("header", {}).get("key") == ours
        ]
        assert removed.index(ours) < moved < removed.index(theirs)
    assert "baggage" in removed
    for listener in inside:
        assert "early_header_mutation_extensions" not in manager_of(listener)


def manager_of(listener: Any) -> Any:
    """The HTTP connection manager of a listener."""
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


# R is the identity and s is 0: for a key of small order this verifies about every fourth message.
_FORGED: Final = b"\1" + bytes(63)


@pytest.mark.parametrize("message", range(64))
def test_nobody_can_sign_for_the_keys_that_verify_nothing(message: int) -> None:
    (key,) = json.loads(no_keys())["keys"]
    public = jwt.PyJWK(key).key
    assert isinstance(public, Ed25519PublicKey)
    with pytest.raises(InvalidSignature):
        public.verify(_FORGED, str(message).encode())


def test_the_keys_that_verify_nothing_are_never_the_same() -> None:
    assert no_keys() != no_keys()


def test_what_an_installation_calls_itself_breaks_no_template() -> None:
    name = """a:#{"b"}'&<*!|>%@`"""
    chosen = topology.load(CONTRACT, None)
    (tokens,) = Renderer(CONTRACT, chosen, Paths(HERE, HERE)).tokens(no_keys(), name)["resources"]
    for provider in tokens["typed_config"]["providers"].values():
        assert provider["audiences"][0] == name
    assert [p["audiences"][1:] for p in tokens["typed_config"]["providers"].values()] == [
        [],
        [f"{name}/events"],
    ]
