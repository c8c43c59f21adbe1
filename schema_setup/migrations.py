"""Brings a service's schema up to date, once, however many replicas start.

A service's tables are in `schema.sql`; later changes in `migrations/0002_<what>.sql` and on. The
kit's own follow the same rule. Applied numbers are kept in `kit_migrations`; an advisory lock lets
one process at a time work on a schema.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any, Final

import asyncpg

from contract.environment import Environment
from schema_setup import clock
from schema_setup.packages import folder_of

log = logging.getLogger(__name__)

_REQUIRES: Final = re.compile(r"^-- requires: ([a-z_.]+)$", re.MULTILINE)
_HISTORY: Final = """
CREATE TABLE IF NOT EXISTS kit_migrations (
    module text NOT NULL, number int NOT NULL, name text NOT NULL,
    apply_time timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (module, number))
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of a schema's history."""

    module: str
    number: int
    name: str
    sql: str


def of_package(package: str) -> tuple[Migration, ...]:
    """Migrations of a package, in order: schema.sql, then migrations/NNNN_*.sql."""
    return tuple(sorted(_found(package), key=lambda migration: migration.number))


def _all_steps(package: str) -> Iterator[Migration]:
    """The kit's migrations, those of packages that the service's schema requires, its own."""
    yield from of_package("services.kit")
    yield from _with_required(package)


def _with_required(package: str) -> Iterator[Migration]:
    own = of_package(package)
    for required in _REQUIRES.findall(own[0].sql) if own else ():
        yield from _with_required(required)
    yield from own


def _found(package: str) -> Iterator[Migration]:
    folder = folder_of(package)
    first = folder / "schema.sql"
    if first.is_file():
        yield Migration(package, 1, "schema", first.read_text())
    later = folder / "migrations"
    for file in later.iterdir() if later.is_dir() else ():
        if file.name.endswith(".sql"):
            yield _numbered(package, file)


def _numbered(package: str, file: Traversable) -> Migration:
    number, _, name = file.name.removesuffix(".sql").partition("_")
    return Migration(package, int(number), name, file.read_text())


async def migrate(
    connection: "asyncpg.Connection[Any]", package: str, environment: Environment
) -> int:
    """Applies what is missing in the connection's schema and returns how many steps that were."""
    schema = await connection.fetchval("SELECT current_schema()")
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", f"migrate {schema}")
        await connection.execute(_HISTORY)
        await clock.install(connection, environment)
        done = {
            (row["module"], row["number"])
            for row in await connection.fetch("SELECT module, number FROM kit_migrations")
        }
        missing = [step for step in _all_steps(package) if (step.module, step.number) not in done]
        for step in missing:
            await connection.execute(step.sql)
            await connection.execute(
                "INSERT INTO kit_migrations (module, number, name) VALUES ($1, $2, $3)",
                step.module,
                step.number,
                step.name,
            )
        if missing:
            log.info("schema %s: applied %d migrations", schema, len(missing))
    return len(missing)
