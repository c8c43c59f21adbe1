"""Between the values of distributions and their messages."""

from collections.abc import Sequence
from typing import Final, assert_never
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from contract import ids, principal
from contract.errors import invalid
from contract.principal import DEFAULT_SUBACCOUNT
from icto.distribution.v1 import distribution_pb2 as pb
from icto.ledger.v1 import ledger_pb2
from services.distribution_deployer.claim_rules import Holding
from services.distribution_deployer.domain import (
    DEFAULT_FUNDING_PERIOD,
    MESH_NAME,
    Account,
    Campaign,
    Category,
    ClaimRate,
    Disbursement,
    Distribution,
    EarlyUnlock,
    Listed,
    Pool,
    Recipient,
    Source,
    Spec,
    TokenHolder,
    Whitelist,
)
from services.distribution_deployer.spec_rules import not_implemented
from services.kit.money import amounts
from services.kit.money.escrow import account_of
from services.kit.vesting import vesting_rules
from services.kit.vesting.vesting_messages import of_timestamp, parse, schedule_message, timestamp

COLLECTION: Final = "distributions"
LISTS: Final = "recipientLists"


def distribution_name(distribution_id: UUID) -> str:
    """`distributions/{id}`."""
    return ids.resource_name(COLLECTION, distribution_id)


def parse_distribution(name: str, field: str = "name") -> UUID:
    """The id in `distributions/{id}`.

    Raises:
        Error: INVALID_ARGUMENT, the name has another form.
    """
    return ids.parse_name(COLLECTION, name, field)


def claim_name(distribution_id: UUID, claim_id: UUID) -> str:
    """`distributions/{distribution}/claims/{id}`."""
    return f"{distribution_name(distribution_id)}/claims/{claim_id}"


def parse_claim(name: str) -> tuple[UUID, UUID]:
    """Distribution and claim in `distributions/{distribution}/claims/{id}`.

    Raises:
        Error: INVALID_ARGUMENT, the name has another form.
    """
    parent, _, claim_id = name.partition("/claims/")
    return parse_distribution(parent), ids.parse_name("claims", f"claims/{claim_id}")


def list_name(list_id: UUID) -> str:
    """`recipientLists/{id}`."""
    return ids.resource_name(LISTS, list_id)


def parse_list(name: str, field: str = "name") -> UUID:
    """The id in `recipientLists/{id}`.

    Raises:
        Error: INVALID_ARGUMENT, the name has another form.
    """
    return ids.parse_name(LISTS, name, field)


def parse_proof_name(name: str) -> tuple[UUID, str]:
    """List and recipient in `recipientLists/{recipient_list}/proofs/{principal}`.

    Raises:
        Error: INVALID_ARGUMENT, the name has another form.
    """
    parent, _, who = name.partition("/proofs/")
    if not principal.is_principal(who):
        raise invalid("name", "must end with a principal", "INVALID_PRINCIPAL")
    return parse_list(parent), who


def parse_account(message: ledger_pb2.Account, field: str) -> Account:
    """An account.

    Raises:
        Error: INVALID_ARGUMENT, the owner is no principal or the subaccount not 32 bytes.
    """
    if not principal.is_principal(message.owner):
        raise invalid(f"{field}.owner", "must be a principal", "INVALID_PRINCIPAL")
    subaccount = message.subaccount or DEFAULT_SUBACCOUNT
    if len(subaccount) != len(DEFAULT_SUBACCOUNT):
        raise invalid(f"{field}.subaccount", "must have 32 bytes, or none", "INVALID_ACCOUNT")
    return Account(message.owner, subaccount)


def check_ledger(name: str, field: str) -> None:
    """Passes when a text is the name of a ledger.

    Raises:
        Error: INVALID_ARGUMENT, it is not.
    """
    if name != ids.FEE_LEDGER:
        ids.parse_name("ledgers", name, field)


def parse_recipients(messages: Sequence[pb.Recipient], field: str) -> tuple[Recipient, ...]:
    """Recipients as they were given, not yet checked.

    Raises:
        Error: INVALID_ARGUMENT, an amount is malformed.
    """
    return tuple(
        Recipient(item.principal, amounts.parse(item.amount, f"{field}[{position}].amount"))
        for position, item in enumerate(messages)
    )


