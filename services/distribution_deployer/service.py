"""Handlers of distributions and recipient lists: translate, call, answer."""

import asyncio
from typing import Any, assert_never

from typing_extensions import override

from contract.errors import Code, Error
from icto.distribution.v1 import distribution_pb2 as pb
from icto.distribution.v1.distribution_handlers import (
    DistributionServiceHandlers,
    RecipientListServiceHandlers,
    distribution_service,
    recipient_list_service,
)
from services.distribution_deployer import store
from services.distribution_deployer.claims import Claims
from services.distribution_deployer.domain import Distribution, Listed, Pool, Whitelist
from services.distribution_deployer.keeping import Keeping
from services.distribution_deployer.lists import Lists
from services.distribution_deployer.messages import check_ledger, distribution_message
from services.distribution_deployer.money import Money
from services.distribution_deployer.setting_up import SettingUp
from services.distribution_deployer.visibility import Visibility
from services.kit import Call, Kit, paging
from services.kit.journal import Pipelines
from services.kit.serving import Serving
from services.kit.vesting_rules import WHOLE


def compose(kit: Kit) -> Serving:
    """The service of its parts."""
    distributions, lists = DistributionService(kit), RecipientListService(kit)
    return Serving(
        {**distribution_service(distributions), **recipient_list_service(lists)},
        [distributions.run, lists.run],
    )


class DistributionService(DistributionServiceHandlers[Call]):
    """icto.distribution.v1.DistributionService."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._pipelines = Pipelines(kit)
        self._money = Money(kit, self._pipelines)
        self._setting_up = SettingUp(kit, self._money)
        self._visibility = Visibility(kit, self._money)
        self._claims = Claims(kit, self._money, self._visibility)
        self._keeping = Keeping(kit, self._money)

    async def run(self) -> None:
        """Pays what is owed and does what time asks for, as long as the replica lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pipelines.run())
            tasks.create_task(self._money.run())
            tasks.create_task(self._keeping.run())

    @override
    async def ValidateDistribution(
        self, request: pb.ValidateDistributionRequest, call: Call
    ) -> pb.ValidateDistributionResponse:
        """Checks a spec."""
        return await self._setting_up.validate(request, call)

    @override
    async def CreateDistribution(
        self, request: pb.CreateDistributionRequest, call: Call
    ) -> pb.Distribution:
        """Reserves a distribution."""
        return await self._setting_up.create(request, call)

    @override
    async def ActivateDistribution(
        self, request: pb.ActivateDistributionRequest, call: Call
    ) -> pb.Distribution:
        """Opens a distribution."""
        return await self._setting_up.activate(request, call)

    @override
    async def AbandonDistribution(
        self, request: pb.AbandonDistributionRequest, call: Call
    ) -> pb.AbandonDistributionResponse:
        """Gives an operation up."""
        return await self._setting_up.abandon(request, call)

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
        cursor = paging.decode_token(request.page_token, str)
        before = paging.as_uuid(cursor[0]) if cursor else None
        size = paging.page_size(request.page_size)
        if request.ledger:
            check_ledger(request.ledger, "ledger")
        ledger = request.ledger or None
        if request.view in (pb.DISTRIBUTION_VIEW_UNSPECIFIED, pb.DISTRIBUTION_VIEW_PUBLIC):
            rows = await store.list_public(self._database, before, size + 1, ledger)
        else:
            mine = request.view == pb.DISTRIBUTION_VIEW_CREATED
            listing = store.list_created if mine else store.list_receiving
            rows = await listing(self._database, before, size + 1, ledger, _signed_in(call))
        page, token = paging.page(
            rows,
            map(distribution_message, rows),
            size,
            lambda row: paging.encode_token(str(row.id)),
        )
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

    @override
    async def GetClaimable(
        self, request: pb.GetClaimableRequest, call: Call
    ) -> pb.GetClaimableResponse:
        """What the caller may claim."""
        return await self._claims.claimable(request, call)

    @override
    async def Register(self, request: pb.RegisterRequest, call: Call) -> pb.RegisterResponse:
        """Takes the caller into a pool."""
        return await self._claims.register(request, call)

    @override
    async def Claim(self, request: pb.ClaimRequest, call: Call) -> pb.DistributionClaim:
        """Claims what is unlocked."""
        return await self._claims.claim(request, call)

    @override
    async def ClaimWithProof(
        self, request: pb.ClaimWithProofRequest, call: Call
    ) -> pb.DistributionClaim:
        """Claims as a recipient of a list."""
        return await self._claims.claim_with_proof(request, call)

    @override
    async def EarlyUnlock(self, request: pb.EarlyUnlockRequest, call: Call) -> pb.DistributionClaim:
        """Takes everything for a penalty."""
        return await self._claims.early_unlock(request, call)

    @override
    async def GetClaim(self, request: pb.GetClaimRequest, call: Call) -> pb.DistributionClaim:
        """One claim."""
        return await self._claims.get(request, call)

    @override
    async def ListClaims(self, request: pb.ListClaimsRequest, call: Call) -> pb.ListClaimsResponse:
        """Claims, newest first."""
        return await self._claims.list(request, call)

    @override
    async def PauseDistribution(
        self, request: pb.PauseDistributionRequest, call: Call
    ) -> pb.Distribution:
        """Stops claims."""
        return await self._keeping.pause(request.name, call)

    @override
    async def ResumeDistribution(
        self, request: pb.ResumeDistributionRequest, call: Call
    ) -> pb.Distribution:
        """Ends a pause."""
        return await self._keeping.resume(request.name, call)

    @override
    async def PauseCategory(self, request: pb.PauseCategoryRequest, call: Call) -> pb.Distribution:
        """Stops claims from a category."""
        category_id = request.category_id
        return await self._keeping.hold_category(request.name, category_id, call, paused=True)

    @override
    async def ResumeCategory(
        self, request: pb.ResumeCategoryRequest, call: Call
    ) -> pb.Distribution:
        """Ends the pause of a category."""
        category_id = request.category_id
        return await self._keeping.hold_category(request.name, category_id, call, paused=False)

    @override
    async def CancelDistribution(
        self, request: pb.CancelDistributionRequest, call: Call
    ) -> pb.Distribution:
        """Ends a distribution for good."""
        return await self._keeping.cancel(request.name, call)


