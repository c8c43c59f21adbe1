"""What participants may take and when: claims, early unlocks, and what a cancellation leaves them.

Everything follows from the moment and from what was claimed before, so that the cadence of claims
changes nothing: unlocked amounts are floors of the whole, never sums of floors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from contract.errors import Code, Error, invalid
from services.distribution_deployer.domain import (
    CLAIMABLE,
    Category,
    Distribution,
    EarlyUnlock,
    Listed,
    Pool,
    State,
    Whitelist,
    wrong_state,
)
from services.kit.vesting import vesting_rules
from services.kit.vesting.vesting_rules import Curve


@dataclass(frozen=True, slots=True)
class Allocation:
    """What of a category is one participant's.

    `closed` when nothing more of it can be claimed: it was unlocked early, or a cancellation left
    no more of it than the fee.
    """

    category_id: int
    amount: int
    claimed: int = 0
    closed: bool = False

    @property
    def remaining(self) -> int:
        """What was not claimed."""
        return self.amount - self.claimed


@dataclass(frozen=True, slots=True)
class Holding:
    """An allocation as it is at a moment; without a curve while the start is not known."""

    allocation: Allocation
    curve: Curve | None
    start: int | None
    moment: int
    held: bool

    @property
    def category_id(self) -> int:
        """Its category."""
        return self.allocation.category_id

    @property
    def unlocked(self) -> int:
        """What is unlocked of it."""
        return self.curve.unlocked(self.moment) if self.curve else 0

    @property
    def claimable(self) -> int:
        """What may be claimed of it."""
        if self.held or self.allocation.closed:
            return 0
        return max(0, self.unlocked - self.allocation.claimed)


def holding(distribution: Distribution, allocation: Allocation) -> Holding:
    """What an allocation is worth now."""
    category = distribution.spec.category(allocation.category_id)
    start = distribution.start_of(category)
    curve = (
        None if start is None else vesting_rules.curve(category.schedule, allocation.amount, start)
    )
    held = category.id in distribution.held or not _open(distribution)
    return Holding(allocation, curve, start, distribution.moment, held)


def _open(distribution: Distribution) -> bool:
    return distribution.state in CLAIMABLE and not _over(distribution)


def _over(distribution: Distribution) -> bool:
    deadline = distribution.timing.claim_deadline if distribution.timing else None
    return distribution.closed or (deadline is not None and distribution.now >= deadline)


def check_open(distribution: Distribution) -> None:
    """Passes when claims are paid (F-41: whatever the kind of claim).

    Raises:
        Error: FAILED_PRECONDITION, they are not.
    """
    if distribution.state not in CLAIMABLE:
        raise wrong_state(distribution, "pays no claims now")
    if _over(distribution):
        raise Error(
            Code.FAILED_PRECONDITION,
            "CLAIM_DEADLINE_PASSED",
            "The time to claim from this distribution is over.",
        )


def check_unlockable(distribution: Distribution) -> None:
    """Passes when what is not unlocked may be taken for a penalty.

    Raises:
        Error: FAILED_PRECONDITION, claims are not paid, or what was not unlocked went back.
    """
    check_open(distribution)
    if distribution.state is State.CANCELLED:
        raise wrong_state(distribution, "unlocks nothing any more")


def chosen(
    distribution: Distribution, allocations: Sequence[Allocation], category_id: int | None
) -> list[Holding]:
    """The holdings that a request is about: those of one category, or of all that are not paused.

    Raises:
        Error: NOT_FOUND, there is no such category; PERMISSION_DENIED, nothing in it is the
            caller's; FAILED_PRECONDITION, it is paused.
    """
    if category_id is not None:
        distribution.spec.category(category_id)
    mine = [a for a in allocations if category_id in (None, a.category_id)]
    if not mine:
        raise not_eligible()
    if all(allocation.category_id in distribution.held for allocation in mine):
        raise Error(
            Code.FAILED_PRECONDITION,
            "CATEGORY_PAUSED",
            "The owner of the distribution paused this for now.",
        )
    return [holding(distribution, a) for a in mine if a.category_id not in distribution.held]


def left(distribution: Distribution, allocations: Sequence[Allocation]) -> int:
    """What a participant may claim of their allocations, now or later."""
    ended = distribution.state is State.CANCELLED
    return sum(
        max(0, holding(distribution, one).unlocked - one.claimed) if ended else one.remaining
        for one in allocations
        if not one.closed
    )


def plan_claim(
    holdings: Sequence[Holding], asked: int | None, left: int, fee: int
) -> dict[int, int]:
    """What a claim takes of each category.

    Args:
        holdings: those that it is about.
        asked: how much, fee included; None is all that may be taken.
        left: what the participant may claim now or later, of these and of others.
        fee: what the ledger takes of it.

    Raises:
        Error: FAILED_PRECONDITION, there is not so much, it is no more than the fee, or what it
            would leave is not.
    """
    weights = {one.category_id: one.claimable for one in holdings}
    open_now = sum(weights.values())
    if asked is not None and asked < 1:
        raise invalid("amount", "must be at least 1", "INVALID_AMOUNT")
    if not open_now:
        raise _nothing(holdings)
    if asked is not None and asked > open_now:
        raise Error(
            Code.FAILED_PRECONDITION,
            "EXCEEDS_CLAIMABLE",
            f"{open_now} can be claimed now, not {asked}.",
            metadata={"claimable": str(open_now)},
        )
    if (open_now if asked is None else asked) <= fee:
        raise below_fee(open_now if asked is None else asked, fee)
    amount = vesting_rules.to_take(asked, open_now, left, fee)
    return {category: part for category, part in split(amount, weights).items() if part}


def split(amount: int, weights: Mapping[int, int]) -> dict[int, int]:
    """An amount in proportion to weights: largest remainder, ties to the lowest id (domain 5)."""
    whole = sum(weights.values())
    parts = {key: amount * weight // whole for key, weight in weights.items()}
    left = amount - sum(parts.values())
    by_remainder = sorted(weights, key=lambda key: (-(amount * weights[key] % whole), key))
    for key in by_remainder[:left]:
        parts[key] += 1
    return parts


@dataclass(frozen=True, slots=True)
class Early:
    """An early unlock: what it takes of each category, and what of that is lost."""

    parts: Mapping[int, int]
    penalty: int

    @property
    def amount(self) -> int:
        """What the participant gets, the ledger's fee included."""
        return sum(self.parts.values()) - self.penalty


