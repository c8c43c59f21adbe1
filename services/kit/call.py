"""One call as its handler sees it: who calls, how long there is, and the transaction of its effect.

A mutation's handler reads like this:

    async with call.transaction() as tx:
        project = call.owned(await store.get(tx, id), "project")
        ...
        return tx.answer(response, subject=response.name)

The transaction commits the effect, the answer under the request id and the audit event together,
or nothing of it.
"""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from opentelemetry import trace

from icto.events.v1 import events_pb2 as events
from mesh import contract
from mesh.contract import Method
from services.kit import idempotency
from services.kit.database import Connection, Database
from services.kit.errors import Error, not_found
from services.kit.identity import Identity
from services.kit.outbox import Outbox

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
    ) -> None:
        self.method = method
        self.identity = identity
        self.span = span
        self.request_id = ""
        self._request: Message | None = None
        self._database = database
        self._outbox = outbox
        self._expires = expires
        self._owner_checked = False

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
        return bool(self.identity.roles & contract.permission_holders(permission))

    def owned(self, row: R | None, lookup: str, name: str = "") -> R:
        """The row, if the caller may have it: its owner, or one whom the audience permits.

        `lookup` must be the name that the method's audience gives to the owner.

        Raises:
            Error: NOT_FOUND, whether it is missing or belongs to somebody else.
        """
        if lookup != self.method.audience.owner:
            raise OwnershipUncheckedError(f"{self.method.full_name} checked {lookup!r}")
        if row is None or not (self.permitted or row.owner == self.principal):
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

        For handlers that check something outside before their transaction: a check that fails for a
        repeat may fail because of the first request's own effect.

        Raises:
            Replayed: it was.
        """
        async with self._database.connection() as connection:
            try:
                answer = await idempotency.find_answer(connection, self.idempotency_key)
            except Error:
                return
        raise idempotency.Replayed(answer)

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
            await effect.seal(key, self._outbox)
        self._outbox.hint()

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
        super().__init__(connection.raw, connection.tracer)
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
        event = events.Event(subject=subject, partition_key=subject, act=act)
        if data is not None:
            packed = AnyMessage()
            packed.Pack(data)
            event.data.CopyFrom(packed)
        self._events.append(event)

    async def seal(self, key: idempotency.Key | None, outbox: Outbox) -> None:
        """Writes answer and events."""
        if self._answer is None:
            raise RuntimeError(f"{self._call.method.full_name} committed without an answer")
        if key is not None:
            await idempotency.keep(self, [(key, self._answer.SerializeToString())])
        await outbox.add(self, self._events)


def _actor(identity: Identity, permitted: bool) -> "events.ActorKind.ValueType":
    if identity.is_operator:
        return events.ACTOR_KIND_OPERATOR
    if identity.is_service:
        return events.ACTOR_KIND_SERVICE
    if not identity.signed_in:
        return events.ACTOR_KIND_ANONYMOUS
    return events.ACTOR_KIND_ADMIN if permitted else events.ACTOR_KIND_USER
