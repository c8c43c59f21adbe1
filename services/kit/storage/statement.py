"""SQL statements as values, and several of them as one.

A store's function that only writes returns a `Statement`; what is to be written together is
composed into one statement, which Postgres runs in one round trip as one transaction. Parts do not
see each other's rows, only their constraints; a part that fails takes all of them with it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

_PARAMETER: Final = re.compile(r"\$(\d+)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One INSERT, UPDATE or DELETE (without a WITH of its own) and its arguments."""

    sql: str
    args: tuple[Any, ...]


def compose(parts: Sequence[Statement]) -> Statement:
    """One statement that does what all parts do."""
    if len(parts) == 1:
        return parts[0]
    sql = _composed(tuple((part.sql, len(part.args)) for part in parts))
    return Statement(sql, tuple(arg for part in parts for arg in part.args))


@lru_cache(maxsize=512)
def _composed(parts: tuple[tuple[str, int], ...]) -> str:
    """The text for parts with so many arguments each."""
    clauses, offset = [], 0
    for number, (sql, count) in enumerate(parts[:-1]):
        clauses.append(f"part_{number} AS ({_renumbered(sql, offset)})")
        offset += count
    return f"WITH {', '.join(clauses)}\n{_renumbered(parts[-1][0], offset)}"


def _renumbered(sql: str, offset: int) -> str:
    return _PARAMETER.sub(lambda match: f"${int(match.group(1)) + offset}", sql.strip())


def numbers(values: Iterable[int]) -> str:
    """Values of an enum as SQL lists them: `2, 5` for `IN (2, 5)`.

    They are constants of a statement, and no parameters, where an index is for some of them alone.
    """
    return ", ".join(str(int(value)) for value in sorted(values))


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the rows that a statement takes as arrays.

    Attributes:
        name: in the statement.
        type: of SQL.
        path: where a row has its value: an attribute, or one of an attribute: `claim.id`.
    """

    name: str
    type: str
    path: str


def rows_of(columns: Sequence[Column], alias: str, first: int) -> str:
    """Rows as a table in FROM: `unnest($1::uuid[], $2::text[]) AS alias (id, name)`.

    Args:
        columns: its columns, two at least.
        alias: what it is called.
        first: number of the parameter that has the first column; the others follow.
    """
    numbered = enumerate(columns, first)
    parameters = ", ".join(f"${number}::{column.type}[]" for number, column in numbered)
    return f"unnest({parameters}) AS {alias} ({', '.join(column.name for column in columns)})"


def arrays_of(columns: Sequence[Column], rows: Sequence[object]) -> list[list[Any]]:
    """The parameters of `rows_of`: an array a column."""
    values = map(attrgetter(*(column.path for column in columns)), rows)
    return [list(column) for column in zip(*values, strict=True)] or [[] for _ in columns]
