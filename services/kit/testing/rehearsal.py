"""Work that takes its time, or is refused: for tests, when it asks for that in its name.

Only the test environment has it. What follows a definite failure after the charge (tombstone,
refund, compensation) can so be shown on the real mesh, and work takes as long as on a real chain.
"""

import asyncio
from typing import Final

from contract.environment import Environment
from contract.errors import Code, Error

REFUSED_PREFIX: Final = "Refused "
"""Start of the names of what is refused."""
SLOW_PREFIX: Final = "Slow "
"""Start of the names of what takes a while."""
_SLOW_SECONDS: Final = 1.0


async def rehearse(display_name: str, environment: Environment, reason: str) -> None:
    """Passes, or does what the name asks for.

    Raises:
        Error: FAILED_PRECONDITION with `reason`, it asks to be refused.
    """
    if environment is not Environment.TEST:
        return
    if display_name.startswith(SLOW_PREFIX):
        await asyncio.sleep(_SLOW_SECONDS)
    if display_name.startswith(REFUSED_PREFIX):
        raise Error(Code.FAILED_PRECONDITION, reason, "This is refused, as its name asks.")
