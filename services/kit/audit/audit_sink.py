"""The reader of every outbox: the audit, which also takes in what it refused."""

import hashlib
from collections.abc import Sequence

from icto.audit.v1 import audit_pb2, dead_letters_pb2
from icto.audit.v1.audit_pb2_grpc import AuditServiceStub
from icto.audit.v1.dead_letters_pb2_grpc import DeadLetterServiceStub
from icto.events.v1 import events_pb2 as events
from services.kit.calling.client import Clients


class Audit:
    """Hands events to the audit."""

    def __init__(self, clients: Clients) -> None:
        self._audit = clients.stub(AuditServiceStub)
        self._dead_letters = clients.stub(DeadLetterServiceStub)

    async def append(self, batch: Sequence[events.Event]) -> None:
        """Hands a batch on; a repeat of it is known by its events.

        Raises:
            RemoteError: the audit refused it, or does not answer.
        """
        together = hashlib.sha256("".join(event.id for event in batch).encode())
        request = audit_pb2.AppendEventsRequest(request_id=together.hexdigest(), events=batch)
        await self._audit.AppendEvents(request)

    async def bury(self, raw: bytes, reason: str) -> None:
        """Hands an event on that was refused for good; a repeat of it is known by its bytes.

        Raises:
            RemoteError: the audit does not answer.
        """
        request = dead_letters_pb2.BuryEventRequest(
            request_id=hashlib.sha256(raw).hexdigest(), event=raw, reason=reason[:2000]
        )
        await self._dead_letters.BuryEvent(request)
