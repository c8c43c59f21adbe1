"""Participants: registering, claiming, unlocking early, and what they see of it."""

from collections.abc import Sequence
from uuid import UUID

from typing_extensions import override

from contract.errors import Code, Error, invalid, not_found
from icto.distribution.v1 import distribution_pb2 as pb
from icto.events.v1 import events_pb2 as events
from services.distribution_deployer import claim_rules, merkle_rules, store
from services.distribution_deployer.claim_rules import Allocation
from services.distribution_deployer.domain import (
    Account,
    Disbursement,
    Distribution,
    Kind,
    Listed,
    Pool,
    Token,
)
from services.distribution_deployer.handlers import DistributionHandlers
from services.distribution_deployer.messages import (
    claim_message,
    claimable_message,
    distribution_name,
    parse_claim,
)
from services.distribution_deployer.money import BURNED, new_id
from services.kit.answering import paging
from services.kit.journal.model import Claim as Begun
from services.kit.money import amounts
from services.kit.serving import Call, Effect


class Claims(DistributionHandlers):
    """What participants do."""

    @override
    async def GetClaimable(
        self, request: pb.GetClaimableRequest, call: Call
    ) -> pb.GetClaimableResponse:
        """What the caller may claim now; the recipients of a list see theirs before they claim."""
        found = await self._visibility.seen(call, request.name)
        mine = await store.allocations(self._database, found.id, call.principal)
        known = {allocation.category_id for allocation in mine}
        listed = await store.listed(self._database, found.id, call.principal)
        unproven = [allocation for allocation in listed if allocation.category_id not in known]
        token = await self._money.token(found.ledger)
        everything = sorted([*mine, *unproven], key=lambda one: one.category_id)
        holdings = [claim_rules.holding(found, allocation) for allocation in everything]
        return pb.GetClaimableResponse(
            claimable=str(sum(one.claimable for one in holdings)),
            fee=str(token.fee),
            categories=[
                claimable_message(one, proof_required=one.category_id not in known)
                for one in holdings
            ],
            claims_left=await self._claims_left(found, call.principal),
        )

    async def _claims_left(self, found: Distribution, principal: str) -> int | None:
        rate = found.spec.claim_rate
        if rate is None:
            return None
        claims, _ = await store.recent_claims(self._database, found.id, principal, rate)
        return rate.claims - claims

    @override
    async def Register(self, request: pb.RegisterRequest, call: Call) -> pb.RegisterResponse:
        """Takes the caller into a pool: their share is reserved, or they are not in."""
        found = await self._visibility.seen(call, request.name)
        category = found.spec.category(request.category_id)
        pool = claim_rules.check_registration(found, category)
        await self._check_eligible(pool, call.principal)
        new = Allocation(category.id, pool.share or 0)
        async with call.transaction() as tx:
            shared = await self._shared(tx, found.id)
            claim_rules.check_registration(shared, category)
            if not await store.add_allocation(tx, found.id, call.principal, new):
                raise Error(
                    Code.ALREADY_EXISTS, "ALREADY_REGISTERED", "You are registered for it already."
                )
            if not await store.take_seat(tx, found.id, category.id, new.amount):
                raise Error(
                    Code.FAILED_PRECONDITION,
                    "POOL_EXHAUSTED",
                    "Every share of this category belongs to somebody.",
                )
            response = pb.RegisterResponse(category_id=category.id, allocation=str(new.amount))
            details = {"category": str(category.id), "allocation": response.allocation}
            act = call.act(details=details)
            return tx.answer(response, subject=distribution_name(found.id), act=act)

    async def _check_eligible(self, pool: Pool, principal: str) -> None:
        """Passes when the caller fulfils the condition of a pool.

        Raises:
            Error: PERMISSION_DENIED, they do not.
        """
        holder = pool.holder
        if holder is None:
            return
        block = holder.block_index or 0
        balance = await self._money.balance_after(holder.ledger, principal, block)
        if balance < holder.min_amount:
            raise Error(
                Code.PERMISSION_DENIED,
                "NOT_ELIGIBLE",
                f"You held {balance} of {holder.ledger} after block {block}; this asks for"
                f" {holder.min_amount}.",
                metadata={"balance": str(balance), "required": str(holder.min_amount)},
            )

    @override
    async def Claim(self, request: pb.ClaimRequest, call: Call) -> pb.DistributionClaim:
        """Takes what is unlocked; what is taken here is paid for sure."""
        asked = amounts.parse(request.amount, "amount") if request.HasField("amount") else None
        category_id = request.category_id if request.HasField("category_id") else None
        found = await self._visibility.seen(call, request.name)
        token = await self._money.token(found.ledger)
        async with call.transaction() as tx:
            shared = await self._shared(tx, found.id)
            claim_rules.check_open(shared)
            mine = await store.lock_allocations(tx, found.id, call.principal)
            response, begun = await self._taken(tx, call, shared, mine, category_id, asked, token)
        return self._follow(response, begun)

    @override
    async def ClaimWithProof(
        self, request: pb.ClaimWithProofRequest, call: Call
    ) -> pb.DistributionClaim:
        """As a claim, by one whose allocation a sealed list proves."""
        asked = amounts.parse(request.amount, "amount") if request.HasField("amount") else None
        allocation = amounts.parse(request.allocation, "allocation")
        proven = Allocation(request.category_id, allocation)
        found = await self._visibility.seen(call, request.name)
        found.spec.category(proven.category_id)
        token = await self._money.token(found.ledger)
        async with call.transaction() as tx:
            shared = await self._shared(tx, found.id)
            claim_rules.check_open(shared)
            await _check_proof(tx, shared, call.principal, proven, request.proof)
            await store.add_allocation(tx, found.id, call.principal, proven)
            mine = await store.lock_allocations(tx, found.id, call.principal)
            response, begun = await self._taken(
                tx, call, shared, mine, proven.category_id, asked, token
            )
        return self._follow(response, begun)

    async def _taken(
        self,
        tx: Effect,
        call: Call,
        shared: Distribution,
        mine: Sequence[Allocation],
        category_id: int | None,
        asked: int | None,
        token: Token,
    ) -> tuple[pb.DistributionClaim, list[Begun]]:
        """Takes a claim from the allocations, which are locked, and orders its payment."""
        holdings = claim_rules.chosen(shared, mine, category_id)
        parts = claim_rules.plan_claim(holdings, asked, claim_rules.left(shared, mine), token.fee)
        await _check_rate(tx, shared, call.principal)
        amount, to = sum(parts.values()), Account(call.principal)
        claim = Disbursement(
            id=new_id(shared),
            distribution_id=shared.id,
            kind=Kind.VESTED,
            principal=call.principal,
            gross=amount,
            fee=token.fee_to(to),
            parts=parts,
            finishes=sum(one.remaining for one in mine) == amount,
            create_time=shared.now,
        )
        begun, ordered = self._money.ordered(shared, claim, to)
        await tx.apply(store.taken(claim), *ordered)
        return _answered(tx, call, claim), [begun]

    @override
    async def EarlyUnlock(self, request: pb.EarlyUnlockRequest, call: Call) -> pb.DistributionClaim:
        """Takes all that is left, less the penalty, and closes the allocations with it (F-39)."""
        category_id = request.category_id if request.HasField("category_id") else None
        proven = _proven(request)
        found = await self._visibility.seen(call, request.name)
        token = await self._money.token(found.ledger)
        async with call.transaction() as tx:
            shared = await self._shared(tx, found.id)
            claim_rules.check_unlockable(shared)
            if proven is not None:
                await _check_proof(tx, shared, call.principal, proven, request.proof)
                await store.add_allocation(tx, found.id, call.principal, proven)
            mine = await store.lock_allocations(tx, found.id, call.principal)
            holdings = claim_rules.chosen(shared, mine, category_id)
            early = claim_rules.plan_early(
                holdings, shared.spec.early_unlock, claim_rules.left(shared, mine), token.fee
            )
            await _check_rate(tx, shared, call.principal)
            to, remaining = Account(call.principal), sum(one.remaining for one in mine)
            claim = Disbursement(
                id=new_id(shared),
                distribution_id=shared.id,
                kind=Kind.EARLY_UNLOCK,
                principal=call.principal,
                gross=early.amount,
                fee=token.fee_to(to),
                penalty=early.penalty,
                parts=early.parts,
                finishes=remaining == early.amount + early.penalty,
                create_time=shared.now,
            )
            begun, ordered = self._money.ordered(shared, claim, to)
            await tx.apply(store.taken(claim, close=True), *ordered)
            followed = [begun, *await self._penalized(tx, shared, early.penalty, token)]
            response = _answered(tx, call, claim)
        return self._follow(response, followed)

    async def _penalized(
        self, tx: Effect, shared: Distribution, penalty: int, token: Token
    ) -> list[Begun]:
        """Orders the penalty to whom it is due, or burns it. One below the fee stays as dust."""
        if penalty <= token.fee:
            return []
        terms = shared.spec.early_unlock
        recipient = terms.recipient if terms else ""
        to = Account(recipient) if recipient else token.minter or BURNED
        one = Disbursement(
            id=new_id(shared),
            distribution_id=shared.id,
            kind=Kind.PENALTY,
            principal=to.owner,
            gross=penalty,
            fee=token.fee_to(to),
        )
        begun, ordered = self._money.ordered(shared, one, to)
        await tx.apply(*ordered)
        return [begun]

    @override
    async def GetClaim(self, request: pb.GetClaimRequest, call: Call) -> pb.DistributionClaim:
        """One claim, for whoever made it and for the owner of the distribution."""
        distribution_id, claim_id = parse_claim(request.name)
        claim = await store.get_claim(self._database, distribution_id, claim_id)
        if claim is not None and claim.principal != call.principal:
            found = await store.get(self._database, distribution_id)
            claim = claim if found and found.owner == call.principal else None
        if claim is None:
            raise not_found("claim", request.name)
        return claim_message(claim)

    @override
    async def ListClaims(self, request: pb.ListClaimsRequest, call: Call) -> pb.ListClaimsResponse:
        """Claims of the caller, or all of a distribution of theirs."""
        found = await self._visibility.seen(call, request.parent, "parent")
        whose: str | None = request.principal or None
        if found.owner != call.principal:
            if whose not in (None, call.principal):
                raise Error(
                    Code.PERMISSION_DENIED, "ACCESS_DENIED", "You may list your own claims only."
                )
            whose = call.principal
        asked = paging.by_id(request)
        rows = await store.list_claims(self._database, found.id, asked.after, asked.limit, whose)
        page, token = asked.page(rows, map(claim_message, rows))
        return pb.ListClaimsResponse(claims=page, next_page_token=token)

    async def _shared(self, tx: Effect, distribution_id: UUID) -> Distribution:
        """The distribution in a state that stays as it is until the transaction ends."""
        shared = await store.share(tx, distribution_id)
        if shared is None:
            raise not_found("distribution", distribution_name(distribution_id))
        return shared

    def _follow(
        self, response: pb.DistributionClaim, begun: Sequence[Begun]
    ) -> pb.DistributionClaim:
        """Pays what a transaction ordered, now that it has committed."""
        self._faults.point("distribution.claim.committed")
        self._money.adopt(begun)
        return response


