"""The largest that an answer can be follows from the bounds of its fields, and is never passed."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf
from typing import Any

import pytest
from buf.validate import validate_pb2
from google.api.field_behavior_pb2 import OUTPUT_ONLY, REQUIRED, field_behavior
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, MethodDescriptorProto
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from contract import loader
from contract.errors import Code, Error
from contract.fields import DEFAULT_TEXT
from contract.limits import LARGEST_ANSWER, PAGE_BYTES, PAGE_SIZE_LIMIT
from contract.method import Method
from contract.model import ContractError
from contract.sizes import Size
from icto.policy.v1 import policy_pb2 as policy
from icto.token.v1 import token_pb2
from mesh.cli.call import load_messages, message_class
from services.kit.answering import paging
from services.kit.serving import answers
from services.kit.serving.answers import json_bytes, json_bytes_at_most
from services.kit.serving.summaries import summarize
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

STRING, BYTES, MESSAGE = Field.TYPE_STRING, Field.TYPE_BYTES, Field.TYPE_MESSAGE
CONTRACT = loader.load("test")
load_messages(CONTRACT)
ANSWERS = [m for m in CONTRACT.methods() if m.response_type.startswith("icto.")]
LISTS = [m for m in ANSWERS if m.lists]


def ruled(one: Field, kind: str, **rules: Any) -> Field:
    """The field with `buf.validate` rules."""
    extensions: Any = one.options.Extensions
    for name, value in rules.items():
        setattr(getattr(extensions[validate_pb2.field], kind), name, value)
    return one


def many(one: Field, most: int = 0) -> Field:
    """The field, repeated, so often at most; 0 is as often as one likes."""
    one.label = Field.LABEL_REPEATED
    return ruled(one, "repeated", max_items=most) if most else one


def of(name: str, target: str) -> Field:
    """A field of another message."""
    return field(name, MESSAGE, type_name=f".{PACKAGE}.{target}")


def behaves(one: Field, behavior: Any) -> Field:
    """The field with a field_behavior."""
    extensions: Any = one.options.Extensions
    extensions[field_behavior].append(behavior)
    return one


def largest_of(
    *fields: Field,
    others: tuple[DescriptorProto, ...] = (),
    request: DescriptorProto | None = None,
    one: MethodDescriptorProto | None = None,
) -> Size:
    """The largest answer of a method that answers with these fields."""
    descriptors = contract_of(service(one or method()), request=request, others=others)
    response = descriptors.file[0].message_type[1]
    response.CopyFrom(message("Response", *fields))
    (found,) = loader.read(descriptors, "test").largest_answers.values()
    return found


def problem(*fields: Field, **more: Any) -> str:
    """Why the contract is refused."""
    with pytest.raises(ContractError) as caught:
        largest_of(*fields, **more)
    (only,) = caught.value.problems
    return only.removeprefix(f"{PACKAGE}.ThingService/GetThing: ")


@pytest.mark.parametrize(
    "one",
    [
        field("x", BYTES),
        many(field("x", Field.TYPE_INT32)),
        many(ruled(field("x", STRING), "string", max_len=3)),
        many(of("x", "Leaf")),
    ],
)
def test_an_answer_without_a_bound_is_refused_by_field(one: Field) -> None:
    assert problem(one, others=(message("Leaf"),)).startswith("nothing bounds its answer: x")


def test_what_has_no_bound_deep_inside_is_named_by_its_path() -> None:
    leaf = message("Leaf", field("text", BYTES))
    branch = message("Branch", many(of("leaves", "Leaf"), 2))
    told = problem(of("branch", "Branch"), others=(leaf, branch))
    assert told == "nothing bounds its answer: branch.leaves.text"


def test_a_message_that_holds_itself_has_no_bound() -> None:
    tree = message("Tree", of("child", "Tree"))
    assert problem(of("tree", "Tree"), others=(tree,)).startswith("nothing bounds its answer")


def test_an_answer_larger_than_what_every_hop_takes_is_refused() -> None:
    too_large = ruled(field("x", BYTES), "bytes", max_len=int(LARGEST_ANSWER.wire))
    assert "4194304 are what every hop takes" in problem(too_large)


def test_an_answer_that_is_too_large_as_json_alone_is_refused_where_rest_has_it() -> None:
    names = [f"a_number_with_a_name_of_some_length_{n}" for n in range(10)]
    leaf = message("Leaf", *(field(name, Field.TYPE_BOOL) for name in names))
    leaves = many(of("leaves", "Leaf"), 100_000)
    assert "bytes of JSON" in problem(leaves, others=(leaf,))
    inside = method(audience=policy.Audience(services=["things"]), http=NO_HTTP)
    assert largest_of(leaves, others=(leaf,), one=inside).json > LARGEST_ANSWER.json


@pytest.mark.parametrize(
    ("one", "least", "most"),
    [
        (field("x"), DEFAULT_TEXT, 12 * DEFAULT_TEXT),
        (ruled(field("x"), "string", max_len=10), 4 * 10, 12 * 10),
        (ruled(field("x"), "string", max_bytes=10), 10, 6 * 10),
        (ruled(field("x"), "string", len=10), 4 * 10, 12 * 10),
        (ruled(field("x"), "string", uuid=True), 36, 36),
        (ruled(field("x"), "string", const="constant"), 4 * 8, 12 * 8),
        (ruled(field("x", BYTES), "bytes", max_len=30), 30, 40),
        (ruled(field("x", BYTES), "bytes", len=30), 30, 40),
        (ruled(field("x", BYTES), "bytes", const=b"bytes"), 5, 8),
        (many(field("x", Field.TYPE_INT64), 100), 1000, 2200),
        (field("x", Field.TYPE_BOOL), 1, 5),
        (field("x", Field.TYPE_INT64), 10, 22),
        (field("x", Field.TYPE_DOUBLE), 8, 24),
    ],
)
def test_a_bound_is_what_a_field_may_hold(one: Field, least: int, most: int) -> None:
    """On the wire, and as JSON, where one byte of text may be six characters."""
    largest = largest_of(one)
    assert least <= largest.wire <= least + 3000 * (one.name == "x" and least == DEFAULT_TEXT) + 110
    assert most <= largest.json <= most + 320


def test_what_callers_send_is_no_larger_than_their_request() -> None:
    """Ten thousand texts of a thousand characters do not fit into its 64 KiB."""
    leaf = message("Leaf", ruled(field("text"), "string", max_len=1000))
    spec = message("Spec", many(of("leaves", "Leaf"), 10_000))
    request = message("Request", of("spec", "Spec"))
    largest = largest_of(of("spec", "Spec"), others=(leaf, spec), request=request)
    assert 64 * 1024 <= largest.wire < 65 * 1024
    assert 6 * 64 * 1024 <= largest.json < 8 * 64 * 1024 + 1024


def test_what_a_service_adds_to_it_counts_beside_it() -> None:
    told = behaves(ruled(field("told"), "string", max_bytes=50_000), OUTPUT_ONLY)
    spec = message("Spec", ruled(field("text"), "string", max_len=1_000_000), told)
    request = message("Request", of("spec", "Spec"))
    largest = largest_of(of("spec", "Spec"), others=(spec,), request=request)
    assert largest.wire >= 64 * 1024 + 50_000


def test_a_field_that_must_be_set_takes_room_in_a_request() -> None:
    """Else messages of nothing but names would fill it, each with much JSON for two bytes."""

    def largest(*fields: Field) -> Size:
        step = message("Step", *fields)
        spec = message("Spec", many(of("steps", "Step"), 1_000_000))
        request = message("Request", of("spec", "Spec"))
        return largest_of(of("spec", "Spec"), others=(step, spec), request=request)

    number = Field.TYPE_UINT32
    free = largest(field("a_long_name", number))
    bound = largest(behaves(field("a_long_name", number), REQUIRED))
    assert bound.json < free.json / 1.5


def test_one_member_of_a_choice_counts_and_no_more() -> None:
    def choice(*names: str) -> DescriptorProto:
        made = message(
            "Choice",
            *(field(n, Field.TYPE_INT64, oneof_index=0) for n in names),
        )
        made.oneof_decl.add(name="kind")
        return made

    one = largest_of(of("x", "Choice"), others=(choice("aaaa"),))
    three = largest_of(of("x", "Choice"), others=(choice("aaaa", "bbbb", "cccc"),))
    assert one == three


def listed(element: DescriptorProto) -> Size:
    """The largest page of a list of these."""
    request = message("Request", field("page_size", Field.TYPE_INT32), field("page_token"))
    one = method("ListThings")
    return largest_of(
        many(of("things", "Thing")), field("next_page_token"), others=(element,), request=request,
        one=one,
    )  # fmt: skip


def test_a_page_is_bounded_by_its_number_or_by_its_bytes_and_one_more() -> None:
    small = listed(message("Thing", ruled(field("x", BYTES), "bytes", max_len=100)))
    assert PAGE_SIZE_LIMIT * 100 <= small.wire < PAGE_SIZE_LIMIT * 120 + 2000
    large = listed(message("Thing", ruled(field("x", BYTES), "bytes", max_len=1_000_000)))
    assert PAGE_BYTES + 1_000_000 <= large.wire < PAGE_BYTES + 1_002_000


def test_a_field_that_only_a_get_tells_takes_no_room_in_a_page() -> None:
    one = ruled(field("x", BYTES), "bytes", max_len=1_000_000)
    one.options.Extensions[policy.whole_by_get] = True
    assert listed(message("Thing", one)).wire < 10_000


# The contract of the platform.


@pytest.mark.parametrize("one", ANSWERS, ids=lambda m: m.full_name)
def test_every_answer_of_the_contract_fits_and_has_a_bound(one: Method) -> None:
    assert CONTRACT.largest_answers[one.path].wire <= LARGEST_ANSWER.wire
    assert CONTRACT.largest_answers[one.path].json < inf
    assert not one.http or CONTRACT.largest_answers[one.path].json <= LARGEST_ANSWER.json


KNOWN: dict[str, Message] = {
    Timestamp.DESCRIPTOR.full_name: Timestamp(seconds=253_402_300_799, nanos=999_999_999),
    Duration.DESCRIPTOR.full_name: Duration(seconds=-315_576_000_000, nanos=-999_999_999),
}
"""Messages that are written as a text, each as long as it can be."""


def filled(descriptor: Descriptor, depth: int = 6) -> Any:
    """A message with as much in each field as its bound allows, and one of what may be many."""
    made = message_class(descriptor.full_name)()
    for one in descriptor.fields:
        choice = one.containing_oneof
        if choice is not None and one is not choice.fields[-1]:
            continue
        if one.message_type is None:
            value = most(one)
            if one.is_repeated:
                getattr(made, one.name).append(value)
            else:
                setattr(made, one.name, value)
        elif depth and not is_open(one.message_type):
            inner = KNOWN.get(one.message_type.full_name) or filled(one.message_type, depth - 1)
            target = getattr(made, one.name)
            if one.is_repeated:
                target.add().CopyFrom(inner)
            else:
                target.CopyFrom(inner)
    return made


def is_open(kind: Descriptor) -> bool:
    """Whether a message is a map's, or of any type."""
    return kind.GetOptions().map_entry or kind.full_name == AnyMessage.DESCRIPTOR.full_name


