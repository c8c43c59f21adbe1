"""What a lock may be, what of it is unlocked, and how it moves from state to state."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum, auto
from typing import Final, assert_never
from uuid import UUID

from contract import principal
from contract.errors import Code, Error, invalid
from services.kit.roles.standing_rules import Standing
from services.kit.vesting import vesting_rules
from services.kit.vesting.vesting_rules import Curve, Milestones, Schedule, Unlock

NAME_LENGTH: Final = range(1, 101)
MAX_BENEFICIARIES: Final = 1_000
FUNDING_DEADLINE: Final = vesting_rules.DAY
"""A lock that is not active by then has failed (F-49)."""
# A transfer that is a day old is refused by every ledger, so that nothing arrives after the last.
CHECKS: Final = (
    60 * vesting_rules.SECOND,
    600 * vesting_rules.SECOND,
    3_600 * vesting_rules.SECOND,
    vesting_rules.DAY,
)
"""After it was given up, the account is looked at again after these times, one after the other."""


class LockType(IntEnum):
    """What a lock is for, numbered as icto.lock.v1.LockType."""

    TEAM = 1
    ADVISOR = 2
    FOUNDER = 3
    INVESTOR = 4
    TREASURY = 5
    LIQUIDITY = 6
    CUSTOM = 7


class State(IntEnum):
    """State of a lock, numbered as icto.lock.v1.LockState."""

    CREATED = 1
    FUNDED = 2
    LOCKED = 3
    PARTIALLY_CLAIMED = 4
    COMPLETED = 5
    FAILED = 6
    REVOKED = 7
    EMERGENCY_UNLOCKED = 8
    ABANDONED = 9


class _Phase(Enum):
    """How far a lock in a state is: not active yet, vesting, past that, or never to be."""

    WAITING = auto()
    VESTING = auto()
    OVER = auto()
    GIVEN_UP = auto()


def _phase(state: State) -> _Phase:
    match state:
        case State.CREATED | State.FUNDED:
            return _Phase.WAITING
        case State.LOCKED | State.PARTIALLY_CLAIMED:
            return _Phase.VESTING
        case State.COMPLETED | State.REVOKED | State.EMERGENCY_UNLOCKED:
            return _Phase.OVER
        case State.FAILED | State.ABANDONED:
            return _Phase.GIVEN_UP
        case _:
            assert_never(state)


def _states(*phases: _Phase) -> frozenset[State]:
    return frozenset(state for state in State if _phase(state) in phases)


WAITING: Final = _states(_Phase.WAITING)
"""Not active yet; it may still be given up."""
VESTING: Final = _states(_Phase.VESTING)
"""Active, and vesting as its schedule says."""
DELIVERED: Final = _states(_Phase.VESTING, _Phase.OVER)
"""Active, or active once; it cannot be given up."""


@dataclass(frozen=True, slots=True)
class Beneficiary:
    """Somebody for whom a part is held, perhaps under a schedule of their own."""

    principal: str
    amount: int
    schedule: Schedule | None = None


@dataclass(frozen=True, slots=True)
class LockSpec:
    """What a lock shall be. Base units; microseconds, None for the moment of activation."""

    display_name: str
    total: int
    schedule: Schedule
    beneficiaries: tuple[Beneficiary, ...] = ()
    start: int | None = None
    type: LockType = LockType.CUSTOM
    revocable: bool = False
    emergency_unlock: bool = False


@dataclass(frozen=True, slots=True)
class Attestation:
    """Somebody's word that a milestone was reached."""

    attestor: str
    milestone: str
    time: int


@dataclass(frozen=True, slots=True)
class Times:
    """When what happened to a lock, in microseconds; `seen` is when it was read."""

    seen: int = 0
    create: int = 0
    fund: int | None = None
    activate: int | None = None
    revoke: int | None = None
    unlock: int | None = None


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock. Its spec has the beneficiaries only where they were asked for."""

    id: UUID
    operation: str
    owner: str
    ledger: str
    escrow: tuple[str, bytes]
    spec: LockSpec
    state: State = State.CREATED
    start: int | None = None
    claimed: int = 0
    returned: int = 0
    checks: int = 0
    beneficiary_count: int = 0
    attestors: tuple[str, ...] = ()
    attestations: tuple[Attestation, ...] = ()
    failure: str = ""
    times: Times = field(default=Times())

    def attested(self, attestor: str) -> Mapping[str, int]:
        """When which milestones were attested by somebody."""
        return {a.milestone: a.time for a in self.attestations if a.attestor == attestor}


@dataclass(frozen=True, slots=True)
class Share:
    """What a lock holds for one beneficiary, who owns it.

    `returned` of it went back when the lock was revoked: dust that the fee would have taken.
    """

    owner: str
    amount: int
    claimed: int = 0
    schedule: Schedule | None = None
    returned: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a beneficiary, who owns it, claimed at one time. Paid once it has a block."""

    id: UUID
    lock_id: UUID
    owner: str
    amount: int
    fee: int
    block_index: int | None = None
    create_time: int = 0
    pay_time: int | None = None

    @property
    def net(self) -> int:
        """What arrives."""
        return self.amount - self.fee


