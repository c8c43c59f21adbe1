"""What travels of an error fits into what every client takes."""

import base64
from urllib.parse import quote

import pytest
from google.rpc import error_details_pb2

from contract import status
from contract.errors import Code, Error, RemoteError

CLIENT_LIMIT = 8 * 1024
"""Metadata that gRPC clients take in an answer."""


def on_the_wire(error: Error) -> int:
    """Bytes of the trailers as HTTP/2 counts them."""
    _, message, trailers = status.to_abort(error, "0" * 32)
    sizes = [len("grpc-message") + len(quote(message)) + 32]
    for name, value in trailers:
        sent = base64.b64encode(value) if isinstance(value, bytes) else value
        sizes.append(len(name) + len(sent) + 32)
    return sum(sizes)


@pytest.mark.parametrize("letter", ["x", "ü", "雪", "🜲", "%"])
def test_the_longest_error_fits(letter: str) -> None:
    violations = tuple((f"items.{i}.{letter * 500}", letter * 5000) for i in range(100))
    error = Error(
        Code.INVALID_ARGUMENT, "INVALID_FIELD", letter * 5000, violations=violations, retry_after=1
    )

    assert on_the_wire(error) < CLIENT_LIMIT


def test_as_many_violations_are_told_as_fit() -> None:
    violations = tuple((f"items.{i}.name", "is required") for i in range(20))
    told = status.to_status(
        Error(Code.INVALID_ARGUMENT, "INVALID_FIELD", "", violations=violations), ""
    )
    bad = error_details_pb2.BadRequest()
    assert told.details[1].Unpack(bad)

    assert [(v.field, v.description) for v in bad.field_violations] == list(violations)


def test_message_and_details_say_the_same() -> None:
    """Clients refuse a status whose two messages differ."""
    error = Error(Code.ABORTED, "TOO_LONG", "雪" * 4000)
    code, message, trailers = status.to_abort(error, "")

    told = status.to_status(error, "")
    assert (code.value[0], message) == (told.code, told.message)
    assert dict(trailers)[status.DETAILS_TRAILER] == told.SerializeToString()


def test_an_error_that_is_only_passed_on_is_not_repeated() -> None:
    """Envoy before us repeats what is marked as retriable, and CANCELLED."""
    refused = RemoteError(Code.UNAVAILABLE, "DRAINING", "Going away.", retriable=True).passed_on()
    cancelled = RemoteError(Code.CANCELLED, "CANCELLED", "Cut.", metadata={"a": "b"}).passed_on()

    assert (refused.code, refused.reason, refused.retriable) == (
        Code.UNAVAILABLE,
        "DRAINING",
        False,
    )
    assert (cancelled.code, cancelled.metadata) == (Code.UNAVAILABLE, {"a": "b"})
