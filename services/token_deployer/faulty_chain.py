"""A chain that takes its time, or refuses: for tests, with tokens that ask for it in their name.

Only the test environment has it. What follows a definite failure after the charge (tombstone,
refund) can so be shown on the real mesh, and deployments take as long as on a real chain.
"""

import asyncio
from typing import Final
from uuid import UUID

from services.kit.errors import Code, RemoteError
from services.token_deployer.chain import Chain
from services.token_deployer.domain import State, Token

REFUSED_PREFIX: Final = "Faulty "
"""Start of the names of tokens that are refused."""
SLOW_PREFIX: Final = "Slow "
"""Start of the names of tokens that take a while."""
_SLOW_SECONDS: Final = 1.0


class FaultyChain:
    """Another chain, with faults on demand."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    @property
    def stages(self) -> tuple[State, ...]:
        """Those of the other chain."""
        return self._chain.stages

    async def create(self, token: Token) -> None:
        """As the other chain."""
        await self._chain.create(token)

    async def install(self, token: Token) -> None:
        """Takes its time, or refuses."""
        if token.spec.display_name.startswith(SLOW_PREFIX):
            await asyncio.sleep(_SLOW_SECONDS)
        if token.spec.display_name.startswith(REFUSED_PREFIX):
            raise RemoteError(
                Code.FAILED_PRECONDITION, "CHAIN_REFUSED", "The chain refuses this token."
            )
        await self._chain.install(token)

    async def abandon(self, token_id: UUID) -> None:
        """As the other chain."""
        await self._chain.abandon(token_id)

    async def transfer_ownership(self, token: Token) -> None:
        """As the other chain."""
        await self._chain.transfer_ownership(token)