def parse_spec(message: pb.DistributionSpec, *, stored: bool = False) -> Spec:
    """A spec as it was asked for, defaults not yet filled in, not yet checked.

    What a spec only tells (amounts and counts of categories) is read from a stored one alone.

    Raises:
        Error: INVALID_ARGUMENT, it is malformed or asks for what is not implemented.
    """
    early = message.early_unlock if message.HasField("early_unlock") else None
    rate = message.claim_rate if message.HasField("claim_rate") else None
    period = DEFAULT_FUNDING_PERIOD
    if message.HasField("funding_period"):
        period = _seconds(message.funding_period, "spec.funding_period")
    return Spec(
        display_name=message.display_name,
        campaign=Campaign(message.campaign_type),
        total=amounts.parse(message.total_amount, "spec.total_amount"),
        categories=tuple(
            _category(category, f"spec.categories[{position}]", stored=stored)
            for position, category in enumerate(message.categories)
        ),
        description=message.description,
        public=message.public,
        start=_time(message, "start_time"),
        end=_time(message, "end_time"),
        claim_deadline=_time(message, "claim_deadline"),
        early_unlock=None if early is None else _early_unlock(early),
        claim_rate=None
        if rate is None
        else ClaimRate(rate.max_claims, _seconds(rate.window, "spec.claim_rate.window")),
        pausable=message.pausable,
        cancellable=message.cancellable,
        funding_period=period,
    )


def _time(
    message: pb.DistributionSpec | pb.Category | pb.RegistrationWindow, field: str
) -> int | None:
    present = message.HasField(field)  # type: ignore[arg-type]  # one of known names
    return of_timestamp(getattr(message, field)) if present else None


def _seconds(message: Duration, field: str) -> int:
    if message.nanos:
        raise invalid(field, "must be whole seconds")
    return message.seconds * vesting_rules.SECOND


def _early_unlock(message: pb.EarlyUnlockTerms) -> EarlyUnlock:
    return EarlyUnlock(
        message.penalty_basis_points,
        message.penalty_recipient,
        _seconds(message.minimum_lock, "spec.early_unlock.minimum_lock"),
    )


def _category(message: pb.Category, field: str, *, stored: bool) -> Category:
    source: Source
    match message.WhichOneof("allocation"):
        case "whitelist":
            recipients = message.whitelist.recipients
            source = Whitelist(parse_recipients(recipients, f"{field}.whitelist.recipients"))
        case "recipient_list":
            source = Listed(parse_list(message.recipient_list, f"{field}.recipient_list"))
        case "pool":
            source = _pool(message.pool, f"{field}.pool")
        case None:
            raise invalid(field, "must say to whom it allocates")
        case unknown:
            assert_never(unknown)
    return Category(
        id=message.id,
        display_name=message.display_name.strip(),
        schedule=parse(message.schedule, f"{field}.schedule"),
        source=source,
        start=_time(message, "start_time"),
        amount=int(message.amount) if stored else 0,
        count=message.recipient_count if stored else 0,
    )


def _pool(message: pb.Pool, field: str) -> Pool:
    share, seats = None, None
    if message.HasField("amount_per_participant"):
        at = f"{field}.amount_per_participant"
        share = amounts.parse(message.amount_per_participant, at)
    if message.HasField("max_participants"):
        seats = message.max_participants
    return Pool(
        amount=amounts.parse(message.amount, f"{field}.amount"),
        share=share,
        seats=seats,
        holder=_holder(message.eligibility, f"{field}.eligibility"),
        opens=_time(message.registration, "start_time"),
        closes=_time(message.registration, "end_time"),
    )


def _holder(message: pb.Eligibility, field: str) -> TokenHolder | None:
    kind = message.WhichOneof("kind")
    if kind in (None, "anyone"):
        return None
    if kind != "token_holder":
        raise not_implemented(f"{field}.{kind}", kind.replace("_", " "))
    holder = message.token_holder
    check_ledger(holder.ledger, f"{field}.token_holder.ledger")
    return TokenHolder(
        holder.ledger,
        amounts.parse(holder.min_amount, f"{field}.token_holder.min_amount"),
        holder.block_index if holder.HasField("block_index") else None,
    )


def spec_message(spec: Spec) -> pb.DistributionSpec:
    """A spec as its message; a whitelist's recipients are in it as long as they are in the spec."""
    message = pb.DistributionSpec(
        display_name=spec.display_name,
        description=spec.description,
        public=spec.public,
        campaign_type=int(spec.campaign),  # type: ignore[arg-type]  # the same numbers
        total_amount=str(spec.total),
        categories=map(_category_message, spec.categories),
        start_time=_optional(spec.start),
        end_time=_optional(spec.end),
        claim_deadline=_optional(spec.claim_deadline),
        pausable=spec.pausable,
        cancellable=spec.cancellable,
        funding_period=_duration(spec.funding_period),
    )
    if spec.early_unlock is not None:
        terms = spec.early_unlock
        message.early_unlock.CopyFrom(
            pb.EarlyUnlockTerms(
                penalty_basis_points=terms.penalty,
                penalty_recipient=terms.recipient,
                minimum_lock=_duration(terms.minimum_lock) if terms.minimum_lock else None,
            )
        )
    if spec.claim_rate is not None:
        rate = spec.claim_rate
        message.claim_rate.CopyFrom(
            pb.ClaimRate(max_claims=rate.claims, window=_duration(rate.window))
        )
    return message


