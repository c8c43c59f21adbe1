"""Principals and accounts in the Internet Computer's text forms (design: Identity)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import principal
from contract.principal import DEFAULT_SUBACCOUNT

PUBLIC_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
SELF_AUTHENTICATING = "e73il-iz5tp-nkgt7-idxyw-ngkah-47bpv-qdase-pzde6-g6vwc-a3eql-jae"
OWNER = "k2t6j-2nvnp-4zjm3-25dtz-6xhaa-c7boj-5gayf-oj3xs-i43lp-teztq-6ae"
ONE_TO_32 = bytes(range(1, 33))

principals = st.binary(max_size=29)
subaccounts = st.one_of(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 70_000).map(lambda number: number.to_bytes(32, "big")),
)


def test_a_public_key_has_the_principal_that_the_specification_says() -> None:
    assert principal.of_public_key(PUBLIC_KEY) == SELF_AUTHENTICATING


def test_an_account_has_the_checksum_that_the_standard_says() -> None:
    text = principal.encode_account(OWNER, ONE_TO_32)
    assert text == f"{OWNER}-dfxgiyy.{ONE_TO_32.hex().lstrip('0')}"


def test_known_principals_are_known() -> None:
    assert principal.encode(b"\x04") == principal.ANONYMOUS
    assert principal.encode(b"") == "aaaaa-aa"
    assert principal.decode("aaaaa-aa") == b""


@given(principals)
def test_a_principal_survives_its_text(raw: bytes) -> None:
    text = principal.encode(raw)
    assert principal.decode(text) == raw
    assert principal.is_principal(text)


@given(principals, subaccounts)
def test_an_account_survives_its_text(raw: bytes, subaccount: bytes) -> None:
    owner = principal.encode(raw)
    text = principal.encode_account(owner, subaccount)
    assert principal.decode_account(text) == (owner, subaccount)


def test_the_default_account_is_its_owner() -> None:
    assert principal.encode_account(OWNER) == OWNER
    assert principal.decode_account(OWNER) == (OWNER, DEFAULT_SUBACCOUNT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "a",
        OWNER.upper(),
        OWNER.replace("-", ""),
        OWNER + "-",
        " " + OWNER,
        OWNER + "\n",
        OWNER[:-1] + "a",
        OWNER[:-2],
        OWNER.replace("k", "\u212a"),
        "k2t6j=",
        "日本語",
        "2vxsx-fae\0",
        principal.encode(bytes(30)),
    ],
)
def test_garbage_is_no_principal(text: str) -> None:
    assert not principal.is_principal(text)


@given(st.text(max_size=70))
def test_any_text_is_a_principal_or_refused(text: str) -> None:
    assert not principal.is_principal(text) or principal.encode(principal.decode(text)) == text


@given(principals, st.data())
def test_a_typing_error_in_a_principal_is_noticed(raw: bytes, data: st.DataObject) -> None:
    text = principal.encode(raw)
    position = data.draw(st.sampled_from([i for i, c in enumerate(text) if c != "-"]))
    letter = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
    typed = text[:position] + letter + text[position + 1 :]
    assert typed == text or not principal.is_principal(typed)


ACCOUNT = principal.encode_account(OWNER, ONE_TO_32)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        f"{OWNER}.1",
        f"{OWNER}-dfxgiyy.",
        f"{OWNER}-dfxgiyy.0",
        f"{OWNER}-aaaaaaa.{ONE_TO_32.hex()}",
        ACCOUNT.upper(),
        ACCOUNT.replace(".1", ".01"),
        ACCOUNT + "0",
        ACCOUNT + "00",
        ACCOUNT.replace(".1", ".+1"),
        ACCOUNT.replace(".1", ". 1"),
        ACCOUNT.replace("dfxgiyy", "dfxgiya"),
        "x" + ACCOUNT,
        f"-dfxgiyy.{ONE_TO_32.hex()}",
    ],
)
def test_garbage_is_no_account(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # what it says is nobody's business
        principal.decode_account(text)


@given(st.text(alphabet="abc2-.0 ", max_size=30))
def test_any_text_is_an_account_or_refused(text: str) -> None:
    try:
        owner, subaccount = principal.decode_account(text)
    except ValueError:
        return
    assert principal.encode_account(owner, subaccount) == text


def test_services_have_principals_that_nobody_holds_a_key_to() -> None:
    services = {principal.of_service(name) for name in ("ledger", "backend", "operator")}
    assert len(services) == 3
    for text in services:
        assert principal.decode(text)[-1:] == b"\x03"
    assert principal.decode(SELF_AUTHENTICATING)[-1:] == b"\x02"


@pytest.mark.parametrize("text", ["2vxsx-fae", "aaaaa-aa", "", "bob", "2VXSX-FAE"])
def test_nobody_is_no_person(text: str) -> None:
    assert not principal.is_person(text)
    assert principal.is_person(principal.of_public_key(bytes(32)))
