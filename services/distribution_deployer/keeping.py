"""What owners do with a distribution, and what time does: pause, cancel, end, fail."""

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any, Final, assert_never
from uuid import UUID

from typing_extensions import override

from contract.errors import Code, Error
from icto.distribution.v1 import distribution_pb2 as pb
from icto.events.v1 import events_pb2 as events
from services.distribution_deployer import domain, money, store
from services.distribution_deployer.domain import (
    DELIVERED,
    MESH_NAME,
    OPEN,
    Distribution,
    Listed,
    Pool,
    State,
    Token,
    Whitelist,
)
from services.distribution_deployer.handlers import DistributionHandlers
from services.distribution_deployer.messages import (
    distribution_message,
    distribution_name,
    parse_distribution,
)
from services.distribution_deployer.money import Money
from services.kit.audit.operations import Operation
from services.kit.journal.model import Claim as Begun
from services.kit.serving import Call, Effect, Kit
from services.kit.storage import Connection
from services.kit.storage.lease import Lease

log = logging.getLogger(__name__)

OWNED: Final = "distribution"
_SECONDS: Final = 0.5
_FINISHING_SECONDS: Final = 2.0
# What is finished is found by adding up whole distributions: a twentieth of the time is enough.
_FINISHING_SHARE: Final = 20
_LEASE_SECONDS: Final = 10.0
_BATCH: Final = 100


class Control(DistributionHandlers):
    """What owners do with a distribution."""

    @override
    async def PauseDistribution(
        self, request: pb.PauseDistributionRequest, call: Call
    ) -> pb.Distribution:
        """Stops claims until it is resumed."""
        return await self._move(request.name, call, State.PAUSED)

    @override
    async def ResumeDistribution(
        self, request: pb.ResumeDistributionRequest, call: Call
    ) -> pb.Distribution:
        """Ends a pause."""
        return await self._move(request.name, call, State.ACTIVE)

    async def _move(self, name: str, call: Call, target: State) -> pb.Distribution:
        async with call.transaction() as tx:
            locked = await self._locked(tx, call, name)
            _check_allowed(locked, "pausable", allowed=locked.spec.pausable)
            if locked.state is State.CREATED:
                raise domain.wrong_state(locked, f"cannot become {target.name}")
            changed = domain.moved(locked, target)
            await store.put(tx, changed)
            return _changed(tx, call, locked, changed)

    @override
    async def PauseCategory(self, request: pb.PauseCategoryRequest, call: Call) -> pb.Distribution:
        """Stops claims from a category until it is resumed."""
        return await self._hold(request.name, request.category_id, call, paused=True)

    @override
    async def ResumeCategory(
        self, request: pb.ResumeCategoryRequest, call: Call
    ) -> pb.Distribution:
        """Ends the pause of a category."""
        return await self._hold(request.name, request.category_id, call, paused=False)

    async def _hold(
        self, name: str, category_id: int, call: Call, *, paused: bool
    ) -> pb.Distribution:
        async with call.transaction() as tx:
            locked = await self._locked(tx, call, name)
            _check_allowed(locked, "pausable", allowed=locked.spec.pausable)
            if locked.state not in OPEN:
                raise domain.wrong_state(locked, "has no category to pause or resume")
            locked.spec.category(category_id)
            await store.pause_category(tx, locked.id, category_id, paused=paused)
            held = locked.paused | {category_id} if paused else locked.paused - {category_id}
            return _changed(tx, call, locked, replace(locked, paused=held), str(category_id))

    @override
    async def CancelDistribution(
        self, request: pb.CancelDistributionRequest, call: Call
    ) -> pb.Distribution:
        """Ends it for good: what is unlocked stays claimable, the rest goes back to the owner.

        With the rest goes what no claim could take, since the fee would eat it.
        """
        row = await store.get(self._database, parse_distribution(request.name))
        found = call.owned(row, OWNED, request.name)
        token = await self._money.token(found.ledger)
        async with call.transaction() as tx:
            locked = await self._locked(tx, call, request.name)
            _check_allowed(locked, "cancellable", allowed=locked.spec.cancellable)
            cancelled = replace(domain.moved(locked, State.CANCELLED), cancel_time=locked.now)
            await store.put(tx, cancelled)
            await money.close_dust(tx, cancelled, token.fee)
            rest = await money.unowed(tx, cancelled, cancelled.moment)
            begun = await self._money.give_back(tx, cancelled, rest, token)
            response = _changed(tx, call, locked, cancelled)
        self._faults.point("distribution.cancelled.committed")
        self._money.adopt(begun)
        return response

    async def _locked(self, tx: Effect, call: Call, name: str) -> Distribution:
        return call.owned(await store.lock(tx, parse_distribution(name)), OWNED, name)


