"""Handlers of locks: translate, call, answer."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import asyncpg
from typing_extensions import override

from contract import ids
from contract.errors import Code, Error, not_found
from contract.principal import DEFAULT_SUBACCOUNT
from icto.events.v1 import events_pb2 as events
from icto.lock.v1 import lock_pb2 as pb
from icto.lock.v1.lock_handlers import LockServiceHandlers, lock_service
from services.kit.answering import paging
from services.kit.audit.operations import Operation
from services.kit.journal.pipelines import Pipelines
from services.kit.money import amounts
from services.kit.money.escrow import account_of
from services.kit.money.transfers import Transfers
from services.kit.payouts import PaidOut, Payout, Payouts
from services.kit.roles.register import Register
from services.kit.serving import Call, Kit, Serving
from services.kit.storage import Connection, Statement
from services.kit.testing.rehearsal import rehearse
from services.kit.vesting.vesting_messages import of_timestamp, to_datetime
from services.lock_deployer import domain, returns, store
from services.lock_deployer.domain import DELIVERED, VESTING, Claim, Lock, Share, State
from services.lock_deployer.messages import (
    MESH_NAME,
    claim_message,
    claimable_message,
    lock_message,
    lock_name,
    parse_account,
    parse_claim_name,
    parse_spec,
    spec_message,
)
from services.lock_deployer.returns import Returns

_CLAIM: Final = Operation.of(pb.DESCRIPTOR.services_by_name["LockService"], "ClaimLock")
_LOCKS: Final = "icto_locks_total"
_CLAIMS: Final = "icto_lock_claims_total"
_UNLOCKS: Final = "EMERGENCY_STOP"


@dataclass(frozen=True, slots=True)
class _Seen:
    """A lock as the caller sees it: with all shares, or with their own."""

    lock: Lock
    shares: Sequence[Share]


def compose(kit: Kit) -> Serving:
    """The service of its parts."""
    handlers = LockService(kit)
    return Serving(lock_service(handlers), [handlers.run])


class LockService(LockServiceHandlers[Call]):
    """icto.lock.v1.LockService."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._environment = kit.settings.environment
        self._faults = kit.faults
        self._transfers = Transfers(kit)
        self._pipelines = Pipelines(kit)
        self._payouts = Payouts(kit, self._pipelines, self._paid)
        self._returns = Returns(kit, self._payouts)
        self._register = Register(kit.clients)
        metrics = kit.telemetry.metrics
        self._locks = metrics.counter(_LOCKS, "Locks that came into a state.", "state")
        self._claims = metrics.counter(_CLAIMS, "Claims that were paid.")

    async def run(self) -> None:
        """Pays what is owed, and looks after accounts, as long as the replica lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pipelines.run())
            tasks.create_task(self._payouts.run())
            tasks.create_task(self._returns.run())

    @override
    async def ValidateLock(
        self, request: pb.ValidateLockRequest, call: Call
    ) -> pb.ValidateLockResponse:
        """Checks a spec without creating anything."""
        del call
        fee = amounts.parse(request.transfer_fee, "transfer_fee")
        spec = domain.complete(parse_spec(request.spec), fee)
        domain.check_times(spec, await store.now(self._database))
        return pb.ValidateLockResponse(spec=spec_message(spec))

    @override
    async def CreateLock(self, request: pb.CreateLockRequest, call: Call) -> pb.Lock:
        """Creates a lock, or finds what an earlier call of the operation created."""
        ids.parse_name("ledgers", request.ledger, "ledger")
        escrow = parse_account(request.escrow, "escrow")
        fee = await self._transfers.fee(request.ledger)
        spec = domain.complete(parse_spec(request.spec), fee)
        await rehearse(spec.display_name, self._environment, "LOCK_REFUSED")
        new = Lock(
            id=ids.new_id(request.operation),
            operation=request.operation,
            owner=call.principal,
            ledger=request.ledger,
            escrow=escrow,
            spec=spec,
        )
        fingerprint = _fingerprint(new, request.payment)
        now, known = await store.look(self._database, request.operation)
        response = None
        if known is None:
            asked = request.HasField("accept_time")
            domain.check_times(spec, of_timestamp(request.accept_time) if asked else now)
            new = domain.created(new, now)
            response = await self._added(new, request.payment, fingerprint, call)
        if response is None:
            response = await self._found(request.operation, fingerprint, call)
        self._faults.point("lock.created.committed")
        return response

    async def _added(
        self, new: Lock, payment: str, fingerprint: bytes, call: Call
    ) -> pb.Lock | None:
        """Adds a lock; None when another call of its operation was quicker."""
        response = lock_message(replace(new, spec=replace(new.spec, beneficiaries=())))
        effects = store.added(new, payment, fingerprint)
        try:
            await call.commit(response, *effects, subject=response.name, act=_created(call, new))
        except asyncpg.UniqueViolationError:
            return None
        self._locks.labels(State.CREATED.name).inc()
        return response

    async def _found(self, operation: str, fingerprint: bytes, call: Call) -> pb.Lock:
        """The lock that an earlier call of the operation added.

        Raises:
            Error: the operation was given up, or added something else.
        """
        found = await store.of_operation(self._database, operation)
        if found is None or found.state is State.ABANDONED:
            raise domain.abandoned(operation)
        if await store.fingerprint_of(self._database, found) != fingerprint:
            raise domain.operation_reused(operation)
        response = lock_message(found)
        return await call.commit(response, subject=response.name, act=_created(call, found))

    @override
    async def ActivateLock(self, request: pb.ActivateLockRequest, call: Call) -> pb.Lock:
        """Locks what lies on the account, once it is the whole amount."""
        lock = await store.of_operation(self._database, request.operation)
        if lock is None:
            raise not_found("lock", request.operation)
        domain.check_activatable(lock)
        if lock.state is State.CREATED:
            lock = await self._funded(lock)
        self._faults.point("lock.funded")
        effects: list[Statement] = []
        if lock.state not in DELIVERED:
            lock = domain.activated(lock)
            effects.append(store.activated(lock))
        response = lock_message(lock)
        act = call.act(operation=lock.operation, details={"amount": str(lock.spec.total)})
        await call.commit(response, *effects, subject=response.name, act=act)
        if effects:
            self._locks.labels(State.LOCKED.name).inc()
        self._faults.point("lock.active.committed")
        return response

    async def _funded(self, lock: Lock) -> Lock:
        """The lock, of whose account it is known now that it holds the whole amount.

        Raises:
            Error: FAILED_PRECONDITION, it does not; ABORTED, somebody else changed the lock.
        """
        _, subaccount = account_of(MESH_NAME, lock.operation)
        balance = await self._transfers.balance(lock.ledger, subaccount=subaccount)
        if balance < lock.spec.total:
            raise domain.not_funded(balance, lock.spec.total)
        funded = await store.fund(self._database, lock.id)
        if funded is None:
            raise domain.changed()
        return funded

    @override
    async def AbandonLock(
        self, request: pb.AbandonLockRequest, call: Call
    ) -> pb.AbandonLockResponse:
        """Gives an operation up: its tombstone first, then what lies on its account."""
        escrow = ("", b"")
        if request.ledger:
            ids.parse_name("ledgers", request.ledger, "ledger")
            escrow = parse_account(request.escrow, "escrow")
        await store.give_up(self._database, request.operation, request.ledger, escrow)
        self._faults.point("lock.tombstone.committed")
        begun = None
        async with call.transaction() as tx:
            lock = await store.lock_operation(tx, request.operation)
            if lock is None:
                raise not_found("lock", request.operation)
            response = pb.AbandonLockResponse(returned_amount="0")
            if lock.state in DELIVERED:
                response.delivered_lock = lock_name(lock.id)
            else:
                returned, begun = await self._returns.to_escrow(tx, lock)
                response.returned_amount = str(returned)
            details = {
                "delivered": str(bool(response.delivered_lock)).lower(),
                "returned": response.returned_amount,
            }
            act = call.act(operation=request.operation, details=details)
            tx.answer(response, subject=lock_name(lock.id), act=act)
        self._returns.adopt(begun)
        return response

    @override
    async def GetLock(self, request: pb.GetLockRequest, call: Call) -> pb.Lock:
        """One lock, with those of its beneficiaries that the caller may see."""
        seen = await self._seen(request.name, call)
        return lock_message(seen.lock, seen.shares)

    async def _seen(self, name: str, call: Call) -> _Seen:
        """A lock for its owner, administrators and services; beneficiaries see their part.

        Raises:
            Error: NOT_FOUND, there is none that the caller may see.
        """
        lock = await store.get(self._database, ids.parse_name("locks", name))
        if lock is None:
            raise not_found("lock", name)
        shares: Sequence[Share]
        if lock.owner == call.principal or call.permitted or call.identity.is_service:
            shares = await store.shares(self._database, lock.id)
        else:
            own = await store.share(self._database, lock.id, call.principal)
            shares = [own] if own else []
        if not call.identity.is_service:
            involved = (*lock.attestors, *(share.owner for share in shares))
            call.visible(lock, "lock", name, to=involved)
        return _Seen(lock, shares)

    @override
    async def ListLocks(self, request: pb.ListLocksRequest, call: Call) -> pb.ListLocksResponse:
        """Locks, newest first."""
        owner, beneficiary = request.owner or None, request.beneficiary or None
        if not call.holds("DEPLOY_SERVICES"):
            owner = owner if owner or beneficiary else call.principal
            if call.principal not in (owner, beneficiary):
                raise Error(
                    Code.PERMISSION_DENIED,
                    "ACCESS_DENIED",
                    "You may list locks that you created or benefit from.",
                )
        asked = paging.by_id(request)
        rows = await store.list_locks(self._database, owner, beneficiary, asked.after, asked.limit)
        page, token = asked.page(rows, map(lock_message, rows))
        return pb.ListLocksResponse(locks=page, next_page_token=token)

    @override
    async def GetClaimable(
        self, request: pb.GetClaimableRequest, call: Call
    ) -> pb.GetClaimableResponse:
        """What a beneficiary may claim, now or at another time."""
        seen = await self._seen(request.name, call)
        whose = request.beneficiary or call.principal
        share = next((share for share in seen.shares if share.owner == whose), None)
        if share is None:
            raise not_found("beneficiary", whose)
        if seen.lock.state not in DELIVERED:
            raise domain.not_active(seen.lock)
        asked = request.HasField("at_time")
        moment = of_timestamp(request.at_time) if asked else seen.lock.times.seen
        return claimable_message(share, domain.claimable(seen.lock, share, moment), moment)

    @override
    async def ClaimLock(self, request: pb.ClaimLockRequest, call: Call) -> pb.Claim:
        """Takes what is unlocked; what is taken here is paid for sure."""
        lock_id = ids.parse_name("locks", request.name)
        asked = amounts.parse(request.amount, "amount") if request.HasField("amount") else None
        known = await store.get(self._database, lock_id)
        if known is None:
            raise not_found("share", request.name)
        fee = await self._transfers.fee(known.ledger)
        async with call.transaction() as tx:
            lock = await store.lock(tx, lock_id)
            share = call.owned(
                await store.share(tx, lock_id, call.principal), "share", request.name
            )
            if lock is None or lock.state not in DELIVERED:
                raise domain.not_active(lock or known)
            claim = Claim(
                id=ids.new_id(lock.operation),
                lock_id=lock_id,
                owner=share.owner,
                amount=domain.amount_to_claim(asked, lock, share, fee),
                fee=fee,
                create_time=lock.times.seen,
            )
            state = domain.after_claim(lock, claim.amount)
            begun, ordered = self._payouts.ordered(_payout(lock, claim))
            await tx.apply(*store.claimed(claim, state), *ordered)
            response = claim_message(claim)
            act = call.act(
                status=events.ACT_STATUS_INITIATED,
                operation=response.name,
                details={"amount": str(claim.amount), "fee": str(fee)},
            )
            tx.answer(response, subject=request.name, act=act)
        self._faults.point("lock.claim.committed")
        self._payouts.adopt(begun)
        return response

    @override
    async def GetClaim(self, request: pb.GetClaimRequest, call: Call) -> pb.Claim:
        """One claim."""
        lock_id, claim_id = parse_claim_name(request.name)
        claim = await store.get_claim(self._database, claim_id, lock_id)
        lock = await store.get(self._database, lock_id)
        if claim is not None and lock is not None and lock.owner == call.principal:
            call.owned(lock, "claim", request.name)
            return claim_message(claim)
        return claim_message(call.owned(claim, "claim", request.name))

    @override
    async def ListClaims(self, request: pb.ListClaimsRequest, call: Call) -> pb.ListClaimsResponse:
        """Claims of a lock, newest first."""
        seen = await self._seen(request.parent, call)
        everybody = call.permitted or seen.lock.owner == call.principal
        asked = paging.by_id(request)
        rows = await store.list_claims(
            self._database,
            seen.lock.id,
            None if everybody else call.principal,
            asked.after,
            asked.limit,
        )
        page, token = asked.page(rows, map(claim_message, rows))
        return pb.ListClaimsResponse(claims=page, next_page_token=token)

    @override
    async def RevokeLock(self, request: pb.RevokeLockRequest, call: Call) -> pb.Lock:
        """Ends vesting; what is not unlocked goes back to the owner."""
        lock_id = ids.parse_name("locks", request.name)
        known = await store.get(self._database, lock_id)
        if known is None:
            raise not_found("lock", request.name)
        fee = await self._transfers.fee(known.ledger)
        async with call.transaction() as tx:
            lock = call.owned(await store.lock(tx, lock_id), "lock", request.name)
            domain.check_revocable(lock)
            everybody = await store.shares(tx, lock_id)
            dust = domain.dust(lock, everybody, lock.times.seen, fee)
            amount = domain.unvested(lock, everybody, lock.times.seen) + sum(dust.values())
            if amount <= fee:
                raise domain.nothing_to_revoke(amount, fee)
            revoked = await store.revoke(tx, lock, amount)
            await tx.apply(store.dust_returned(lock_id, dust))
            begun = await self._returns.to_owner(tx, lock, amount, fee)
            response = lock_message(revoked)
            act = call.act(
                severity=events.SEVERITY_WARNING,
                previous_value=lock.state.name,
                new_value=revoked.state.name,
                details={"returned": str(amount)},
            )
            tx.answer(response, subject=response.name, act=act)
        self._returns.adopt(begun)
        self._locks.labels(State.REVOKED.name).inc()
        return response

    @override
    async def EmergencyUnlock(self, request: pb.EmergencyUnlockRequest, call: Call) -> pb.Lock:
        """Unlocks everything, on an administrator's word."""
        lock_id = ids.parse_name("locks", request.name)
        await self._check_disinterested(call, lock_id)
        async with call.transaction() as tx:
            lock = await store.lock(tx, lock_id)
            if lock is None:
                raise not_found("lock", request.name)
            domain.check_unlockable(lock)
            opened = await store.unlock(tx, lock)
            response = lock_message(opened)
            act = call.act(
                severity=events.SEVERITY_CRITICAL,
                previous_value=lock.state.name,
                new_value=opened.state.name,
                justification=request.justification,
            )
            tx.answer(response, subject=response.name, act=act)
        self._locks.labels(State.EMERGENCY_UNLOCKED.name).inc()
        return response

    async def _check_disinterested(self, call: Call, lock_id: UUID) -> None:
        """Passes when the caller has nothing of a lock, nor got their role from one who has.

        Raises:
            Error: PERMISSION_DENIED, it is another administrator's to unlock.
        """
        shares = await store.shares(self._database, lock_id)
        having = frozenset(share.owner for share in shares)
        people = await self._register.people({call.principal, *having})
        now = to_datetime(await store.now(self._database))
        domain.check_disinterested(
            call.principal,
            people.standing(call.principal, _UNLOCKS, now),
            having,
            administrators=any(people.may(one, _UNLOCKS) for one in having),
        )

    @override
    async def AttestMilestone(self, request: pb.AttestMilestoneRequest, call: Call) -> pb.Lock:
        """Records that a milestone was reached, on its attestor's word."""
        lock_id = ids.parse_name("locks", request.name)
        async with call.transaction() as tx:
            lock = await store.lock(tx, lock_id)
            if lock is None or call.principal not in lock.attestors:
                raise not_found("lock", request.name)
            call.visible(lock, "lock", request.name, to=lock.attestors)
            if lock.state not in VESTING:
                raise domain.not_active(lock)
            everybody = await store.shares(tx, lock_id)
            schedules = [lock.spec.schedule, *(s.schedule for s in everybody if s.schedule)]
            if not domain.has_milestone(schedules, call.principal, request.milestone):
                raise not_found("milestone", request.milestone)
            await store.attest(tx, lock_id, call.principal, request.milestone)
            attested = await store.get(tx, lock_id)
            response = lock_message(attested or lock)
            act = call.act(details={"milestone": request.milestone})
            return tx.answer(response, subject=response.name, act=act)

    async def _paid(
        self, connection: Connection, paid: Sequence[PaidOut]
    ) -> Sequence[events.Event]:
        """Records on claims and returns that they were paid, and tells the audit."""
        claims = await store.paid_claims(connection, paid)
        self._claims.inc(len(claims))
        traces = {one.id: one.traceparent for one in paid}
        rows = await store.paid_returns(connection, paid)
        return [
            *(_told(claim, traces[claim.id]) for claim in claims),
            *(returns.returned(row, traces[row["id"]]) for row in rows),
        ]


