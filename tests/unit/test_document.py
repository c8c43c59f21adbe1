"""YAML as a message: what is read, and how a mistake is told."""

from pathlib import Path

import pytest

from icto.backend.v1 import launches_pb2 as pb
from icto.lock.v1 import lock_pb2
from mesh.cli import document
from mesh.cli.document import DocumentError

EXAMPLE = Path(__file__).parents[2] / "examples" / "launch.yaml"


def read(text: str) -> pb.LaunchSpec:
    return document.read(text, pb.LaunchSpec(), "f.yaml").message


def test_the_example_is_a_launch_of_a_token_two_locks_and_three_categories() -> None:
    spec = document.read(EXAMPLE.read_text(), pb.LaunchSpec(), str(EXAMPLE)).message
    assert (spec.new_token.symbol, len(spec.locks)) == ("HARBOUR", 2)
    (distribution,) = spec.distributions
    assert [category.id for category in distribution.categories] == [1, 2, 3]
    assert spec.locks[0].type == lock_pb2.LOCK_TYPE_TEAM
    assert spec.locks[0].schedule.cliff.cliff_duration.seconds == 180 * 86400
    assert spec.new_token.total_supply == "100000000000000"


def test_fields_have_either_of_their_names() -> None:
    assert read("display_name: x\nlocks: [{total_amount: 5}]") == read(
        "displayName: x\nlocks: [{totalAmount: '5'}]"
    )


def test_an_empty_message_is_there_when_it_is_written() -> None:
    assert read("locks: [{schedule: {instant: {}}}]").locks[0].schedule.HasField("instant")


def test_a_place_is_that_of_the_closest_field() -> None:
    found = document.read("token: t\nlocks:\n- display_name: a\n", pb.LaunchSpec(), "f.yaml")
    assert found.place("locks[0].schedule.linear") == "f.yaml:3"
    assert found.place("locks[4]") == "f.yaml:2"
    assert found.place("new_token") == "f.yaml"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "f.yaml is empty."),
        ("a: [", "f.yaml:2: "),
        ("a: 1\n---\nb: 1", "f.yaml:2: but found another document"),
        ("x: \x01", "f.yaml: "),
        ("- 1", "f.yaml:1: the document must be a table of fields."),
        ("\nnme: x", "f.yaml:2: the document has no field 'nme'; it has display_name, "),
        ("? [1]\n: 2", "f.yaml:1: the document has no field of that kind; "),
        ("new_token: 3", "f.yaml:1: new_token must be a table of fields."),
        ("display_name: [1]", "f.yaml:1: display_name must be a single value."),
        ("display_name: x\ndisplayName: y", "f.yaml:2: display_name is written twice."),
        ("token: a\nlaunch: b", "f.yaml:2: launch cannot stand beside token."),
        ("locks: {}", "f.yaml:1: locks must be a list."),
        ("locks:\n- total_amount:", "f.yaml:2: locks[0].total_amount has no value."),
        ("locks: [{type: TEAM}]", "locks[0].type must be one of LOCK_TYPE_TEAM, "),
        ("locks: [{revocable: 1}]", "locks[0].revocable must be true or false."),
        ("locks: [{start_time: soon}]", "start_time must be written as 2027-01-31T12:00:00Z."),
        (
            "locks: [{schedule: {single: {duration: 3 days}}}]",
            "locks[0].schedule.single.duration must be written as 86400s.",
        ),
        ("new_token: {decimals: many}", "new_token.decimals must be a whole number."),
        ("new_token: {decimals: 4294967296}", "new_token.decimals is out of range."),
        (
            "new_token: {minting_account: {subaccount: '#'}}",
            "new_token.minting_account.subaccount must be written in base64.",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, told: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read(text)
    assert told in str(caught.value)


def test_a_short_text_cannot_stand_for_an_endless_one() -> None:
    lock = "&l {beneficiaries: [" + "*b, " * 999 + "*b]}"
    bomb = f"locks: [{{beneficiaries: [&b {{principal: x}}]}}, {lock}, " + "*l, " * 200 + "*l]"
    with pytest.raises(DocumentError, match="is too large"):
        read(bomb)
    nested = "distributions: [{categories: [{pool: {eligibility: &e {hybrid: {all: [*e]}}}}]}]"
    with pytest.raises(DocumentError):
        read(nested)
