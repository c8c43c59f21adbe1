"""icto.audit.v1.DeadLetterService: events that were refused for good, until a person decides."""

from typing import Any, Final
from uuid import UUID

from google.protobuf.message import DecodeError
from typing_extensions import override

from contract import ids
from contract.errors import Code, Error, not_found
from icto.audit.v1 import audit_pb2
from icto.audit.v1 import dead_letters_pb2 as pb
from icto.audit.v1.audit_pb2_grpc import AuditServiceStub
from icto.audit.v1.dead_letters_handlers import DeadLetterServiceHandlers
from icto.events.v1 import events_pb2 as events
from services.audit_storage import dead_letters_store as store
from services.kit.answering import paging
from services.kit.serving import Call, Kit

_COLLECTION: Final = "deadLetters"


class DeadLetterService(DeadLetterServiceHandlers[Call]):
    """Keeps dead letters, and has them read once more."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._audit = kit.clients.stub(AuditServiceStub)
        self._buried = kit.telemetry.metrics.counter(
            "icto_dead_letters_total", "Events that were refused for good.", "source"
        )

    @override
    async def BuryEvent(self, request: pb.BuryEventRequest, call: Call) -> pb.DeadLetter:
        """Takes an event in that its reader refused."""
        source = call.identity.caller
        now = await store.now(self._database)
        letter = store.DeadLetter(ids.new_id(source), source, request.event, request.reason, now)
        response = _message(letter)
        act = call.act(severity=events.SEVERITY_ERROR, details={"reason": request.reason[:1000]})
        await call.commit(response, store.added(letter), subject=response.name, act=act)
        self._buried.labels(source).inc()
        return response

    @override
    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, call: Call
    ) -> pb.ListDeadLettersResponse:
        """Dead letters, oldest first."""
        del call
        asked = paging.by_id(request)
        rows = await store.list_after(self._database, asked.after or UUID(int=0), asked.limit)
        page, token = asked.page(rows, map(_message, rows))
        return pb.ListDeadLettersResponse(dead_letters=page, next_page_token=token)

    @override
    async def GetDeadLetter(self, request: pb.GetDeadLetterRequest, call: Call) -> pb.DeadLetter:
        """One dead letter."""
        del call
        letter = await store.get(self._database, ids.parse_name(_COLLECTION, request.name))
        if letter is None:
            raise not_found("deadLetter", request.name)
        return _message(letter)

    @override
    async def ReplayDeadLetter(
        self, request: pb.ReplayDeadLetterRequest, call: Call
    ) -> pb.DeadLetter:
        """Hands an event to the audit once more; the letter goes when the audit has taken it."""
        letter_id = ids.parse_name(_COLLECTION, request.name)
        await call.replay()
        letter = await store.get(self._database, letter_id)
        if letter is None:
            raise not_found("deadLetter", request.name)
        append = audit_pb2.AppendEventsRequest(
            request_id=f"replay:{letter.id}:{call.request_id}"[:64], events=[_event(letter)]
        )
        await self._audit.AppendEvents(append)
        act = call.act(justification=request.justification, details={"source": letter.source})
        return await call.commit(
            _message(letter), store.removed(letter.id), subject=request.name, act=act
        )


def _event(letter: store.DeadLetter) -> events.Event:
    try:
        return events.Event.FromString(letter.event)
    except DecodeError:
        raise Error(
            Code.FAILED_PRECONDITION, "NO_EVENT", "The bytes are no event; nobody can read them."
        ) from None


def _message(letter: store.DeadLetter) -> pb.DeadLetter:
    values: dict[str, Any] = {
        "name": ids.resource_name(_COLLECTION, letter.id),
        "source": letter.source,
        "event": letter.event,
        "reason": letter.reason,
    }
    message = pb.DeadLetter(**values)
    message.create_time.FromDatetime(letter.create_time)
    return message
