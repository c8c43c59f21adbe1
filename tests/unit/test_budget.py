"""What a call to another service may take of what its caller has left."""

import math

import pytest

from contract import loader
from contract.errors import Code, Error
from services.kit.calling import client, deadline

VERIFY = loader.load("test").method("/icto.audit.v1.AuditService/VerifyChain")


def rounded_up(seconds: float) -> float:
    """A deadline as gRPC's core writes it: hundredths from one second on, tenths from ten."""
    digits = 3 if seconds < 1 else 2 if seconds < 10 else 1
    return math.ceil(seconds * 10.0**digits) / 10.0**digits


@pytest.mark.parametrize("left", [0.05, 0.999, 1.0, 1.999, 9.99, 10.01, 15.0, 29.99])
def test_the_next_hop_gets_less_even_when_rounded_up(left: float) -> None:
    with deadline.within(left):
        budget = client._budget(VERIFY, None)

    assert 0 < rounded_up(budget) < left


def test_a_hop_never_gets_more_than_its_contract_allows() -> None:
    with deadline.within(3600):
        assert client._budget(VERIFY, 3600) == VERIFY.deadline_ceiling
    assert client._budget(VERIFY, None) == VERIFY.deadline


def test_a_call_that_cannot_come_back_in_time_is_not_made() -> None:
    with deadline.within(0.005), pytest.raises(Error) as caught:
        client._budget(VERIFY, None)

    assert caught.value.code is Code.DEADLINE_EXCEEDED
