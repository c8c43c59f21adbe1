"""Statements as values: put together, each keeps its own arguments."""

import re
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from services.kit.storage.statement import Column, Statement, arrays_of, compose, numbers, rows_of

ROOT: Final = Path(__file__).parents[2]
_BARE: Final = re.compile(r"\b(?:state|kind|status) (?:=|<>|(?:NOT )?IN) \(?\d")


def test_one_statement_stays_as_it_is() -> None:
    only = Statement("DELETE FROM a WHERE b = $1", (1,))
    assert compose([only]) is only


def test_parameters_are_counted_on() -> None:
    whole = compose(
        [
            Statement("INSERT INTO a VALUES ($1, $2)", (1, 2)),
            Statement("UPDATE b SET c = $2 WHERE d = $1", (3, 4)),
            Statement("DELETE FROM e WHERE f = $1", (5,)),
        ]
    )
    assert whole.args == (1, 2, 3, 4, 5)
    assert re.split(r"\s+", whole.sql) == re.split(
        r"\s+",
        "WITH part_0 AS (INSERT INTO a VALUES ($1, $2)),"
        " part_1 AS (UPDATE b SET c = $4 WHERE d = $3)"
        " DELETE FROM e WHERE f = $5",
    )


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_every_part_sees_its_own_arguments(sizes: list[int]) -> None:
    """Part n has arguments named n.1, n.2, …; after composing each `$` still means its own."""
    parts = [
        Statement(
            " ".join(f"<{n}.{i}=${i}>" for i in range(1, size + 1)) or "nothing",
            tuple(f"{n}.{i}" for i in range(1, size + 1)),
        )
        for n, size in enumerate(sizes)
    ]
    whole = compose(parts)
    for name, position in re.findall(r"<(\d+\.\d+)=\$(\d+)>", whole.sql):
        assert whole.args[int(position) - 1] == name
    assert len(whole.args) == sum(sizes)


def test_the_same_text_with_other_arguments_is_not_mixed_up() -> None:
    """The composed text is remembered by text and number of arguments, the arguments are not."""
    first, second = (compose([Statement("A $1", (n,)), Statement("B $1", (-n,))]) for n in (1, 2))
    assert first.sql == second.sql
    assert (first.args, second.args) == ((1, -1), (2, -2))


class Colour(IntEnum):
    RED = 1
    BLUE = 5


def test_values_of_an_enum_are_listed_in_order() -> None:
    assert numbers(frozenset({Colour.BLUE, Colour.RED})) == "1, 5"


def test_no_value_of_an_enum_stands_in_sql_as_a_bare_number() -> None:
    sources = [*ROOT.glob("services/**/*.py"), *ROOT.glob("gateway/*.py")]
    assert len(sources) > 100
    assert not [path.name for path in sources if _BARE.search(path.read_text())]


def test_rows_are_given_as_an_array_a_column() -> None:
    columns = (Column("id", "uuid", "numerator"), Column("name", "text", "denominator.real"))
    assert rows_of(columns, "new", 3) == "unnest($3::uuid[], $4::text[]) AS new (id, name)"
    assert arrays_of(columns, [Fraction(1, 2), Fraction(3, 4)]) == [[1, 3], [2, 4]]
    assert arrays_of(columns, []) == [[], []]
