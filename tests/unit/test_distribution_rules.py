"""Rules of distributions: what a claim takes, what is owed, what is due when, what is legal."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import Error
from services.distribution_deployer import claim_rules, domain, spec_rules
from services.distribution_deployer.claim_rules import Allocation, Held, Holding
from services.distribution_deployer.domain import (
    CHECKS,
    Account,
    ClaimRate,
    Disbursement,
    EarlyUnlock,
    Kind,
    Listed,
    Pool,
    Spec,
    State,
    Timing,
    Token,
    TokenHolder,
)
from services.distribution_deployer.messages import distribution_message, parse_spec, spec_message
from services.distribution_deployer.spec_rules import SealedList
from services.kit.vesting import vesting_rules
from services.kit.vesting.vesting_rules import (
    DAY,
    SECOND,
    Cliff,
    Custom,
    Instant,
    Linear,
    Schedule,
    Single,
    Step,
    Stepped,
    Unlock,
)
from tests.support.distribution_values import (
    FEE,
    LIST,
    NOW,
    WHO,
    category,
    distribution,
    named,
    spec,
)

T = TypeVar("T")

shares = st.integers(0, vesting_rules.WHOLE)
amounts = st.integers(1, 10**24)
spans = st.integers(1, 3_000).map(lambda days: days * DAY)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    initial = draw(shares)
    match draw(st.sampled_from(["instant", "linear", "cliff", "stepped"])):
        case "instant":
            return Schedule(Instant())
        case "linear":
            return Schedule(Linear(draw(spans), draw(st.sampled_from([0, DAY]))), initial)
        case "cliff":
            jump = draw(st.integers(0, vesting_rules.WHOLE - initial))
            return Schedule(Cliff(draw(spans), jump, draw(spans)), initial)
        case _:
            initial = draw(st.integers(0, vesting_rules.WHOLE - 2))
            first = draw(st.integers(1, vesting_rules.WHOLE - initial - 1))
            rest = vesting_rules.WHOLE - initial - first
            return Schedule(Stepped((Step(DAY, first), Step(9 * DAY, rest))), initial)


def attempt(work: Callable[[], T]) -> T | Error:
    try:
        return work()
    except Error as error:
        return error


def held(number: int, amount: int, claimed: int = 0) -> Holding:
    allocation = Allocation(number, amount, claimed)
    curve = vesting_rules.curve(Schedule(Instant()), amount, 0)
    return Holding(allocation, curve, 0, NOW, held=False)


@pytest.mark.parametrize(
    ("amount", "weights", "parts"),
    [(100, {1: 1, 2: 1, 3: 1}, {1: 34, 2: 33, 3: 33}), (7, {1: 0, 2: 5, 3: 9}, {1: 0, 2: 3, 3: 4})],
)
def test_an_amount_is_split_by_largest_remainder(
    amount: int, weights: dict[int, int], parts: dict[int, int]
) -> None:
    assert claim_rules.split(amount, weights) == parts


@given(st.dictionaries(st.integers(1, 30), st.integers(0, 10**30), min_size=1), st.data())
def test_a_split_is_exact_and_takes_no_more_than_there_is(
    weights: dict[int, int], data: st.DataObject
) -> None:
    whole = sum(weights.values())
    if not whole:
        return
    amount = data.draw(st.integers(0, whole))
    parts = claim_rules.split(amount, weights)
    assert sum(parts.values()) == amount
    assert all(0 <= part <= weights[key] for key, part in parts.items())


@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=20), st.data())
def test_a_claim_takes_exactly_what_is_asked_and_never_more_than_is_open(
    rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    holdings = [
        held(number, amount, min(claimed, amount))
        for number, (amount, claimed) in enumerate(rows, 1)
    ]
    open_now = sum(one.claimable for one in holdings)
    percent = data.draw(st.sampled_from([None, 1, 50, 99, 100, 101, 150, 300]))
    asked = None if percent is None else max(1, open_now * percent // 100)
    wanted = open_now if asked is None else asked
    parts = attempt(lambda: claim_rules.plan_claim(holdings, asked, open_now, FEE))
    if isinstance(parts, Error):
        told = {
            "NOTHING_TO_CLAIM": not open_now,
            "EXCEEDS_CLAIMABLE": wanted > open_now,
            "REST_BELOW_FEE": 0 < open_now - wanted <= FEE,
        }
        assert told.get(parts.reason, wanted <= FEE)
        return
    assert sum(parts.values()) == wanted > FEE
    assert all(0 < part <= holdings[number - 1].claimable for number, part in parts.items())


@given(schedules(), st.lists(amounts, min_size=1, max_size=8), st.integers(-DAY, 7_000 * DAY))
def test_what_a_cancellation_keeps_for_a_list_is_enough_for_each_of_its_recipients(
    schedule: Schedule, allocated: list[int], elapsed: int
) -> None:
    """A list has no rows before its recipients claim; what is kept is at least their sum."""
    moment = NOW + elapsed
    listed = category(Listed(LIST), schedule=schedule, amount=sum(allocated))
    kept = claim_rules.outstanding(listed, NOW, moment, Held())
    each = [vesting_rules.curve(schedule, amount, NOW).unlocked(moment) for amount in allocated]
    assert sum(each) <= kept <= sum(allocated)
    claimed = Held(claimed=each[0])
    assert claim_rules.outstanding(listed, NOW, moment, claimed) == kept - each[0]
    closed = Held(closed=allocated[0])
    rest = claim_rules.outstanding(listed, NOW, moment, closed)
    assert sum(each[1:]) <= rest <= sum(allocated[1:])


@given(
    st.lists(st.tuples(amounts, shares), min_size=1, max_size=9),
    st.integers(0, vesting_rules.WHOLE),
)
def test_an_early_unlock_takes_all_that_is_left_and_splits_it_exactly(
    rows: list[tuple[int, int]], penalty: int
) -> None:
    holdings = [
        held(number, amount, amount * part // vesting_rules.WHOLE)
        for number, (amount, part) in enumerate(rows, 1)
    ]
    left = sum(one.allocation.remaining for one in holdings)
    early = attempt(lambda: claim_rules.plan_early(holdings, EarlyUnlock(penalty), left, FEE))
    if isinstance(early, Error):
        assert early.reason == ("AMOUNT_BELOW_FEE" if left else "NOTHING_TO_CLAIM")
        return
    assert early.amount + early.penalty == sum(early.parts.values()) == left
    assert early.penalty == left * penalty // vesting_rules.WHOLE


def test_an_early_unlock_leaves_nothing_that_could_never_be_claimed() -> None:
    """F-47."""
    holdings, terms = [held(1, 1_000)], EarlyUnlock(0)
    for rest in (0, FEE + 1):
        assert claim_rules.plan_early(holdings, terms, 1_000 + rest, FEE).amount == 1_000
    with pytest.raises(Error, match="Unlock all categories together"):
        claim_rules.plan_early(holdings, terms, 1_000 + FEE, FEE)


def test_what_is_left_is_all_that_will_be_unlocked() -> None:
    """Of a cancelled distribution that is what was unlocked then."""
    halved = category(named(1_000), schedule=Schedule(Linear(10 * DAY)), amount=1_000)
    rows = [Allocation(1, 1_000, 100), Allocation(1, 1_000, 700), Allocation(1, 50, closed=True)]
    active = distribution(spec(halved), timing=Timing(NOW - 5 * DAY))
    assert claim_rules.left(active, rows) == 900 + 300
    cancelled = replace(active, state=State.CANCELLED, cancel_time=NOW, now=NOW + DAY)
    assert claim_rules.left(cancelled, rows) == 400


def test_closed_and_paused_holdings_give_nothing() -> None:
    made = distribution(spec(category(named(1_000), amount=1_000), category(named(1), 2)))
    assert claim_rules.holding(made, Allocation(1, 1_000)).claimable == 1_000
    assert claim_rules.holding(made, Allocation(1, 1_000, closed=True)).claimable == 0
    held_back = replace(made, paused=frozenset({1}))
    assert claim_rules.holding(held_back, Allocation(1, 1_000)).claimable == 0
    for state in set(State) - domain.CLAIMABLE:
        assert claim_rules.holding(replace(made, state=state), Allocation(1, 1_000)).claimable == 0
    over = replace(made, timing=Timing(NOW, claim_deadline=NOW))
    assert claim_rules.holding(over, Allocation(1, 1_000)).claimable == 0


@pytest.mark.parametrize("state", [State.CANCELLED, State.COMPLETED])
def test_a_pause_of_a_category_ends_with_the_distribution(state: State) -> None:
    """F-44: nobody could resume it then, and what is unlocked stays claimable."""
    paused = distribution(spec(category(named(1_000), amount=1_000)), paused=frozenset({1}))
    mine = [Allocation(1, 1_000)]
    with pytest.raises(Error, match="CATEGORY_PAUSED"):
        claim_rules.chosen(paused, mine, None)
    over = domain.moved(paused, state)
    for number in (None, 1):
        (one,) = claim_rules.chosen(over, mine, number)
        assert one.claimable == 1_000
    assert not distribution_message(over).paused_categories


def test_claims_close_at_their_deadline_once_the_distribution_has_ended() -> None:
    made = distribution(spec(), State.CANCELLED, timing=Timing(NOW, claim_deadline=NOW))
    assert domain.closes(made)
    assert not domain.closes(replace(made, closed=True))
    assert not domain.closes(replace(made, state=State.ACTIVE))
    for timing in (None, Timing(NOW), Timing(NOW, NOW, NOW + 1)):
        assert not domain.closes(replace(made, timing=timing))


LEGAL = {
    State.CREATED: {State.ACTIVE, State.FAILED, State.ABANDONED},
    State.FAILED: {State.ABANDONED},
    State.ACTIVE: {State.PAUSED, State.CANCELLED, State.COMPLETED},
    State.PAUSED: {State.ACTIVE, State.CANCELLED, State.COMPLETED},
}


@pytest.mark.parametrize("source", State)
@pytest.mark.parametrize("target", State)
def test_only_legal_moves_are_made(source: State, target: State) -> None:
    """F-44: nothing leaves an end, and nothing that was delivered is given up or fails."""
    made = distribution(spec(), source)
    if target in LEGAL.get(source, ()):
        assert domain.moved(made, target).state is target
    else:
        with pytest.raises(Error) as told:
            domain.moved(made, target)
        assert told.value.reason == f"DISTRIBUTION_{source.name}"


@given(st.integers(-5, 5), st.integers(1, 9), st.integers(1, 9))
def test_a_late_activation_pushes_the_end_back_and_nothing_is_over_before_it_is_unlocked(
    late: int, length: int, beyond: int
) -> None:
    start, end = NOW, NOW + length * DAY
    deadline = end + beyond * DAY
    one = category(named(1), schedule=Schedule(Linear(length * DAY)))
    timing = domain.timing(
        spec(one, start=start, end=end, claim_deadline=deadline), NOW + late * DAY
    )
    pushed = max(0, late) * DAY
    assert timing == Timing(start, end + pushed, deadline + pushed)
    at_once = domain.timing(spec(one, end=NOW + 1, claim_deadline=NOW + 2), NOW)
    assert at_once == Timing(NOW, NOW + length * DAY, NOW + length * DAY + 1)


def test_something_is_due_for_every_state_that_must_not_last() -> None:
    """F-46, F-49."""
    pool = category(Pool(1_000, 100, 10, closes=NOW + 5))
    made = distribution(spec(pool), State.CREATED)
    assert domain.next_time(made) == NOW + DAY
    active = replace(made, state=State.ACTIVE)
    assert domain.next_time(active) == NOW + 5
    ending = replace(active, timing=Timing(NOW, NOW + 7, NOW + 9))
    assert domain.next_time(ending) == NOW + 7
    assert domain.next_time(replace(ending, state=State.COMPLETED)) == NOW + 9
    assert domain.next_time(replace(ending, state=State.COMPLETED, closed=True)) is None
    assert domain.next_time(replace(active, now=NOW + 5)) is None
    for checks, span in enumerate(CHECKS):
        assert domain.next_time(replace(made, state=State.FAILED, checks=checks)) == NOW + span
    assert domain.next_time(replace(made, state=State.ABANDONED, checks=len(CHECKS))) is None


def everything() -> Spec:
    """A spec that uses every field."""
    return spec(
        category(named(500, 500), 7, start=NOW + DAY, schedule=Schedule(Linear(DAY), 100)),
        category(Listed(LIST), 8),
        category(
            Pool(1_000, None, 30, TokenHolder("ledgers/icp", 5, 3), NOW + DAY, NOW + 2 * DAY), 9
        ),
        total=4_000,
        description="what it is for",
        public=True,
        start=NOW + DAY,
        end=NOW + 9 * DAY,
        claim_deadline=NOW + 10 * DAY,
        early_unlock=EarlyUnlock(100, WHO[0], DAY),
        claim_rate=ClaimRate(5, 60 * SECOND),
        pausable=True,
        cancellable=True,
        funding_period=120 * SECOND,
    )


SEALED = {LIST: SealedList(8, 2_000, 3, 600)}


def test_completing_fills_in_what_is_derived_and_does_so_once() -> None:
    completed = spec_rules.complete(everything(), SEALED, FEE)
    assert [(one.amount, one.count) for one in completed.categories] == [
        (1_000, 2),
        (2_000, 3),
        (1_000, 30),
    ]
    assert isinstance(completed.categories[2].source, Pool)
    assert completed.categories[2].source.share == 33
    assert spec_rules.complete(completed, SEALED, FEE) == completed
    spec_rules.check_beginnings(completed, NOW)


def test_a_spec_survives_its_message() -> None:
    for one in (everything(), spec_rules.complete(everything(), SEALED, FEE)):
        assert parse_spec(spec_message(one), stored=True) == one


def test_nobody_is_believed_what_a_spec_only_tells() -> None:
    message = spec_message(everything())
    message.categories[0].amount = "many"
    assert spec_rules.complete(parse_spec(message), SEALED, FEE).categories[0].amount == 1_000


@given(st.integers(1, 10**20), st.integers(1, 10**6), st.integers(0, 10**20))
def test_a_pool_never_promises_more_than_it_has(amount: int, seats: int, share: int) -> None:
    """F-40, whatever is given and whatever is derived."""
    for source in (
        Pool(amount, share or None, seats),
        Pool(amount, None, seats),
        Pool(amount, share or None),
    ):
        wanted = spec(category(source), total=amount)
        try:
            (one,) = spec_rules.complete(wanted, {}, 0).categories
        except Error:
            continue
        assert isinstance(one.source, Pool)
        assert one.source.share is not None
        assert one.source.share * one.count <= one.amount


def test_a_list_serves_the_category_that_it_was_made_for() -> None:
    for lists in ({}, {LIST: SealedList(2, 1_000, 3, 300)}):
        with pytest.raises(Error) as told:
            spec_rules.complete(spec(category(Listed(LIST), 1)), lists, FEE)
        assert told.value.reason == "RECIPIENT_LIST_UNUSABLE"
    twice = spec(category(Listed(LIST), 1), category(Listed(LIST), 2))
    with pytest.raises(Error, match="used by two categories"):
        spec_rules.complete(twice, {LIST: SealedList(1, 500, 3, 100)}, FEE)


def test_nobody_on_a_list_gets_what_they_could_never_claim() -> None:
    """F-47: the smallest amount of all pages counts."""
    wanted = spec(category(Listed(LIST), 1))
    assert spec_rules.complete(wanted, {LIST: SealedList(1, 1_000, 3, FEE + 1)}, FEE)
    with pytest.raises(Error, match=f"allocates {FEE} to somebody") as told:
        spec_rules.complete(wanted, {LIST: SealedList(1, 1_000, 3, FEE)}, FEE)
    assert told.value.violations[0][0] == "spec.categories[0].recipient_list"


def test_burning_is_free_and_everything_else_costs_the_fee() -> None:
    minter = Account(WHO[3])
    token = Token(FEE, minter)
    assert token.fee_to(minter) == 0
    assert token.fee_to(Account(WHO[3], bytes([1] * 32))) == FEE


def test_steps_of_one_launch_share_their_work() -> None:
    assert domain.work_of("launches/1/steps/distribution_2") == "launches/1"
    assert domain.work_of("deployments/1") == "deployments/1"


def test_a_category_is_found_by_its_number_or_is_not_there() -> None:
    first, second = category(named(1), 1), category(named(1), 2)
    assert spec(first, second).category(2) == second
    missing = attempt(lambda: spec(first, second).category(3))
    assert isinstance(missing, Error)
    assert missing.reason == "CATEGORY_NOT_FOUND"


def test_a_category_starts_when_it_says_so_or_with_its_distribution() -> None:
    early, plain = category(named(1), 1, start=NOW - DAY), category(named(1), 2)
    made = distribution(spec(early, plain, start=NOW + DAY))
    assert (made.start_of(early), made.start_of(plain)) == (NOW - DAY, NOW)
    assert replace(made, timing=None).start_of(plain) == NOW + DAY


@pytest.mark.parametrize(
    ("schedule", "after"),
    [
        (Schedule(Instant()), 0),
        (Schedule(Single(3)), 3),
        (Schedule(Linear(4)), 4),
        (Schedule(Cliff(5, 0, 6)), 11),
        (Schedule(Stepped((Step(1, 5_000), Step(7, 5_000)))), 7),
        (Schedule(Custom((Unlock(NOW + 2, 1), Unlock(NOW + 8, 1)))), 8),
        (Schedule(Custom((Unlock(NOW - 8, 1),))), 0),
    ],
    ids=lambda value: type(value.kind).__name__ if isinstance(value, Schedule) else str(value),
)
def test_everything_is_unlocked_with_the_last_part_of_a_schedule(
    schedule: Schedule, after: int
) -> None:
    assert domain.vesting_end(schedule, NOW) == NOW + after


def test_claims_without_a_deadline_never_end() -> None:
    timing = domain.timing(spec(category(named(1)), start=NOW, end=NOW + DAY), NOW)
    assert timing == Timing(NOW, NOW + DAY, None)
    of_claims = domain.timing(spec(category(named(1)), start=NOW, claim_deadline=NOW + 5), NOW + 2)
    assert of_claims == Timing(NOW, None, NOW + 7)


def test_what_ends_by_its_claims_is_looked_at_when_they_end() -> None:
    made = distribution(spec(category(named(1))), timing=Timing(NOW, None, NOW + 9))
    assert domain.next_time(made) == NOW + 9


@pytest.mark.parametrize(
    ("timing", "over"),
    [
        (None, False),
        (Timing(NOW), False),
        (Timing(NOW, NOW + 1, NOW + 2), False),
        (Timing(NOW, NOW, NOW + 2), True),
        (Timing(NOW, None, NOW), True),
    ],
)
def test_a_distribution_is_over_at_its_end_or_with_its_claims(
    timing: Timing | None, over: bool
) -> None:
    assert domain.is_over(distribution(spec(category(named(1))), timing=timing)) is over


@pytest.mark.parametrize(
    ("state", "late", "reason"),
    [
        (State.CREATED, False, ""),
        (State.CREATED, True, "FUNDING_DEADLINE_PASSED"),
        (State.ACTIVE, True, ""),
        (State.FAILED, False, "DISTRIBUTION_FAILED"),
        (State.ABANDONED, False, "OPERATION_ABANDONED"),
    ],
)
def test_what_waits_becomes_active_in_time_and_what_was_given_up_never(
    state: State, late: bool, reason: str
) -> None:
    made = distribution(spec(category(named(1))), state)
    asked = replace(made, now=made.funding_deadline if late else NOW)
    told = attempt(lambda: domain.check_activatable(asked))
    assert (told.reason if isinstance(told, Error) else "") == reason


def test_refusals_say_what_is_missing_and_what_was_made_before() -> None:
    """F-58."""
    short = domain.not_funded(5, 7)
    assert (short.reason, "holds 5, and needs 7" in short.message) == ("NOT_FUNDED", True)
    assert domain.operation_reused("launches/x").reason == "OPERATION_REUSED"
    assert domain.payment_consumed("payments/x").reason == "PAYMENT_CONSUMED"


def test_of_what_leaves_arrives_what_the_fee_leaves() -> None:
    assert Disbursement(LIST, LIST, Kind.VESTED, WHO[0], 100, FEE).net == 90
