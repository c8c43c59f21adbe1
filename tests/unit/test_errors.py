"""The one error type, and how it travels."""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from contract import status, wire
from contract.errors import OUTCOME_UNKNOWN, Code, Error, RemoteError, invalid, not_found

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
FULL = Error(
    Code.RESOURCE_EXHAUSTED,
    "QUOTA_USED_UP",
    "Ten deployments a day are allowed; try again tomorrow.",
    metadata={"limit": "10"},
    violations=(("spec.symbol", "is taken."),),
    retry_after=1.5,
    retriable=True,
)


def travelled(error: Error, trace_id: str = TRACE_ID) -> RemoteError:
    """The error as the next service sees it."""
    details = status.to_status(error, trace_id).SerializeToString()
    trailers = grpc.aio.Metadata((status.DETAILS_TRAILER, details))
    if error.retriable:
        trailers.add(wire.TRAILER_RETRIABLE, "true")
    code = status.GRPC_CODES[int(error.code)]
    return status.from_rpc_error(
        grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, error.message)
    )


def details(error: Error, kind: type[Any]) -> Any:
    found = kind()
    for detail in status.to_status(error, TRACE_ID).details:
        detail.Unpack(found)
    return found


def test_what_others_say_of_a_field_is_said_of_ours() -> None:
    told = travelled(invalid("spec.amount", "must be at least 1", "INVALID_AMOUNT"))
    ours = told.about("spec", "spec.locks[2]")
    assert ours.violations == (("spec.locks[2].amount", "must be at least 1."),)
    assert ours.message == "spec.locks[2].amount must be at least 1."
    assert (ours.code, ours.reason) == (Code.INVALID_ARGUMENT, "INVALID_AMOUNT")
    other = travelled(not_found("token", "tokens/1"))
    assert other.about("spec", "spec.locks[2]") is other


def test_codes_are_those_of_grpc_without_ok() -> None:
    codes = {code.value[0]: code.name for code in grpc.StatusCode}
    assert {int(code): code.name for code in Code} == {n: c for n, c in codes.items() if n}


def test_an_error_tells_code_reason_and_message() -> None:
    assert str(FULL).startswith("RESOURCE_EXHAUSTED QUOTA_USED_UP: Ten deployments")


def test_an_error_arrives_as_it_was() -> None:
    """F-58: a precise reason, its facts and the fields survive every hop."""
    arrived = travelled(FULL)
    assert arrived.code is FULL.code
    assert arrived.reason == FULL.reason
    assert arrived.message == FULL.message
    assert arrived.metadata == {"limit": "10", "trace_id": TRACE_ID}
    assert arrived.violations == FULL.violations
    assert arrived.retry_after == FULL.retry_after
    assert arrived.retriable


def test_an_error_without_anything_arrives_too() -> None:
    arrived = travelled(Error(Code.NOT_FOUND, "X", "No."), trace_id="")
    assert (arrived.metadata, arrived.violations, arrived.retry_after) == ({}, (), None)
    assert not arrived.retriable


def test_an_error_that_the_mesh_made_has_its_code_as_reason() -> None:
    bare = grpc.aio.AioRpcError(
        grpc.StatusCode.ABORTED, grpc.aio.Metadata(), grpc.aio.Metadata(), None
    )
    arrived = status.from_rpc_error(bare)
    assert (arrived.code, arrived.reason) == (Code.ABORTED, "ABORTED")
    assert arrived.message == "ABORTED"


@pytest.mark.parametrize("code", list(Code))
def test_only_some_codes_leave_the_outcome_open(code: Code) -> None:
    assert RemoteError(code, "X", "x").outcome_unknown == (code in OUTCOME_UNKNOWN)
    repeated = RemoteError(code, "X", "x", retriable=True)
    assert repeated.outcome_unknown == (code in OUTCOME_UNKNOWN), "an attempt before it may have"


@pytest.mark.parametrize("code", list(Code))
def test_an_error_is_definite_when_a_repeat_would_be_told_the_same(code: Code) -> None:
    passing = {Code.ABORTED, Code.RESOURCE_EXHAUSTED}
    assert Error(code, "X", "x").definite == (code not in OUTCOME_UNKNOWN | passing)
    assert not Error(code, "X", "x", retriable=True).definite


@pytest.mark.parametrize("code", list(Code))
def test_what_is_too_large_stays_so_whatever_its_code(code: Code) -> None:
    assert Error(code, "REQUEST_TOO_LARGE", "Too large.").definite
    assert not Error(code, "REQUEST_TOO_LARGE", "Too large.", retriable=True).definite


def test_error_info_carries_reason_domain_and_trace() -> None:
    info = details(FULL, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == ("QUOTA_USED_UP", "icto")
    assert dict(info.metadata) == {"limit": "10", "trace_id": TRACE_ID}
    retry = details(FULL, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 1.5


def test_a_field_that_cannot_be_accepted_is_named() -> None:
    error = invalid("amount", "must be positive")
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "INVALID_FIELD")
    assert error.message == "amount must be positive."
    assert error.violations == (("amount", "must be positive."),)


def test_absent_and_hidden_are_told_alike() -> None:
    error = not_found("project", "projects/x")
    assert (error.code, error.reason) == (Code.NOT_FOUND, "PROJECT_NOT_FOUND")
    assert error.metadata == {"name": "projects/x"}
