"""Amounts as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.units import Unit


@pytest.mark.parametrize(
    ("amount", "decimals", "told"),
    [
        (200_010_000, 8, "2.0001 ICP"),
        (100_000_000, 8, "1 ICP"),
        (1, 8, "0.00000001 ICP"),
        (0, 8, "0 ICP"),
        (10, 0, "10 ICP"),
    ],
)
def test_an_amount_is_told_in_tokens(amount: int, decimals: int, told: str) -> None:
    assert Unit("ICP", decimals).describe(amount) == told


@given(st.integers(0, 2**128 - 1), st.integers(0, 18))
def test_no_base_unit_is_lost(amount: int, decimals: int) -> None:
    told, symbol = Unit("T", decimals).describe(amount).split()
    whole, _, fraction = told.partition(".")
    assert (int(whole + fraction.ljust(decimals, "0")), symbol) == (amount, "T")
