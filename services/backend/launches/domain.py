"""What a launch is made of, and whether its escrow covers it. Amounts: base units of the token."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, assert_never
from uuid import UUID

from contract import ids
from contract.errors import Code, Error, invalid
from contract.units import Unit
from services.kit.journal.model import PipelineState, StepRecord, StepState

CREATE_TOKEN: Final = "create_token"  # noqa: S105  # the name of a step
TAKE_IN: Final = "take_in"
BASE_FEE: Final = "launch"
_LOCK: Final = "lock_"
_DISTRIBUTION: Final = "distribution_"
_SHARES: Final = 10
"""Users who fill all places, where the configuration does not say how many one may have."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Which steps a launch has: what it begins with, and how many parts follow.

    Attributes:
        origin: the step that brings the tokens into escrow.
        locks: number of locks.
        distributions: number of distributions.
    """

    origin: str
    locks: int
    distributions: int

    @property
    def makes_token(self) -> bool:
        """Whether a new token is deployed."""
        return self.origin == CREATE_TOKEN

    @property
    def lock_steps(self) -> tuple[str, ...]:
        """Steps that deliver locks, in order."""
        return tuple(f"{_LOCK}{number}" for number in range(1, self.locks + 1))

    @property
    def distribution_steps(self) -> tuple[str, ...]:
        """Steps that deliver distributions, in order."""
        return tuple(f"{_DISTRIBUTION}{number}" for number in range(1, self.distributions + 1))

    @property
    def parts(self) -> tuple[str, ...]:
        """Steps that deliver something out of escrow; they wait for none of one another."""
        return (*self.lock_steps, *self.distribution_steps)

    @property
    def paid_steps(self) -> tuple[str, ...]:
        """Steps that are paid for, the launch's own base fee among them."""
        token = (CREATE_TOKEN,) if self.makes_token else ()
        return (*token, *self.parts, BASE_FEE)

    def encode(self) -> bytes:
        """As a pipeline is begun with it."""
        return f"{self.origin} {self.locks} {self.distributions}".encode()

    @classmethod
    def decode(cls, argument: bytes) -> "Shape":
        """The shape that `encode` wrote."""
        origin, locks, distributions = argument.decode().split()
        return cls(origin, int(locks), int(distributions))