class RecipientListService(RecipientListServiceHandlers[Call]):
    """icto.distribution.v1.RecipientListService."""

    def __init__(self, kit: Kit) -> None:
        self._lists = Lists(kit)

    async def run(self) -> None:
        """Forgets lists that nobody uses, as long as the replica lives."""
        await self._lists.run()

    @override
    async def CreateRecipientList(
        self, request: pb.CreateRecipientListRequest, call: Call
    ) -> pb.RecipientList:
        """Begins a list."""
        return await self._lists.create(request, call)

    @override
    async def AddRecipients(self, request: pb.AddRecipientsRequest, call: Call) -> pb.RecipientList:
        """Adds the next page."""
        return await self._lists.add_page(request, call)

    @override
    async def SealRecipientList(
        self, request: pb.SealRecipientListRequest, call: Call
    ) -> pb.RecipientList:
        """Seals a list."""
        return await self._lists.seal(request, call)

    @override
    async def DeleteRecipientList(
        self, request: pb.DeleteRecipientListRequest, call: Call
    ) -> pb.DeleteRecipientListResponse:
        """Deletes a list that nothing uses."""
        return await self._lists.delete(request, call)

    @override
    async def GetRecipientList(
        self, request: pb.GetRecipientListRequest, call: Call
    ) -> pb.RecipientList:
        """One list."""
        return await self._lists.get(request, call)

    @override
    async def ListRecipientLists(
        self, request: pb.ListRecipientListsRequest, call: Call
    ) -> pb.ListRecipientListsResponse:
        """Lists of the caller."""
        return await self._lists.list(request, call)

    @override
    async def GetRecipientProof(
        self, request: pb.GetRecipientProofRequest, call: Call
    ) -> pb.RecipientProof:
        """The proof of a recipient."""
        return await self._lists.proof(request, call)


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
