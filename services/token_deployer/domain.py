"""What a token may be, and how its deployment moves from stage to stage.

Bounds are the "Rec" column of the domain's validation table (2.2).
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final
from uuid import UUID

from contract.errors import Code, Error, invalid
from contract.principal import DEFAULT_SUBACCOUNT
from services.kit import lookalikes

SYMBOL: Final = re.compile(r"[A-Za-z0-9]{2,8}", re.ASCII)
NAME_LENGTH: Final = range(3, 33)
MAX_DECIMALS: Final = 18
DEFAULT_DECIMALS: Final = 8
MAX_TRANSFER_FEE: Final = 1_000_000
DEFAULT_TRANSFER_FEE: Final = 10_000
MAX_INITIAL_BALANCES: Final = 100
MAX_DESCRIPTION: Final = 2_000

# Letters, marks and symbols that show nothing: fillers, joiners, variation selectors, blanks.
_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)


@dataclass(frozen=True, slots=True, order=True)
class Account:
    """An ICRC-1 account; the subaccount is always 32 bytes."""

    owner: str
    subaccount: bytes = DEFAULT_SUBACCOUNT


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """What a token shall be. Amounts in base units; None stands for the default."""

    display_name: str
    symbol: str
    total_supply: int
    decimals: int | None = None
    transfer_fee: int | None = None
    initial_balances: tuple[tuple[Account, int], ...] = ()
    minting_account: Account | None = None
    fee_collector: Account | None = None
    logo: str = ""
    description: str = ""
    website: str = ""


class State(IntEnum):
    """State of a token's deployment, numbered as icto.token.v1.TokenState."""

    REQUESTED = 1
    CREATING = 2
    INSTALLING = 3
    TRANSFERRING_OWNERSHIP = 4
    ACTIVE = 5
    CREATE_FAILED = 6
    INSTALL_FAILED = 7
    OWNERSHIP_FAILED = 8
    ABANDONED = 9


STAGES: Final = (State.CREATING, State.INSTALLING, State.TRANSFERRING_OWNERSHIP)
_FAILED: Final[Mapping[State, State]] = {
    State.CREATING: State.CREATE_FAILED,
    State.INSTALLING: State.INSTALL_FAILED,
    State.TRANSFERRING_OWNERSHIP: State.OWNERSHIP_FAILED,
}
_RESUMES: Final[Mapping[State, State]] = {
    State.REQUESTED: State.CREATING,
    **{stage: stage for stage in STAGES},
    **{failed: stage for stage, failed in _FAILED.items()},
}


@dataclass(frozen=True, slots=True)
class Token:
    """A token, deployed or on the way."""

    id: UUID
    operation: str
    owner: str
    spec: TokenSpec
    state: State = State.REQUESTED
    failure: str = ""
    retry_count: int = 0
    cycles_used: int = 0
    custodian: Account | None = None
    """Holds the supply and the owner's rights until they are handed over."""


@dataclass(frozen=True, slots=True)
class FeeToken:
    """The token that fees are paid in: others may not be taken for it."""

    symbol: str
    display_name: str


def remaining_stages(state: State, stages: Sequence[State]) -> tuple[State, ...]:
    """Those of a chain's stages still to run, from the one that was interrupted or failed."""
    resumed = _RESUMES.get(state)
    return tuple(stage for stage in stages if stage >= resumed) if resumed else ()


def failed(stage: State) -> State:
    """The state of a deployment whose stage failed."""
    return _FAILED[stage]


def complete(spec: TokenSpec, owner: str, custodian: Account | None = None) -> TokenSpec:
    """The spec with its name in canonical form and every default filled in.

    The whole supply goes to the custodian, if there is one.

    Raises:
        Error: INVALID_ARGUMENT, naming the field and its bound.
    """
    holder = custodian or Account(owner)
    spec = replace(
        spec,
        display_name=canonical_name(spec.display_name),
        decimals=DEFAULT_DECIMALS if spec.decimals is None else spec.decimals,
        transfer_fee=default_fee(spec.total_supply)
        if spec.transfer_fee is None
        else spec.transfer_fee,
        initial_balances=spec.initial_balances or ((holder, spec.total_supply),),
    )
    if custodian:
        _check_held(spec, custodian)
    _check_numbers(spec)
    _check_balances(spec)
    _check_texts(spec)
    return spec


def _check_held(spec: TokenSpec, custodian: Account) -> None:
    """A custodian has the whole supply, and pays all of it out to accounts without subaccount."""
    if spec.initial_balances != ((custodian, spec.total_supply),):
        raise invalid("spec.initial_balances", "must be left out: the launch distributes it")
    minter = spec.minting_account
    if minter is not None and minter.subaccount == DEFAULT_SUBACCOUNT:
        raise invalid(
            "spec.minting_account",
            "must have a subaccount: a launch pays to accounts without one, and whatever is paid "
            "to the minting account is burned",
        )


def held_minting_account(custodian: Account) -> Account:
    """The account that mints while a custodian has the owner's rights. It never holds anything."""
    subaccount = hashlib.sha256(b"icto-mint:" + custodian.subaccount).digest()
    return Account(custodian.owner, subaccount)


