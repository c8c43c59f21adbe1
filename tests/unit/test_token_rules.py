"""What a token may be (domain 2.2, column Rec) and how its deployment resumes."""

import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import principal
from contract.errors import Code, Error
from icto.token.v1 import token_pb2
from services.kit.money.amounts import MAX_AMOUNT
from services.token_deployer import domain, messages
from services.token_deployer.domain import STAGES, Account, FeeToken, State, Token, TokenSpec

T = TypeVar("T")
OWNER = principal.of_public_key(bytes(32))
OTHERS = [Account(principal.of_public_key(bytes([n]) * 32)) for n in range(1, 110)]
ANN, BEN, MINTER, *_ = OTHERS
SUPPLY = 1_000_000
SPEC = TokenSpec(display_name="A token", symbol="TOK", total_supply=SUPPLY)


def refused(owner: str = OWNER, **changes: Any) -> Error:
    with pytest.raises(Error) as caught:
        domain.complete(replace(SPEC, **changes), owner)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value


def valid(check: Callable[[], T]) -> T | None:
    """What the check returned; None when it refused its argument."""
    try:
        return check()
    except Error as error:
        if error.code is not Code.INVALID_ARGUMENT:
            raise
        return None


def refused_field(**changes: Any) -> str:
    ((field, _),) = refused(**changes).violations
    return field.removeprefix("spec.")


def test_defaults_are_filled_in() -> None:
    spec = domain.complete(SPEC, OWNER)
    assert spec == replace(
        SPEC, decimals=8, transfer_fee=10_000, initial_balances=((Account(OWNER), SUPPLY),)
    )


FEES = FeeToken("ICP", "Internet Computer")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"symbol": "ICP"}, "SYMBOL_TAKEN"),
        ({"symbol": "icp"}, "SYMBOL_TAKEN"),
        ({"symbol": "lCP"}, "LOOKALIKE"),
        ({"symbol": "1CP"}, "LOOKALIKE"),
        ({"display_name": "Internet Computer"}, "LOOKALIKE"),
        ({"display_name": "\u0406nternet Computer"}, "LOOKALIKE"),
        ({"display_name": "I C P"}, "LOOKALIKE"),
    ],
)
def test_no_token_passes_for_the_one_that_fees_are_paid_in(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Error) as caught:
        domain.check_no_imitation(replace(SPEC, **changes), FEES)
    assert caught.value.reason == reason
    assert domain.is_imitation(next(iter(changes.values())), FEES)


def test_a_token_of_its_own_name_passes() -> None:
    domain.check_no_imitation(SPEC, FEES)


def test_what_is_complete_stays_as_it_is() -> None:
    spec = domain.complete(SPEC, OWNER)
    assert domain.complete(spec, ANN.owner) == spec