def _payout(lock: Lock, claim: Claim) -> Payout:
    _, subaccount = account_of(MESH_NAME, lock.operation)
    to = (claim.owner, DEFAULT_SUBACCOUNT)
    return Payout(claim.id, lock.ledger, subaccount, to, claim.net, claim.fee)


def _told(claim: Claim, traceparent: str) -> events.Event:
    return _CLAIM.told(
        events.ACT_STATUS_COMPLETED,
        claim_message(claim).name,
        subject=lock_name(claim.lock_id),
        principal=claim.owner,
        caller=MESH_NAME,
        details={"amount": str(claim.net), "block_index": str(claim.block_index)},
        traceparent=traceparent,
    )


def _created(call: Call, lock: Lock) -> events.Act:
    details = {"ledger": lock.ledger, "amount": str(lock.spec.total)}
    return call.act(operation=lock.operation, details=details)


def _fingerprint(lock: Lock, payment: str) -> bytes:
    """Hash of all that a lock is made of."""
    spec = spec_message(lock.spec).SerializeToString(deterministic=True)
    owner, subaccount = lock.escrow
    parts = [spec, *(p.encode() for p in (lock.owner, lock.ledger, owner, payment)), subaccount]
    return hashlib.sha256(b"".join(len(p).to_bytes(4, "big") + p for p in parts)).digest()