@dataclass(frozen=True, slots=True)
class Claimable:
    """What a beneficiary has at a moment."""

    unlocked: int
    claimable: int
    progress: int
    next_unlock: Unlock | None


# What may be


def complete(spec: LockSpec, fee: int) -> LockSpec:
    """The spec in canonical form.

    Raises:
        Error: INVALID_ARGUMENT, naming the field and its bound.
    """
    name = unicodedata.normalize("NFC", spec.display_name).strip()
    if len(name) not in NAME_LENGTH:
        raise invalid("spec.display_name", "must have 1 to 100 characters")
    if spec.total < 1:
        raise invalid("spec.total_amount", "must be at least 1", "INVALID_AMOUNT")
    vesting_rules.check(spec.schedule, spec.total, "spec.schedule")
    _check_beneficiaries(spec, fee)
    return replace(spec, display_name=name)


def check_times(spec: LockSpec, now: int) -> None:
    """Passes when nothing of a spec that is asked for now is in the past, or too far ahead.

    Raises:
        Error: INVALID_ARGUMENT, naming the field and its bound.
    """
    if spec.start is not None:
        vesting_rules.check_start(spec.start, now, "spec.start_time")
    begin = now if spec.start is None else spec.start
    vesting_rules.check_times(spec.schedule, begin, "spec.schedule")
    for position, beneficiary in enumerate(spec.beneficiaries):
        if beneficiary.schedule is not None:
            vesting_rules.check_times(beneficiary.schedule, begin, f"{_at(position)}.schedule")


def _check_beneficiaries(spec: LockSpec, fee: int) -> None:
    field_name, everybody = "spec.beneficiaries", spec.beneficiaries
    if not 1 <= len(everybody) <= MAX_BENEFICIARIES:
        raise invalid(field_name, f"must be 1 to {MAX_BENEFICIARIES}")
    if len({beneficiary.principal for beneficiary in everybody}) != len(everybody):
        raise invalid(field_name, "names a principal twice", "DUPLICATE_BENEFICIARY")
    for position, beneficiary in enumerate(everybody):
        _check_beneficiary(beneficiary, fee, _at(position))
    together = sum(beneficiary.amount for beneficiary in everybody)
    if together != spec.total:
        raise invalid(
            field_name, f"have {together} together; they must be {spec.total}", "AMOUNTS_SUM"
        )


def _check_beneficiary(beneficiary: Beneficiary, fee: int, at: str) -> None:
    named = beneficiary.principal
    if not principal.is_person(named):
        raise invalid(
            f"{at}.principal", "must be a principal that can sign in", "INVALID_PRINCIPAL"
        )
    if beneficiary.amount <= fee:
        raise invalid(f"{at}.amount", f"must be more than the fee of {fee}", "INVALID_AMOUNT")
    if beneficiary.schedule is not None:
        vesting_rules.check(beneficiary.schedule, beneficiary.amount, f"{at}.schedule")


def _at(position: int) -> str:
    return f"spec.beneficiaries[{position}]"


def attestors(spec: LockSpec) -> tuple[str, ...]:
    """Who may attest milestones of any of its schedules."""
    schedules = [spec.schedule, *(b.schedule for b in spec.beneficiaries if b.schedule)]
    kinds = (schedule.kind for schedule in schedules)
    return tuple(sorted({kind.attestor for kind in kinds if isinstance(kind, Milestones)}))


def has_milestone(schedules: Iterable[Schedule], attestor: str, milestone: str) -> bool:
    """Whether one of the schedules has a milestone that this attestor may attest."""
    return any(
        isinstance(schedule.kind, Milestones)
        and schedule.kind.attestor == attestor
        and any(known.id == milestone for known in schedule.kind.milestones)
        for schedule in schedules
    )


