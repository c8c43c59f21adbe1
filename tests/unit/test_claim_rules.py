"""What participants may take and when, and why not: claims, early unlocks, registrations."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest

from contract.errors import Code, Error
from services.distribution_deployer import claim_rules, domain
from services.distribution_deployer.claim_rules import Allocation, Held, Holding
from services.distribution_deployer.domain import (
    Distribution,
    EarlyUnlock,
    Listed,
    Pool,
    State,
    Timing,
)
from services.kit.vesting import vesting_rules
from services.kit.vesting.vesting_rules import DAY, Instant, Schedule
from tests.support.distribution_values import (
    FEE,
    LIST,
    NOW,
    category,
    distribution,
    named,
    spec,
)

WHITELIST: Final = category(named(1_000), amount=1_000)
MINE: Final = [Allocation(1, 1_000)]


def reason_of(decide: Callable[[], object]) -> str:
    """Why it is refused; empty when it is not."""
    try:
        decide()
    except Error as error:
        return error.reason
    return ""


def open_for(state: State = State.ACTIVE, **more: Any) -> Distribution:
    return distribution(spec(WHITELIST), state, **more)


def holding(amount: int, claimed: int = 0, start: int | None = 0) -> Holding:
    curve = None if start is None else vesting_rules.curve(Schedule(Instant()), amount, start)
    return Holding(Allocation(1, amount, claimed), curve, start, NOW, held=False)


@pytest.mark.parametrize("state", State)
def test_claims_are_paid_as_long_as_what_was_promised_is_owed(state: State) -> None:
    """F-41: whatever the kind of claim."""
    paid = state in {State.ACTIVE, State.COMPLETED, State.CANCELLED}
    told = reason_of(lambda: claim_rules.check_open(open_for(state)))
    assert told == ("" if paid else f"DISTRIBUTION_{state.name}")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"timing": None}, ""),
        ({"timing": Timing(NOW)}, ""),
        ({"timing": Timing(NOW, claim_deadline=NOW + 1)}, ""),
        ({"timing": Timing(NOW, claim_deadline=NOW)}, "CLAIM_DEADLINE_PASSED"),
        ({"closed": True}, "CLAIM_DEADLINE_PASSED"),
    ],
)
def test_claims_end_with_their_deadline(more: dict[str, Any], reason: str) -> None:
    assert reason_of(lambda: claim_rules.check_open(open_for(**more))) == reason


def test_a_cancelled_distribution_pays_claims_and_unlocks_nothing_early() -> None:
    assert not reason_of(lambda: claim_rules.check_unlockable(open_for()))
    cancelled = open_for(State.CANCELLED)
    assert not reason_of(lambda: claim_rules.check_open(cancelled))
    assert reason_of(lambda: claim_rules.check_unlockable(cancelled)) == "DISTRIBUTION_CANCELLED"
    paused = open_for(State.PAUSED)
    assert reason_of(lambda: claim_rules.check_unlockable(paused)) == "DISTRIBUTION_PAUSED"


@pytest.mark.parametrize(
    ("mine", "number", "reason"),
    [
        (MINE, 2, "CATEGORY_NOT_FOUND"),
        ([], 1, "NOT_ELIGIBLE"),
        ([], None, "NOT_ELIGIBLE"),
        (MINE, 1, ""),
        (MINE, None, ""),
    ],
)
def test_a_claim_is_about_categories_in_which_something_is_the_callers(
    mine: Sequence[Allocation], number: int | None, reason: str
) -> None:
    assert reason_of(lambda: claim_rules.chosen(open_for(), mine, number)) == reason


def test_a_claim_of_everything_leaves_out_what_is_paused() -> None:
    made = distribution(spec(WHITELIST, category(named(1), 2)), paused=frozenset({1}))
    mine = [Allocation(1, 1_000), Allocation(2, 1)]
    assert [one.category_id for one in claim_rules.chosen(made, mine, None)] == [2]
    assert reason_of(lambda: claim_rules.chosen(made, mine, 1)) == "CATEGORY_PAUSED"


@pytest.mark.parametrize(
    ("holdings", "asked", "reason"),
    [
        ([holding(1_000)], 0, "INVALID_AMOUNT"),
        ([holding(1_000, start=None)], None, "VESTING_NOT_STARTED"),
        ([holding(1_000, start=NOW + 1)], None, "VESTING_NOT_STARTED"),
        ([holding(1_000, 1_000)], None, "NOTHING_TO_CLAIM"),
        ([holding(1_000, 1_000), holding(1_000, start=None)], None, "NOTHING_TO_CLAIM"),
        ([holding(1_000)], 1_001, "EXCEEDS_CLAIMABLE"),
        ([holding(1_000)], FEE, "AMOUNT_BELOW_FEE"),
        ([holding(FEE)], None, "AMOUNT_BELOW_FEE"),
        ([holding(1_000)], FEE + 1, ""),
        ([holding(1_000)], None, ""),
    ],
)
def test_a_claim_that_would_move_nothing_says_why(
    holdings: Sequence[Holding], asked: int | None, reason: str
) -> None:
    """F-47."""
    left = sum(one.allocation.remaining for one in holdings)
    assert reason_of(lambda: claim_rules.plan_claim(holdings, asked, left, FEE)) == reason


@pytest.mark.parametrize(
    ("holdings", "terms", "reason"),
    [
        ([holding(1_000)], None, "NO_EARLY_UNLOCK"),
        ([holding(1_000, 1_000)], EarlyUnlock(0), "NOTHING_TO_CLAIM"),
        ([holding(1_000, start=None)], EarlyUnlock(0), "MINIMUM_LOCK"),
        ([holding(1_000, start=NOW)], EarlyUnlock(0, minimum_lock=1), "MINIMUM_LOCK"),
        ([holding(1_000, start=NOW - 1)], EarlyUnlock(0, minimum_lock=1), ""),
        ([holding(1_000)], EarlyUnlock(9_900), "AMOUNT_BELOW_FEE"),
    ],
)
def test_an_early_unlock_that_is_not_offered_or_moves_nothing_says_why(
    holdings: Sequence[Holding], terms: EarlyUnlock | None, reason: str
) -> None:
    """F-39."""
    left = sum(one.allocation.remaining for one in holdings)
    assert reason_of(lambda: claim_rules.plan_early(holdings, terms, left, FEE)) == reason


def test_what_was_unlocked_early_is_taken_no_second_time() -> None:
    closed = replace(holding(1_000), allocation=Allocation(1, 1_000, closed=True))
    early = claim_rules.plan_early([closed, holding(500)], EarlyUnlock(0), 500, FEE)
    assert dict(early.parts) == {1: 500}


@pytest.mark.parametrize("source", [named(1_000), Pool(1_000, 100, 10)])
def test_what_is_owed_of_named_recipients_and_pools_is_what_they_can_claim(source: Any) -> None:
    held = Held(closed=3, claimed=5, claimable=7)
    assert claim_rules.outstanding(category(source), NOW, NOW, held) == 7


@pytest.mark.parametrize(
    ("pool", "more", "reason"),
    [
        (Pool(1_000, 100, 10), {}, ""),
        (Pool(1_000, 100, 10), {"timing": None}, ""),
        (Pool(1_000, 100, 10), {"state": State.PAUSED}, "DISTRIBUTION_PAUSED"),
        (Pool(1_000, 100, 10), {"state": State.COMPLETED}, "DISTRIBUTION_COMPLETED"),
        (named(1_000), {}, "NOT_A_POOL"),
        (Listed(LIST), {}, "NOT_A_POOL"),
        (Pool(1_000, 100, 10), {"paused": frozenset({1})}, "CATEGORY_PAUSED"),
        (Pool(1_000, 100, 10, opens=NOW + 1), {}, "REGISTRATION_CLOSED"),
        (Pool(1_000, 100, 10, opens=NOW, closes=NOW + 1), {}, ""),
        (Pool(1_000, 100, 10, closes=NOW), {}, "REGISTRATION_CLOSED"),
        (Pool(1_000, 100, 10), {"timing": Timing(NOW - DAY, NOW)}, "REGISTRATION_CLOSED"),
    ],
)
def test_registration_is_open_between_its_times(
    pool: Any, more: dict[str, Any], reason: str
) -> None:
    one = category(pool)
    made = replace(distribution(spec(one)), **more)
    assert reason_of(lambda: claim_rules.check_registration(made, one)) == reason


def test_too_many_claims_say_when_to_come_again() -> None:
    told = claim_rules.rate_exceeded(5, 1.5)
    assert (told.code, told.reason, told.retry_after) == (
        Code.RESOURCE_EXHAUSTED,
        "CLAIM_RATE_EXCEEDED",
        1.5,
    )


def test_a_distribution_opens_as_of_the_moment_at_which_it_was_read() -> None:
    reserved = distribution(spec(WHITELIST), State.CREATED, timing=None)
    active = domain.activated(reserved, Timing(NOW))
    assert (active.state, active.activate_time, active.timing) == (State.ACTIVE, NOW, Timing(NOW))
    assert domain.changed().code is Code.ABORTED
