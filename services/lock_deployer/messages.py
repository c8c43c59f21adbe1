"""Between the values of locks and their messages."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from contract import ids, principal
from contract.errors import invalid
from contract.principal import DEFAULT_SUBACCOUNT
from icto.ledger.v1 import ledger_pb2
from icto.lock.v1 import lock_pb2 as pb
from services.kit.money import amounts
from services.kit.money.escrow import account_of
from services.kit.vesting import vesting_messages
from services.kit.vesting.vesting_messages import of_timestamp, timestamp
from services.lock_deployer.domain import (
    Attestation,
    Beneficiary,
    Claim,
    Claimable,
    Lock,
    LockSpec,
    LockType,
    Share,
)

MESH_NAME = "lock_deployer"

# What the proto promises of them; a lock has more only where its schedules were made for that.
_SHOWN_ATTESTATIONS: Final = 1000


def parse_spec(message: pb.LockSpec) -> LockSpec:
    """A spec as it was asked for, not yet checked.

    Raises:
        Error: INVALID_ARGUMENT, an amount or a schedule is malformed.
    """
    return LockSpec(
        display_name=message.display_name,
        total=amounts.parse(message.total_amount, "spec.total_amount"),
        schedule=vesting_messages.parse(message.schedule, "spec.schedule"),
        beneficiaries=tuple(
            _beneficiary(one, f"spec.beneficiaries[{position}]")
            for position, one in enumerate(message.beneficiaries)
        ),
        start=of_timestamp(message.start_time) if message.HasField("start_time") else None,
        type=LockType(message.type or LockType.CUSTOM),
        revocable=message.revocable,
        emergency_unlock=message.emergency_unlock,
    )


def _beneficiary(message: pb.Beneficiary, field: str) -> Beneficiary:
    own = message.HasField("schedule")
    return Beneficiary(
        message.principal,
        amounts.parse(message.amount, f"{field}.amount"),
        vesting_messages.parse(message.schedule, f"{field}.schedule") if own else None,
    )


def spec_message(spec: LockSpec) -> pb.LockSpec:
    """A spec as its message."""
    return pb.LockSpec(
        display_name=spec.display_name,
        type=int(spec.type),  # type: ignore[arg-type]  # the same numbers
        total_amount=str(spec.total),
        start_time=_time(spec.start),
        schedule=vesting_messages.schedule_message(spec.schedule),
        beneficiaries=[
            share_message(Share(one.principal, one.amount, schedule=one.schedule), claimed=False)
            for one in spec.beneficiaries
        ],
        revocable=spec.revocable,
        emergency_unlock=spec.emergency_unlock,
    )


def share_message(share: Share, *, claimed: bool = True) -> pb.Beneficiary:
    """A beneficiary as a message, with what they claimed or as they were asked for."""
    own = share.schedule
    return pb.Beneficiary(
        principal=share.owner,
        amount=str(share.amount),
        schedule=vesting_messages.schedule_message(own) if own else None,
        claimed_amount=str(share.claimed) if claimed else "",
    )


def parse_account(message: ledger_pb2.Account, field: str) -> tuple[str, bytes]:
    """Owner and 32-byte subaccount of an account.

    Raises:
        Error: INVALID_ARGUMENT, it is none.
    """
    subaccount = message.subaccount or DEFAULT_SUBACCOUNT
    if not principal.is_principal(message.owner) or len(subaccount) != len(DEFAULT_SUBACCOUNT):
        raise invalid(field, "must be an account", "INVALID_ACCOUNT")
    return message.owner, subaccount


def lock_message(lock: Lock, shares: Sequence[Share] = ()) -> pb.Lock:
    """A lock as its message, with those of its beneficiaries that are to be seen."""
    owner, subaccount = account_of(MESH_NAME, lock.operation)
    spec = spec_message(lock.spec)
    spec.beneficiaries.extend(map(share_message, shares))
    times = lock.times
    return pb.Lock(
        name=lock_name(lock.id),
        spec=spec,
        owner=lock.owner,
        operation=lock.operation,
        ledger=lock.ledger,
        account=ledger_pb2.Account(owner=owner, subaccount=subaccount),
        state=int(lock.state),  # type: ignore[arg-type]  # the same numbers
        start_time=_time(lock.start if lock.start is not None else lock.spec.start),
        beneficiary_count=lock.beneficiary_count,
        claimed_amount=str(lock.claimed),
        returned_amount=str(lock.returned),
        attestations=map(_attestation_message, lock.attestations[-_SHOWN_ATTESTATIONS:]),
        failure=lock.failure,
        create_time=timestamp(times.create),
        fund_time=_time(times.fund),
        activate_time=_time(times.activate),
        revoke_time=_time(times.revoke),
        unlock_time=_time(times.unlock),
    )


def _attestation_message(attestation: Attestation) -> pb.Attestation:
    return pb.Attestation(
        milestone=attestation.milestone,
        attestor=attestation.attestor,
        attest_time=timestamp(attestation.time),
    )


def claim_message(claim: Claim) -> pb.Claim:
    """A claim as its message."""
    return pb.Claim(
        name=f"{lock_name(claim.lock_id)}/claims/{claim.id}",
        beneficiary=claim.owner,
        amount=str(claim.amount),
        fee=str(claim.fee),
        net_amount=str(claim.net),
        state=pb.CLAIM_STATE_PAYING if claim.block_index is None else pb.CLAIM_STATE_PAID,
        block_index=claim.block_index,
        create_time=timestamp(claim.create_time),
        pay_time=_time(claim.pay_time),
    )


def claimable_message(share: Share, found: Claimable, moment: int) -> pb.GetClaimableResponse:
    """What a beneficiary has, as its message."""
    following = found.next_unlock
    return pb.GetClaimableResponse(
        beneficiary=share.owner,
        amount=str(share.amount),
        unlocked_amount=str(found.unlocked),
        claimed_amount=str(share.claimed),
        claimable_amount=str(found.claimable),
        progress_basis_points=found.progress,
        next_unlock_time=timestamp(following.time) if following else None,
        next_unlock_amount=str(following.amount) if following else "0",
        at_time=timestamp(moment),
    )


def lock_name(lock_id: UUID) -> str:
    """`locks/{id}`."""
    return ids.resource_name("locks", lock_id)


def parse_claim_name(name: str) -> tuple[UUID, UUID]:
    """The ids in `locks/{lock}/claims/{claim}`.

    Raises:
        Error: INVALID_ARGUMENT, the name has another form.
    """
    head, separator, tail = name.partition("/claims/")
    if not separator:
        raise invalid("name", "must have the form 'locks/<id>/claims/<id>'", "INVALID_NAME")
    return ids.parse_name("locks", head), ids.parse_name("claims", f"claims/{tail}")


def _time(moment: int | None) -> Timestamp | None:
    return None if moment is None else timestamp(moment)