class Keeping:
    """Distributions that are looked after."""

    def __init__(self, kit: Kit, accounts: Money) -> None:
        self._database = kit.database
        self._outbox = kit.outbox
        self._platform = kit.platform
        self._money = accounts
        self._lease = Lease(kit.database, "keeping", kit.settings.instance, _LEASE_SECONDS)

    async def run(self) -> None:
        """Does what the time has come for, as long as the replica lives (F-46)."""
        finishing = 0.0
        while True:
            try:
                if self._platform.running and await self._lease.hold():
                    for one in await store.due(self._database, _BATCH):
                        await self._look_at(*one)
                    begun = time.monotonic()
                    if begun >= finishing:
                        await self._finish()
                        ended = time.monotonic()
                        pause = max(_FINISHING_SECONDS, _FINISHING_SHARE * (ended - begun))
                        finishing = ended + pause
            except Error as error:
                log.warning("distributions cannot be looked at now: %s", error)
            await asyncio.sleep(_SECONDS)

    async def _look_at(self, distribution_id: UUID, ledger: str, state: State) -> None:
        """One distribution. One that cannot be looked at now does not hold the others up."""
        try:
            if state in DELIVERED:
                await self._advance(distribution_id, await self._money.token(ledger))
            else:
                await self._fail_or_clear(distribution_id)
        except Exception as error:  # noqa: BLE001  # it is the next one's turn, whatever it is
            _tell_of(distribution_id, error)
            await store.postpone(self._database, distribution_id, domain.CHECKS[0])

    async def _advance(self, distribution_id: UUID, token: Token) -> None:
        """Ends or closes a distribution that was delivered, if it is time."""
        begun: list[Begun] = []
        async with self._database.transaction() as connection:
            locked = await store.lock(connection, distribution_id)
            if locked is not None and locked.state in OPEN:
                begun = await self._end_or_wait(connection, locked, token)
            elif locked is not None and domain.closes(locked):
                begun = await self._close(connection, locked, token)
            elif locked is not None:
                # Somebody ended it since it was found to be due.
                await store.put(connection, locked)
        self._money.adopt(begun)

    async def _end_or_wait(
        self, connection: Connection, locked: Distribution, token: Token
    ) -> list[Begun]:
        over = domain.is_over(locked)
        if over or await _is_finished(connection, locked):
            return await self._complete(connection, locked, token)
        await store.put(connection, locked)
        return []

    async def _complete(
        self, connection: Connection, locked: Distribution, token: Token
    ) -> list[Begun]:
        """Ends it: pools close, and what nobody registered for goes back, dust included."""
        completed = domain.moved(locked, State.COMPLETED)
        await store.put(connection, completed)
        rest = await money.unowed_at_end(connection, completed)
        await self._tell(connection, completed, "CompleteDistribution", returned=str(rest))
        return await self._money.give_back(connection, completed, rest, token)

    async def _close(
        self, connection: Connection, locked: Distribution, token: Token
    ) -> list[Begun]:
        """Ends the claims: whatever is left goes back to the owner."""
        closed = replace(locked, closed=True)
        await store.put(connection, closed)
        rest = locked.spec.total - await store.sent(connection, locked.id)
        await self._tell(connection, closed, "CloseDistribution", returned=str(rest))
        return await self._money.give_back(connection, closed, rest, token)

    async def _fail_or_clear(self, distribution_id: UUID) -> None:
        """Fails one that was not activated in time (F-49); clears accounts of those that failed."""
        async with self._database.transaction() as connection:
            locked = await store.lock(connection, distribution_id)
            if locked is None or locked.state in DELIVERED:
                return
            if locked.state is State.CREATED:
                locked = domain.moved(locked, State.FAILED)
                await store.free_lists(connection, locked.id)
                action, failure = "ActivateDistribution", "FUNDING_DEADLINE_PASSED"
                await self._tell(connection, locked, action, failure)
            else:
                locked = replace(locked, checks=locked.checks + 1)
            _, begun = await self._money.clear(connection, locked)
            await store.put(connection, locked)
        self._money.adopt(begun)

    async def _finish(self) -> None:
        """Finds distributions of which everything was claimed, without holding claims up."""
        for distribution_id in await store.finishing(self._database, _BATCH):
            try:
                async with self._database.transaction() as connection:
                    await store.forget_finishing(connection, distribution_id)
                    found = await store.get(connection, distribution_id)
                    if found is not None and await _is_finished(connection, found):
                        await store.look_now(connection, distribution_id)
            except Exception as error:  # noqa: BLE001  # it is the next one's turn, whatever it is
                _tell_of(distribution_id, error)

    async def _tell(
        self,
        connection: Connection,
        distribution: Distribution,
        action: str,
        failure: str = "",
        **details: str,
    ) -> None:
        """Tells the audit what time did."""
        told = Operation(action).told(
            events.ACT_STATUS_FAILED if failure else events.ACT_STATUS_COMPLETED,
            distribution.operation,
            subject=distribution_name(distribution.id),
            principal=distribution.owner,
            caller=MESH_NAME,
            error_reason=failure,
            new_value=distribution.state.name,
            details=details,
        )
        await connection.apply(self._outbox.added([told]))


