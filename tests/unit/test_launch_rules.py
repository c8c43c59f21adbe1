"""Whether an escrow covers a launch, and who may take what out of it."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import ids
from contract.errors import Error
from contract.units import Unit
from services.backend.launches import domain
from services.backend.launches.domain import (
    BASE_FEE,
    CREATE_TOKEN,
    TAKE_IN,
    Coverage,
    Launch,
    Outcome,
    Shape,
)
from services.kit.journal.model import PipelineState, StepRecord, StepState

SHAPE = Shape(CREATE_TOKEN, locks=1, distributions=0)
TOKEN = f"tokens/{UUID(int=1)}"


def ended(**changes: Any) -> Launch:
    """A launch that left something in escrow."""
    standard: dict[str, Any] = {"token": TOKEN, "ended": True}
    return Launch(UUID(int=1), "ann", None, b"", SHAPE, "trace", **standard | changes)


def refusal(check: Any, *arguments: Any) -> str:
    """Why it is refused; "" when it is not."""
    try:
        check(*arguments)
    except Error as error:
        return error.reason
    return ""


@pytest.mark.parametrize(
    ("supply", "outcome"),
    [
        (0, "ESCROW_NOT_COVERED"),
        (321, "ESCROW_NOT_COVERED"),
        (322, Coverage(322, 0)),
        (323, "REMAINDER_TOO_SMALL"),
        (333, "REMAINDER_TOO_SMALL"),
        (334, Coverage(322, 1)),
    ],
)
def test_a_supply_covers_its_parts_and_a_fee_for_each(supply: int, outcome: Coverage | str) -> None:
    if isinstance(outcome, Coverage):
        assert domain.coverage(supply, (100, 200), 11) == outcome
    else:
        assert refusal(domain.coverage, supply, (100, 200), 11) == outcome


@given(st.integers(0, 10**39), st.lists(st.integers(1, 10**38), max_size=15), st.integers(0, 10**6))
def test_what_is_accepted_is_shared_out_to_the_unit(
    supply: int, amounts: list[int], fee: int
) -> None:
    try:
        covered = domain.coverage(supply, amounts, fee)
    except Error:
        return
    last = fee if covered.remainder else 0
    assert covered.taken + covered.remainder + last == supply
    assert covered.remainder >= 0


def test_only_its_owner_launches_a_token() -> None:
    assert not refusal(domain.check_owner, "ann", "ann")
    assert refusal(domain.check_owner, "ben", "ann") == "NOT_TOKEN_OWNER"
    assert refusal(domain.check_owner, "ann", "") == "NOT_TOKEN_OWNER"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"ended": False}, "LAUNCH_OPEN"),
        ({"ended": False, "token": ""}, "LAUNCH_OPEN"),
        ({"token": ""}, "NOTHING_TO_WITHDRAW"),
        ({"drawn_by": UUID(int=2)}, "ESCROW_BUSY"),
        ({"withdrawal": UUID(int=3)}, "WITHDRAWAL_UNDER_WAY"),
    ],
)
def test_an_escrow_that_nobody_uses_may_be_withdrawn_and_drawn_on(
    changes: dict[str, Any], reason: str
) -> None:
    launch = ended(**changes)
    assert refusal(domain.check_withdrawable, launch) == reason
    assert refusal(domain.check_drawable, launch, 10, 10) == reason


def test_no_more_is_drawn_than_lies_there() -> None:
    assert refusal(domain.check_drawable, ended(), 9, 10) == "ESCROW_NOT_COVERED"


def test_what_cannot_pay_the_ledgers_fee_is_not_withdrawn() -> None:
    assert domain.payout_of(11, 10) == 1
    assert refusal(domain.payout_of, 10, 10) == "NOTHING_TO_WITHDRAW"


@pytest.mark.parametrize(
    ("allowance", "balance", "reason"),
    [(10, 10, ""), (9, 10, "INSUFFICIENT_ALLOWANCE"), (10, 9, "INSUFFICIENT_FUNDS")],
)
def test_what_is_taken_of_an_owner_must_be_there_and_allowed(
    allowance: int, balance: int, reason: str
) -> None:
    assert refusal(domain.check_takeable, allowance, balance, 10, Unit("T", 0)) == reason


def test_a_token_that_exists_needs_something_to_launch() -> None:
    assert refusal(domain.check_parts, Shape(domain.TAKE_IN, 0, 0)) == "INVALID_FIELD"
    for shape in (Shape(CREATE_TOKEN, 0, 0), Shape(domain.TAKE_IN, 1, 0)):
        domain.check_parts(shape)


@pytest.mark.parametrize(
    ("state", "nothing", "something"),
    [
        (PipelineState.QUEUED, Outcome.PENDING, Outcome.PENDING),
        (PipelineState.RUNNING, Outcome.IN_PROGRESS, Outcome.IN_PROGRESS),
        (PipelineState.PARKED, Outcome.IN_PROGRESS, Outcome.IN_PROGRESS),
        (PipelineState.SUCCEEDED, Outcome.SUCCEEDED, Outcome.SUCCEEDED),
        (PipelineState.FAILED, Outcome.FAILED, Outcome.PARTIALLY_SUCCEEDED),
        (PipelineState.CANCELLED, Outcome.CANCELLED, Outcome.PARTIALLY_SUCCEEDED),
    ],
)
def test_how_a_launch_stands_follows_from_its_pipeline_and_what_was_delivered(
    state: PipelineState, nothing: Outcome, something: Outcome
) -> None:
    assert domain.outcome(state, anything=False) == nothing
    assert domain.outcome(state, anything=True) == something


@pytest.mark.parametrize(
    ("limit", "chosen", "share"), [(150, 0, 15), (19, 0, 1), (1, 0, 1), (150, 40, 40), (3, 40, 3)]
)
def test_a_user_has_the_share_that_is_chosen_or_a_tenth(
    limit: int, chosen: int, share: int
) -> None:
    assert domain.share_of_places(limit, chosen) == share


def record(step: str, state: StepState, result: bytes = b"") -> StepRecord:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return StepRecord(step, state, 1, moment, moment, "backend-1", result)


def test_a_shape_names_its_steps_and_survives_its_pipeline() -> None:
    shape = Shape(CREATE_TOKEN, locks=2, distributions=1)
    assert shape.paid_steps == (CREATE_TOKEN, "lock_1", "lock_2", "distribution_1", BASE_FEE)
    assert Shape(TAKE_IN, 0, 1).paid_steps == ("distribution_1", BASE_FEE)
    assert [domain.part_number(step) for step in shape.parts] == [0, 1, 0]
    assert Shape.decode(shape.encode()) == shape


def test_what_was_delivered_is_known_from_its_step_or_from_the_one_that_gave_it_up() -> None:
    """A step that came too late was looked for by the one that undoes it, and found there."""
    shape = Shape(CREATE_TOKEN, locks=3, distributions=0)
    records = {
        one.name: one
        for one in (
            record(CREATE_TOKEN, StepState.FAILED),
            record("abandon_token", StepState.SUCCEEDED, b"tokens/1"),
            record("lock_1", StepState.SUCCEEDED, b"locks/1"),
            record("lock_2", StepState.FAILED),
            record("abandon_lock_2", StepState.SUCCEEDED),
        )
    }
    assert domain.delivered(records, CREATE_TOKEN) == "tokens/1"
    assert domain.delivered(records, "lock_1") == "locks/1"
    assert domain.delivered(records, "lock_2") == ""
    assert list(domain.delivered_steps(records, shape)) == [CREATE_TOKEN, "lock_1"]


def test_a_launch_was_accepted_when_its_row_says_or_else_its_id() -> None:
    stored = datetime(2026, 1, 1, tzinfo=UTC)
    assert ended(create_time=stored).accept_time == stored
    assert ended().accept_time == ids.time_of(UUID(int=1))
    assert ended().name == f"launches/{UUID(int=1)}"
