"""What is unlocked when: the vectors and properties of domain.md §5, and the rules of §2.3."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import assume, given
from hypothesis import strategies as st

from contract import principal
from contract.errors import Code, Error
from icto.vesting.v1 import vesting_pb2 as pb
from services.kit.money.amounts import MAX_AMOUNT
from services.kit.vesting import vesting_messages, vesting_rules
from services.kit.vesting.vesting_rules import (
    DAY,
    LONGEST,
    MAX_PARTS,
    MONTH,
    SECOND,
    WHOLE,
    YEAR,
    Cliff,
    Curve,
    Custom,
    Instant,
    Linear,
    Milestone,
    Milestones,
    Schedule,
    Single,
    Step,
    Stepped,
    Unlock,
    curve,
)

T = 10**14
START = 1_800_000_000 * SECOND
ATTESTOR = principal.of_public_key(bytes(32))
MONTHLY = Schedule(Linear(YEAR, MONTH), 1_000)
CLIFF = Schedule(Cliff(180 * DAY, 1_000, YEAR), 500)
THIRDS = Stepped(tuple(Step(n * DAY, 3_300) for n in (1, 2, 3)))


def unlocked(schedule: Schedule, total: int, *elapsed: int) -> list[int]:
    made = curve(schedule, total, START)
    return [made.unlocked(START + e) for e in elapsed]


def test_linear_over_a_year_matches_the_vectors() -> None:
    """F-34: multiplied before divided, so that small amounts unlock too."""
    moments = [0, SECOND, 30 * DAY, YEAR // 2, YEAR - SECOND, YEAR]
    assert unlocked(Schedule(Linear(YEAR)), T, *moments) == [
        0, 3_170_979, 8_219_178_082_191, 50_000_000_000_000, 99_999_996_829_020, T
    ]  # fmt: skip


def test_a_frequency_quantises_as_the_vectors_say() -> None:
    """F-35: between two months nothing unlocks."""
    moments = [0, 30 * DAY - SECOND, 30 * DAY, 45 * DAY, 360 * DAY, 365 * DAY]
    assert unlocked(MONTHLY, T, *moments) == [
        10_000_000_000_000, 10_000_000_000_000, 17_397_260_273_972, 17_397_260_273_972,
        98_767_123_287_671, T
    ]  # fmt: skip


def test_a_cliff_matches_the_vectors() -> None:
    """F-36: nothing underflows around the cliff, and all is unlocked at the end."""
    cliff = 180 * DAY
    moments = [0, cliff - SECOND, cliff, cliff + YEAR // 2, cliff + YEAR]
    assert unlocked(CLIFF, T, *moments) == [
        5 * 10**12, 5 * 10**12, 15 * 10**12, 575 * 10**11, T
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("total", "duration", "expected"),
    [(10, 3, [0, 3, 6, 10]), (1000, 7, [0, 142, 285, 428, 571, 714, 857, 1000])],
)
def test_the_remainder_comes_last(total: int, duration: int, expected: list[int]) -> None:
    """F-34: amounts that the duration does not divide."""
    moments = [n * SECOND for n in range(duration + 1)]
    assert unlocked(Schedule(Linear(duration * SECOND)), total, *moments) == expected


def test_the_last_step_pays_the_remainder() -> None:
    """F-36: three times 33 % end at 100 %. (Such a schedule is refused all the same.)"""
    assert unlocked(Schedule(THIRDS), 100, 0, DAY, 2 * DAY, 3 * DAY) == [0, 33, 66, 100]
    assert unlocked(Schedule(THIRDS), 100, DAY - 1, 9 * DAY) == [0, 100]


def test_a_thousand_tokens_over_a_year_unlock_from_the_first_day_on() -> None:
    """F-34: upstream's order of operations gave 0 until the end."""
    (first,) = unlocked(Schedule(Linear(YEAR)), 1_000 * 10**8, DAY)
    assert first == 1_000 * 10**8 // 365


def test_nothing_unlocks_before_the_start_not_even_the_initial_part() -> None:
    for schedule in (Schedule(Instant()), MONTHLY, CLIFF, Schedule(Single(DAY), 5_000)):
        assert unlocked(schedule, T, -1, -YEAR) == [0, 0]


