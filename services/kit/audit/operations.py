"""Acts that take time, as the audit knows them: accepted by one entry, ended by another.

Both have the action and the name of the operation, so what is begun and has no end is in flight.
A call accepts one by `call.act(status=ACT_STATUS_INITIATED, operation=...)`; whoever finishes it
later, without a call, tells of it by this.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor

from icto.events.v1 import events_pb2 as events
from icto.policy.v1 import policy_pb2
from services.kit.audit.audit_events import event


@dataclass(frozen=True, slots=True)
class Operation:
    """A kind of them.

    Attributes:
        action: name of the act.
        method: that asks for one, as package.Service/Method; "" when no single method does.
    """

    action: str
    method: str = ""

    @classmethod
    def of(cls, service: ServiceDescriptor, method: str) -> "Operation":
        """What a method begins, by the action of its policy."""
        policy = service.methods_by_name[method].GetOptions().Extensions[policy_pb2.method]
        return cls(policy.audit_action, f"{service.full_name}/{method}")

    def told(
        self,
        status: "events.ActStatus.ValueType",
        operation: str,
        *,
        principal: str,
        caller: str,
        subject: str = "",
        actor: "events.ActorKind.ValueType" = events.ACTOR_KIND_SERVICE,
        severity: "events.Severity.ValueType" = events.SEVERITY_UNSPECIFIED,
        error_reason: str = "",
        new_value: str = "",
        details: Mapping[str, str] | None = None,
        traceparent: str = "",
    ) -> events.Event:
        """The event that one of them began or ended.

        Args:
            status: INITIATED, or how it ended.
            operation: its name.
            principal: of the user for whom it is done.
            caller: mesh service that does it.
            subject: resource it happens to; the operation itself unless said.
            actor: in which capacity it was asked for.
            severity: of a failure ERROR, else INFO, unless said.
            error_reason: of the failure.
            new_value: of what the act changed.
            details: facts worth keeping.
            traceparent: of the call that asked for it.
        """
        failed = status == events.ACT_STATUS_FAILED
        act = events.Act(
            action=self.action,
            status=status,
            principal=principal,
            actor=actor,
            caller=caller,
            method=self.method,
            operation=operation,
            severity=severity or (events.SEVERITY_ERROR if failed else events.SEVERITY_INFO),
            error_reason=error_reason,
            new_value=new_value,
            details=details,
        )
        return event(subject or operation, act, traceparent=traceparent)
