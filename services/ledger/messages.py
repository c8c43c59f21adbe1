"""Between the ledger's values and its messages."""

import re
from datetime import datetime
from typing import Final
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from contract import ids, principal
from contract.errors import Error, invalid
from icto.ledger.v1 import ledger_pb2 as pb
from services.kit.answering import paging
from services.kit.money import amounts
from services.ledger.domain import (
    ICP_LEDGER,
    STANDARDS,
    Account,
    Allowance,
    Approval,
    Block,
    Ledger,
    Transfer,
)

_BLOCK_INDEX: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_LATEST: Final = 2**63 - 1
"""The latest moment that is kept, nanoseconds since the epoch: in the year 2262."""


def ledger_name(ledger_id: UUID) -> str:
    """`ledgers/{id}`; the fee token's is `ledgers/icp`."""
    return ids.FEE_LEDGER if ledger_id == ICP_LEDGER else ids.resource_name("ledgers", ledger_id)


def parse_ledger(name: str, field: str = "name") -> UUID:
    """The id in a ledger's name.

    Raises:
        Error: INVALID_ARGUMENT, the name has another form.
    """
    return ICP_LEDGER if name == ids.FEE_LEDGER else ids.parse_name("ledgers", name, field)


def parse_block(name: str) -> tuple[UUID, int]:
    """Ledger and index in `ledgers/{ledger}/blocks/{index}`.

    Raises:
        Error: INVALID_ARGUMENT, the name has another form.
    """
    ledger, _, index = name.partition("/blocks/")
    known = _BLOCK_INDEX.fullmatch(index)
    if known is None or int(index) > paging.MAX_POSITION:
        raise invalid("name", "must have the form 'ledgers/<id>/blocks/<index>'", "INVALID_NAME")
    return parse_ledger(ledger), int(index)


def parse_account_name(name: str) -> tuple[UUID, Account]:
    """Ledger and account in `ledgers/{ledger}/accounts/{account}`.

    Raises:
        Error: INVALID_ARGUMENT, the name has another form.
    """
    ledger, _, text = name.partition("/accounts/")
    try:
        account = Account(*principal.decode_account(text))
    except ValueError:
        raise invalid(
            "name", "must end with an account in ICRC-1 text form", "INVALID_ACCOUNT"
        ) from None
    return parse_ledger(ledger), account


def parse_account(message: pb.Account, field: str) -> Account:
    """An account.

    Raises:
        Error: INVALID_ARGUMENT, the owner is no principal or the subaccount not 32 bytes.
    """
    if not principal.is_principal(message.owner):
        raise invalid(f"{field}.owner", "must be a principal", "INVALID_PRINCIPAL")
    return Account(message.owner, parse_subaccount(message.subaccount, f"{field}.subaccount"))


def parse_subaccount(subaccount: bytes, field: str) -> bytes:
    """A subaccount of 32 bytes; none stands for the default.

    Raises:
        Error: INVALID_ARGUMENT, it has another length.
    """
    full = subaccount or principal.DEFAULT_SUBACCOUNT
    if len(full) != len(principal.DEFAULT_SUBACCOUNT):
        raise invalid(field, "must have 32 bytes, or none", "INVALID_ACCOUNT")
    return full


def parse_allowance_name(name: str) -> tuple[UUID, Account, Account]:
    """Ledger, payer and spender in `ledgers/{}/accounts/{}/allowances/{}`.

    Raises:
        Error: INVALID_ARGUMENT, the name has another form.
    """
    head, _, text = name.partition("/allowances/")
    ledger_id, payer = parse_account_name(head)
    try:
        spender = Account(*principal.decode_account(text))
    except ValueError:
        raise invalid(
            "name", "must end with a spender in ICRC-1 text form", "INVALID_ACCOUNT"
        ) from None
    return ledger_id, payer, spender


def parse_transfer(request: pb.TransferRequest | pb.PayOutRequest, caller: str) -> Transfer:
    """The arguments of icrc1_transfer.

    Raises:
        Error: INVALID_ARGUMENT.
    """
    return Transfer(
        source=Account(caller, parse_subaccount(request.from_subaccount, "from_subaccount")),
        target=parse_account(request.to, "to"),
        amount=amounts.parse(request.amount, "amount"),
        fee=_optional_amount(request, "fee"),
        memo=request.memo,
        created_at=_optional_time(request, "created_at_time"),
    )


def parse_transfer_from(request: pb.TransferFromRequest, caller: str) -> Transfer:
    """The arguments of icrc2_transfer_from.

    Raises:
        Error: INVALID_ARGUMENT.
    """
    subaccount = parse_subaccount(request.spender_subaccount, "spender_subaccount")
    return Transfer(
        source=parse_account(getattr(request, "from"), "from"),
        target=parse_account(request.to, "to"),
        amount=amounts.parse(request.amount, "amount"),
        fee=_optional_amount(request, "fee"),
        memo=request.memo,
        created_at=_optional_time(request, "created_at_time"),
        spender=Account(caller, subaccount),
    )


