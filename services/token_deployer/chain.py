"""The port to a chain: all that a deployment asks of the place where its token will live.

Every operation may be repeated with the same token and then finds what the first call did.
"""

from typing import Protocol
from uuid import UUID

from services.token_deployer.domain import State, Token


class Chain(Protocol):
    """A place where tokens live."""

    @property
    def stages(self) -> tuple[State, ...]:
        """The stages that take a call here, in order; each is recorded before its call."""

    async def create(self, token: Token) -> None:
        """Claims a place for the token.

        Raises:
            RemoteError: it failed; `outcome_unknown` tells whether it may have worked.
        """

    async def install(self, token: Token) -> None:
        """Puts the token there, with its initial balances.

        Raises:
            RemoteError: as for create.
        """

    async def abandon(self, token_id: UUID) -> None:
        """Makes sure that the token is not there and never will be; nothing moves on it.

        Raises:
            RemoteError: as for create.
        """

    async def transfer_ownership(self, token: Token) -> None:
        """Hands control to the token's owner.

        Raises:
            RemoteError: as for create.
        """