def test_instant_and_single() -> None:
    assert unlocked(Schedule(Instant()), T, 0, DAY) == [T, T]
    assert unlocked(Schedule(Single(DAY), 2_500), T, 0, DAY - 1, DAY) == [T // 4, T // 4, T]


def test_the_frequency_of_a_cliff_counts_from_the_cliff() -> None:
    """F-35."""
    schedule = Schedule(Cliff(10 * DAY, 0, 100 * DAY, MONTH))
    moments = [30 * DAY, 40 * DAY - 1, 40 * DAY, 110 * DAY - 1, 110 * DAY]
    assert unlocked(schedule, 1_000, *moments) == [0, 0, 300, 900, 1_000]


def test_a_custom_schedule_unlocks_its_amounts() -> None:
    custom = Custom((Unlock(START + DAY, 10), Unlock(START + 2 * DAY, 70)))
    assert unlocked(Schedule(custom, 2_000), 100, 0, DAY, 2 * DAY) == [20, 30, 100]


def test_those_who_share_a_custom_schedule_get_its_proportions() -> None:
    custom = Schedule(Custom((Unlock(START + DAY, 10), Unlock(START + 2 * DAY, 90))))
    assert unlocked(custom, 50, DAY, 2 * DAY) == [5, 50]
    shares = Schedule(Custom((Unlock(START, 1_000), Unlock(START + DAY, 9_000)), shares=True))
    assert unlocked(shares, 7, 0, DAY) == [0, 7]


def test_milestones_unlock_when_attested_in_whatever_order() -> None:
    stages = tuple(Milestone(name, 3_000) for name in "abc")
    schedule = Schedule(Milestones(ATTESTOR, stages), 1_000)

    def at(moment: int, **attested: int) -> int:
        return curve(schedule, 101, START, attested).unlocked(START + moment)

    assert at(YEAR) == 10
    assert at(DAY, c=START + DAY) == 40
    assert at(DAY - 1, c=START + DAY) == 10
    assert at(DAY, c=START - 5, a=START + DAY) == 70
    assert at(DAY, c=START, a=START, b=START) == 101
    assert at(-1, c=START - 5) == 0


def test_the_next_unlock_is_told() -> None:
    monthly = curve(MONTHLY, T, START)
    assert monthly.next_unlock(START - DAY) == Unlock(START, T // 10)
    assert monthly.next_unlock(START + 45 * DAY) == Unlock(
        START + 60 * DAY, monthly.unlocked(START + 60 * DAY) - monthly.unlocked(START + 45 * DAY)
    )
    assert monthly.next_unlock(START + YEAR) is None
    cliff = curve(CLIFF, T, START)
    assert cliff.next_unlock(START) == Unlock(START + 180 * DAY, 10**13)
    assert curve(Schedule(Linear(3 * SECOND)), 10, START).next_unlock(START) == Unlock(
        START + 300_000, 1
    )


def test_progress_is_a_share_rounded_down() -> None:
    made = curve(Schedule(Linear(YEAR)), 3, START)
    assert [made.progress(START + e) for e in (-1, 0, YEAR // 3, YEAR - 1, YEAR)] == [
        0, 0, 3_333, 6_666, 10_000
    ]  # fmt: skip


# Properties


def parts(draw: st.DrawFn, whole: int) -> list[int]:
    """Positive numbers that add up to `whole`."""
    count = min(whole, 6)
    cuts = draw(st.sets(st.integers(1, whole - 1), max_size=count - 1)) if whole > 1 else set()
    edges = [0, *sorted(cuts), whole]
    return [later - earlier for earlier, later in pairwise(edges)]


seconds = st.integers(1, LONGEST // SECOND // 2).map(lambda n: n * SECOND)
periods = st.one_of(st.just(0), seconds)


@st.composite
def schedules(draw: st.DrawFn, total: int) -> Schedule:
    initial = draw(st.integers(0, WHOLE - 1))
    shares = parts(draw, WHOLE - initial)
    kind = draw(st.sampled_from(vesting_rules.Kind.__args__))
    made: vesting_rules.Kind
    if kind is Instant:
        return Schedule(Instant())
    if kind is Single:
        made = Single(draw(seconds))
    elif kind is Linear:
        made = Linear(draw(seconds), draw(periods))
    elif kind is Cliff:
        share = draw(st.integers(0, WHOLE - initial))
        made = Cliff(draw(seconds), share, draw(seconds), draw(periods))
    elif kind is Stepped:
        made = Stepped(tuple(map(Step, ordered(draw, len(shares)), shares)))
    elif kind is Custom:
        sizes = parts(draw, total - total * initial // WHOLE)
        times = [START + offset for offset in ordered(draw, len(sizes))]
        made = Custom(tuple(map(Unlock, times, sizes)))
    else:
        stages = tuple(Milestone(f"m{n}", share) for n, share in enumerate(shares))
        made = Milestones(ATTESTOR, stages)
    return Schedule(made, initial)


def ordered(draw: st.DrawFn, count: int) -> list[int]:
    return sorted(draw(st.sets(seconds, min_size=count, max_size=count)))


@st.composite
def curves(draw: st.DrawFn) -> tuple[Schedule, Curve]:
    total = draw(st.one_of(st.integers(1, 1_000), st.integers(1, MAX_AMOUNT)))
    schedule = draw(schedules(total))
    attested = {}
    if isinstance(schedule.kind, Milestones):
        times = st.integers(START - YEAR, START + LONGEST)
        attested = {milestone.id: draw(times) for milestone in schedule.kind.milestones}
    return schedule, curve(schedule, total, START, attested)


moments = st.integers(START - YEAR, START + LONGEST + YEAR)


@given(curves(), moments, moments)
def test_what_is_unlocked_grows_and_stays_within_the_total(
    made: tuple[Schedule, Curve], one: int, other: int
) -> None:
    """F-34, F-36."""
    _, it = made
    earlier, later = sorted((one, other))
    assert 0 <= it.unlocked(earlier) <= it.unlocked(later) <= it.total


@given(curves())
def test_everything_is_unlocked_in_the_end(made: tuple[Schedule, Curve]) -> None:
    """F-36: whatever the rounding."""
    _, it = made
    assert it.unlocked(START + LONGEST) == it.total
    assert it.unlocked(START - 1) == 0
    assert it.next_unlock(START + LONGEST) is None


@given(curves(), st.lists(moments, max_size=20))
def test_what_was_paid_does_not_depend_on_when_it_was_claimed(
    made: tuple[Schedule, Curve], claims: Sequence[int]
) -> None:
    """Claimed is the floor of the sum, never a sum of floors; and never above the total."""
    _, it = made
    claimed = 0
    for moment in sorted(claims):
        claimed += it.claimable(moment, claimed)
        assert claimed == it.unlocked(moment)
    claimed += it.claimable(START + LONGEST, claimed)
    assert claimed == it.total


@given(curves(), moments)
def test_the_next_unlock_is_the_first_moment_with_more(
    made: tuple[Schedule, Curve], moment: int
) -> None:
    _, it = made
    following = it.next_unlock(moment)
    if following is None:
        assert it.unlocked(START + LONGEST) == it.unlocked(moment)
    else:
        assert it.unlocked(following.time - 1) == it.unlocked(moment)
        assert it.unlocked(following.time) == it.unlocked(moment) + following.amount
        assert following.amount > 0


@given(curves())
def test_schedules_survive_their_message(made: tuple[Schedule, Curve]) -> None:
    schedule, it = made
    vesting_rules.check(schedule, it.total, "schedule")
    message = vesting_messages.schedule_message(schedule)
    read = pb.Schedule.FromString(message.SerializeToString())
    assert vesting_messages.parse(read, "schedule") == schedule


@given(curves(), st.integers(1, MAX_AMOUNT), moments)
def test_any_share_of_a_schedule_ends_complete(
    made: tuple[Schedule, Curve], amount: int, moment: int
) -> None:
    """Several beneficiaries share one schedule: each gets all of theirs, whatever its amounts."""
    schedule, _ = made
    assume(not isinstance(schedule.kind, Milestones))
    it = curve(schedule, amount, START)
    assert it.unlocked(START + LONGEST) == amount
    assert 0 <= it.unlocked(moment) <= amount


# Rules


def refused(schedule: Schedule, total: int = 100) -> tuple[str, str]:
    with pytest.raises(Error) as caught:
        vesting_rules.check(schedule, total, "s")
    assert caught.value.code is Code.INVALID_ARGUMENT
    ((field, _),) = caught.value.violations
    return field, caught.value.reason


def stepped(*steps: tuple[int, int]) -> Schedule:
    return Schedule(Stepped(tuple(Step(offset * SECOND, share) for offset, share in steps)))


def custom(*unlocks: tuple[int, int], shares: bool = False) -> Schedule:
    return Schedule(Custom(tuple(Unlock(START + t, n) for t, n in unlocks), shares=shares))


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        (Schedule(Instant(), 1), "initial_unlock_basis_points"),
        (Schedule(Linear(DAY), WHOLE + 1), "initial_unlock_basis_points"),
        (Schedule(Single(0)), "single.duration"),
        (Schedule(Single(-SECOND)), "single.duration"),
        (Schedule(Single(LONGEST + SECOND)), "single.duration"),
        (Schedule(Linear(SECOND // 2)), "linear.duration"),
        (Schedule(Linear(SECOND + 1)), "linear.duration"),
        (Schedule(Linear(DAY, -1)), "linear.frequency"),
        (Schedule(Linear(DAY, LONGEST + SECOND)), "linear.frequency"),
        (Schedule(Cliff(0, 0, DAY)), "cliff.cliff_duration"),
        (Schedule(Cliff(DAY, 0, 0)), "cliff.vesting_duration"),
        (Schedule(Cliff(LONGEST, 0, SECOND)), "cliff.vesting_duration"),
        (Schedule(Cliff(DAY, 0, DAY, SECOND // 2)), "cliff.frequency"),
        (Schedule(Cliff(DAY, 9_001, DAY), 1_000), "cliff.cliff_basis_points"),
        (stepped(), "stepped.steps"),
        (stepped((1, 5_000), (1, 5_000)), "stepped.steps"),
        (stepped((2, 5_000), (1, 5_000)), "stepped.steps"),
        (stepped((0, WHOLE)), "stepped.steps[0].offset"),
        (stepped((1, 0), (2, WHOLE)), "stepped.steps"),
        (stepped(*((n, 1) for n in range(1, MAX_PARTS + 2))), "stepped.steps"),
        (custom(), "custom.unlocks"),
        (custom((1, 50), (1, 50)), "custom.unlocks"),
        (custom((2, 50), (1, 50)), "custom.unlocks"),
        (custom((1, 0), (2, 100)), "custom.unlocks"),
        (Schedule(Milestones("2vxsx-fae", (Milestone("a", WHOLE),))), "milestones.attestor"),
        (Schedule(Milestones("nobody", (Milestone("a", WHOLE),))), "milestones.attestor"),
        (Schedule(Milestones(ATTESTOR, (Milestone("A", WHOLE),))), "milestones.milestones"),
        (
            Schedule(Milestones(ATTESTOR, (Milestone("a", 5_000), Milestone("a", 5_000)))),
            "milestones.milestones",
        ),
    ],
)
def test_what_could_not_unlock_is_refused(schedule: Schedule, field: str) -> None:
    """F-36, and the bounds of §2.3."""
    assert refused(schedule) == (f"s.{field}", "INVALID_SCHEDULE")


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(THIRDS),
        stepped((1, WHOLE), (2, 1)),
        replace(stepped((1, WHOLE)), initial_share=1),
        custom((1, 99)),
        custom((1, 101)),
        custom((1, 9_999), shares=True),
        Schedule(Milestones(ATTESTOR, (Milestone("a", 9_999),))),
    ],
)
def test_parts_that_do_not_add_up_are_refused(schedule: Schedule) -> None:
    """F-36: what ends below or above the whole."""
    assert refused(schedule)[1] == "SCHEDULE_SUM"


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(Single(SECOND)),
        Schedule(Linear(LONGEST, LONGEST)),
        Schedule(Cliff(DAY, 9_000, DAY), 1_000),
        Schedule(Linear(DAY), WHOLE),
        custom((0, 90), (DAY, 10)),
    ],
)
def test_bounds_belong_to_what_is_allowed(schedule: Schedule) -> None:
    vesting_rules.check(schedule, 100, "s")


def test_a_start_is_now_or_within_ten_years() -> None:
    """F-38: bounds follow the clock that is given; no date is written down anywhere."""
    for now in (0, START, START + LONGEST):
        vesting_rules.check_start(now, now, "start_time")
        vesting_rules.check_start(now + LONGEST, now, "start_time")
        for start in (now - 1, now + LONGEST + 1):
            with pytest.raises(Error):
                vesting_rules.check_start(start, now, "start_time")


def test_the_times_of_a_custom_schedule_follow_its_start() -> None:
    vesting_rules.check_times(custom((0, 50), (LONGEST, 50)), START, "s")
    for offset in (-1, LONGEST + 1):
        with pytest.raises(Error, match="at or after the start"):
            vesting_rules.check_times(custom((offset, 100)), START, "s")


def test_only_the_given_moment_decides() -> None:
    """F-38: nothing is kept between two questions, so that time cannot freeze."""
    made = curve(Schedule(Linear(YEAR)), T, START)
    first = [made.unlocked(START + n * DAY) for n in range(366)]
    assert [made.unlocked(START + n * DAY) for n in reversed(range(366))] == first[::-1]
    assert len(set(first)) == 366


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.Schedule(), "s"),
        (
            pb.Schedule(linear=pb.Linear(frequency=pb.Frequency(custom=Duration()))),
            "s.linear.frequency.custom",
        ),
        (pb.Schedule(single=pb.Single(duration=Duration(nanos=5))), "s.single.duration"),
        (
            pb.Schedule(
                custom=pb.Custom(
                    unlocks=[pb.CustomUnlock(amount="1"), pb.CustomUnlock(basis_points=1)]
                )
            ),
            "s.custom.unlocks",
        ),
        (
            pb.Schedule(custom=pb.Custom(unlocks=[pb.CustomUnlock(amount="-1")])),
            "s.custom.unlocks[0].amount",
        ),
    ],
)
def test_malformed_messages_are_refused(message: Any, field: str) -> None:
    with pytest.raises(Error) as caught:
        vesting_messages.parse(message, "s")
    assert caught.value.violations[0][0] == field


def test_named_intervals_are_exact_periods() -> None:
    for interval, days in (
        (pb.INTERVAL_DAILY, 1),
        (pb.INTERVAL_WEEKLY, 7),
        (pb.INTERVAL_MONTHLY, 30),
        (pb.INTERVAL_QUARTERLY, 90),
        (pb.INTERVAL_YEARLY, 365),
        (pb.INTERVAL_CONTINUOUS, 0),
    ):
        message = pb.Schedule(linear=pb.Linear(frequency=pb.Frequency(interval=interval)))
        message.linear.duration.FromSeconds(7)
        assert vesting_messages.parse(message, "s").kind == Linear(7 * SECOND, days * DAY)
    message.linear.frequency.interval = 99  # type: ignore[assignment]  # a later version's
    with pytest.raises(Error, match="frequency"):
        vesting_rules.check(vesting_messages.parse(message, "s"), 1, "s")


FEE = 10


@pytest.mark.parametrize(
    ("asked", "claimable", "left", "taken"),
    [
        (None, 1_000, 1_000, 1_000),
        (1_000, 1_000, 1_000, 1_000),
        (989, 1_000, 1_000, 989),
        # Nearly everything is unlocked: as much as leaves something to claim.
        (None, 995, 1_000, 989),
        (None, 989, 1_000, 989),
        (None, 500, 1_000, 500),
        (500, 995, 1_000, 500),
        (None, 11, 22, 11),
    ],
)
def test_a_claim_takes_what_leaves_nothing_or_enough(
    asked: int | None, claimable: int, left: int, taken: int
) -> None:
    assert vesting_rules.to_take(asked, claimable, left, FEE) == taken


@pytest.mark.parametrize(
    ("asked", "claimable", "left", "way"),
    [
        (990, 1_000, 1_000, "10 would be left.* Claim at most 989 now, or all 1000."),
        (995, 995, 1_000, "Claim at most 989 now, or all 1000 once everything is unlocked."),
        (15, 20, 20, "5 would be left, .* Claim all 20."),
        (None, 15, 20, "5 would be left, .* Claim all 20 once everything is unlocked."),
    ],
)
def test_a_claim_that_would_strand_a_rest_is_told_another(
    asked: int | None, claimable: int, left: int, way: str
) -> None:
    """F-47: what is not more than the fee could never be claimed."""
    with pytest.raises(Error, match=way) as told:
        vesting_rules.to_take(asked, claimable, left, FEE)
    assert told.value.reason == "REST_BELOW_FEE"


@given(
    st.lists(st.tuples(st.integers(0, 200), st.none() | st.integers(1, 500)), min_size=1),
    st.integers(0, 50),
)
def test_however_claims_are_cut_the_last_unit_can_be_claimed(
    unlocks: list[tuple[int, int | None]], fee: int
) -> None:
    """F-47: as more and more unlocks, claims never leave what the fee would take."""
    left = whole = sum(more for more, _ in unlocks) + fee + 1
    unlocked = fee + 1
    for more, asked in unlocks:
        unlocked += more
        claimable = unlocked - (whole - left)
        if claimable > fee and (asked is None or fee < asked <= claimable):
            with contextlib.suppress(Error):
                left -= vesting_rules.to_take(asked, claimable, left, fee)
        assert left == 0 or left > fee
    assert not left or vesting_rules.to_take(None, left, left, fee) == left
