"""A chain that takes its time, or refuses, when a token's name asks for it: for tests alone."""

from uuid import UUID

from contract.environment import Environment
from contract.errors import Error, RemoteError
from services.kit.testing.rehearsal import rehearse
from services.token_deployer.chain import Chain
from services.token_deployer.domain import State, Token


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
        try:
            await rehearse(token.spec.display_name, Environment.TEST, "CHAIN_REFUSED")
        except Error as error:
            raise RemoteError(error.code, error.reason, error.message) from None
        await self._chain.install(token)

    async def abandon(self, token_id: UUID) -> None:
        """As the other chain."""
        await self._chain.abandon(token_id)

    async def transfer_ownership(self, token: Token) -> None:
        """As the other chain."""
        await self._chain.transfer_ownership(token)
