"""Who sees a distribution: the one look that every method about one begins with.

What is not there and what a caller may not see are answered alike, whatever else was wrong with the
request: categories, states and pauses are told to nobody else.
"""

from uuid import UUID

from contract.errors import not_found
from services.distribution_deployer import store
from services.distribution_deployer.domain import DELIVERED, Distribution
from services.distribution_deployer.messages import parse_distribution
from services.distribution_deployer.money import Money
from services.kit.serving import Call, Kit
from services.kit.storage import Database


class Visibility:
    """Looks distributions up for those who may see them."""

    def __init__(self, kit: Kit, money: Money) -> None:
        self._database = kit.database
        self._money = money

    async def seen(self, call: Call, name: str, field: str = "name") -> Distribution:
        """A distribution that the caller may see.

        Args:
            call: whose it must be, or be for.
            name: of the distribution.
            field: of the request that has the name.

        Raises:
            Error: NOT_FOUND, there is none, or it is not public and nothing to the caller.
        """
        found = await store.get(self._database, parse_distribution(name, field))
        if found is None or not await self._is_visible(found, call):
            raise not_found("distribution", name)
        return found

    async def _is_visible(self, found: Distribution, call: Call) -> bool:
        if call.identity.is_service or is_public(found):
            return True
        if not call.identity.signed_in:
            return False
        return call.principal == found.owner or await self._takes_part(found, call.principal)

    async def _takes_part(self, found: Distribution, principal: str) -> bool:
        return bool(
            await store.allocations(self._database, found.id, principal)
            or await store.listed(self._database, found.id, principal)
            or await self._may_register(found, principal)
        )

    async def _may_register(self, found: Distribution, principal: str) -> bool:
        """Whether a pool of it is for the principal: for everybody, or for holders of enough."""
        if found.state not in DELIVERED:
            return False
        for _, pool in found.spec.pools:
            if pool.holder is None or await self._money.holds_enough(pool.holder, principal):
                return True
        return False


def is_public(found: Distribution | None) -> bool:
    """Whether everybody may see a distribution."""
    return found is not None and found.spec.public and found.state in DELIVERED


async def list_is_public(database: Database, distribution_id: UUID | None) -> bool:
    """Whether everybody may see a list: that of a distribution that everybody may see."""
    return distribution_id is not None and is_public(await store.get(database, distribution_id))
