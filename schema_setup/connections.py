"""How many connections a database has for services."""

from typing import Final

# `reserved_connections` came with PostgreSQL 16.
CONNECTIONS: Final = """
SELECT least(
    current_setting('max_connections')::int
      - current_setting('superuser_reserved_connections')::int
      - coalesce(current_setting('reserved_connections', true), '0')::int,
    CASE WHEN datconnlimit < 0 THEN NULL ELSE datconnlimit END
) FROM pg_database WHERE datname = current_database()
"""
"""How many connections services may have, in all."""
