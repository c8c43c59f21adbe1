"""One call as its handler sees it: who calls, how long there is, and how its effect is committed.

A mutation that must read before it writes:

    async with call.transaction() as tx:
        project = call.owned(await store.lock(tx, id), "project")
        ...
        return tx.answer(response, subject=response.name)

A mutation that only writes does it in one round trip:

    return await call.commit(response, store.added(note), subject=response.name)

Either way the effect, the answer under the request id and the audit event are committed together,
or nothing of it is.
"""

import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import asyncpg
from google.protobuf.message import Message
from opentelemetry import trace

from contract.errors import Error, not_found
from contract.method import Method
from contract.roles import permission_holders
from icto.events.v1 import events_pb2 as events
from services.kit.audit.audit_events import event
from services.kit.audit.outbox import Outbox
from services.kit.serving import preconditions
from services.kit.serving.identity import Identity
from services.kit.storage import idempotency
from services.kit.storage.database import Connection, Database
from services.kit.storage.statement import Statement

M = TypeVar("M", bound=Message)


class Owned(Protocol):
    """A row that belongs to a user."""

    @property
    def owner(self) -> str:
        """Principal of the user it belongs to."""
        ...


R = TypeVar("R", bound=Owned)


class OwnershipUncheckedError(Exception):
    """A method for owners was about to end without its ownership check. A bug; it fails closed."""


class Call:
    """One call."""

    def __init__(
        self,
        method: Method,
        identity: Identity,
        span: trace.Span,
        database: Database,
        outbox: Outbox,
        expires: float,
        *,
        last_event_id: str = "",
        if_match: str = "",
    ) -> None:
        self.last_event_id = last_event_id
        self._if_match = if_match
        self.headers: list[tuple[str, str]] = []
        """Headers that an answer is sent with; a stream's, set before its first message."""
        self.method = method
        self.identity = identity
        self.span = span
        self.request_id = ""
        self._request: Message | None = None
        self._database = database
        self._outbox = outbox
        self._expires = expires
        self._owner_checked = False
        self._etag_checked = False

    @property
    def principal(self) -> str:
        """Who acts."""
        return self.identity.principal

    @property
    def remaining(self) -> float:
        """Seconds until the caller stops waiting."""
        return self._expires - time.monotonic()

    def accept(self, request: Message, request_id: str) -> None:
        """Takes the request in, once it was found valid."""
        self._request = request
        self.request_id = request_id

    @property
    def permitted(self) -> bool:
        """Whether the caller holds the permission that the method's audience names."""
        return bool(self.identity.roles & self.method.audience.roles)

    def holds(self, permission: str) -> bool:
        """Whether the caller holds a permission, for instance "VIEW_AUDIT_LOGS"."""
        return bool(self.identity.roles & permission_holders(permission))

    def owned(self, row: R | None, lookup: str, name: str = "") -> R:
        """The row, if the caller may have it: its owner, or one whom the audience permits.

        `lookup` must be the name that the method's audience gives to the owner.

        Raises:
            Error: NOT_FOUND, whether it is missing or belongs to somebody else.
        """
        return self.visible(row, lookup, name, to=())

    def visible(self, row: R | None, lookup: str, name: str = "", *, to: Collection[str]) -> R:
        """The row, if the caller may see it: as `owned`, and for those principals `to` whom it is.

        Raises:
            Error: NOT_FOUND, whether it is missing or not for the caller.
        """
        if lookup != self.method.audience.owner:
            raise OwnershipUncheckedError(f"{self.method.full_name} checked {lookup!r}")
        if row is None or not (self.permitted or self.principal in (row.owner, *to)):
            raise not_found(lookup, name)
        self._owner_checked = True
        return row

    def verify_ownership(self) -> None:
        """Passes when the method needs no ownership check, or it was made.

        Raises:
            OwnershipUncheckedError: it was forgotten.
        """
        if self.method.audience.owner and self.identity.from_outside and not self._owner_checked:
            raise OwnershipUncheckedError(f"{self.method.full_name} forgot to check the owner")

    def check_etag(self, current: str) -> None:
        """Passes when the caller's `If-Match` names the current etag, or there is none.

        Raises:
            Error: FAILED_PRECONDITION, it was changed meanwhile.
        """
        self._etag_checked = True
        if self._if_match and not preconditions.matches(self._if_match, current):
            raise preconditions.failed()

    def verify_etag(self) -> None:
        """Passes when there is no `If-Match`, or the handler looked at it.

        Raises:
            Error: FAILED_PRECONDITION, what is changed has no etag, which matches no condition.
        """
        if self._if_match and not self._etag_checked:
            raise preconditions.failed()

    @property
    def idempotency_key(self) -> idempotency.Key:
        """What this call's effect is known by."""
        if self._request is None:
            raise RuntimeError("the request was not accepted yet")
        return idempotency.Key(
            self.principal,
            self.method.full_name,
            self.request_id,
            idempotency.body_hash(self._request),
        )

    async def replay(self) -> None:
        """Passes when this request was not answered before.

        For handlers that check something outside before they commit: a check that fails for a
        repeat may fail because of the first request's own effect.

        Raises:
            Replayed: it was.
            Error: ALREADY_EXISTS, its id was used for another request.
        """
        async with self._database.connection() as connection:
            answer = await idempotency.find_answer(connection, self.idempotency_key)
        if answer is not None:
            raise idempotency.Replayed(answer)

    async def commit(
        self,
        response: M,
        *effects: Statement,
        subject: str = "",
        act: events.Act | None = None,
        data: Message | None = None,
    ) -> M:
        """Commits effects, answer and audit event in one statement.

        Raises:
            Replayed: the request was answered before; nothing was written.
        """
        self.verify_ownership()
        self.verify_etag()
        parts = list(effects)
        if self.method.has_request_id:
            answer = response.SerializeToString()
            parts.append(idempotency.recorded([(self.idempotency_key, answer)]))
        if self.method.audit_action:
            told = event(subject, act or self.act(), data)
            parts.append(self._outbox.added([told]))
        try:
            await self._database.apply(*parts)
        except asyncpg.UniqueViolationError:
            await self.replay()
            raise
        return response

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Effect"]:
        """The transaction of this call's effect. Commits once `answer` was called in it.

        Raises:
            Replayed: the request was answered before; the block does not run.
        """
        key = self.idempotency_key if self.method.has_request_id else None
        async with self._database.transaction() as connection:
            if key is not None:
                await self._claim(connection, key)
            effect = Effect(connection, self)
            yield effect
            self.verify_ownership()
            self.verify_etag()
            await effect.seal(key, self._outbox)

    async def _claim(self, connection: Connection, key: idempotency.Key) -> None:
        try:
            await idempotency.claim(connection, key)
        except Error as error:
            raise idempotency.still_at_work() if error.reason == "CONFLICT" else error from error

    def act(
        self,
        *,
        status: "events.ActStatus.ValueType" = events.ACT_STATUS_COMPLETED,
        severity: "events.Severity.ValueType" = events.SEVERITY_INFO,
        operation: str = "",
        details: Mapping[str, str] | None = None,
        previous_value: str = "",
        new_value: str = "",
        justification: str = "",
    ) -> events.Act:
        """What this call does, as the audit will know it."""
        return events.Act(
            action=self.method.audit_action,
            status=status,
            principal=self.principal,
            actor=_actor(self.identity, self.permitted),
            caller=self.identity.caller,
            method=self.method.full_name,
            request_id=self.request_id,
            operation=operation,
            severity=severity,
            previous_value=previous_value,
            new_value=new_value,
            justification=justification,
            details=details,
        )


