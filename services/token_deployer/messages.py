"""Between the deployer's values and its messages."""

from datetime import datetime

from contract import ids, principal
from contract.errors import invalid
from contract.principal import DEFAULT_SUBACCOUNT
from icto.ledger.v1 import ledger_pb2
from icto.token.v1 import token_pb2 as pb
from services.kit.money import amounts
from services.token_deployer.domain import Account, Token, TokenSpec


def parse_spec(message: pb.TokenSpec) -> TokenSpec:
    """A spec as it was asked for, defaults not yet filled in.

    Raises:
        Error: INVALID_ARGUMENT, an amount or account is malformed.
    """
    return TokenSpec(
        display_name=message.display_name,
        symbol=message.symbol,
        total_supply=amounts.parse(message.total_supply, "spec.total_supply"),
        decimals=message.decimals if message.HasField("decimals") else None,
        transfer_fee=amounts.parse(message.transfer_fee, "spec.transfer_fee")
        if message.HasField("transfer_fee")
        else None,
        initial_balances=tuple(
            _balance(item, f"spec.initial_balances[{position}]")
            for position, item in enumerate(message.initial_balances)
        ),
        minting_account=_optional(message, "minting_account"),
        fee_collector=_optional(message, "fee_collector"),
        logo=message.logo,
        description=message.description,
        website=message.website,
    )


def _balance(item: ledger_pb2.InitialBalance, field: str) -> tuple[Account, int]:
    return (
        _account(item.account, f"{field}.account"),
        amounts.parse(item.amount, f"{field}.amount"),
    )


def parse_custodian(
    request: pb.DeployTokenRequest | pb.ValidateTokenRequest,
) -> Account | None:
    """The custodian that a request names, if any.

    Raises:
        Error: INVALID_ARGUMENT.
    """
    return _account(request.custodian, "custodian") if request.HasField("custodian") else None


def _optional(message: pb.TokenSpec, field: str) -> Account | None:
    if not message.HasField(field):  # type: ignore[arg-type]  # one of two known names
        return None
    return _account(getattr(message, field), f"spec.{field}")


def _account(message: ledger_pb2.Account, field: str) -> Account:
    if not principal.is_principal(message.owner):
        raise invalid(f"{field}.owner", "must be a principal", "INVALID_PRINCIPAL")
    subaccount = message.subaccount or DEFAULT_SUBACCOUNT
    if len(subaccount) != len(DEFAULT_SUBACCOUNT):
        raise invalid(f"{field}.subaccount", "must have 32 bytes, or none", "INVALID_ACCOUNT")
    return Account(message.owner, subaccount)


def spec_message(spec: TokenSpec) -> pb.TokenSpec:
    """A spec as its message."""
    return pb.TokenSpec(
        display_name=spec.display_name,
        symbol=spec.symbol,
        decimals=spec.decimals,
        total_supply=str(spec.total_supply),
        transfer_fee=None if spec.transfer_fee is None else str(spec.transfer_fee),
        initial_balances=[
            ledger_pb2.InitialBalance(account=account_message(account), amount=str(amount))
            for account, amount in spec.initial_balances
        ],
        minting_account=account_message(spec.minting_account),
        fee_collector=account_message(spec.fee_collector),
        logo=spec.logo,
        description=spec.description,
        website=spec.website,
    )


def account_message(account: Account | None) -> ledger_pb2.Account | None:
    """An account as its message; the default subaccount is left out."""
    if account is None:
        return None
    is_default = account.subaccount == DEFAULT_SUBACCOUNT
    return ledger_pb2.Account(
        owner=account.owner, subaccount=b"" if is_default else account.subaccount
    )


def token_message(token: Token, create_time: datetime, deploy_time: datetime | None) -> pb.Token:
    """A token as its message."""
    message = pb.Token(
        name=ids.resource_name("tokens", token.id),
        spec=spec_message(token.spec),
        owner=token.owner,
        ledger=ids.resource_name("ledgers", token.id),
        state=int(token.state),  # type: ignore[arg-type]  # the same numbers
        failure=token.failure,
        retry_count=token.retry_count,
        cycles_used=token.cycles_used,
        custodian=account_message(token.custodian),
    )
    message.create_time.FromDatetime(create_time)
    if deploy_time is not None:
        message.deploy_time.FromDatetime(deploy_time)
    return message
