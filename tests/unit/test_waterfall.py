"""A trace as it is drawn: its outline, and in words what failed."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from observability import names, waterfall
from observability.receiver import StoredSpan


def span(name: str, parent: str = "", **attributes: str) -> StoredSpan:
    return StoredSpan(
        "t", name, parent, name, "s", "s-1", 0, 0, 1, failed=False, attributes=attributes
    )


def test_an_outline_keeps_calls_and_steps_below_one_another() -> None:
    call, step = {names.CALLER: "edge"}, {names.PIPELINE_ID: "p"}
    spans = [
        span("envoy"),
        span("order", "envoy", **call),
        span("SELECT", "order"),
        span("charge", "order", **step),
        span("router", "charge"),
        span("Charge", "router", **call),
        span("orphan", "lost", **call),
    ]
    kept = [(s.name, s.parent_id) for s in waterfall.outline(spans)]
    assert kept == [("order", ""), ("charge", "order"), ("Charge", "charge"), ("orphan", "")]


def drawn(*spans: StoredSpan) -> list[str]:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(waterfall.draw(spans))
    return str(console.file.getvalue()).splitlines()[2:]  # type: ignore[attr-defined]  # a StringIO


SERVED = {names.RPC_STATUS: "NOT_FOUND", names.REASON: "GONE", names.ERROR_MESSAGE: "Look again."}
STEP = {
    names.ERROR_TYPE: "UNAVAILABLE",
    names.ERROR_SERVICE: "ledger",
    names.REASON: "SERVICE_UNAVAILABLE",
    names.ERROR_MESSAGE: "Try again.",
}


@pytest.mark.parametrize(
    ("attributes", "failed", "told"),
    [
        (SERVED, False, "NOT_FOUND GONE: Look again."),
        (STEP, True, "UNAVAILABLE ledger: SERVICE_UNAVAILABLE: Try again."),
        ({"grpc.status_code": "14", "response_flags": "UH"}, True, "UNAVAILABLE UH"),
        ({"http.status_code": "503", "response_flags": "-"}, True, "HTTP 503"),
        ({names.ERROR_TYPE: "23505"}, True, "23505"),
        ({}, True, "ERROR"),
    ],
)
def test_what_failed_says_how_in_words(attributes: dict[str, str], failed: bool, told: str) -> None:
    one = replace(span("Some/Method", **attributes), failed=failed)
    first, second = drawn(one)
    assert first.startswith("Some/Method")
    assert second == f"! {told}"


@pytest.mark.parametrize(
    "attributes",
    [{}, {names.RPC_STATUS: names.OK}, {"grpc.status_code": "0", "http.status_code": "200"}],
)
def test_what_went_well_says_nothing(attributes: dict[str, str]) -> None:
    assert len(drawn(span("Some/Method", **attributes))) == 1


def test_what_others_wrote_stays_in_its_line() -> None:
    wrong = replace(
        span("a\n\x1b[2Jb"), instance="i\r", failed=True, attributes={names.REASON: "r\nr"}
    )
    lines = drawn(wrong)
    assert lines[0].startswith("a\\n\\u001b[2Jb i\\r ")
    assert lines[1:] == ["! ERROR r\\nr"]