def check_delivered(state: State) -> None:
    """Passes when a token can be handed over to its owner.

    Raises:
        Error: FAILED_PRECONDITION, it is not deployed.
    """
    if state is not State.ACTIVE:
        raise Error(
            Code.FAILED_PRECONDITION, "TOKEN_NOT_ACTIVE", f"The token is {state.name}, not ACTIVE."
        )


def default_fee(total_supply: int) -> int:
    """The transfer fee of a token that names none."""
    return min(DEFAULT_TRANSFER_FEE, total_supply // 10)


def canonical_name(name: str) -> str:
    """A name in Unicode NFC without space around it.

    Raises:
        Error: it is not 3 to 32 characters, or has one that does not show as itself: controls,
            direction marks, zero-width, blank and private characters, spaces other than U+0020.
    """
    canonical = unicodedata.normalize("NFC", name).strip()
    if len(canonical) not in NAME_LENGTH:
        raise invalid("spec.display_name", "must have 3 to 32 characters")
    if any(not _shows(character) for character in canonical):
        raise invalid("spec.display_name", "has a character that does not show as itself")
    lookalikes.check_scripts("spec.display_name", canonical)
    return canonical


def check_no_imitation(spec: TokenSpec, fees: FeeToken) -> None:
    """Passes when a token could not be taken for the one that fees are paid in.

    Raises:
        Error: ALREADY_EXISTS, the symbol is that token's; INVALID_ARGUMENT, name or symbol look
            like its name or symbol.
    """
    if spec.symbol.upper() == fees.symbol.upper():
        raise symbol_taken(spec.symbol)
    for field, text in (("symbol", spec.symbol), ("display_name", spec.display_name)):
        if is_imitation(text, fees):
            raise lookalikes.lookalike(f"spec.{field}", f"{fees.display_name} ({fees.symbol})")


def is_imitation(text: str, fees: FeeToken) -> bool:
    """Whether a text could be taken for the name or the symbol of the fee token."""
    return any(lookalikes.alike(text, known) for known in (fees.symbol, fees.display_name))


def _shows(character: str) -> bool:
    category = unicodedata.category(character)
    return character == " " or (category[0] not in "CZ" and not _BLANK.match(character))


def is_symbol(symbol: str) -> bool:
    """Whether a symbol is well-formed: 2 to 8 ASCII letters or digits."""
    return SYMBOL.fullmatch(symbol) is not None


def search_terms(spec: TokenSpec) -> frozenset[str]:
    """What a token is found by: its symbol and the words of its name, in lower case."""
    return frozenset({spec.symbol.casefold(), *spec.display_name.casefold().split()})


def _check_numbers(spec: TokenSpec) -> None:
    if not is_symbol(spec.symbol):
        raise invalid("spec.symbol", "must be 2 to 8 ASCII letters or digits")
    if not 0 <= (spec.decimals or 0) <= MAX_DECIMALS:
        raise invalid("spec.decimals", f"must be 0 to {MAX_DECIMALS}")
    if spec.total_supply < 1:
        raise invalid("spec.total_supply", "must be at least 1")
    largest = min(MAX_TRANSFER_FEE, spec.total_supply // 10)
    if not 0 <= (spec.transfer_fee or 0) <= largest:
        raise invalid(
            "spec.transfer_fee", f"must be 0 to {largest}: 1,000,000, or a tenth of the supply"
        )


def _check_balances(spec: TokenSpec) -> None:
    field = "spec.initial_balances"
    holders = [account for account, _ in spec.initial_balances]
    total = sum(amount for _, amount in spec.initial_balances)
    if len(holders) > MAX_INITIAL_BALANCES:
        raise invalid(field, f"must be at most {MAX_INITIAL_BALANCES}")
    if len(set(holders)) != len(holders):
        raise invalid(field, "names an account twice")
    if any(amount < 1 for _, amount in spec.initial_balances):
        raise invalid(field, "must each be at least 1")
    if total > spec.total_supply:
        raise invalid(field, f"add up to {total}, more than the supply of {spec.total_supply}")
    if spec.minting_account is None and total != spec.total_supply:
        raise invalid(
            field, f"add up to {total}; without a minting account they must be the supply"
        )
    if spec.minting_account in holders:
        raise invalid("spec.minting_account", "must not be among the holders")
    if spec.minting_account is not None and spec.minting_account == spec.fee_collector:
        raise invalid("spec.fee_collector", "must not be the minting account: fees would burn")


def _check_texts(spec: TokenSpec) -> None:
    if len(spec.description) > MAX_DESCRIPTION:
        raise invalid("spec.description", f"must have at most {MAX_DESCRIPTION} characters")


def abandoned(operation: str) -> Error:
    """The operation was given up; what it would have made will never be."""
    return Error(Code.FAILED_PRECONDITION, "OPERATION_ABANDONED", f"{operation} was given up.")


def payment_consumed(payment: str) -> Error:
    """The payment paid for another token (F-19)."""
    return Error(
        Code.ALREADY_EXISTS, "PAYMENT_CONSUMED", f"{payment} paid for another token already."
    )


def symbol_taken(symbol: str) -> Error:
    """The symbol belongs to another token of this platform, whatever its case (F-63)."""
    return Error(
        Code.ALREADY_EXISTS,
        "SYMBOL_TAKEN",
        f"The symbol {symbol} is taken. Symbols are unique on this platform, in any case.",
        metadata={"symbol": symbol.upper()},
    )