def _check_allowed(found: Distribution, field: str, *, allowed: bool) -> None:
    """Passes when the spec, which nobody can change, lets the owner do it."""
    if not allowed:
        raise Error(
            Code.FAILED_PRECONDITION,
            f"NOT_{field.upper()}",
            f"{distribution_name(found.id)} was made so that nobody can do that.",
        )


def _changed(
    tx: Effect, call: Call, before: Distribution, after: Distribution, category: str = ""
) -> pb.Distribution:
    response = distribution_message(after)
    act = call.act(
        severity=events.SEVERITY_WARNING,
        previous_value=before.state.name,
        new_value=after.state.name,
        details={"category": category} if category else {},
    )
    return tx.answer(response, subject=response.name, act=act)


def _tell_of(distribution_id: UUID, error: Exception) -> None:
    name = distribution_name(distribution_id)
    known = isinstance(error, Error)
    log.warning("%s cannot be looked at now: %r", name, error, exc_info=not known)


async def _is_finished(connection: Connection, found: Distribution) -> bool:
    """Whether everything was claimed, and nobody can register any more."""
    if found.state not in OPEN:
        return False
    sums = await store.category_sums(connection, found.id)
    return all(_is_exhausted(found, row) for row in sums)


def _is_exhausted(found: Distribution, row: Any) -> bool:
    source = found.spec.category(row["id"]).source
    match source:
        case Whitelist() | Listed():
            return bool(row["claimed"] == row["amount"])
        case Pool(closes=closes):
            full = row["registered"] == row["seats"]
            over = closes is not None and closes <= found.now
            return bool((full or over) and row["claimed"] == row["reserved"])
        case _:
            assert_never(source)
