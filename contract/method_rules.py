"""What a method must say, and what does not go together; a contract that breaks it is refused."""

from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto

from contract.limits import JSON_FACTOR
from contract.method import HTTP_BODY, Criticality, Kind, Method, RetrySafety
from contract.rate_limits import buckets


def broken_rules(
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
    bucket = buckets().get(method.rate_limit)
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
