"""What distributions are: their values and states, and what is told when a state forbids an act.

Amounts are base units, times are microseconds, shares are basis points as in kit.vesting_rules.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final, NamedTuple, assert_never
from uuid import UUID

from contract.errors import Code, Error
from contract.principal import DEFAULT_SUBACCOUNT
from services.kit.vesting import vesting_rules
from services.kit.vesting.vesting_rules import (
    Cliff,
    Custom,
    Instant,
    Linear,
    Milestones,
    Schedule,
    Single,
    Stepped,
)

MESH_NAME: Final = "distribution_deployer"
DEFAULT_FUNDING_PERIOD: Final = vesting_rules.DAY
# A transfer that is a day old is refused by every ledger, so that nothing arrives after the last.
CHECKS: Final = (
    60 * vesting_rules.SECOND,
    600 * vesting_rules.SECOND,
    3_600 * vesting_rules.SECOND,
    vesting_rules.DAY,
)
"""After it failed or was given up, the account is looked at again after these times."""


class State(IntEnum):
    """State of a distribution, numbered as icto.distribution.v1.DistributionState."""

    CREATED = 1
    ACTIVE = 2
    PAUSED = 3
    COMPLETED = 4
    CANCELLED = 5
    FAILED = 6
    ABANDONED = 7


class _Phase(NamedTuple):
    """What a state means.

    Attributes:
        delivered: it was activated.
        pays: claims are paid.
        runs: it was activated and has not ended.
    """

    delivered: bool = False
    pays: bool = False
    runs: bool = False


def _phase(state: State) -> _Phase:
    match state:
        case State.CREATED | State.FAILED | State.ABANDONED:
            return _Phase()
        case State.ACTIVE:
            return _Phase(delivered=True, pays=True, runs=True)
        case State.PAUSED:
            return _Phase(delivered=True, runs=True)
        case State.COMPLETED | State.CANCELLED:
            return _Phase(delivered=True, pays=True)
        case _:
            assert_never(state)


def _next_states(state: State) -> frozenset[State]:
    """The states that may follow a state (F-44)."""
    match state:
        case State.CREATED:
            return frozenset({State.ACTIVE, State.FAILED, State.ABANDONED})
        case State.FAILED:
            return frozenset({State.ABANDONED})
        case State.ACTIVE:
            return frozenset({State.PAUSED, State.CANCELLED, State.COMPLETED})
        case State.PAUSED:
            return frozenset({State.ACTIVE, State.CANCELLED, State.COMPLETED})
        case State.COMPLETED | State.CANCELLED | State.ABANDONED:
            return frozenset()
        case _:
            assert_never(state)


DELIVERED: Final = frozenset(state for state in State if _phase(state).delivered)
"""It was activated: what it promised is owed to its participants."""
CLAIMABLE: Final = frozenset(state for state in State if _phase(state).pays)
OPEN: Final = frozenset(state for state in State if _phase(state).runs)
"""It runs: its owner may pause it, or a category of it."""


class ListState(IntEnum):
    """State of a recipient list, numbered as icto.distribution.v1.RecipientListState."""

    OPEN = 1
    SEALED = 2


class Campaign(IntEnum):
    """What a distribution is for, numbered as icto.distribution.v1.CampaignType."""

    AIRDROP = 1
    VESTING = 2
    PUBLIC = 3


class Kind(IntEnum):
    """Why tokens leave a distribution; the first two are icto.distribution.v1.ClaimKind."""

    VESTED = 1
    EARLY_UNLOCK = 2
    PENALTY = 3
    TO_OWNER = 4
    TO_ESCROW = 5


@dataclass(frozen=True, slots=True)
class Account:
    """An ICRC-1 account; the subaccount is always 32 bytes."""

    owner: str
    subaccount: bytes = DEFAULT_SUBACCOUNT


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who gets how much."""

    principal: str
    amount: int