def work_of(operation: str) -> str:
    """The launch that an operation is a step of; the operation itself when it is no step."""
    return operation.partition("/steps/")[0]


# What is unlocked


def unlocked(lock: Lock, share: Share, moment: int) -> int:
    """What of a share is unlocked at a moment. A revocation stops time, an emergency ends it."""
    if lock.times.unlock is not None and moment >= lock.times.unlock:
        return share.amount
    stop = moment if lock.times.revoke is None else lock.times.revoke
    return _curve(lock, share).unlocked(min(moment, stop))


def claimable(lock: Lock, share: Share, moment: int) -> Claimable:
    """What a beneficiary has at a moment, if nothing else happens."""
    open_now = unlocked(lock, share, moment)
    ended = lock.times.revoke is not None or open_now == share.amount
    return Claimable(
        unlocked=open_now,
        claimable=max(0, open_now - share.claimed - share.returned),
        progress=open_now * vesting_rules.WHOLE // share.amount,
        next_unlock=None if ended else _curve(lock, share).next_unlock(moment),
    )


def unvested(lock: Lock, shares: Sequence[Share], moment: int) -> int:
    """What nobody has a right to yet. What was claimed counts as unlocked, whatever the clock."""
    return sum(share.amount - max(unlocked(lock, share, moment), share.claimed) for share in shares)


def dust(lock: Lock, shares: Sequence[Share], moment: int, fee: int) -> Mapping[str, int]:
    """What of each beneficiary's share a revocation at a moment would leave to nobody.

    It is unlocked and not claimed, and not more than the fee, so that no claim could ever take it.
    """
    left = {share.owner: unlocked(lock, share, moment) - share.claimed for share in shares}
    return {owner: rest for owner, rest in left.items() if 0 < rest <= fee}


def _curve(lock: Lock, share: Share) -> Curve:
    schedule = share.schedule or lock.spec.schedule
    attested: Mapping[str, int] = {}
    if isinstance(schedule.kind, Milestones):
        attested = lock.attested(schedule.kind.attestor)
    if lock.start is None:
        raise not_active(lock)
    return vesting_rules.curve(schedule, share.amount, lock.start, attested)


def amount_to_claim(asked: int | None, lock: Lock, share: Share, fee: int) -> int:
    """What a claim takes now, fee included: what was asked for, or all that may be taken.

    Raises:
        Error: FAILED_PRECONDITION, nothing is claimable, or what is, or what would be left, is not
            more than the fee (F-47); INVALID_ARGUMENT, more or less was asked for than may be.
    """
    now = lock.times.seen
    open_now = claimable(lock, share, now).claimable
    if open_now == 0:
        raise Error(Code.FAILED_PRECONDITION, "NOTHING_TO_CLAIM", "Nothing is claimable now.")
    facts = {"claimable": str(open_now), "fee": str(fee)}
    if open_now <= fee:
        raise Error(
            Code.FAILED_PRECONDITION,
            "CLAIM_BELOW_FEE",
            f"{open_now} is claimable, which the fee of {fee} would take.",
            metadata=facts,
        )
    if asked is not None and asked > open_now:
        raise invalid("amount", f"must be at most the claimable {open_now}", "EXCEEDS_CLAIMABLE")
    if asked is not None and asked <= fee:
        raise invalid("amount", f"must be more than the fee of {fee}", "CLAIM_BELOW_FEE")
    most = share.amount if lock.times.revoke is None else unlocked(lock, share, now)
    return vesting_rules.to_take(asked, open_now, most - share.claimed - share.returned, fee)


# How it moves


def after_claim(lock: Lock, amount: int) -> State:
    """The state once so much more is claimed. A lock that was ended early stays as it is."""
    if lock.state not in VESTING:
        return lock.state
    complete_now = lock.claimed + amount == lock.spec.total
    return State.COMPLETED if complete_now else State.PARTIALLY_CLAIMED


def check_activatable(lock: Lock) -> None:
    """Passes when a lock is active or may become so.

    Raises:
        Error: FAILED_PRECONDITION, it was given up, or failed.
    """
    if lock.state is State.ABANDONED:
        raise abandoned(lock.operation)
    if lock.state is State.FAILED:
        raise Error(
            Code.FAILED_PRECONDITION,
            "LOCK_FAILED",
            f"{lock.operation} failed: {lock.failure}. Create it anew under another operation.",
        )