def _answered(tx: Effect, call: Call, claim: Disbursement) -> pb.DistributionClaim:
    response = claim_message(claim)
    details = {"amount": str(claim.gross), "fee": str(claim.fee), "penalty": str(claim.penalty)}
    act = call.act(status=events.ACT_STATUS_INITIATED, operation=response.name, details=details)
    return tx.answer(response, subject=distribution_name(claim.distribution_id), act=act)


def _proven(request: pb.EarlyUnlockRequest) -> Allocation | None:
    """The allocation that an early unlock shows the proof of, if it does.

    Raises:
        Error: INVALID_ARGUMENT, what belongs to it is missing.
    """
    if not request.HasField("allocation"):
        if request.proof:
            raise invalid("allocation", "must be the one that the proof is about")
        return None
    if not request.HasField("category_id"):
        raise invalid("category_id", "must be the one that the proof is about")
    return Allocation(request.category_id, amounts.parse(request.allocation, "allocation"))


async def _check_proof(
    tx: Effect, shared: Distribution, principal: str, proven: Allocation, proof: Sequence[bytes]
) -> None:
    """Passes when the caller's leaf leads to the root of the category's list (F-43).

    Raises:
        Error: it does not.
    """
    category = shared.spec.category(proven.category_id)
    known = await store.root(tx, shared.id, category.id)
    if known is None or not isinstance(category.source, Listed):
        raise Error(
            Code.FAILED_PRECONDITION, "NO_RECIPIENT_LIST", "This category has no recipient list."
        )
    list_id, root = known
    leaf = merkle_rules.leaf(list_id, category.id, principal, proven.amount)
    if not merkle_rules.verify(root, leaf, proof):
        raise Error(
            Code.PERMISSION_DENIED,
            "INVALID_PROOF",
            "The proof does not show that this allocation is yours.",
        )


async def _check_rate(tx: Effect, shared: Distribution, principal: str) -> None:
    """Passes when the participant, whose rows are locked, may claim once more (F-41)."""
    rate = shared.spec.claim_rate
    if rate is None:
        return
    claims, wait = await store.recent_claims(tx, shared.id, principal, rate)
    if claims >= rate.claims:
        raise claim_rules.rate_exceeded(rate.claims, wait)