def share_of_places(limit: int, chosen: int) -> int:
    """How many launches of one user may be at work: as chosen, or a tenth of all, at least one."""
    return min(limit, chosen or max(1, limit // _SHARES))


def part_number(step: str) -> int:
    """Position of a part among its kind, from 0."""
    return int(step.rpartition("_")[2]) - 1


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch as it was accepted. How far it is, its pipeline tells.

    Attributes:
        spec: icto.backend.v1.LaunchSpec, complete.
        earlier: the launch out of whose escrow the tokens come, if any.
        drawn_by: the open launch that takes tokens out of the escrow of this one, if any.
        withdrawal: the payout under way to the owner, if any.
        withdrawn: paid out to the owner so far.
    """

    id: UUID
    owner: str
    project_id: UUID | None
    spec: bytes
    shape: Shape
    trace_id: str
    quote: str = ""
    cost: str = ""
    payment: str = ""
    token: str = ""
    earlier: UUID | None = None
    drawn_by: UUID | None = None
    withdrawal: UUID | None = None
    withdrawn: int = 0
    ended: bool = False
    create_time: datetime | None = None

    @property
    def name(self) -> str:
        """`launches/{id}`."""
        return f"launches/{self.id}"

    @property
    def accept_time(self) -> datetime:
        """When it was accepted; of one that is not stored yet, as its id says."""
        return self.create_time or ids.time_of(self.id)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What becomes of the tokens of a launch.

    Attributes:
        taken: what locks and distributions take, with the ledger's fee for each transfer.
        remainder: what the owner receives at the end.
    """

    taken: int
    remainder: int


def coverage(supply: int, amounts: Sequence[int], fee: int) -> Coverage:
    """Shares out a supply that lies in escrow.

    Raises:
        Error: INVALID_ARGUMENT, it does not cover the parts and the fees of their transfers, or
            leaves so little that no transfer could take it out.
    """
    taken = needed(amounts, fee)
    rest = supply - taken
    if rest < 0:
        raise invalid(
            "spec",
            f"locks and distributions take {taken} with the ledger's fees, but the supply is "
            f"{supply}",
            "ESCROW_NOT_COVERED",
        )
    if 0 < rest <= fee:
        raise invalid(
            "spec",
            f"leaves {rest} of the supply, which is not more than the ledger's fee of {fee}",
            "REMAINDER_TOO_SMALL",
        )
    return Coverage(taken, rest - fee if rest else 0)


def needed(amounts: Sequence[int], fee: int) -> int:
    """What parts take out of escrow with the ledger's fee for each transfer."""
    return sum(amount + fee for amount in amounts)


def check_parts(shape: Shape) -> None:
    """Passes when there is something to launch.

    Raises:
        Error: INVALID_ARGUMENT, the token exists and nothing is locked or distributed.
    """
    if not shape.makes_token and not shape.parts:
        raise invalid("spec", "names neither a lock nor a distribution for a token that exists")


def delivered(records: Mapping[str, StepRecord], step: str) -> str:
    """The resource that a step delivered, however that is known; "" when it did not."""
    for name in (step, abandoning(step)):
        record = records.get(name)
        if record is not None and record.state is StepState.SUCCEEDED and record.result:
            return record.result.decode()
    return ""


def abandoning(step: str) -> str:
    """The step that gives up what another would have delivered."""
    return "abandon_token" if step == CREATE_TOKEN else f"abandon_{step}"


def delivered_steps(records: Mapping[str, StepRecord], shape: Shape) -> Iterator[str]:
    """Paid steps that delivered."""
    for step in shape.paid_steps:
        if delivered(records, step):
            yield step


class Outcome(Enum):
    """How a launch stands, numbered as icto.backend.v1.LaunchState."""

    PENDING = 1
    IN_PROGRESS = 2
    SUCCEEDED = 3
    PARTIALLY_SUCCEEDED = 4
    FAILED = 5
    CANCELLED = 6


def outcome(state: PipelineState, *, anything: bool) -> Outcome:
    """How a launch stands, by its pipeline's state and whether anything was delivered."""
    match state:
        case PipelineState.QUEUED:
            return Outcome.PENDING
        case PipelineState.RUNNING | PipelineState.PARKED:
            return Outcome.IN_PROGRESS
        case PipelineState.SUCCEEDED:
            return Outcome.SUCCEEDED
        case PipelineState.FAILED:
            return Outcome.PARTIALLY_SUCCEEDED if anything else Outcome.FAILED
        case PipelineState.CANCELLED:
            return Outcome.PARTIALLY_SUCCEEDED if anything else Outcome.CANCELLED
        case _:
            assert_never(state)


def check_owner(owner: str, controller: str) -> None:
    """Passes when a token that exists is launched by whom it belongs to.

    Raises:
        Error: PERMISSION_DENIED, it is somebody else's.
    """
    if owner != controller:
        raise Error(
            Code.PERMISSION_DENIED, "NOT_TOKEN_OWNER", "You may launch only tokens of your own."
        )


def check_takeable(allowance: int, balance: int, amount: int, unit: Unit) -> None:
    """Passes when this much may be taken of a token's owner, the ledger's fee included.

    Raises:
        Error: FAILED_PRECONDITION, allowance or balance fall short.
    """
    for kind, reason, found in (
        ("allowance", "INSUFFICIENT_ALLOWANCE", allowance),
        ("balance", "INSUFFICIENT_FUNDS", balance),
    ):
        if found < amount:
            raise Error(
                Code.FAILED_PRECONDITION,
                reason,
                f"Your {kind} is {unit.describe(found)}, but the launch takes"
                f" {unit.describe(amount)} with the ledger's fees.",
                metadata={kind: str(found)},
            )


def check_withdrawable(launch: Launch) -> None:
    """Passes when the owner may take out what lies in escrow.

    Raises:
        Error: FAILED_PRECONDITION, the launch or a later one still needs it, it is on its way, or
            nothing ever lay there.
    """
    _check_idle(launch)
    if not launch.token:
        raise Error(
            Code.FAILED_PRECONDITION, "NOTHING_TO_WITHDRAW", "Nothing ever lay in this escrow."
        )
    if launch.withdrawal is not None:
        raise Error(
            Code.FAILED_PRECONDITION,
            "WITHDRAWAL_UNDER_WAY",
            "What lies in escrow is on its way to you.",
        )


def check_drawable(launch: Launch, balance: int, taken: int) -> None:
    """Passes when another launch may take tokens out of this one's escrow.

    Raises:
        Error: FAILED_PRECONDITION, somebody else uses it, or it holds too little.
    """
    check_withdrawable(launch)
    if balance < taken:
        raise Error(
            Code.FAILED_PRECONDITION,
            "ESCROW_NOT_COVERED",
            f"The escrow holds {balance}, but {taken} are needed with the ledger's fees.",
        )


def _check_idle(launch: Launch) -> None:
    if not launch.ended:
        raise Error(Code.FAILED_PRECONDITION, "LAUNCH_OPEN", f"{launch.name} has not ended.")
    if launch.drawn_by is not None:
        raise Error(
            Code.FAILED_PRECONDITION,
            "ESCROW_BUSY",
            f"launches/{launch.drawn_by} takes tokens out of this escrow.",
        )


def payout_of(balance: int, fee: int) -> int:
    """What the owner receives of a balance in escrow.

    Raises:
        Error: FAILED_PRECONDITION, it is not more than the ledger's fee.
    """
    if balance <= fee:
        raise Error(
            Code.FAILED_PRECONDITION,
            "NOTHING_TO_WITHDRAW",
            f"The escrow holds {balance}; the ledger's fee is {fee}.",
        )
    return balance - fee
