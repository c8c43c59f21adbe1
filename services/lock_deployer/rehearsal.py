"""Locks that take their time, or are refused: for tests, when they ask for it in their name.

Only the test environment has it. What follows a definite failure of this step in a launch can so be
shown on the real mesh.
"""

import asyncio
from typing import Final

from services.kit.errors import Code, Error
from services.kit.settings import Environment

REFUSED_PREFIX: Final = "Refused "
"""Start of the names of locks that are refused."""
SLOW_PREFIX: Final = "Slow "
"""Start of the names of locks that take a while."""
_SLOW_SECONDS: Final = 0.5


async def rehearse(display_name: str, environment: Environment) -> None:
    """Passes, or does what the name asks for.

    Raises:
        Error: FAILED_PRECONDITION, it asks to be refused.
    """
    if environment is not Environment.TEST:
        return
    if display_name.startswith(SLOW_PREFIX):
        await asyncio.sleep(_SLOW_SECONDS)
    if display_name.startswith(REFUSED_PREFIX):
        raise Error(Code.FAILED_PRECONDITION, "LOCK_REFUSED", "This lock is refused, as asked.")
