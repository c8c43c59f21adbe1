"""How a distribution comes to be: checked, reserved, funded, activated; or given up."""

import hashlib
from dataclasses import replace
from uuid import UUID

import asyncpg
from typing_extensions import override

from contract import ids
from contract.errors import RemoteError, invalid, not_found
from icto.distribution.v1 import distribution_pb2 as pb
from icto.events.v1 import events_pb2 as events
from services.distribution_deployer import domain, lists_store, spec_rules, store
from services.distribution_deployer.domain import (
    DELIVERED,
    Account,
    Category,
    Distribution,
    Pool,
    Spec,
    State,
)
from services.distribution_deployer.handlers import DistributionHandlers
from services.distribution_deployer.messages import (
    check_ledger,
    distribution_message,
    distribution_name,
    parse_account,
    parse_spec,
    spec_message,
)
from services.distribution_deployer.spec_rules import SealedList
from services.kit.journal.model import Claim as Begun
from services.kit.money import amounts
from services.kit.serving import Call, Kit
from services.kit.storage import Statement
from services.kit.testing.rehearsal import rehearse
from services.kit.vesting.vesting_messages import of_timestamp


class SettingUp(DistributionHandlers):
    """The backend's side of distributions."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._environment = kit.settings.environment
        self._states = kit.telemetry.metrics.counter(
            "icto_distributions_total", "Distributions that came into a state.", "state"
        )

    @override
    async def ValidateDistribution(
        self, request: pb.ValidateDistributionRequest, call: Call
    ) -> pb.ValidateDistributionResponse:
        """Checks a spec without creating anything."""
        fee = amounts.parse(request.transfer_fee, "transfer_fee")
        asked = parse_spec(request.spec)
        spec = spec_rules.complete(asked, await self._lists(asked, call.principal), fee)
        spec_rules.check_beginnings(spec, await store.now(self._database))
        await self._snapshots(spec)
        return pb.ValidateDistributionResponse(spec=spec_message(spec))

    @override
    async def CreateDistribution(
        self, request: pb.CreateDistributionRequest, call: Call
    ) -> pb.Distribution:
        """Reserves a distribution, or finds what an earlier call of the operation reserved."""
        check_ledger(request.ledger, "ledger")
        escrow = parse_account(request.escrow, "escrow")
        fingerprint = _fingerprint(request, call.principal, escrow)
        now, known = await store.look(self._database, request.operation)
        response = None
        if known is None:
            new = await self._asked_for(request, call.principal, escrow, now)
            response = await self._added(new, request.payment, fingerprint, call)
        if response is None:
            response = await self._found(request.operation, fingerprint, call)
        self._faults.point("distribution.created.committed")
        return response

    async def _asked_for(
        self, request: pb.CreateDistributionRequest, owner: str, escrow: Account, now: int
    ) -> Distribution:
        token = await self._money.token(request.ledger)
        asked = parse_spec(request.spec)
        spec = spec_rules.complete(asked, await self._lists(asked, owner), token.fee)
        accepted = of_timestamp(request.accept_time) if request.HasField("accept_time") else now
        spec_rules.check_beginnings(spec, accepted)
        spec = await self._snapshots(spec)
        await rehearse(spec.display_name, self._environment, "DISTRIBUTION_REFUSED")
        return Distribution(
            id=ids.new_id(request.operation),
            operation=request.operation,
            owner=owner,
            ledger=request.ledger,
            escrow=escrow,
            spec=spec,
            state=State.CREATED,
            now=now,
            create_time=now,
            funding_deadline=now + spec.funding_period,
        )

    async def _added(
        self, new: Distribution, payment: str, fingerprint: bytes, call: Call
    ) -> pb.Distribution | None:
        """Adds a distribution; None when another call of its operation was quicker."""
        response = distribution_message(replace(new, spec=spec_rules.without_names(new.spec)))
        effects, act = store.added(new, payment, fingerprint), _created(call, new)
        lists = spec_rules.lists_of(new.spec)
        try:
            if lists:
                async with call.transaction() as tx:
                    await store.use_lists(tx, new.id, lists)
                    await tx.apply(*effects)
                    tx.answer(response, subject=response.name, act=act)
            else:
                await call.commit(response, *effects, subject=response.name, act=act)
        except asyncpg.UniqueViolationError:
            return None
        self._states.labels(State.CREATED.name).inc()
        return response

    async def _found(self, operation: str, fingerprint: bytes, call: Call) -> pb.Distribution:
        """What an earlier call of the operation reserved.

        Raises:
            Error: the operation was given up, or reserved something else.
        """
        known = await store.of_operation(self._database, operation)
        if known is None or known[0].state is State.ABANDONED:
            raise domain.abandoned(operation)
        if known[1] != fingerprint:
            raise domain.operation_reused(operation)
        response = distribution_message(known[0])
        return await call.commit(response, subject=response.name, act=_created(call, known[0]))

    async def _lists(self, spec: Spec, owner: str) -> dict[UUID, SealedList]:
        return await lists_store.usable(self._database, spec_rules.lists_of(spec), owner)

    async def _snapshots(self, spec: Spec) -> Spec:
        """The spec with the block of every condition on holders.

        Raises:
            Error: INVALID_ARGUMENT, there is no such ledger or block.
        """
        categories = [
            await self._snapshot(category, f"spec.categories[{position}].pool.eligibility")
            for position, category in enumerate(spec.categories)
        ]
        return replace(spec, categories=tuple(categories))

    async def _snapshot(self, category: Category, field: str) -> Category:
        pool = category.source
        if not isinstance(pool, Pool) or pool.holder is None:
            return category
        holder = pool.holder
        try:
            newest = await self._money.newest_block(holder.ledger)
        except RemoteError as error:
            if error.outcome_unknown:
                raise
            raise invalid(f"{field}.token_holder.ledger", "must be a token's ledger") from None
        block = newest if holder.block_index is None else holder.block_index
        if block > newest:
            at = f"{field}.token_holder.block_index"
            raise invalid(at, f"must not be above {newest}, the newest block")
        return replace(category, source=replace(pool, holder=replace(holder, block_index=block)))

    @override
    async def ActivateDistribution(
        self, request: pb.ActivateDistributionRequest, call: Call
    ) -> pb.Distribution:
        """Opens a distribution whose account holds what it promises."""
        known = await store.of_operation(self._database, request.operation)
        if known is None:
            raise not_found("distribution", request.operation)
        found, _ = known
        domain.check_activatable(found)
        opening = found.state is State.CREATED
        if opening:
            balance = await self._money.balance(found)
            if balance < found.spec.total:
                raise domain.not_funded(balance, found.spec.total)
        self._faults.point("distribution.funded")
        effects: list[Statement] = []
        if opening:
            timing = domain.timing(found.spec, found.now)
            found = domain.activated(found, timing)
            effects.append(store.activated(found, timing))
        response = distribution_message(found)
        act = call.act(operation=request.operation, details={"amount": str(found.spec.total)})
        await call.commit(response, *effects, subject=response.name, act=act)
        if opening:
            self._states.labels(State.ACTIVE.name).inc()
        self._faults.point("distribution.active.committed")
        return response

    @override
    async def AbandonDistribution(
        self, request: pb.AbandonDistributionRequest, call: Call
    ) -> pb.AbandonDistributionResponse:
        """Gives an operation up: its tombstone first, then what lies on its account."""
        async with self._database.transaction() as connection:
            new_id = ids.new_id(request.operation)
            escrow = Account("", b"")
            if request.HasField("escrow"):
                escrow = parse_account(request.escrow, "escrow")
            await store.give_up(connection, new_id, request.operation, request.ledger, escrow)
        self._faults.point("distribution.tombstone.committed")
        response = pb.AbandonDistributionResponse(returned_amount="0")
        async with call.transaction() as tx:
            locked = await store.lock_operation(tx, request.operation)
            if locked is None:
                raise not_found("distribution", request.operation)
            begun: list[Begun] = []
            if locked.state in DELIVERED:
                response.delivered_distribution = distribution_name(locked.id)
            elif locked.ledger:
                returned, begun = await self._money.clear(tx, locked)
                response.returned_amount = str(returned)
                await store.free_lists(tx, locked.id)
                await store.put(tx, replace(locked, checks=0))
                self._states.labels(State.ABANDONED.name).inc()
            delivered = str(bool(response.delivered_distribution)).lower()
            details = {"delivered": delivered, "returned": response.returned_amount}
            act = call.act(operation=request.operation, details=details)
            tx.answer(response, subject=distribution_name(locked.id), act=act)
        self._money.adopt(begun)
        return response


def _created(call: Call, created: Distribution) -> events.Act:
    details = {"ledger": created.ledger, "amount": str(created.spec.total)}
    return call.act(operation=created.operation, details=details)


def _fingerprint(request: pb.CreateDistributionRequest, owner: str, escrow: Account) -> bytes:
    """Hash of all that a distribution is made of."""
    texts = (owner, request.ledger, escrow.owner, request.payment)
    parts = [
        request.spec.SerializeToString(deterministic=True),
        *(text.encode() for text in texts),
        escrow.subaccount,
    ]
    return hashlib.sha256(b"".join(len(p).to_bytes(4, "big") + p for p in parts)).digest()
