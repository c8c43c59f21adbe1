"""Requests are held to what their protos say, and every field that is wrong is named."""

from typing import Any

import pytest
from google.protobuf.message import Message

from contract.errors import Code, Error
from icto.audit.v1 import audit_pb2
from icto.backend.v1 import projects_pb2
from icto.ledger.v1 import ledger_pb2
from icto.token.v1 import token_pb2
from icto.vesting.v1 import vesting_pb2
from services.kit.serving.validation import RequestValidator

VALIDATOR = RequestValidator()
SPEC: dict[str, Any] = {"display_name": "A token", "symbol": "TOK", "total_supply": "1"}


def wrong(request: Message) -> dict[str, str]:
    with pytest.raises(Error) as caught:
        VALIDATOR.check(request)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return dict(caught.value.violations)


def deploy(**changes: Any) -> token_pb2.DeployTokenRequest:
    spec = token_pb2.TokenSpec(**SPEC | changes)
    return token_pb2.DeployTokenRequest(request_id="r", operation="o", spec=spec)


def test_a_request_as_its_proto_says_passes() -> None:
    VALIDATOR.check(deploy())


def test_an_empty_request_names_everything_that_is_required() -> None:
    assert wrong(token_pb2.DeployTokenRequest()) == dict.fromkeys(
        ("request_id", "operation", "spec"), "is required"
    )


def test_what_is_required_inside_is_named_by_its_path() -> None:
    balance = ledger_pb2.InitialBalance(amount="1")
    told = wrong(deploy(symbol="", initial_balances=[balance]))
    assert told == {"spec.symbol": "is required", "spec.initial_balances[0].account": "is required"}


def test_bounds_are_checked_at_every_depth() -> None:
    account = ledger_pb2.Account(owner="x" * 64, subaccount=bytes(33))
    holder = ledger_pb2.InitialBalance(account=account, amount="1")
    told = wrong(
        deploy(decimals=19, symbol="x" * 17, minting_account=account, initial_balances=[holder])
    )
    assert set(told) == {
        "spec.initial_balances[0].account.owner",
        "spec.initial_balances[0].account.subaccount",
        "spec.decimals",
        "spec.symbol",
        "spec.minting_account.owner",
        "spec.minting_account.subaccount",
    }


def test_text_with_a_null_character_is_refused_by_its_path() -> None:
    project = projects_pb2.Project(display_name="a\0b", description="\0")
    told = wrong(projects_pb2.CreateProjectRequest(request_id="r\0", project=project))
    names = ("request_id", "project.display_name", "project.description")
    assert told == dict.fromkeys(names, "must not hold U+0000")


def test_bytes_may_hold_anything() -> None:
    request = ledger_pb2.TransferRequest(
        request_id="r", ledger="l", to=ledger_pb2.Account(owner="o"), amount="1", memo=b"\0"
    )
    VALIDATOR.check(request)


YEAR_1, YEAR_9999 = -62_135_596_800, 253_402_300_799


@pytest.mark.parametrize(
    ("seconds", "nanos", "right"),
    [
        (YEAR_1, 0, True),
        (YEAR_9999, 999_999_999, True),
        (-1, 5, True),
        (YEAR_1 - 1, 0, False),
        (YEAR_9999 + 1, 0, False),
        (2**50, 0, False),
        (-(2**63), 0, False),
        (0, -1, False),
        (0, 10**9, False),
    ],
)
def test_a_time_is_one_of_the_years_that_there_are(seconds: int, nanos: int, right: bool) -> None:
    request = audit_pb2.ListEntriesRequest()
    request.start_time.seconds, request.start_time.nanos = seconds, nanos
    if right:
        VALIDATOR.check(request)
        request.start_time.ToDatetime()
    else:
        assert wrong(request) == {"start_time": "must be in the years 1 to 9999"}


@pytest.mark.parametrize(
    ("seconds", "nanos", "right"),
    [
        (315_576_000_000, 0, True),
        (-315_576_000_000, 0, True),
        (-1, -999_999_999, True),
        (315_576_000_001, 0, False),
        (-(2**63), 0, False),
        (1, -1, False),
        (0, 10**9, False),
    ],
)
def test_a_duration_is_one_that_can_be_meant(seconds: int, nanos: int, right: bool) -> None:
    schedule = vesting_pb2.Schedule()
    schedule.linear.duration.seconds, schedule.linear.duration.nanos = seconds, nanos
    found = dict(VALIDATOR._walk(schedule, ""))
    assert ("linear.duration" in found) != right


def test_a_long_list_of_mistakes_is_cut() -> None:
    account = ledger_pb2.InitialBalance(amount="1")
    with pytest.raises(Error) as caught:
        VALIDATOR.check(deploy(initial_balances=[account] * 100))
    assert len(caught.value.violations) == 20
