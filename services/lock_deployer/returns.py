"""What goes back: to the escrow when a lock never became active, to the owner when it is revoked.

After an operation was given up, a transfer to its account may still arrive. So the account is
looked at again, at growing intervals, until no ledger would take such a transfer any more.
"""

import asyncio
import logging
from typing import Any, Final
from uuid import UUID

from contract import ids
from contract.errors import Error
from contract.principal import DEFAULT_SUBACCOUNT
from icto.events.v1 import events_pb2 as events
from services.kit.audit.operations import Operation
from services.kit.journal.model import Claim as Begun
from services.kit.money.escrow import account_of
from services.kit.money.transfers import Transfers
from services.kit.payouts import Payout, Payouts
from services.kit.serving import Kit
from services.kit.storage import Connection
from services.kit.storage.lease import Lease
from services.lock_deployer import domain, store
from services.lock_deployer.domain import DELIVERED, WAITING, Lock
from services.lock_deployer.messages import MESH_NAME, lock_name

log = logging.getLogger(__name__)

_SECONDS: Final = 1.0
_LEASE_SECONDS: Final = 10.0
_BATCH: Final = 100
_LATE: Final = "It was not active within a day."


class Returns:
    """What locks give back."""

    def __init__(self, kit: Kit, payouts: Payouts) -> None:
        self._database = kit.database
        self._outbox = kit.outbox
        self._transfers = Transfers(kit)
        self._payouts = payouts
        self._lease = Lease(kit.database, "returns", kit.settings.instance, _LEASE_SECONDS)

    async def to_owner(self, connection: Connection, lock: Lock, amount: int, fee: int) -> Begun:
        """Orders what a revocation gives back, fee included."""
        to = (lock.owner, DEFAULT_SUBACCOUNT)
        return await self._order(connection, lock, to, amount, fee, revoked=True)

    async def to_escrow(self, connection: Connection, lock: Lock) -> tuple[int, Begun | None]:
        """Orders what lies on the account of a lock that was given up; returns what will arrive.

        The lock's row must be locked. While a return is on its way nothing is ordered: the balance
        would be counted twice.
        """
        if not lock.ledger or await store.return_is_open(connection, lock.id):
            return 0, None
        _, subaccount = account_of(MESH_NAME, lock.operation)
        balance = await self._transfers.balance(lock.ledger, subaccount=subaccount)
        fee = await self._transfers.fee(lock.ledger) if balance else 0
        if balance <= fee:
            return 0, None
        begun = await self._order(connection, lock, lock.escrow, balance, fee, revoked=False)
        return balance - fee, begun

    def adopt(self, begun: Begun | None) -> None:
        """Pays at once what was ordered, after the commit."""
        if begun is not None:
            self._payouts.adopt(begun)

    async def _order(
        self,
        connection: Connection,
        lock: Lock,
        to: tuple[str, bytes],
        amount: int,
        fee: int,
        *,
        revoked: bool,
    ) -> Begun:
        return_id = ids.new_id(lock.operation)
        _, subaccount = account_of(MESH_NAME, lock.operation)
        payout = Payout(return_id, lock.ledger, subaccount, to, amount - fee, fee)
        begun, ordered = self._payouts.ordered(payout)
        added = store.added_return(return_id, lock.id, amount, fee, revoked=revoked)
        await connection.apply(added, *ordered)
        return begun

    async def run(self) -> None:
        """Looks at accounts when they are due, as long as the replica lives."""
        while True:
            try:
                if await self._lease.hold():
                    for lock_id in await store.due(self._database, _BATCH):
                        await self._look_at(lock_id)
            except Error as error:
                log.warning("accounts cannot be looked at now: %s", error)
            await asyncio.sleep(_SECONDS)

    async def _look_at(self, lock_id: UUID) -> None:
        """One account. One that cannot be looked at now does not hold the others up."""
        try:
            await self._fail_late(lock_id)
            await self._give_back(lock_id)
        except Exception as error:  # noqa: BLE001  # it is the next one's turn, whatever it is
            _tell_of(lock_id, error)
            await store.postpone(self._database, lock_id, domain.CHECKS[0])

    async def _fail_late(self, lock_id: UUID) -> None:
        """Ends a lock that waited too long to be active, and tells of it (F-49)."""
        async with self._database.transaction() as connection:
            lock = await store.lock(connection, lock_id)
            if lock is None or lock.state not in WAITING:
                return
            await store.fail(connection, lock_id, _LATE)
            await connection.apply(self._outbox.added([_failed(lock)]))

    async def _give_back(self, lock_id: UUID) -> None:
        """Returns what lies on the account of a lock that will never be active."""
        begun = None
        async with self._database.transaction() as connection:
            lock = await store.lock_any(connection, lock_id)
            if lock is None or lock.state in DELIVERED:
                return
            _, begun = await self.to_escrow(connection, lock)
            await store.check_later(connection, lock_id, domain.next_check(lock.checks))
        self.adopt(begun)


def _tell_of(lock_id: UUID, error: Exception) -> None:
    name, known = lock_name(lock_id), isinstance(error, Error)
    log.warning("the account of %s cannot be looked at now: %r", name, error, exc_info=not known)


def returned(row: Any, traceparent: str) -> events.Event:
    """What the audit is told of a return that was paid."""
    details = {"amount": str(row["amount"]), "block_index": str(row["block_index"])}
    return Operation("ReturnLocked").told(
        events.ACT_STATUS_COMPLETED,
        "",
        subject=lock_name(row["lock_id"]),
        principal="",
        caller=MESH_NAME,
        details=details | {"to": "owner" if row["revoked"] else "escrow"},
        traceparent=traceparent,
    )


def _failed(lock: Lock) -> events.Event:
    return Operation("ActivateLock").told(
        events.ACT_STATUS_FAILED,
        lock.operation,
        subject=lock_name(lock.id),
        principal=lock.owner,
        caller=MESH_NAME,
        error_reason="NOT_FUNDED_IN_TIME",
    )