def _optional(moment: int | None) -> Timestamp | None:
    return None if moment is None else timestamp(moment)


def _duration(span: int) -> Duration:
    return Duration(seconds=span // vesting_rules.SECOND)


def _category_message(category: Category) -> pb.Category:
    message = pb.Category(
        id=category.id,
        display_name=category.display_name,
        schedule=schedule_message(category.schedule),
        start_time=_optional(category.start),
        amount=str(category.amount),
        recipient_count=category.count,
    )
    match category.source:
        case Whitelist(recipients):
            message.whitelist.SetInParent()
            message.whitelist.recipients.extend(
                pb.Recipient(principal=r.principal, amount=str(r.amount)) for r in recipients
            )
        case Listed(list_id):
            message.recipient_list = list_name(list_id)
        case Pool():
            message.pool.CopyFrom(_pool_message(category.source))
        case _:
            assert_never(category.source)
    return message


def _pool_message(pool: Pool) -> pb.Pool:
    message = pb.Pool(
        amount=str(pool.amount),
        amount_per_participant=None if pool.share is None else str(pool.share),
        max_participants=pool.seats,
    )
    if pool.holder is None:
        message.eligibility.anyone.SetInParent()
    else:
        holder = pool.holder
        message.eligibility.token_holder.CopyFrom(
            pb.TokenHolder(
                ledger=holder.ledger,
                min_amount=str(holder.min_amount),
                block_index=holder.block_index,
            )
        )
    if pool.opens is not None or pool.closes is not None:
        window = pb.RegistrationWindow(
            start_time=_optional(pool.opens), end_time=_optional(pool.closes)
        )
        message.registration.CopyFrom(window)
    return message


def distribution_message(distribution: Distribution) -> pb.Distribution:
    """A distribution as its message."""
    owner, subaccount = account_of(MESH_NAME, distribution.operation)
    timing = distribution.timing
    return pb.Distribution(
        name=distribution_name(distribution.id),
        spec=spec_message(distribution.spec),
        owner=distribution.owner,
        ledger=distribution.ledger,
        account=ledger_pb2.Account(owner=owner, subaccount=subaccount),
        state=int(distribution.state),  # type: ignore[arg-type]  # the same numbers
        paused_categories=sorted(distribution.held),
        create_time=timestamp(distribution.create_time),
        funding_deadline=timestamp(distribution.funding_deadline),
        activate_time=_optional(distribution.activate_time),
        start_time=_optional(timing.start if timing else None),
        end_time=_optional(timing.end if timing else None),
        claim_deadline=_optional(timing.claim_deadline if timing else None),
        cancel_time=_optional(distribution.cancel_time),
    )


def claim_message(claim: Disbursement) -> pb.DistributionClaim:
    """A claim as its message."""
    return pb.DistributionClaim(
        name=claim_name(claim.distribution_id, claim.id),
        principal=claim.principal,
        kind=int(claim.kind),  # type: ignore[arg-type]  # the same numbers
        amount=str(claim.gross),
        fee=str(claim.fee),
        net_amount=str(claim.net),
        penalty=str(claim.penalty),
        parts=[
            pb.ClaimPart(category_id=category_id, amount=str(amount))
            for category_id, amount in sorted(claim.parts.items())
        ],
        state=pb.CLAIM_STATE_PAYING if claim.block_index is None else pb.CLAIM_STATE_PAID,
        block_index=claim.block_index,
        create_time=_optional(claim.create_time),
        pay_time=_optional(claim.pay_time),
    )


def claimable_message(one: Holding, *, proof_required: bool) -> pb.ClaimableCategory:
    """What one category holds for a participant."""
    allocation = one.allocation
    message = pb.ClaimableCategory(
        category_id=one.category_id,
        allocation=str(allocation.amount),
        unlocked=str(one.unlocked),
        claimed=str(allocation.claimed),
        claimable=str(one.claimable),
        progress_basis_points=one.curve.progress(one.moment) if one.curve else 0,
        paused=one.held,
        proof_required=proof_required,
        closed=allocation.closed,
    )
    following = one.curve.next_unlock(one.moment) if one.curve else None
    if following is not None and not allocation.closed:
        message.next_unlock_time.CopyFrom(timestamp(following.time))
        message.next_unlock_amount = str(following.amount)
    return message
