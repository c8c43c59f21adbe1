"""Principals of a request are written in lower case, however deep they lie, and nothing else is."""

from typing import Final

import pytest

from contract.principal import of_service
from icto.distribution.v1 import distribution_pb2 as pb
from icto.events.v1 import events_pb2 as events
from icto.ledger.v1 import ledger_pb2
from icto.payment.v1 import payment_pb2
from services.kit.serving import spelling

LOW: Final = of_service("lab")
LOUD: Final = LOW.upper()


@pytest.mark.parametrize("told", [LOW, LOUD, LOW.title(), "", "Not-A-Principal", "AAAAA-AA"])
def test_a_principal_is_kept_in_one_spelling_and_other_texts_stay(told: str) -> None:
    request = ledger_pb2.GetAccountRequest(name=told)
    spelling.lower_principals(request, request.SerializeToString())
    one = LOW if told.lower() == LOW else told.lower() if told == "AAAAA-AA" else told
    assert request.name == one


def test_principals_are_found_in_messages_and_lists_of_them() -> None:
    request = pb.AddRecipientsRequest(
        name="Some-List",
        page=3,
        recipients=[pb.Recipient(principal=who, amount="7") for who in (LOUD, LOW)],
    )
    spelling.lower_principals(request, request.SerializeToString())
    assert [one.principal for one in request.recipients] == [LOW, LOW]
    assert (request.name, request.page, request.recipients[0].amount) == ("Some-List", 3, "7")


def test_a_list_of_texts_is_looked_through_and_a_map_is_left_alone() -> None:
    """What a map holds are facts of ours, not names that a caller gives."""
    act = events.Act(principal=LOUD, details={"who": LOUD})
    spelling.lower_principals(act, act.SerializeToString())
    assert (act.principal, act.details["who"]) == (LOW, LOUD)
    settled = payment_pb2.SettlePaymentRequest(delivered_steps=[LOUD, "Lock_1"])
    spelling.lower_principals(settled, settled.SerializeToString())
    assert list(settled.delivered_steps) == [LOW, "Lock_1"]


def test_a_request_without_capitals_in_a_group_is_not_looked_through() -> None:
    request = ledger_pb2.GetAccountRequest(name=LOUD)
    spelling.lower_principals(request, b"no capital before a hyphen")
    assert request.name == LOUD