def plan_early(
    holdings: Sequence[Holding], terms: EarlyUnlock | None, left: int, fee: int
) -> Early:
    """What an early unlock takes: all that is left of the holdings (F-39).

    Args:
        holdings: those that it is about.
        terms: the distribution's.
        left: what the participant may claim now or later, of these and of others.
        fee: what the ledger takes of it.

    Raises:
        Error: FAILED_PRECONDITION, it is not offered, it is too soon, nothing would arrive, or what
            it would leave is no more than the fee.
    """
    if terms is None:
        raise Error(
            Code.FAILED_PRECONDITION,
            "NO_EARLY_UNLOCK",
            "This distribution does not offer early unlocks.",
        )
    taken = [one for one in holdings if not one.allocation.closed and one.allocation.remaining]
    if not taken:
        raise _nothing(holdings)
    if any(one.start is None or one.start + terms.minimum_lock > one.moment for one in taken):
        raise Error(
            Code.FAILED_PRECONDITION,
            "MINIMUM_LOCK",
            "It is too soon for an early unlock of these categories.",
        )
    parts = {one.category_id: one.allocation.remaining for one in taken}
    penalty = sum(parts.values()) * terms.penalty // vesting_rules.WHOLE
    early = Early(parts, penalty)
    if early.amount <= fee:
        raise below_fee(early.amount, fee)
    rest = left - sum(parts.values())
    if 0 < rest <= fee:
        raise vesting_rules.rest_below_fee(rest, fee, "Unlock all categories together.")
    return early


@dataclass(frozen=True, slots=True)
class Held:
    """The allocations of a category that there are, added up.

    Attributes:
        closed: amounts of those that were unlocked early.
        claimed: what was claimed of the others.
        claimable: what is unlocked of the others and not claimed; not known for a list.
    """

    closed: int = 0
    claimed: int = 0
    claimable: int = 0


def outstanding(category: Category, start: int, moment: int, held: Held) -> int:
    """What of a category is still owed when nothing unlocks after a moment.

    Args:
        category: the category.
        start: when it started.
        moment: when unlocking stops.
        held: its allocations at that moment.

    A recipient of a list has no allocation before the first claim. What the list unlocks as a whole
    is at least what its recipients unlock one by one, so that is what stays for them.
    """
    match category.source:
        case Listed():
            whole = vesting_rules.curve(category.schedule, category.amount - held.closed, start)
            return whole.unlocked(moment) - held.claimed
        case Whitelist() | Pool():
            return held.claimable
        case _:
            assert_never(category.source)


def check_registration(distribution: Distribution, category: Category) -> Pool:
    """Passes when somebody may register for a category now; returns its pool.

    Raises:
        Error: FAILED_PRECONDITION, nobody may.
    """
    if distribution.state is not State.ACTIVE:
        raise wrong_state(distribution, "takes no registrations now")
    if not isinstance(category.source, Pool):
        raise Error(
            Code.FAILED_PRECONDITION,
            "NOT_A_POOL",
            "The recipients of this category are given; nobody registers for it.",
        )
    if category.id in distribution.held:
        raise Error(
            Code.FAILED_PRECONDITION, "CATEGORY_PAUSED", "The owner paused this category for now."
        )
    pool, now = category.source, distribution.now
    end = distribution.timing.end if distribution.timing else None
    early = pool.opens is not None and now < pool.opens
    if early or any(time is not None and now >= time for time in (pool.closes, end)):
        raise Error(
            Code.FAILED_PRECONDITION,
            "REGISTRATION_CLOSED",
            "Registration has not begun yet." if early else "Registration is over.",
        )
    return pool


def not_eligible() -> Error:
    """Nothing in it is the caller's."""
    return Error(
        Code.PERMISSION_DENIED, "NOT_ELIGIBLE", "Nothing of this distribution is allocated to you."
    )


def below_fee(amount: int, fee: int) -> Error:
    """It would not pay for its own transfer (F-47)."""
    return Error(
        Code.FAILED_PRECONDITION,
        "AMOUNT_BELOW_FEE",
        f"The ledger takes a fee of {fee}; {amount} is not more than that.",
        metadata={"amount": str(amount), "fee": str(fee)},
    )


def rate_exceeded(claims: int, wait: float) -> Error:
    """The participant claimed as often as they may for now."""
    return Error(
        Code.RESOURCE_EXHAUSTED,
        "CLAIM_RATE_EXCEEDED",
        f"You may claim {claims} times within the distribution's window; try again later.",
        retry_after=wait,
    )


def _nothing(holdings: Sequence[Holding]) -> Error:
    """Nothing can be claimed: not yet, not now, or not any more."""
    starts = [one.start for one in holdings]
    if all(
        start is None or start > one.moment for start, one in zip(starts, holdings, strict=True)
    ):
        return Error(
            Code.FAILED_PRECONDITION,
            "VESTING_NOT_STARTED",
            "Nothing is unlocked before the start.",
        )
    return Error(
        Code.FAILED_PRECONDITION, "NOTHING_TO_CLAIM", "Everything that is unlocked was claimed."
    )
