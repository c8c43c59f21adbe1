"""The outline of a trace: calls and steps, each below the closest one around it."""

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
