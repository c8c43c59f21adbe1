"""Between vesting's values and its messages (icto.vesting.v1)."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, assert_never

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from contract.errors import invalid
from icto.vesting.v1 import vesting_pb2 as pb
from services.kit.money import amounts
from services.kit.vesting import vesting_rules
from services.kit.vesting.vesting_rules import (
    Cliff,
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
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NANOS: Final = 1_000
_PERIODS: Final[Mapping[int, int]] = {
    pb.INTERVAL_UNSPECIFIED: 0,
    pb.INTERVAL_CONTINUOUS: 0,
    pb.INTERVAL_DAILY: vesting_rules.DAY,
    pb.INTERVAL_WEEKLY: vesting_rules.WEEK,
    pb.INTERVAL_MONTHLY: vesting_rules.MONTH,
    pb.INTERVAL_QUARTERLY: vesting_rules.QUARTER,
    pb.INTERVAL_YEARLY: vesting_rules.YEAR,
}
_INTERVALS: Final = {period: interval for interval, period in _PERIODS.items() if period}


def of_datetime(moment: datetime) -> int:
    """A moment as microseconds."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def to_datetime(moment: int) -> datetime:
    """Microseconds as a moment."""
    return _EPOCH + timedelta(microseconds=moment)


def of_timestamp(message: Timestamp) -> int:
    """A timestamp as microseconds; what is finer is dropped."""
    return message.seconds * vesting_rules.SECOND + message.nanos // _NANOS


def timestamp(moment: int) -> Timestamp:
    """Microseconds as a timestamp."""
    seconds, rest = divmod(moment, vesting_rules.SECOND)
    return Timestamp(seconds=seconds, nanos=rest * _NANOS)


def parse(message: pb.Schedule, field: str) -> Schedule:
    """A schedule as it was asked for, not yet checked.

    Raises:
        Error: INVALID_ARGUMENT, it is malformed.
    """
    return Schedule(_kind(message, field), message.initial_unlock_basis_points)


def _kind(message: pb.Schedule, field: str) -> vesting_rules.Kind:
    kind: vesting_rules.Kind
    match message.WhichOneof("kind"):
        case "instant":
            kind = Instant()
        case "single":
            kind = Single(_duration(message.single.duration, f"{field}.single.duration"))
        case "linear":
            kind = _linear(message.linear, f"{field}.linear")
        case "cliff":
            kind = _cliff(message.cliff, f"{field}.cliff")
        case "stepped":
            kind = _stepped(message.stepped, f"{field}.stepped.steps")
        case "custom":
            kind = _custom(message.custom, f"{field}.custom.unlocks")
        case "milestones":
            kind = _milestones(message.milestones)
        case None:
            raise invalid(field, "must say how the amount unlocks", "INVALID_SCHEDULE")
        case unknown:
            assert_never(unknown)
    return kind


def _linear(message: pb.Linear, field: str) -> Linear:
    return Linear(
        _duration(message.duration, f"{field}.duration"),
        _period(message.frequency, f"{field}.frequency"),
    )


def _cliff(message: pb.Cliff, field: str) -> Cliff:
    return Cliff(
        _duration(message.cliff_duration, f"{field}.cliff_duration"),
        message.cliff_basis_points,
        _duration(message.vesting_duration, f"{field}.vesting_duration"),
        _period(message.frequency, f"{field}.frequency"),
    )


def _stepped(message: pb.Stepped, field: str) -> Stepped:
    return Stepped(
        tuple(
            Step(_duration(step.offset, f"{field}[{position}].offset"), step.basis_points)
            for position, step in enumerate(message.steps)
        )
    )


def _custom(message: pb.Custom, field: str) -> Custom:
    sizes = {unlock.WhichOneof("size") for unlock in message.unlocks}
    if len(sizes) > 1:
        raise invalid(field, "must all name amounts, or all shares", "INVALID_SCHEDULE")
    return Custom(
        tuple(
            Unlock(of_timestamp(unlock.time), _size(unlock, f"{field}[{position}].amount"))
            for position, unlock in enumerate(message.unlocks)
        ),
        shares=sizes == {"basis_points"},
    )


def _size(unlock: pb.CustomUnlock, field: str) -> int:
    if unlock.WhichOneof("size") == "basis_points":
        return unlock.basis_points
    return amounts.parse(unlock.amount, field)


def _milestones(message: pb.Milestones) -> Milestones:
    return Milestones(
        message.attestor,
        tuple(
            Milestone(milestone.id, milestone.basis_points, milestone.description)
            for milestone in message.milestones
        ),
    )


def _period(message: pb.Frequency, field: str) -> int:
    if message.WhichOneof("period") != "custom":
        return _PERIODS.get(message.interval, -1)
    period = _duration(message.custom, f"{field}.custom")
    if not period:
        raise invalid(f"{field}.custom", "must be at least 1 s", "INVALID_SCHEDULE")
    return period


def _duration(message: Duration, field: str) -> int:
    if message.nanos:
        raise invalid(field, "must be whole seconds", "INVALID_SCHEDULE")
    return message.seconds * vesting_rules.SECOND


def schedule_message(schedule: Schedule) -> pb.Schedule:
    """A schedule as its message."""
    message = pb.Schedule(initial_unlock_basis_points=schedule.initial_share)
    match schedule.kind:
        case Instant():
            message.instant.SetInParent()
        case Single(duration):
            message.single.duration.CopyFrom(_duration_message(duration))
        case Linear(duration, period):
            message.linear.CopyFrom(
                pb.Linear(duration=_duration_message(duration), frequency=_frequency(period))
            )
        case Cliff():
            message.cliff.CopyFrom(_cliff_message(schedule.kind))
        case Stepped(steps):
            message.stepped.steps.extend(
                pb.Step(offset=_duration_message(step.offset), basis_points=step.share)
                for step in steps
            )
        case Custom():
            message.custom.unlocks.extend(
                _unlock_message(unlock, shares=schedule.kind.shares)
                for unlock in schedule.kind.unlocks
            )
        case Milestones():
            message.milestones.CopyFrom(_milestones_message(schedule.kind))
        case _:
            assert_never(schedule.kind)
    return message


def _cliff_message(kind: Cliff) -> pb.Cliff:
    return pb.Cliff(
        cliff_duration=_duration_message(kind.cliff),
        cliff_basis_points=kind.cliff_share,
        vesting_duration=_duration_message(kind.duration),
        frequency=_frequency(kind.period),
    )


def _unlock_message(unlock: Unlock, *, shares: bool) -> pb.CustomUnlock:
    time = timestamp(unlock.time)
    if shares:
        return pb.CustomUnlock(time=time, basis_points=unlock.amount)
    return pb.CustomUnlock(time=time, amount=str(unlock.amount))


def _milestones_message(kind: Milestones) -> pb.Milestones:
    return pb.Milestones(
        attestor=kind.attestor,
        milestones=[
            pb.Milestone(
                id=milestone.id, description=milestone.description, basis_points=milestone.share
            )
            for milestone in kind.milestones
        ],
    )


def _frequency(period: int) -> pb.Frequency | None:
    if not period:
        return None
    if period in _INTERVALS:
        return pb.Frequency(interval=_INTERVALS[period])  # type: ignore[arg-type]  # its own number
    return pb.Frequency(custom=_duration_message(period))


def _duration_message(duration: int) -> Duration:
    return Duration(seconds=duration // vesting_rules.SECOND)