def most(one: FieldDescriptor) -> Any:
    """The largest value of a field."""
    extensions: Any = one.GetOptions().Extensions
    rules = extensions[validate_pb2.field]
    rules = rules.repeated.items if one.is_repeated else rules
    if one.type == FieldDescriptor.TYPE_STRING:
        text = rules.string
        return "<" * (text.max_bytes or text.max_len or text.len or DEFAULT_TEXT)
    if one.type == FieldDescriptor.TYPE_BYTES:
        return b"\xff" * (rules.bytes.max_len or rules.bytes.len or 32)
    if one.enum_type is not None:
        return max(one.enum_type.values, key=lambda value: len(value.name)).number
    return {
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_DOUBLE: 1.2345678901234567e-300,
        FieldDescriptor.CPPTYPE_FLOAT: 1.0,
    }.get(one.cpp_type, 2**31 - 1)


def response_of(one: Method) -> Any:
    """The message that a method answers with."""
    descriptor: Any = message_class(one.response_type).DESCRIPTOR
    return descriptor


def elements() -> Iterator[Any]:
    for one in LISTS:
        (field_,) = (f for f in response_of(one).fields if f.message_type is not None)
        yield pytest.param(one, field_, id=one.full_name)


@pytest.mark.parametrize(("one", "field_"), list(elements()))
def test_the_largest_page_of_every_list_fits_and_carries_summaries(
    one: Method, field_: FieldDescriptor
) -> None:
    """Derived from the contract: whichever list is added is tried."""
    assert field_.message_type is not None
    element = filled(field_.message_type)
    rows = list(range(PAGE_SIZE_LIMIT + 1))
    copies = []
    for _ in rows:
        copies.append(type(element)())
        copies[-1].CopyFrom(element)
    page, token = paging.page(rows, copies, PAGE_SIZE_LIMIT, lambda row: f"after {row}")
    assert token == f"after {len(page) - 1}"
    answer = message_class(one.response_type)(
        **{field_.name: page, "next_page_token": "t" * DEFAULT_TEXT}
    )
    assert json_bytes(answer) <= CONTRACT.largest_answers[one.path].json
    assert answer.ByteSize() <= CONTRACT.largest_answers[one.path].wire
    assert not list(large_fields(page[0]))
    assert page[0].ListFields()


