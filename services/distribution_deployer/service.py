"""Handlers of distributions and recipient lists: translate, call, answer."""

import asyncio
from typing import Any, assert_never

from typing_extensions import override

from contract.errors import Code, Error
from icto.distribution.v1 import distribution_pb2 as pb
from icto.distribution.v1.distribution_handlers import (
    distribution_service,
    recipient_list_service,
)
from services.distribution_deployer import store
from services.distribution_deployer.claims import Claims
from services.distribution_deployer.domain import Distribution, Listed, Pool, Whitelist
from services.distribution_deployer.keeping import Control, Keeping
from services.distribution_deployer.lists import RecipientListService
from services.distribution_deployer.messages import check_ledger, distribution_message
from services.distribution_deployer.setting_up import SettingUp
from services.kit.answering import paging
from services.kit.serving import Call, Kit, Serving
from services.kit.vesting.vesting_rules import WHOLE


def compose(kit: Kit) -> Serving:
    """The service of its parts."""
    distributions, lists = DistributionService(kit), RecipientListService(kit)
    return Serving(
        {**distribution_service(distributions), **recipient_list_service(lists)},
        [distributions.run, lists.run],
    )


class DistributionService(SettingUp, Claims, Control):
    """icto.distribution.v1.DistributionService."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._keeping = Keeping(kit, self._money)

    async def run(self) -> None:
        """Pays what is owed and does what time asks for, as long as the replica lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pipelines.run())
            tasks.create_task(self._money.run())
            tasks.create_task(self._keeping.run())

    @override
    async def GetDistribution(
        self, request: pb.GetDistributionRequest, call: Call
    ) -> pb.Distribution:
        """One distribution."""
        return distribution_message(await self._visibility.seen(call, request.name))

    @override
    async def ListDistributions(
        self, request: pb.ListDistributionsRequest, call: Call
    ) -> pb.ListDistributionsResponse:
        """Distributions, newest first."""
        asked = paging.by_id(request)
        if request.ledger:
            check_ledger(request.ledger, "ledger")
        ledger = request.ledger or None
        if request.view in (pb.DISTRIBUTION_VIEW_UNSPECIFIED, pb.DISTRIBUTION_VIEW_PUBLIC):
            rows = await store.list_public(self._database, asked.after, asked.limit, ledger)
        else:
            mine = request.view == pb.DISTRIBUTION_VIEW_CREATED
            listing = store.list_created if mine else store.list_receiving
            rows = await listing(self._database, asked.after, asked.limit, ledger, _signed_in(call))
        page, token = asked.page(rows, map(distribution_message, rows))
        return pb.ListDistributionsResponse(distributions=page, next_page_token=token)

    @override
    async def GetDistributionStats(
        self, request: pb.GetDistributionStatsRequest, call: Call
    ) -> pb.GetDistributionStatsResponse:
        """Sums of what there is."""
        found = await self._visibility.seen(call, request.name)
        sums = await store.sums(self._database, found.id)
        categories = await store.category_sums(self._database, found.id)
        total = found.spec.total
        return pb.GetDistributionStatsResponse(
            total_amount=str(total),
            claimed=str(sums["claimed"]),
            paid=str(sums["paid"]),
            penalties=str(sums["penalties"]),
            returned=str(sums["returned"]),
            remaining=str(max(0, total - sums["sent"])),
            completion_basis_points=sums["claimed"] * WHOLE // total,
            claim_count=sums["claims"],
            categories=[_category_stats(found, row) for row in categories],
        )


def _signed_in(call: Call) -> str:
    """The caller, who must have one's own to list.

    Raises:
        Error: UNAUTHENTICATED, nobody signed in.
    """
    if not call.identity.signed_in:
        raise Error(Code.UNAUTHENTICATED, "SIGN_IN_REQUIRED", "Sign in to list what is yours.")
    return call.principal


def _category_stats(found: Distribution, row: Any) -> pb.CategoryStats:
    category = found.spec.category(row["id"])
    match category.source:
        case Whitelist() | Listed():
            allocated, participants = category.amount, category.count
        case Pool():
            allocated, participants = row["reserved"], row["registered"]
        case _:
            assert_never(category.source)
    return pb.CategoryStats(
        category_id=category.id,
        amount=str(category.amount),
        allocated=str(allocated),
        claimed=str(row["claimed"]),
        participant_count=participants,
        claimant_count=row["claimants"],
    )
