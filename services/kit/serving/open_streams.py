"""Bounds how many streams a caller from outside holds open, at all replicas of a service together.

Limits of rate bound how many begin; each then costs a connection, a task and a reader for as long
as ten minutes. What is open is written down in the service's database. It is struck out when it
ends, and counts for nothing once its replica has been silent for a while, since then it died.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

from contract import principal
from contract.errors import Code, Error
from services.kit.serving.identity import Identity
from services.kit.storage.database import Database

log = logging.getLogger(__name__)

_RENEW_SECONDS: Final = 2.0
# Longer than a replica that is merely slow needs to renew.
SILENCE: Final = timedelta(seconds=10)

_OPEN: Final = "SELECT kit_open_stream($1, $2, $3, $4, $5, $6, $7)"
_CLOSE: Final = "DELETE FROM kit_streams WHERE id = ANY ($1)"
_RENEW: Final = "UPDATE kit_stream_holders SET renew_time = now() WHERE replica = $1"
_FORGET: Final = """
DELETE FROM kit_stream_holders WHERE renew_time < now() - $1::interval
"""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How many streams may be open at a time."""

    per_principal: int
    per_address: int


@dataclass(frozen=True, slots=True)
class _Holder:
    """Who holds a stream open; `principal` is empty for who has not signed in."""

    principal: str
    address: str


class OpenStreams:
    """The streams that one replica serves, and the count of all."""

    def __init__(self, database: Database, limits: StreamLimits) -> None:
        self._database = database
        self._limits = limits
        self._replica = uuid4()
        self._open: dict[UUID, _Holder] = {}
        self._ended: set[UUID] = set()
        self._something = asyncio.Event()

    @contextlib.asynccontextmanager
    async def hold(self, caller: Identity) -> AsyncIterator[None]:
        """A block that serves a stream, and holds a place for it when its caller is from outside.

        Raises:
            Error: RESOURCE_EXHAUSTED, the caller holds as many open as they may.
        """
        if not caller.from_outside:
            yield
            return
        stream, holder = uuid4(), _holder(caller)
        self._open[stream] = holder
        try:
            await self._admit(stream, holder)
            self._something.set()
            yield
        finally:
            del self._open[stream]
            # Also when we were cut off before we heard that it was written down.
            self._ended.add(stream)
            self._something.set()

    async def _admit(self, stream: UUID, holder: _Holder) -> None:
        most = self._limits
        try:
            enough: str = await self._database.fetchval(
                _OPEN,
                stream,
                self._replica,
                holder.principal,
                holder.address,
                most.per_principal,
                most.per_address,
                SILENCE,
            )
        except Error as error:
            # Health is watched when the database is away, above all: by what is open here, then.
            log.warning("open streams are counted for this replica alone: %s", error)
            enough = self._enough_here(holder)
        if enough:
            raise self._refused(enough)

    def _enough_here(self, holder: _Holder) -> str:
        """What this replica alone knows: which of the two has more than enough; or empty."""
        places = Counter(other.address for other in self._open.values())
        people = Counter(other.principal for other in self._open.values() if other.principal)
        if places[holder.address] > self._limits.per_address:
            return "address"
        return "principal" if people[holder.principal] > self._limits.per_principal else ""

    def _refused(self, who: str) -> Error:
        limit = getattr(self._limits, f"per_{who}")
        return Error(
            Code.RESOURCE_EXHAUSTED,
            "TOO_MANY_STREAMS",
            f"This {who} holds {limit} streams of this service open, which is as many as it may;"
            " end one, then open another.",
            metadata={"by": who, "limit": str(limit)},
        )

    async def run(self) -> None:
        """Strikes out what ended, at once, and says that this replica lives while it serves any."""
        while True:
            with contextlib.suppress(Error):
                await self._tell()
            with contextlib.suppress(TimeoutError):
                # Without any there is nothing to say.
                async with asyncio.timeout(_RENEW_SECONDS if self._open or self._ended else None):
                    await self._something.wait()
            self._something.clear()

    async def _tell(self) -> None:
        ended = frozenset(self._ended)
        if ended:
            await self._database.execute(_CLOSE, list(ended))
            self._ended -= ended
        if self._open:
            await self._database.execute(_RENEW, self._replica)
            await self._database.execute(_FORGET, SILENCE)


def _holder(caller: Identity) -> _Holder:
    signed_in = caller.principal != principal.ANONYMOUS
    return _Holder(caller.principal if signed_in else "", caller.address)