class Effect(Connection):
    """The transaction of one call: SQL, events, and the answer."""

    def __init__(self, connection: Connection, call: Call) -> None:
        super().__init__(connection.raw, connection.tracer, connection.place)
        self._call = call
        self._answer: Message | None = None
        self._events: list[events.Event] = []

    def answer(
        self,
        response: M,
        *,
        subject: str = "",
        act: events.Act | None = None,
        data: Message | None = None,
    ) -> M:
        """Sets the answer, and the audit event if the method has an audit action."""
        self._answer = response
        if self._call.method.audit_action:
            self.emit(subject=subject, act=act or self._call.act(), data=data)
        return response

    def emit(
        self, *, subject: str, act: events.Act | None = None, data: Message | None = None
    ) -> None:
        """Adds an event, committed with the effect."""
        self._events.append(event(subject, act, data))

    async def seal(self, key: idempotency.Key | None, outbox: Outbox) -> None:
        """Writes answer and events."""
        if self._answer is None:
            raise RuntimeError(f"{self._call.method.full_name} committed without an answer")
        parts = [outbox.added(self._events)] if self._events else []
        if key is not None:
            parts.append(idempotency.kept(key, self._answer.SerializeToString()))
        if parts:
            await self.apply(*parts)


def _actor(identity: Identity, permitted: bool) -> "events.ActorKind.ValueType":
    if identity.is_operator:
        return events.ACTOR_KIND_OPERATOR
    if identity.is_service:
        return events.ACTOR_KIND_SERVICE
    if not identity.signed_in:
        return events.ACTOR_KIND_ANONYMOUS
    return events.ACTOR_KIND_ADMIN if permitted else events.ACTOR_KIND_USER
