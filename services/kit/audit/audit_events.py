"""Audit events: what happened to a resource, and the act that did it. Each is made here."""

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from icto.events.v1 import events_pb2 as events


def event(
    subject: str, act: events.Act | None, data: Message | None = None, *, traceparent: str = ""
) -> events.Event:
    """An event about a resource; the outbox fills in the rest of the envelope.

    Args:
        subject: name of the resource.
        act: what was done to it, and by whom.
        data: what consumers read beside it.
        traceparent: of the call that asked for it, where that is not the current one.
    """
    made = events.Event(subject=subject, partition_key=subject, act=act, traceparent=traceparent)
    if data is not None:
        packed = AnyMessage()
        packed.Pack(data)
        made.data.CopyFrom(packed)
    return made
