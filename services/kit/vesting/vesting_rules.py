"""Vesting: how much of an amount is unlocked at a moment, in exact integers.

Amounts are base units, times are microseconds (the database's precision), shares are basis points.
Every unlock is rounded down and the last one pays the remainder. A schedule says how an amount
unlocks; applied to an amount and a start it is a `Curve`: steps, and after the last of them perhaps
a ramp. What is unlocked depends on the moment alone, so that the cadence of claims changes nothing.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, assert_never

from contract import principal
from contract.errors import Code, Error, invalid

SECOND: Final = 1_000_000
DAY: Final = 86_400 * SECOND
WEEK: Final = 7 * DAY
MONTH: Final = 30 * DAY
QUARTER: Final = 90 * DAY
YEAR: Final = 365 * DAY
LONGEST: Final = 10 * YEAR
"""Longest duration, and how far ahead a start may lie."""
WHOLE: Final = 10_000
"""Basis points of the whole."""
MAX_PARTS: Final = 120
"""Most steps, unlocks or milestones of a schedule: ten years of months."""
_MILESTONE_ID: Final = re.compile(r"[a-z0-9_-]{1,32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Instant:
    """All at the start."""


@dataclass(frozen=True, slots=True)
class Single:
    """All at once, `duration` after the start."""

    duration: int


@dataclass(frozen=True, slots=True)
class Linear:
    """Evenly over `duration`, every `period`; 0 is continuously."""

    duration: int
    period: int = 0


@dataclass(frozen=True, slots=True)
class Cliff:
    """A share at the cliff, then evenly; periods count from the cliff."""

    cliff: int
    cliff_share: int
    duration: int
    period: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A share that unlocks some time after the start."""

    offset: int
    share: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """In steps."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Unlock:
    """An amount that unlocks at a time."""

    time: int
    amount: int


@dataclass(frozen=True, slots=True)
class Custom:
    """In parts at given times, of base units or, when `shares`, of basis points."""

    unlocks: tuple[Unlock, ...]
    shares: bool = False


@dataclass(frozen=True, slots=True)
class Milestone:
    """A share that unlocks when it is attested."""

    id: str
    share: int
    description: str = ""


@dataclass(frozen=True, slots=True)
class Milestones:
    """By attestation, in whatever order."""

    attestor: str
    milestones: tuple[Milestone, ...]


Kind = Instant | Single | Linear | Cliff | Stepped | Custom | Milestones


@dataclass(frozen=True, slots=True)
class Schedule:
    """How an amount unlocks: a share at the start, and how the rest follows."""

    kind: Kind
    initial_share: int = 0


@dataclass(frozen=True, slots=True)
class Ramp:
    """From `base` to `base + rest` between two moments, evenly, every `period`."""

    begin: int
    duration: int
    base: int
    rest: int
    period: int

    def unlocked(self, moment: int) -> int:
        """What is unlocked at a moment that is not before the begin."""
        elapsed = moment - self.begin
        if elapsed >= self.duration:
            return self.base + self.rest
        if self.period:
            elapsed -= elapsed % self.period
        return self.base + self.rest * elapsed // self.duration

    def reaches(self, amount: int) -> int:
        """When an amount, above the base and within the rest, is unlocked."""
        elapsed = _divide_up((amount - self.base) * self.duration, self.rest)
        if self.period:
            elapsed = _divide_up(elapsed, self.period) * self.period
        return self.begin + min(elapsed, self.duration)


@dataclass(frozen=True, slots=True)
class Curve:
    """How one amount unlocks. Steps are moments with what is unlocked from then on, in order."""

    total: int
    steps: tuple[tuple[int, int], ...]
    ramp: Ramp | None = None

    def unlocked(self, moment: int) -> int:
        """What is unlocked at a moment, from 0 to the total."""
        if self.ramp is not None and moment >= self.ramp.begin:
            return self.ramp.unlocked(moment)
        passed = bisect_right(self.steps, moment, key=lambda step: step[0])
        return self.steps[passed - 1][1] if passed else 0

    def claimable(self, moment: int, claimed: int) -> int:
        """What may be claimed at a moment by one who claimed so much."""
        return max(0, self.unlocked(moment) - claimed)

    def progress(self, moment: int) -> int:
        """The unlocked share in basis points, rounded down: 10,000 only when all is unlocked."""
        return self.unlocked(moment) * WHOLE // self.total if self.total else WHOLE

    def next_unlock(self, moment: int) -> Unlock | None:
        """When more is unlocked than at a moment, and how much more it then is."""
        now = self.unlocked(moment)
        for time, unlocked in self.steps:
            if time > moment and unlocked > now:
                return Unlock(time, self.unlocked(time) - now)
        if self.ramp is None or now >= self.total:
            return None
        time = self.ramp.reaches(now + 1)
        return Unlock(time, self.ramp.unlocked(time) - now)


def curve(
    schedule: Schedule, total: int, start: int, attested: Mapping[str, int] | None = None
) -> Curve:
    """How an amount unlocks from a start on.

    Args:
        schedule: a schedule.
        total: the amount.
        start: nothing is unlocked before it.
        attested: when which milestones were attested.
    """
    initial = _share(total, schedule.initial_share)
    rest = total - initial
    first, ramp = (start, initial), None
    steps: Sequence[tuple[int, int]] = (first,)
    match schedule.kind:
        case Instant():
            steps = ((start, total),)
        case Single(duration):
            steps = (first, (start + duration, total))
        case Linear(duration, period):
            ramp = Ramp(start, duration, initial, rest, period)
        case Cliff(cliff, cliff_share, duration, period):
            jump = min(_share(total, cliff_share), rest)
            steps = (first, (start + cliff, initial + jump))
            ramp = Ramp(start + cliff, duration, initial + jump, rest - jump, period)
        case Stepped():
            parts = [
                (start + step.offset, _share(total, step.share)) for step in schedule.kind.steps
            ]
            steps = _completed((first, *_accumulated(initial, parts, total)), total)
        case Custom(unlocks):
            steps = (first, *_proportional(unlocks, initial, rest, start))
        case Milestones():
            steps = _reached(schedule.kind, first, total, attested or {})
        case _:
            assert_never(schedule.kind)
    return Curve(total, tuple(steps), ramp)


def _accumulated(
    unlocked: int, parts: Iterable[tuple[int, int]], total: int
) -> Iterator[tuple[int, int]]:
    """Steps that add one part after the other to what is unlocked."""
    for time, amount in parts:
        unlocked = min(unlocked + amount, total)
        yield time, unlocked


def _completed(steps: Sequence[tuple[int, int]], total: int) -> tuple[tuple[int, int], ...]:
    """Steps of which the last pays the remainder."""
    return (*steps[:-1], (steps[-1][0], total))


def _proportional(
    unlocks: Sequence[Unlock], initial: int, rest: int, start: int
) -> Iterator[tuple[int, int]]:
    """Steps in which the rest unlocks in the proportions of the parts."""
    whole, passed = sum(unlock.amount for unlock in unlocks), 0
    for unlock in unlocks:
        passed += unlock.amount
        yield max(unlock.time, start), initial + rest * passed // whole


def _reached(
    kind: Milestones, first: tuple[int, int], total: int, attested: Mapping[str, int]
) -> tuple[tuple[int, int], ...]:
    """Steps at the attestations there were."""
    start, initial = first
    parts = sorted(
        (max(attested[milestone.id], start), _share(total, milestone.share))
        for milestone in kind.milestones
        if milestone.id in attested
    )
    steps = (first, *_accumulated(initial, parts, total))
    return _completed(steps, total) if len(parts) == len(kind.milestones) else steps


def _share(total: int, basis_points: int) -> int:
    return total * basis_points // WHOLE


def _divide_up(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def to_take(asked: int | None, claimable: int, left: int, fee: int) -> int:
    """What a claim takes: what was asked for, or as much as may be taken.

    Nothing may be left that is not more than the fee: nobody could ever claim it (F-47).

    Args:
        asked: how much, fee included: more than the fee, and claimable. None is all.
        claimable: what may be claimed now.
        left: what may be claimed now or later.
        fee: what the ledger takes of a claim.

    Raises:
        Error: FAILED_PRECONDITION, too little would be left; it says what to claim instead.
    """
    # Less than everything leaves enough to be claimed later.
    part = min(claimable, left - fee - 1)
    amount = asked
    if amount is None:
        amount = claimable if claimable == left else part
    if amount > fee and not 0 < left - amount <= fee:
        return amount
    ways = [f"at most {part} now"] if part > fee else []
    ways.append(f"all {left}" if claimable == left else f"all {left} once everything is unlocked")
    rest = left - (claimable if asked is None else asked)
    raise rest_below_fee(rest, fee, f"Claim {', or '.join(ways)}.")


def rest_below_fee(rest: int, fee: int, way: str) -> Error:
    """What would be left could never be claimed; `way` is what to do instead."""
    return Error(
        Code.FAILED_PRECONDITION,
        "REST_BELOW_FEE",
        f"{rest} would be left, which the fee of {fee} would take. {way}",
        metadata={"rest": str(rest), "fee": str(fee)},
    )


def check(schedule: Schedule, total: int, field: str) -> None:
    """Passes when a schedule can unlock exactly this amount.

    Raises:
        Error: INVALID_ARGUMENT, naming the field and its bound.
    """
    initial = schedule.initial_share
    if not 0 <= initial <= WHOLE:
        raise _refused(f"{field}.initial_unlock_basis_points", "must be 0 to 10,000")
    match schedule.kind:
        case Instant():
            if initial:
                at = f"{field}.initial_unlock_basis_points"
                raise _refused(at, "must be absent: an instant schedule unlocks all at the start")
        case Single(duration):
            _check_duration(duration, f"{field}.single.duration")
        case Linear(duration, period):
            _check_duration(duration, f"{field}.linear.duration")
            _check_period(period, f"{field}.linear.frequency")
        case Cliff():
            _check_cliff(schedule.kind, initial, f"{field}.cliff")
        case Stepped(steps):
            _check_steps(steps, initial, f"{field}.stepped.steps")
        case Custom():
            _check_custom(schedule.kind, initial, total, f"{field}.custom.unlocks")
        case Milestones():
            _check_milestones(schedule.kind, initial, f"{field}.milestones")
        case _:
            assert_never(schedule.kind)


def check_start(start: int, now: int, field: str) -> None:
    """Passes when what is asked for now may start then.

    Raises:
        Error: INVALID_ARGUMENT, it is in the past or too far ahead.
    """
    if start < now:
        raise _refused(field, "must not be in the past", "START_IN_THE_PAST")
    if start > now + LONGEST:
        raise _refused(field, "must be within 10 years of 365 days from now")


def check_times(schedule: Schedule, start: int, field: str) -> None:
    """Passes when every time that a custom schedule names may follow this start.

    Raises:
        Error: INVALID_ARGUMENT, one is before the start or too long after it.
    """
    if isinstance(schedule.kind, Custom) and any(
        not start <= unlock.time <= start + LONGEST for unlock in schedule.kind.unlocks
    ):
        at = f"{field}.custom.unlocks"
        raise _refused(at, "must be at or after the start, and within 10 years of it")


def _check_duration(duration: int, field: str) -> None:
    if not SECOND <= duration <= LONGEST or duration % SECOND:
        raise _refused(field, "must be whole seconds, from 1 s to 10 years of 365 days")


def _check_period(period: int, field: str) -> None:
    if period:
        _check_duration(period, field)


def _check_cliff(kind: Cliff, initial: int, field: str) -> None:
    _check_duration(kind.cliff, f"{field}.cliff_duration")
    _check_duration(kind.duration, f"{field}.vesting_duration")
    _check_period(kind.period, f"{field}.frequency")
    if kind.cliff + kind.duration > LONGEST:
        raise _refused(f"{field}.vesting_duration", "must end within 10 years of the start")
    if kind.cliff_share < 0 or initial + kind.cliff_share > WHOLE:
        at = f"{field}.cliff_basis_points"
        raise _refused(at, f"must be 0 to {WHOLE - initial}: with the initial part 10,000 at most")


def _check_steps(steps: Sequence[Step], initial: int, field: str) -> None:
    for position, step in enumerate(steps):
        _check_duration(step.offset, f"{field}[{position}].offset")
    _check_order([step.offset for step in steps], "offsets", field)
    _check_shares([step.share for step in steps], initial, field)


def _check_custom(kind: Custom, initial: int, total: int, field: str) -> None:
    _check_order([unlock.time for unlock in kind.unlocks], "times", field)
    sizes = [unlock.amount for unlock in kind.unlocks]
    if kind.shares:
        _check_shares(sizes, initial, field)
    else:
        _check_sum(sizes, total - _share(total, initial), "base units", field)


def _check_milestones(kind: Milestones, initial: int, field: str) -> None:
    if not principal.is_person(kind.attestor):
        raise _refused(f"{field}.attestor", "must be a principal that can sign in")
    names = [milestone.id for milestone in kind.milestones]
    if any(not _MILESTONE_ID.fullmatch(name) for name in names) or len(set(names)) != len(names):
        raise _refused(f"{field}.milestones", "must have unique ids of a-z, 0-9, '-' and '_'")
    shares = [milestone.share for milestone in kind.milestones]
    _check_shares(shares, initial, f"{field}.milestones")


def _check_order(moments: Sequence[int], what: str, field: str) -> None:
    if any(earlier >= later for earlier, later in pairwise(moments)):
        raise _refused(field, f"must have strictly increasing {what}")


def _check_shares(shares: Sequence[int], initial: int, field: str) -> None:
    _check_sum(shares, WHOLE - initial, "basis points", field)


def _check_sum(parts: Sequence[int], whole: int, unit: str, field: str) -> None:
    if not 1 <= len(parts) <= MAX_PARTS or any(part < 1 for part in parts):
        raise _refused(field, f"must be 1 to {MAX_PARTS}, each above 0")
    if sum(parts) != whole:
        raise _refused(
            field, f"must add up to {whole} {unit}; they add up to {sum(parts)}", "SCHEDULE_SUM"
        )


def _refused(field: str, problem: str, reason: str = "INVALID_SCHEDULE") -> Error:
    return invalid(field, problem, reason)
