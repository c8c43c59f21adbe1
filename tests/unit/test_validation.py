"""Requests are held to what their protos say, and every field that is wrong is named."""

from typing import Any

import pytest
from google.protobuf.message import Message

from icto.backend.v1 import projects_pb2
from icto.ledger.v1 import ledger_pb2
from icto.token.v1 import token_pb2
from services.kit.errors import Code, Error
from services.kit.validation import RequestValidator

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


def test_a_long_list_of_mistakes_is_cut() -> None:
    account = ledger_pb2.InitialBalance(amount="1")
    with pytest.raises(Error) as caught:
        VALIDATOR.check(deploy(initial_balances=[account] * 100))
    assert len(caught.value.violations) == 20


@pytest.mark.parametrize(("seconds", "nanos"), [(253402300800, 0), (2**62, 0), (1, -1), (1, 10**9)])
def test_a_time_that_is_none_is_named(seconds: int, nanos: int) -> None:
    """The wire carries any two numbers."""
    request = ledger_pb2.ApproveRequest(
        request_id="r", ledger="l", amount="1", spender=ledger_pb2.Account(owner="o")
    )
    VALIDATOR.check(request)
    request.expire_time.seconds, request.expire_time.nanos = seconds, nanos
    assert wrong(request) == {"expire_time": "is out of range"}