@pytest.mark.parametrize(
    "changes",
    [
        {"symbol": "T1"},
        {"symbol": "abcdEFG8"},
        {"display_name": "abc"},
        {"display_name": "x" * 32},
        {"display_name": "日本語"},
        {"decimals": 0},
        {"decimals": 18},
        {"total_supply": 1},
        {"total_supply": MAX_AMOUNT},
        {"transfer_fee": 0},
        {"transfer_fee": SUPPLY // 10},
        {"total_supply": 10**12, "transfer_fee": 1_000_000},
        {"description": "x" * 2_000},
        {"initial_balances": ((ANN, 1), (BEN, SUPPLY - 1))},
        {"initial_balances": ((ANN, 1),), "minting_account": MINTER},
        {"initial_balances": tuple((a, SUPPLY // 100) for a in OTHERS[:100])},
        {"fee_collector": ANN},
    ],
)
def test_everything_up_to_the_bounds_is_accepted(changes: dict[str, Any]) -> None:
    spec = replace(SPEC, **changes)
    completed = domain.complete(spec, OWNER)
    assert {name: getattr(completed, name) for name in changes} == changes


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("symbol", ["", "T", "TOOLONGER", "TO K", "TO-K", "T\u00d6K", "TOK\n", "TO\0K"]),
        ("symbol", ["\uff34\uff2f\uff2b", "T\u0663", "\u0131OK", "TO\u212a"]),
        ("display_name", ["", "ab", "x" * 33, "  ab  ", "a\nbc", "abc\0"]),
        ("decimals", [19, 255]),
        ("total_supply", [0]),
        ("transfer_fee", [SUPPLY // 10 + 1, 1_000_001]),
        ("description", ["x" * 2_001]),
        (
            "initial_balances",
            [
                ((ANN, 0), (BEN, SUPPLY)),
                ((ANN, 1), (ANN, SUPPLY - 1)),
                tuple((account, 1) for account in OTHERS[:101]),
            ],
        ),
    ],
)
def test_everything_beyond_the_bounds_is_refused_by_name(field: str, values: list[Any]) -> None:
    assert {refused_field(**{field: value}) for value in values} == {field}


def test_a_fee_is_at_most_a_million_and_a_tenth_of_the_supply() -> None:
    assert refused_field(total_supply=10**12, transfer_fee=1_000_001) == "transfer_fee"
    assert refused_field(total_supply=9, transfer_fee=1) == "transfer_fee"


@pytest.mark.parametrize(
    "changes",
    [
        {"initial_balances": ((ANN, SUPPLY - 1),)},
        {"initial_balances": ((ANN, SUPPLY + 1),)},
        {"initial_balances": ((ANN, SUPPLY + 1),), "minting_account": MINTER},
        {"initial_balances": ((ANN, MAX_AMOUNT), (BEN, MAX_AMOUNT))},
    ],
)
def test_initial_balances_that_do_not_add_up_to_the_supply_are_refused(
    changes: dict[str, Any],
) -> None:
    """F-26: the sum was unchecked. Without a minter it is the supply; with one at most that."""
    assert refused_field(**changes) == "initial_balances"


def test_the_minter_is_never_a_holder() -> None:
    """F-26: the minter defaulted to the first holder, who could then mint at will."""
    assert domain.complete(SPEC, OWNER).minting_account is None
    minter = {"minting_account": MINTER}
    assert refused_field(initial_balances=((MINTER, SUPPLY),), **minter) == "minting_account"
    assert refused_field(minting_account=Account(OWNER)) == "minting_account"


def test_a_launch_takes_no_minter_that_payments_would_be_burned_by() -> None:
    """A launch pays to accounts without a subaccount; what the minter receives is burned."""
    escrow = Account(principal.of_service("backend"), bytes(31) + b"\x01")
    plain = replace(SPEC, minting_account=Account(OWNER))
    with pytest.raises(Error) as caught:
        domain.complete(plain, OWNER, escrow)
    assert [field for field, _ in caught.value.violations] == ["spec.minting_account"]
    apart = Account(OWNER, bytes(31) + b"\x01")
    held = domain.complete(replace(SPEC, minting_account=apart), OWNER, escrow)
    assert held.initial_balances == ((escrow, SUPPLY),)


def test_a_launch_mints_by_an_account_that_is_neither_the_owners_nor_the_escrow() -> None:
    escrow = Account(principal.of_service("backend"), bytes(31) + b"\x01")
    other = Account(escrow.owner, bytes(31) + b"\x02")
    minters = {domain.held_minting_account(account) for account in (escrow, other)}
    assert len(minters | {escrow, other}) == 4
    assert {minter.owner for minter in minters} == {escrow.owner}


def test_fees_are_not_collected_by_the_minter() -> None:
    assert refused_field(minting_account=MINTER, fee_collector=MINTER) == "fee_collector"


def test_two_subaccounts_of_one_owner_are_two_holders() -> None:
    savings = Account(ANN.owner, bytes(31) + b"\x01")
    domain.complete(replace(SPEC, initial_balances=((ANN, 1), (savings, SUPPLY - 1))), OWNER)


INVISIBLE = {
    "zero width space": "\u200b",
    "zero width joiner": "\u200d",
    "right-to-left override": "\u202e",
    "isolate": "\u2066",
    "no-break space": "\xa0",
    "ideographic space": "\u3000",
    "line separator": "\u2028",
    "soft hyphen": "\xad",
    "byte order mark": "\ufeff",
    "tag": "\U000e0041",
    "private use": "\ue000",
    "unassigned": "\U000e0fff",
    "delete": "\x7f",
    "combining grapheme joiner": "\u034f",
    "hangul filler": "\u3164",
    "halfwidth hangul filler": "\uffa0",
    "hangul choseong filler": "\u115f",
    "variation selector": "\ufe0f",
    "variation selector supplement": "\U000e0100",
    "mongolian vowel separator": "\u180e",
    "braille blank": "\u2800",
}


@pytest.mark.parametrize("character", INVISIBLE.values(), ids=INVISIBLE)
def test_a_name_with_a_character_that_does_not_show_is_refused(character: str) -> None:
    assert refused_field(display_name=f"Bit{character}coin") == "display_name"


def test_two_ways_to_write_a_name_are_one_name() -> None:
    composed = domain.complete(replace(SPEC, display_name="Caf\u00e9"), OWNER)
    decomposed = domain.complete(replace(SPEC, display_name="  Cafe\u0301 "), OWNER)
    assert composed == decomposed


@given(st.text(max_size=40))
def test_a_name_is_canonical_once_accepted(name: str) -> None:
    accepted = valid(lambda: domain.canonical_name(name))
    if accepted is None:
        return
    assert domain.canonical_name(accepted) == accepted
    assert unicodedata.is_normalized("NFC", accepted)
    assert len(accepted) in range(3, 33)
    assert accepted.strip() == accepted
    assert accepted.isprintable()


@given(st.text(max_size=10))
def test_a_symbol_is_unique_on_upper_case_because_it_is_ascii(symbol: str) -> None:
    if domain.is_symbol(symbol):
        assert symbol.isascii()
        assert symbol.upper().lower() == symbol.lower()


amounts = st.integers(-1, 2 * SUPPLY)


@given(
    st.lists(st.tuples(st.sampled_from(OTHERS[:5]), amounts), max_size=6),
    st.sampled_from([None, ANN, OTHERS[50]]),
)
def test_a_spec_that_is_accepted_mints_its_supply_or_less(
    balances: list[tuple[Account, int]], minter: Account | None
) -> None:
    spec = replace(SPEC, initial_balances=tuple(balances), minting_account=minter)
    completed = valid(lambda: domain.complete(spec, OWNER))
    if completed is None:
        return
    holders = dict(completed.initial_balances)
    assert len(holders) == len(completed.initial_balances)
    assert min(holders.values()) >= 1
    assert minter not in holders
    total = sum(holders.values())
    assert total == SUPPLY if minter is None else total <= SUPPLY


@given(st.integers(1, MAX_AMOUNT))
def test_the_default_fee_is_always_allowed(supply: int) -> None:
    completed = domain.complete(replace(SPEC, total_supply=supply), OWNER)
    assert completed.transfer_fee == domain.default_fee(supply)


def test_a_spec_survives_its_message() -> None:
    spec = domain.complete(
        replace(
            SPEC,
            initial_balances=((Account(ANN.owner, bytes(31) + b"\x07"), 5),),
            minting_account=MINTER,
            fee_collector=BEN,
            logo="https://example.com/x",
            description="What it is",
            website="https://example.com",
        ),
        OWNER,
    )
    raw = messages.spec_message(spec).SerializeToString()
    assert messages.parse_spec(token_pb2.TokenSpec.FromString(raw)) == spec


@pytest.mark.parametrize("stage", STAGES)
def test_a_deployment_resumes_at_the_stage_that_was_interrupted_or_failed(stage: State) -> None:
    rest = STAGES[STAGES.index(stage) :]
    assert domain.remaining_stages(stage, STAGES) == rest
    assert domain.remaining_stages(domain.failed(stage), STAGES) == rest


def test_a_fresh_deployment_runs_every_stage_and_an_ended_one_none() -> None:
    assert domain.remaining_stages(State.REQUESTED, STAGES) == STAGES
    assert domain.remaining_stages(State.ACTIVE, STAGES) == ()
    assert domain.remaining_stages(State.ABANDONED, STAGES) == ()


def test_a_chain_with_fewer_stages_skips_the_others() -> None:
    only = (State.INSTALLING,)
    assert domain.remaining_stages(State.REQUESTED, only) == only
    assert domain.remaining_stages(State.INSTALL_FAILED, only) == only
    assert domain.remaining_stages(State.TRANSFERRING_OWNERSHIP, only) == ()


def test_every_stage_fails_into_a_state_of_its_own() -> None:
    assert len({domain.failed(stage) for stage in STAGES}) == len(STAGES)


def test_states_have_the_numbers_of_the_proto() -> None:
    names = {f"TOKEN_STATE_{state.name}": int(state) for state in State}
    assert names == {k: v for k, v in token_pb2.TokenState.items() if v}


def test_a_token_begins_as_requested() -> None:
    assert Token(UUID(int=1), "deployments/x", OWNER, SPEC).state is State.REQUESTED


def test_a_taken_symbol_is_told_in_upper_case() -> None:
    """F-63: uniqueness is case-insensitive, on this platform alone, and the message says so."""
    error = domain.symbol_taken("tok")
    assert (error.code, error.reason) == (Code.ALREADY_EXISTS, "SYMBOL_TAKEN")
    assert error.metadata == {"symbol": "TOK"}
    assert "on this platform, in any case" in error.message


def test_search_terms_are_words_in_lower_case() -> None:
    spec = replace(SPEC, display_name="Großes  Gold", symbol="GOLD")
    assert domain.search_terms(spec) == {"gold", "grosses"}


def test_an_operation_that_was_given_up_and_a_payment_that_was_used_are_told() -> None:
    given_up = domain.abandoned("deployments/x")
    assert (given_up.code, given_up.reason) == (Code.FAILED_PRECONDITION, "OPERATION_ABANDONED")
    used = domain.payment_consumed("payments/x")
    assert (used.code, used.reason) == (Code.ALREADY_EXISTS, "PAYMENT_CONSUMED")


def test_a_launch_leaves_no_balances_to_its_owner() -> None:
    custodian = Account(OWNER, bytes([1] * 32))
    spec = replace(SPEC, initial_balances=((Account(OWNER), SPEC.total_supply),))
    with pytest.raises(Error, match=r"initial_balances must be left out"):
        domain.complete(spec, OWNER, custodian)


def test_only_a_token_that_is_deployed_is_handed_over() -> None:
    domain.check_delivered(State.ACTIVE)
    for state in set(State) - {State.ACTIVE}:
        with pytest.raises(Error) as caught:
            domain.check_delivered(state)
        assert caught.value.reason == "TOKEN_NOT_ACTIVE"