def parse_approval(request: pb.ApproveRequest, caller: str) -> Approval:
    """The arguments of icrc2_approve.

    Raises:
        Error: INVALID_ARGUMENT.
    """
    return Approval(
        source=Account(caller, parse_subaccount(request.from_subaccount, "from_subaccount")),
        spender=parse_account(request.spender, "spender"),
        amount=amounts.parse(request.amount, "amount"),
        expected_allowance=_optional_amount(request, "expected_allowance"),
        expires=_optional_time(request, "expire_time"),
        fee=_optional_amount(request, "fee"),
        memo=request.memo,
        created_at=_optional_time(request, "created_at_time"),
    )


def _optional_amount(request: Message, field: str) -> int | None:
    return amounts.parse(getattr(request, field), field) if request.HasField(field) else None


def _optional_time(request: Message, field: str) -> int | None:
    """Nanoseconds since the epoch."""
    if not request.HasField(field):
        return None
    moment: int = getattr(request, field).ToNanoseconds()
    if not 0 <= moment <= _LATEST:
        raise invalid(field, "must be between the years 1970 and 2262")
    return moment


def parse_new_ledger(request: pb.CreateLedgerRequest) -> tuple[Ledger, dict[Account, int]]:
    """A ledger to create and its initial balances.

    Raises:
        Error: INVALID_ARGUMENT.
    """
    ledger = Ledger(
        id=parse_ledger(request.name),
        display_name=request.display_name,
        symbol=request.symbol,
        decimals=request.decimals,
        transfer_fee=amounts.parse(request.transfer_fee, "transfer_fee"),
        controller=request.controller,
        minting_account=_optional(request, "minting_account"),
        fee_collector=_optional(request, "fee_collector"),
    )
    return ledger, _initial(request)


def _initial(request: pb.CreateLedgerRequest) -> dict[Account, int]:
    balances: dict[Account, int] = {}
    for position, item in enumerate(request.initial_balances):
        field = f"initial_balances[{position}]"
        account = parse_account(item.account, f"{field}.account")
        if account in balances:
            raise _twice(field)
        balances[account] = amounts.parse(item.amount, f"{field}.amount")
    return balances


def _twice(field: str) -> Error:
    return invalid(field, "names an account a second time", "DUPLICATE_ACCOUNT")


def _optional(request: pb.CreateLedgerRequest, field: str) -> Account | None:
    return parse_account(getattr(request, field), field) if request.HasField(field) else None  # type: ignore[arg-type]  # one of two known names


def ledger_message(ledger: Ledger, create_time: datetime) -> pb.Ledger:
    """A ledger as its message."""
    message = pb.Ledger(
        name=ledger_name(ledger.id),
        display_name=ledger.display_name,
        symbol=ledger.symbol,
        decimals=ledger.decimals,
        transfer_fee=str(ledger.transfer_fee),
        total_supply=str(ledger.total_supply),
        minting_account=account_message(ledger.minting_account),
        fee_collector=account_message(ledger.fee_collector),
        controller=ledger.controller,
        standards=STANDARDS,
        block_count=ledger.block_count,
        tip_hash=ledger.tip_hash,
    )
    message.create_time.FromDatetime(create_time)
    return message


def account_message(account: Account | None) -> pb.Account | None:
    """An account as its message; the default subaccount is left out."""
    if account is None:
        return None
    subaccount = account.subaccount
    if subaccount == principal.DEFAULT_SUBACCOUNT:
        subaccount = b""
    return pb.Account(owner=account.owner, subaccount=subaccount)


def block_message(block: Block) -> pb.Block:
    """A block as its message."""
    message = pb.Block(
        name=f"{ledger_name(block.ledger_id)}/blocks/{block.index}",
        index=block.index,
        parent_hash=block.parent_hash,
        hash=block.hash,
        operation=int(block.operation),  # type: ignore[arg-type]  # the same numbers
        to=account_message(block.target),
        amount=str(block.amount),
        fee=str(block.fee),
        memo=block.memo,
        created_at_time=_optional_timestamp(block.created_at),
        spender=account_message(block.spender),
        expire_time=_optional_timestamp(block.expires),
        **{"from": account_message(block.source)},  # type: ignore[arg-type]  # a Python keyword
    )
    message.time.CopyFrom(_timestamp(block.time))
    return message


def allowance_message(name: str, allowance: Allowance, now: int) -> pb.Allowance:
    """What is good of an allowance now."""
    good = allowance.at(now)
    return pb.Allowance(
        name=name,
        allowance=str(good),
        expire_time=_optional_timestamp(allowance.expires) if good else None,
    )


def _optional_timestamp(nanoseconds: int | None) -> Timestamp | None:
    return None if nanoseconds is None else _timestamp(nanoseconds)


def _timestamp(nanoseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(nanoseconds)
    return stamp
