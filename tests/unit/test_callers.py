"""What callers write in more than one way: principals, keys of requests, traces."""

import math
from typing import Final

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from contract import principal, wire
from contract.errors import Error
from icto.ledger.v1 import ledger_pb2
from observability.receiver import SpanStore
from observability.tracing import links_to, parse_traceparent
from services.kit.calling import deadline
from services.kit.serving import spelling
from services.kit.serving.identity import callers_trace
from services.kit.storage.idempotency import key_of

OWNER: Final = principal.of_service("somebody")
ACCOUNT: Final = principal.encode_account(OWNER, bytes(30) + b"\xab\xcd")
MIXED: Final = OWNER[:7].upper() + OWNER[7:]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (OWNER.upper(), OWNER),
        (MIXED, OWNER),
        (ACCOUNT.upper(), ACCOUNT),
        ("2VXSX-FAE", "2vxsx-fae"),
        (f"Ledgers/{OWNER.upper()}/x", f"Ledgers/{OWNER}/x"),
        # Not a principal: the checksum of one letter is another.
        (f"{OWNER.upper()[:-1]}A", f"{OWNER.upper()[:-1]}A"),
        ("A-Token", "A-Token"),
        ("", ""),
    ],
)
def test_a_principal_is_written_in_lower_case(text: str, canonical: str) -> None:
    assert principal.canonical(text) == canonical


def test_principals_of_a_request_are_written_in_lower_case_at_any_depth() -> None:
    request = ledger_pb2.CreateLedgerRequest(
        display_name="A-B", symbol="XY", controller=OWNER.upper()
    )
    request.initial_balances.add(amount="1").account.owner = MIXED
    spelling.lower_principals(request, request.SerializeToString())
    assert request.controller == request.initial_balances[0].account.owner == OWNER
    assert (request.display_name, request.symbol) == ("A-B", "XY")


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        ([], ""), ([""], ""), (["a"], "a"), ([" a "], "a"), (['"a"'], "a"), (['"a b"'], "a b"),
        ([r'"a\"b\\c"'], r'a"b\c'), (["a;b"], "a;b"),
    ],
)  # fmt: skip
def test_a_key_is_read_in_quotes_and_bare(sent: list[str], key: str) -> None:
    assert key_of(sent) == key


@pytest.mark.parametrize(
    "sent", [["a", "b"], ["a", "a"], ["", "a"], ["a,b"], ['"a", "b"'], ['"a'], ['a"'], [r'"a\b"']]
)
def test_what_is_not_one_key_is_refused(sent: list[str]) -> None:
    with pytest.raises(Error) as refused:
        key_of(sent)
    assert refused.value.reason == "IDEMPOTENCY_KEY_INVALID"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2S", 2.0), ("350m", 0.35), ("1H", 3600.0), ("1M", 60.0), ("5u", 5e-6), ("7n", 7e-9),
        ("", math.inf), ("junk", math.inf), ("-1S", math.inf), ("1S;2S", math.inf),
        ("123456789S", math.inf), ("1 S", math.inf),
    ],
)  # fmt: skip
def test_a_deadline_is_read_as_grpc_writes_it(text: str, seconds: float) -> None:
    assert deadline.seconds_of(text) == pytest.approx(seconds)


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "text", [f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01-more"]
)
def test_a_traceparent_of_w3c_is_read(text: str) -> None:
    context = parse_traceparent(text)
    assert context is not None
    assert (f"{context.trace_id:032x}", f"{context.span_id:016x}") == (TRACE, SPAN)


@pytest.mark.parametrize(
    "text",
    [
        None, "", "garbage", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-01-more",
        f"01-{TRACE}-{SPAN}-01more", f"00-{TRACE}-{SPAN}-1", f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n", f"00-{TRACE}-{SPAN} -01", f"00-{chr(0xFF11) * 32}-{SPAN}-01",
    ],
)  # fmt: skip
def test_any_other_traceparent_is_none(text: str | None) -> None:
    assert parse_traceparent(text) is None


def test_a_link_takes_the_callers_state_along() -> None:
    said = {
        wire.HEADER_CALLERS_TRACEPARENT: f"00-{TRACE}-{SPAN}-01",
        wire.HEADER_CALLERS_TRACESTATE: "vendor=opaque",
    }
    (link,) = links_to(*callers_trace(said))
    assert link.context.trace_state.get("vendor") == "opaque"
    assert links_to(*callers_trace({wire.HEADER_CALLERS_TRACEPARENT: "garbage"})) == ()
    assert links_to(*callers_trace({})) == ()


def test_a_trace_is_found_by_one_that_is_linked_to_it() -> None:
    ours, theirs, other = (bytes([n]) * 16 for n in (1, 2, 3))
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    spans.add(trace_id=ours, span_id=b"1" * 8, name="linked").links.add(trace_id=theirs)
    spans.add(trace_id=ours, span_id=b"2" * 8, name="beside")
    spans.add(trace_id=other, span_id=b"3" * 8, name="other")
    store = SpanStore()
    store.add(request.SerializeToString())
    assert {span.name for span in store.trace(theirs.hex())} == {"linked", "beside"}
    assert {span.name for span in store.trace(ours.hex())} == {"linked", "beside"}
    assert store.trace((b"\x04" * 16).hex()) == []
