"""Small contracts for tests: one service with one method, valid until a test breaks it."""

from typing import Any

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from google.protobuf.duration_pb2 import Duration

from icto.policy.v1 import policy_pb2 as policy

PACKAGE = "icto.sample.v1"
Field = FieldDescriptorProto


def field(name: str, kind: "Field.Type.ValueType" = Field.TYPE_STRING, **more: Any) -> Field:
    """A field; `rules` are its `buf.validate` rules, `behavior` its field_behavior."""
    return Field(name=name, type=kind, **{"label": Field.LABEL_OPTIONAL, **more})


def message(name: str, *fields: Field, nested: tuple[DescriptorProto, ...] = ()) -> DescriptorProto:
    """A message with numbered fields."""
    made = DescriptorProto(name=name, nested_type=nested)
    for number, one in enumerate(fields, 1):
        made.field.add().CopyFrom(one)
        made.field[-1].number = number
    return made


def valid_policy(**changes: Any) -> policy.MethodPolicy:
    """What a method for users needs to say."""
    standard: dict[str, Any] = {
        "audience": policy.Audience(user=True),
        "deadline": Duration(seconds=2),
        "rate_limit": policy.RATE_LIMIT_CLASS_READ,
    }
    said = {k: v for k, v in (standard | changes).items() if v is not None}
    return policy.MethodPolicy(**said)


def method(
    name: str = "GetThing",
    *,
    http: HttpRule | None = None,
    level: "MethodOptions.IdempotencyLevel.ValueType" = MethodOptions.NO_SIDE_EFFECTS,
    response: str = f".{PACKAGE}.Response",
    streams: tuple[bool, bool] = (False, False),
    **changes: Any,
) -> MethodDescriptorProto:
    """A method that reads, for users, with a REST mapping; `changes` are to its policy."""
    made = MethodDescriptorProto(
        name=name,
        input_type=f".{PACKAGE}.Request",
        output_type=response,
        client_streaming=streams[0],
        server_streaming=streams[1],
    )
    extensions: Any = made.options.Extensions
    made.options.idempotency_level = level
    extensions[policy.method].CopyFrom(valid_policy(**changes))
    rule = HttpRule(get="/v1/things") if http is None else http
    if rule.WhichOneof("pattern"):
        extensions[annotations_pb2.http].CopyFrom(rule)
    return made


NO_HTTP = HttpRule()


def service(
    *methods: MethodDescriptorProto, name: str = "ThingService", **settings: Any
) -> ServiceDescriptorProto:
    """A service of the mesh service "things"."""
    made = ServiceDescriptorProto(name=name, method=methods)
    extensions: Any = made.options.Extensions
    said = policy.ServicePolicy(**{"mesh_name": "things", **settings})
    extensions[policy.service].CopyFrom(said)
    return made


def contract_of(
    *services: ServiceDescriptorProto,
    request: DescriptorProto | None = None,
    others: tuple[DescriptorProto, ...] = (),
) -> FileDescriptorSet:
    """A descriptor set with these services, and the messages that their methods use."""
    file = FileDescriptorProto(
        name="icto/sample/v1/sample.proto",
        package=PACKAGE,
        message_type=[request or message("Request"), message("Response"), *others],
        service=services,
    )
    return FileDescriptorSet(file=[file])
