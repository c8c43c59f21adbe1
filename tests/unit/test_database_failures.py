"""Whatever the driver raises because the database failed is the one error type."""

import asyncio
from typing import Any

import asyncpg
import pytest

from contract.errors import Code, Error
from services.kit.storage.database import translated

_FAMILIES = (
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.InvalidAuthorizationSpecificationError,
)
_OF_THE_SYSTEM = (OSError, ConnectionResetError, BrokenPipeError, TimeoutError, EOFError)


def members() -> list[type[BaseException]]:
    """Every exception that the driver exports of the families, so that a new one is among them."""
    exported = [getattr(asyncpg, name) for name in dir(asyncpg)]
    found = {e for e in exported if isinstance(e, type) and issubclass(e, _FAMILIES)}
    ends = {asyncpg.QueryCanceledError}  # has a code of its own
    return sorted(found - ends, key=lambda kind: kind.__name__)


async def failing(error: BaseException) -> Any:
    await asyncio.sleep(0)
    raise error


@pytest.mark.parametrize("kind", [*members(), *_OF_THE_SYSTEM], ids=lambda kind: kind.__name__)
async def test_a_failure_of_the_database_is_unavailable(kind: type[BaseException]) -> None:
    error = kind("told so")
    with pytest.raises(Error) as caught:
        await translated(failing(error))
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.reason in {"DATABASE_UNAVAILABLE", "DATABASE_UNABLE"}
    assert caught.value.__cause__ is error


async def test_an_answer_that_was_cut_off_is_unavailable() -> None:
    with pytest.raises(Error):
        await translated(failing(asyncio.IncompleteReadError(b"", 5)))


@pytest.mark.parametrize("kind", [asyncpg.UniqueViolationError, asyncpg.UndefinedColumnError])
async def test_what_only_a_store_understands_passes(kind: type[BaseException]) -> None:
    with pytest.raises(kind):
        await translated(failing(kind("told so")))