@dataclass(frozen=True, slots=True)
class Whitelist:
    """Recipients by name. They are kept as allocations, not in the spec."""

    recipients: tuple[Recipient, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """The recipients of a sealed list."""

    list_id: UUID


@dataclass(frozen=True, slots=True)
class TokenHolder:
    """Whoever held enough of a token after a block; None is the newest one at creation."""

    ledger: str
    min_amount: int
    block_index: int | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """Equal shares for those who register; None where a default is not filled in yet."""

    amount: int
    share: int | None = None
    seats: int | None = None
    holder: TokenHolder | None = None
    opens: int | None = None
    closes: int | None = None


Source = Whitelist | Listed | Pool
"""Where the recipients of a category come from."""


@dataclass(frozen=True, slots=True)
class Category:
    """A part of a distribution. `amount` and `count` are what its source allocates to how many."""

    id: int
    display_name: str
    schedule: Schedule
    source: Source
    start: int | None = None
    amount: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class EarlyUnlock:
    """Terms of an early unlock; without a recipient the penalty is burned."""

    penalty: int
    recipient: str = ""
    minimum_lock: int = 0


@dataclass(frozen=True, slots=True)
class ClaimRate:
    """Claims of one participant within a window."""

    claims: int
    window: int


@dataclass(frozen=True, slots=True)
class Spec:
    """What a distribution shall be."""

    display_name: str
    campaign: Campaign
    total: int
    categories: tuple[Category, ...]
    description: str = ""
    public: bool = False
    start: int | None = None
    end: int | None = None
    claim_deadline: int | None = None
    early_unlock: EarlyUnlock | None = None
    claim_rate: ClaimRate | None = None
    pausable: bool = False
    cancellable: bool = False
    funding_period: int = DEFAULT_FUNDING_PERIOD

    def category(self, category_id: int) -> Category:
        """A category.

        Raises:
            Error: NOT_FOUND.
        """
        for category in self.categories:
            if category.id == category_id:
                return category
        raise Error(
            Code.NOT_FOUND, "CATEGORY_NOT_FOUND", f"There is no category {category_id} in it."
        )

    @property
    def pools(self) -> Iterator[tuple[Category, Pool]]:
        """The categories that are pools."""
        for category in self.categories:
            if isinstance(category.source, Pool):
                yield category, category.source


@dataclass(frozen=True, slots=True)
class Timing:
    """When a distribution starts, ends, and when its claims end; None where it never does."""

    start: int
    end: int | None = None
    claim_deadline: int | None = None


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution. `now` is when it was read; times that are not known are None.

    `paused` are the categories that its owner paused, whether that still holds them or not.
    """

    id: UUID
    operation: str
    owner: str
    ledger: str
    escrow: Account
    spec: Spec
    state: State
    now: int
    create_time: int
    funding_deadline: int
    timing: Timing | None = None
    activate_time: int | None = None
    cancel_time: int | None = None
    paused: frozenset[int] = field(default_factory=frozenset)
    checks: int = 0
    closed: bool = False

    @property
    def moment(self) -> int:
        """When vesting is looked at: now, or when it was cancelled."""
        return self.now if self.cancel_time is None else min(self.now, self.cancel_time)

    @property
    def held(self) -> frozenset[int]:
        """Categories that are paused now. Nobody could resume one once it is over, so none is."""
        return self.paused if self.state in OPEN else frozenset()

    def start_of(self, category: Category) -> int | None:
        """When a category starts, if that is known."""
        if category.start is not None:
            return category.start
        return self.timing.start if self.timing else self.spec.start


@dataclass(frozen=True, slots=True)
class Disbursement:
    """Something that leaves a distribution: `gross` from its account, less `fee` to somebody.

    Attributes:
        parts: what a claim takes of which category; of an early unlock with the penalty.
        finishes: it leaves its participant nothing more to claim.
        create_time: None for the transaction's.
    """

    id: UUID
    distribution_id: UUID
    kind: Kind
    principal: str
    gross: int
    fee: int
    penalty: int = 0
    parts: Mapping[int, int] = field(default_factory=dict)
    finishes: bool = False
    create_time: int | None = None
    block_index: int | None = None
    pay_time: int | None = None

    @property
    def net(self) -> int:
        """What arrives."""
        return self.gross - self.fee


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a distribution's token: its ledger's fee, and who mints, if anybody."""

    fee: int
    minter: Account | None = None

    def fee_to(self, target: Account) -> int:
        """The fee of a transfer: none to the minting account, which burns."""
        return 0 if target == self.minter else self.fee


def vesting_end(schedule: Schedule, start: int) -> int:
    """When everything is unlocked of what starts then."""
    match schedule.kind:
        case Instant() | Milestones():
            return start
        case Single(duration) | Linear(duration):
            return start + duration
        case Stepped(steps):
            return start + steps[-1].offset
        case Custom(unlocks):
            return max(start, unlocks[-1].time)
        case Cliff(cliff, _, duration):
            return start + cliff + duration
        case _:
            assert_never(schedule.kind)


def last_unlock(spec: Spec, start: int) -> int:
    """When everything is unlocked of a distribution that starts then."""
    return max(
        vesting_end(category.schedule, start if category.start is None else category.start)
        for category in spec.categories
    )


def timing(spec: Spec, now: int) -> Timing:
    """The times of a distribution that is activated now.

    A late activation pushes the end back by as much, and never is everything over before it is
    unlocked.
    """
    start = now if spec.start is None else spec.start
    delay = max(0, now - start)
    unlocked = last_unlock(spec, start)
    end = None if spec.end is None else max(spec.end + delay, unlocked)
    deadline = None
    if spec.claim_deadline is not None:
        pushed = end - spec.end if end is not None and spec.end is not None else delay
        deadline = max(spec.claim_deadline + pushed, unlocked)
    return Timing(start, end, deadline)


def next_time(distribution: Distribution) -> int | None:
    """When something has to happen that nobody asks for; None when nothing does."""
    timing = distribution.timing
    match distribution.state:
        case State.CREATED:
            return distribution.funding_deadline
        case State.ACTIVE | State.PAUSED:
            return _next_end(distribution, timing) if timing else None
        case State.COMPLETED | State.CANCELLED:
            return timing.claim_deadline if timing and not distribution.closed else None
        case State.FAILED | State.ABANDONED:
            again = distribution.checks < len(CHECKS)
            return distribution.now + CHECKS[distribution.checks] if again else None
        case _:
            assert_never(distribution.state)


def _next_end(distribution: Distribution, timing: Timing) -> int | None:
    """When it ends or, when that depends on claims, when the next of its pools closes."""
    if timing.end is not None:
        return timing.end
    closing = (pool.closes for _, pool in distribution.spec.pools)
    times = [time for time in closing if time is not None and time > distribution.now]
    if timing.claim_deadline is not None:
        times.append(timing.claim_deadline)
    return min(times, default=None)


def is_over(distribution: Distribution) -> bool:
    """Whether an active distribution has come to its end."""
    timing = distribution.timing
    ends = (timing.end, timing.claim_deadline) if timing else ()
    return any(time is not None and time <= distribution.now for time in ends)


def closes(distribution: Distribution) -> bool:
    """Whether claims from one that has ended are over, and what is left goes back."""
    ended = distribution.state in (State.COMPLETED, State.CANCELLED) and not distribution.closed
    deadline = distribution.timing.claim_deadline if distribution.timing else None
    return ended and deadline is not None and deadline <= distribution.now


def moved(distribution: Distribution, target: State) -> Distribution:
    """The distribution in another state.

    Raises:
        Error: FAILED_PRECONDITION, it cannot come into it from the one it is in (F-44).
    """
    if target not in _next_states(distribution.state):
        raise wrong_state(distribution, f"cannot become {target.name}")
    return replace(distribution, state=target)


def activated(distribution: Distribution, timing: Timing) -> Distribution:
    """A reserved distribution once it is open, as of the moment at which it was read."""
    active = moved(distribution, State.ACTIVE)
    return replace(active, activate_time=distribution.now, timing=timing)


def changed() -> Error:
    """Somebody else changed the distribution since it was read."""
    return Error(
        Code.ABORTED, "DISTRIBUTION_CHANGED", "The distribution has changed meanwhile; try again."
    )


def work_of(operation: str) -> str:
    """The launch that a step's operation belongs to; the operation itself when it is no step."""
    return operation.partition("/steps/")[0]


def wrong_state(distribution: Distribution, problem: str) -> Error:
    """Its state forbids it."""
    return Error(
        Code.FAILED_PRECONDITION,
        f"DISTRIBUTION_{distribution.state.name}",
        f"The distribution is {distribution.state.name}; it {problem}.",
        metadata={"state": distribution.state.name},
    )


def check_activatable(distribution: Distribution) -> None:
    """Passes when it is active already, or may become so now.

    Raises:
        Error: FAILED_PRECONDITION, it was given up or its deadline has passed.
    """
    if distribution.state is State.ABANDONED:
        raise abandoned(distribution.operation)
    if distribution.state not in DELIVERED | {State.CREATED}:
        raise wrong_state(distribution, "cannot be activated")
    late = distribution.now >= distribution.funding_deadline
    if distribution.state is State.CREATED and late:
        raise Error(
            Code.FAILED_PRECONDITION,
            "FUNDING_DEADLINE_PASSED",
            "The distribution was not funded and activated in time.",
        )


def not_funded(balance: int, required: int) -> Error:
    """Its account does not hold what it promises."""
    return Error(
        Code.FAILED_PRECONDITION,
        "NOT_FUNDED",
        f"The distribution's account holds {balance}, and needs {required}.",
        metadata={"balance": str(balance), "required": str(required)},
    )


def abandoned(operation: str) -> Error:
    """The operation was given up; what it would have made will never be."""
    return Error(Code.FAILED_PRECONDITION, "OPERATION_ABANDONED", f"{operation} was given up.")


def operation_reused(operation: str) -> Error:
    """The operation made something else."""
    return Error(
        Code.ALREADY_EXISTS, "OPERATION_REUSED", f"{operation} created a different distribution."
    )


def payment_consumed(payment: str) -> Error:
    """The payment paid for another launch (F-19)."""
    return Error(
        Code.ALREADY_EXISTS, "PAYMENT_CONSUMED", f"{payment} paid for something else already."
    )
