"""Time: the database decides it, and only a test can shift it.

SQL asks `kit_now()`, which is the transaction's `now()`, or `kit_clock_now()`, which goes on within
it. In the test environment, and only there, they add the shift that the table `kit_clock` holds, so
that a test can move 48 hours in one statement.
"""

from typing import Final, Protocol

from contract.environment import Environment

_PLAIN: Final = """
CREATE OR REPLACE FUNCTION kit_now() RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE AS 'SELECT now()';
CREATE OR REPLACE FUNCTION kit_clock_now() RETURNS timestamptz
    LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp()';
DROP TABLE IF EXISTS kit_clock;
"""
_SHIFTED: Final = """
CREATE TABLE IF NOT EXISTS kit_clock (
    shift interval NOT NULL DEFAULT '0', single boolean PRIMARY KEY DEFAULT true CHECK (single));
INSERT INTO kit_clock DEFAULT VALUES ON CONFLICT DO NOTHING;
CREATE OR REPLACE FUNCTION kit_now() RETURNS timestamptz
    LANGUAGE sql STABLE AS 'SELECT now() + (SELECT shift FROM kit_clock)';
CREATE OR REPLACE FUNCTION kit_clock_now() RETURNS timestamptz
    LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp() + (SELECT shift FROM kit_clock)';
"""


class _Connection(Protocol):
    async def execute(self, query: str) -> str: ...


async def install(connection: _Connection, environment: Environment) -> None:
    """Defines `kit_now()` in the connection's schema."""
    await connection.execute(_SHIFTED if environment is Environment.TEST else _PLAIN)