def created(lock: Lock, now: int) -> Lock:
    """A new lock as of a moment."""
    return replace(
        lock,
        beneficiary_count=len(lock.spec.beneficiaries),
        attestors=attestors(lock.spec),
        times=Times(seen=now, create=now),
    )


def activated(lock: Lock) -> Lock:
    """A funded lock once it is active, as of the moment at which it was seen."""
    now = lock.times.seen
    return replace(
        lock,
        state=State.LOCKED,
        start=now if lock.spec.start is None else lock.spec.start,
        times=replace(lock.times, activate=now),
    )


def check_revocable(lock: Lock) -> None:
    """Passes when the owner may end vesting.

    Raises:
        Error: FAILED_PRECONDITION, they may not, or there is none.
    """
    if not lock.spec.revocable:
        raise Error(Code.FAILED_PRECONDITION, "LOCK_NOT_REVOCABLE", "This lock cannot be revoked.")
    if lock.state not in VESTING:
        raise not_active(lock)


def check_disinterested(
    actor: str, standing: Standing, having: frozenset[str], *, administrators: bool
) -> None:
    """Passes when an administrator who unlocks a lock has no part in it.

    Args:
        actor: who unlocks it.
        standing: whom they speak for.
        having: the lock's beneficiaries.
        administrators: whether one of these could unlock it, and make others who can.

    Raises:
        Error: PERMISSION_DENIED, they have; whoever benefits does not unlock it alone.
    """
    if actor in having:
        raise Error(
            Code.PERMISSION_DENIED,
            "LOCK_BENEFICIARY",
            "You benefit from this lock; it is for another administrator to unlock it.",
        )
    if administrators and (not standing.origin or standing.origin in having):
        since = standing.counts_from
        raise Error(
            Code.PERMISSION_DENIED,
            "LOCK_BENEFICIARY",
            "An administrator benefits from this lock, and your role is too new to be sure that you"
            " do not act for them"
            + (f"; you may unlock it from {since:%Y-%m-%dT%H:%M:%SZ}." if since else "."),
        )


def check_unlockable(lock: Lock) -> None:
    """Passes when an administrator may unlock everything.

    Raises:
        Error: FAILED_PRECONDITION, the lock does not allow it, or is not vesting.
    """
    if not lock.spec.emergency_unlock:
        raise Error(
            Code.FAILED_PRECONDITION,
            "EMERGENCY_UNLOCK_NOT_ALLOWED",
            "This lock does not allow an emergency unlock.",
        )
    if lock.state not in VESTING:
        raise not_active(lock)


def changed() -> Error:
    """Somebody else changed the lock since it was read."""
    return Error(Code.ABORTED, "LOCK_CHANGED", "The lock has changed meanwhile; try again.")


def next_check(checks: int) -> int | None:
    """Microseconds until the account of a lock that ended early is looked at again."""
    return CHECKS[checks] if checks < len(CHECKS) else None


# What is told


def not_active(lock: Lock) -> Error:
    """Nothing is vesting."""
    return Error(
        Code.FAILED_PRECONDITION,
        "LOCK_NOT_ACTIVE",
        f"The lock is {lock.state.name}; that needs one that is vesting.",
        metadata={"state": lock.state.name},
    )


def not_funded(balance: int, required: int) -> Error:
    """Its account does not hold the whole amount."""
    return Error(
        Code.FAILED_PRECONDITION,
        "NOT_FUNDED",
        f"The lock's account holds {balance}; it must hold {required}.",
        metadata={"balance": str(balance), "required": str(required)},
    )


def nothing_to_revoke(unvested_now: int, fee: int) -> Error:
    """All is unlocked, or what is not would be eaten by the fee."""
    return Error(
        Code.FAILED_PRECONDITION,
        "NOTHING_TO_REVOKE",
        f"{unvested_now} is not unlocked yet; that must be more than the fee of {fee}.",
        metadata={"unvested": str(unvested_now), "fee": str(fee)},
    )


def abandoned(operation: str) -> Error:
    """The operation was given up; what it would have made will never be."""
    return Error(Code.FAILED_PRECONDITION, "OPERATION_ABANDONED", f"{operation} was given up.")


def operation_reused(operation: str) -> Error:
    """The operation made something else."""
    return Error(Code.ALREADY_EXISTS, "OPERATION_REUSED", f"{operation} created a different lock.")


def payment_consumed(payment: str) -> Error:
    """The payment paid for another launch (F-19)."""
    return Error(Code.ALREADY_EXISTS, "PAYMENT_CONSUMED", f"{payment} paid for something else.")
