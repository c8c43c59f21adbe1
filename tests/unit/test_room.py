"""What comes in through a public method fits into every request that carries it inwards."""

from typing import Any

import pytest
from google.api.field_behavior_pb2 import OUTPUT_ONLY, field_behavior
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

from contract import loader
from contract.descriptors import descriptor_bytes
from contract.model import ContractError
from contract.room import COMPLETION_BYTES
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
from tests.unit.test_bounds import many, of, ruled

DOOR = 100_000
SERVICES = policy.Audience(services=["*"])
OTHER = ruled(field("other"), "string", max_bytes=1_000)


def inner(room: int, request: str = "Inner", **changes: Any) -> MethodDescriptorProto:
    """A method that services call."""
    said: dict[str, Any] = {
        "audience": SERVICES,
        "http": NO_HTTP,
        "max_request_bytes": room,
    } | changes
    made = method("Hand", **said)
    made.input_type = f".{PACKAGE}.{request}"
    return made


def refused(room: int, *carried: Field, door: int = DOOR, **messages: DescriptorProto) -> bool:
    """Whether a method with so much room is refused, that carries these beside another field."""
    things = contract_of(
        service(method(max_request_bytes=door), inner(room)),
        request=message("Request", of("spec", "Spec")),
        others=(message("Inner", OTHER, *carried), *messages.values()),
    )
    try:
        loader.read(things, "test")
    except ContractError as error:
        # What a large door must be besides is another rule's matter.
        wanted = f"{PACKAGE}.ThingService/Hand: max_request_bytes is {room}"
        return any(problem.startswith(wanted) for problem in error.problems)
    return False


SMALL = message("Spec", ruled(field("text"), "string", max_len=100))
LARGE = message("Spec", ruled(field("text"), "string", max_bytes=10 * DOOR))
ENDLESS = message("Spec", field("text"))


def test_a_small_message_needs_what_its_fields_take_and_what_the_request_adds() -> None:
    needed = 4 * 100 + 1_000
    assert refused(needed, of("spec", "Spec"), spec=SMALL)
    assert not refused(needed + 3 * 8, of("spec", "Spec"), spec=SMALL)


@pytest.mark.parametrize("spec", [LARGE, ENDLESS])
def test_a_large_message_needs_what_its_door_takes_completed_and_what_the_request_adds(
    spec: DescriptorProto,
) -> None:
    needed = DOOR + COMPLETION_BYTES + 1_000
    assert refused(DOOR, of("spec", "Spec"), spec=spec)
    assert refused(needed, of("spec", "Spec"), spec=spec)
    assert not refused(needed + 2 * 8, of("spec", "Spec"), spec=spec)
    assert refused(needed + 2 * 8, of("spec", "Spec"), door=2 * DOOR, spec=spec)


def test_a_message_within_a_public_one_is_carried_as_well() -> None:
    outer = message("Spec", of("part", "Part"))
    part = message("Part", ruled(field("text"), "string", max_bytes=10 * DOOR))
    assert refused(DOOR, of("part", "Part"), spec=outer, part=part)


def test_many_of_a_message_take_as_much_as_there_may_be() -> None:
    pages = ruled(many(of("specs", "Spec")), "repeated", max_items=10)
    assert refused(10 * 400, pages, spec=SMALL)
    assert not refused(10 * (400 + 8) + 1_000 + 3 * 8, pages, spec=SMALL)


def test_what_is_only_answered_is_not_carried() -> None:
    told = of("spec", "Spec")
    extensions: Any = told.options.Extensions
    extensions[field_behavior].append(OUTPUT_ONLY)
    assert not refused(2_000, told, spec=ENDLESS)


def test_a_method_of_the_operator_alone_carries_nothing_that_a_user_sent() -> None:
    things = contract_of(
        service(method(), inner(1, audience=policy.Audience(services=["operator"]))),
        request=message("Request", of("spec", "Spec")),
        others=(message("Inner", of("spec", "Spec")), LARGE),
    )
    loader.read(things, "test")


def test_a_message_that_holds_itself_is_as_large_as_its_door_takes() -> None:
    tree = message("Spec", of("child", "Spec"))
    assert refused(DOOR, of("spec", "Spec"), spec=tree)


@pytest.mark.parametrize(
    ("path", "room"),
    [
        ("icto.token.v1.TokenService/DeployToken", 64 * 1024),
        ("icto.token.v1.TokenService/ValidateToken", 64 * 1024),
        ("icto.lock.v1.LockService/CreateLock", 1024 * 1024),
        ("icto.lock.v1.LockService/ValidateLock", 1024 * 1024),
        ("icto.distribution.v1.DistributionService/CreateDistribution", 1024 * 1024),
        ("icto.distribution.v1.DistributionService/ValidateDistribution", 1024 * 1024),
    ],
)
def test_our_contract_is_refused_where_a_launch_fits_and_its_part_does_not(
    path: str, room: int
) -> None:
    files = FileDescriptorSet.FromString(descriptor_bytes())
    wanted, _, name = path.partition("/")
    (one,) = (
        each
        for file in files.file
        for service_ in file.service
        if f"{file.package}.{service_.name}" == wanted
        for each in service_.method
        if each.name == name
    )
    extensions: Any = one.options.Extensions
    extensions[policy.method].max_request_bytes = room
    with pytest.raises(ContractError, match=f"{path}: max_request_bytes is {room}"):
        loader.read(files, "test")
