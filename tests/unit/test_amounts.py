"""Amounts: canonical decimal strings or nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import Code, Error
from services.kit.money import amounts
from services.kit.money.amounts import MAX_AMOUNT


@given(st.integers(0, MAX_AMOUNT))
def test_an_amount_survives_its_text(value: int) -> None:
    assert amounts.parse(str(value), "amount") == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "-0",
        "00",
        "01",
        " 1",
        "1 ",
        "1\n",
        "1.0",
        "1e3",
        "1_000",
        "0x10",
        "\u0661",
        "\uff11",
        "NaN",
        "Infinity",
        str(MAX_AMOUNT + 1),
        str(2**256),
        "9" * 10_000,
    ],
)
def test_anything_else_is_refused_by_field(text: str) -> None:
    """F-59: no sign, no fraction, no float, no overflow."""
    with pytest.raises(Error) as caught:
        amounts.parse(text, "spec.total_supply")
    error = caught.value
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "INVALID_AMOUNT")
    assert error.violations[0][0] == "spec.total_supply"


@given(st.text(max_size=45))
def test_any_text_is_canonical_or_refused(text: str) -> None:
    try:
        value = amounts.parse(text, "amount")
    except Error:
        return
    assert str(value) == text
