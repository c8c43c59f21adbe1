"""Traces, metrics and logs: their names in one module, their set-up in one call."""

from typing import Final

EXPORT_MILLISECONDS: Final = 1_000
"""How long a span waits for others to leave with: a batch costs little more than one span does."""
SCRAPE_PATH: Final = "/icto.kit/Metrics"
"""Private method of each replica: its metrics in Prometheus' text format."""
