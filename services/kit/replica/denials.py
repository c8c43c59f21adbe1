"""Tells the audit who was refused: gathered for a second, and bounded however many try.

Nothing was changed by a refused call, so that its event has no transaction to be part of. A replica
that dies within the second takes that second's refusals with it.
"""

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Final

from contract import principal, wire
from contract.errors import Error
from icto.events.v1 import events_pb2 as events
from services.kit.audit.operations import Operation
from services.kit.audit.outbox import Outbox
from services.kit.storage.database import Database

ACTION: Final = "AccessDenied"
_GATHER_SECONDS: Final = 1.0
_MAX_KINDS: Final = 100
"""Different refusals kept in one second; what exceeds them is counted together."""


@dataclass(frozen=True, slots=True)
class Denial:
    """One kind of refusal: whom, by way of whom, what, and why."""

    principal: str
    caller: str
    method: str
    reason: str


_OTHERS: Final = Denial(principal.ANONYMOUS, "", "", "OTHERS")


class Denials:
    """Refusals seen by one replica."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox
        self._seen: Counter[Denial] = Counter()

    def note(self, denial: Denial) -> None:
        """Counts a refusal."""
        room = denial in self._seen or len(self._seen) < _MAX_KINDS
        self._seen[denial if room else _OTHERS] += 1

    async def run(self) -> None:
        """Writes what was gathered, as long as the replica lives; the rest when it ends."""
        try:
            while True:
                await asyncio.sleep(_GATHER_SECONDS)
                with contextlib.suppress(Error):
                    await self._write()
        finally:
            with contextlib.suppress(Error):
                await self._write()

    async def _write(self) -> None:
        """Writes what was gathered; keeps it when the database is away."""
        if not self._seen:
            return
        # What is refused while this is written is counted anew, for the next time.
        seen, self._seen = self._seen, Counter()
        written = self._outbox.added([_event(*item) for item in seen.items()])
        try:
            await self._database.apply(written)
        except BaseException:
            self._seen += seen
            raise


def _event(denial: Denial, count: int) -> events.Event:
    return Operation(ACTION, denial.method).told(
        events.ACT_STATUS_DENIED,
        "",
        subject=f"principals/{denial.principal}",
        principal=denial.principal,
        actor=_actor(denial),
        caller=denial.caller,
        severity=events.SEVERITY_WARNING,
        error_reason=denial.reason,
        details={"count": str(count)},
    )


def _actor(denial: Denial) -> "events.ActorKind.ValueType":
    if denial.principal == principal.ANONYMOUS:
        return events.ACTOR_KIND_ANONYMOUS
    outside = denial.caller == wire.EDGE
    return events.ACTOR_KIND_USER if outside else events.ACTOR_KIND_SERVICE