def large_fields(message_: Message) -> Iterator[str]:
    """Names of fields that are set though a list leaves them out."""
    for one, value in message_.ListFields():
        extensions: Any = one.GetOptions().Extensions
        if extensions[policy.whole_by_get]:
            yield one.full_name
        elif one.message_type is not None and not one.message_type.GetOptions().map_entry:
            for inner in value if one.is_repeated else [value]:
                yield from large_fields(inner)


@pytest.mark.parametrize("one", ANSWERS, ids=lambda m: m.full_name)
def test_no_answer_passes_what_the_contract_says_of_it(one: Method) -> None:
    answer = filled(response_of(one), depth=3 if one.lists else 6)
    if one.lists:
        summarize(answer)
    if answer.ByteSize() > one.max_request_bytes:
        return  # more than a request can carry: not what the bound is of
    assert answer.ByteSize() <= CONTRACT.largest_answers[one.path].wire
    assert json_bytes(answer) <= CONTRACT.largest_answers[one.path].json
    summarize(answer)
    assert json_bytes(answer) <= json_bytes_at_most(answer)


def test_an_answer_past_every_bound_is_refused_before_it_is_sent() -> None:
    """On the wire for all; as JSON where REST callers have the method."""
    wire = int(LARGEST_ANSWER.wire)
    one = CONTRACT.method("/icto.token.v1.TokenService/GetToken")
    answers.check(one, token_pb2.Token(name="x" * (wire - 8)).SerializeToString())
    with pytest.raises(Error) as caught:
        answers.check(one, token_pb2.Token(name="x" * wire).SerializeToString())
    assert (caught.value.code, caught.value.reason) == (Code.INTERNAL, "RESPONSE_TOO_LARGE")
    raw = token_pb2.Token(name="<" * (wire - 8)).SerializeToString()
    assert len(raw) <= wire
    with pytest.raises(Error) as caught:
        answers.check(one, raw)
    assert caught.value.reason == "RESPONSE_TOO_LARGE"
    answers.check(replace(one, http=()), raw)


def test_the_fields_that_only_a_get_tells_are_those_that_may_be_large() -> None:
    """Pinned: whoever adds to this list explains it here, since a released list loses a field."""
    named = {
        f"{package}.{one.name}.{field_.name}"
        for file in CONTRACT.descriptors.file
        if (package := file.package).startswith("icto.")
        for one in file.message_type
        for field_ in one.field
        if field_.options.Extensions[policy.whole_by_get]
    }
    assert named == {
        "icto.audit.v1.DeadLetter.event",
        "icto.distribution.v1.Whitelist.recipients",
        "icto.events.v1.Event.data",
        "icto.lock.v1.LockSpec.beneficiaries",
        "icto.token.v1.TokenSpec.initial_balances",
        "icto.token.v1.TokenSpec.logo",
    }
