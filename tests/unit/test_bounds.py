"""Every field of every request has a bound, or the contract is refused by method and field."""

from typing import Any

import pytest
from buf.validate import validate_pb2
from google.api.field_behavior_pb2 import OUTPUT_ONLY, field_behavior
from google.protobuf.descriptor_pb2 import DescriptorProto, MessageOptions

from contract import bounds, loader
from contract.model import ContractError
from tests.support.protos import PACKAGE, Field, contract_of, field, message, method, service

STRING, BYTES, MESSAGE = Field.TYPE_STRING, Field.TYPE_BYTES, Field.TYPE_MESSAGE


def ruled(one: Field, kind: str, **rules: Any) -> Field:
    """The field with `buf.validate` rules."""
    extensions: Any = one.options.Extensions
    for name, value in rules.items():
        setattr(getattr(extensions[validate_pb2.field], kind), name, value)
    return one


def many(one: Field) -> Field:
    one.label = Field.LABEL_REPEATED
    return one


def of(name: str, target: str) -> Field:
    return field(name, MESSAGE, type_name=f".{PACKAGE}.{target}")


def map_entry(name: str) -> DescriptorProto:
    entry = message(name, field("key"), field("value"))
    entry.options.CopyFrom(MessageOptions(map_entry=True))
    return entry


def problems(*fields: Field, others: tuple[DescriptorProto, ...] = ()) -> list[str]:
    descriptors = contract_of(service(method()), request=message("Request", *fields), others=others)
    try:
        bounds.check(loader.read(descriptors, "test"))
    except ContractError as error:
        return [
            problem.removeprefix(f"{PACKAGE}.ThingService/GetThing: ") for problem in error.problems
        ]
    return []


@pytest.mark.parametrize(
    "one",
    [
        field("x", STRING),
        field("x", BYTES),
        many(field("x", Field.TYPE_INT32)),
        ruled(many(field("x", STRING)), "string", max_len=3),
        ruled(field("x", STRING), "string", min_len=3),
        ruled(field("x", BYTES), "bytes", min_len=3),
        ruled(many(field("x", Field.TYPE_INT32)), "repeated", min_items=1),
    ],
)
def test_a_field_without_a_bound_is_refused_by_name(one: Field) -> None:
    assert problems(one) == ["x has no bound"]


@pytest.mark.parametrize(
    "one",
    [
        ruled(field("x", STRING), "string", max_len=3),
        ruled(field("x", STRING), "string", max_bytes=3),
        ruled(field("x", STRING), "string", len=3),
        ruled(field("x", STRING), "string", len_bytes=3),
        ruled(field("x", STRING), "string", uuid=True),
        ruled(field("x", STRING), "string", const="x"),
        ruled(field("x", BYTES), "bytes", max_len=3),
        ruled(field("x", BYTES), "bytes", len=3),
        ruled(field("x", BYTES), "bytes", const=b"x"),
        ruled(many(field("x", STRING)), "repeated", max_items=3),
        field("x", Field.TYPE_INT64),
        field("x", Field.TYPE_BOOL),
        field("x", MESSAGE, type_name=".google.protobuf.Timestamp"),
    ],
)
def test_a_field_with_a_bound_is_accepted(one: Field) -> None:
    assert problems(one) == []


def test_a_map_is_bounded_by_its_pairs() -> None:
    entry = map_entry("Pairs")
    unbounded, bounded = many(of("x", "Pairs")), ruled(many(of("y", "Pairs")), "map", max_pairs=3)
    assert problems(unbounded, bounded, others=(entry,)) == ["x has no bound"]


def test_what_is_only_answered_needs_no_bound() -> None:
    answered = field("x", STRING)
    extensions: Any = answered.options.Extensions
    extensions[field_behavior].append(OUTPUT_ONLY)
    assert problems(answered) == []


def test_a_field_deep_inside_is_named_by_its_path() -> None:
    leaf = message("Leaf", field("text"))
    branch = message("Branch", ruled(many(of("leaves", "Leaf")), "repeated", max_items=2))
    told = problems(of("branch", "Branch"), others=(leaf, branch))
    assert told == ["branch.leaves.text has no bound"]


def test_a_message_inside_a_message_is_looked_into() -> None:
    outer = message("Outer", of("inner", "Outer.Inner"), nested=(message("Inner", field("text")),))
    assert problems(of("outer", "Outer"), others=(outer,)) == ["outer.inner.text has no bound"]


def test_a_message_that_holds_itself_ends() -> None:
    tree = message("Tree", of("child", "Tree"), field("text"))
    assert problems(of("tree", "Tree"), others=(tree,)) == ["tree.text has no bound"]


def test_requests_of_others_are_theirs_to_bound() -> None:
    """The gateway's health and reflection come with protos of their own."""
    loaded = loader.load("production")
    assert any(not m.request_type.startswith("icto.") for m in loaded.methods())
    bounds.check(loaded)


def test_every_problem_is_told_at_once() -> None:
    assert problems(field("x"), field("y")) == ["x has no bound", "y has no bound"]
