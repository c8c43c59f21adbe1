"""A trace as a waterfall in the terminal."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.table import Table
from rich.text import Text

from observability.receiver import StoredSpan

_BAR_WIDTH: Final = 40
_NAME_WIDTH: Final = 64
_MILLISECOND: Final = 1_000_000


def draw(spans: Sequence[StoredSpan]) -> Table:
    """A table with a row for each span, children below their parents, bars on one time axis."""
    start = min(span.start for span in spans)
    length = max(max(span.end for span in spans) - start, 1)
    services = {span.service for span in spans}
    title = (
        f"trace {spans[0].trace_id}: {len(spans)} spans of {len(services)} services"
        f" in {length / _MILLISECOND:.1f} ms"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("span", no_wrap=True)
    table.add_column("service", no_wrap=True)
    table.add_column("ms", justify="right")
    table.add_column("", min_width=_BAR_WIDTH, no_wrap=True)
    for depth, span in in_tree_order(spans):
        style = "red" if span.failed else ""
        table.add_row(
            Text(("  " * depth + span.name)[:_NAME_WIDTH], style=style),
            Text(span.instance or span.service, style="dim"),
            f"{(span.end - span.start) / _MILLISECOND:.2f}",
            Text(_bar(span, start, length), style=style or "cyan"),
        )
    return table


def in_tree_order(spans: Sequence[StoredSpan]) -> Iterator[tuple[int, StoredSpan]]:
    """Spans with their depth: each parent before its children, siblings by start."""
    known = {span.span_id for span in spans}
    children: dict[str, list[StoredSpan]] = {}
    for span in sorted(spans, key=lambda s: s.start):
        parent = span.parent_id if span.parent_id in known else ""
        children.setdefault(parent, []).append(span)
    pending = [(0, span) for span in reversed(children.get("", []))]
    while pending:
        depth, span = pending.pop()
        yield depth, span
        pending += [(depth + 1, child) for child in reversed(children.get(span.span_id, []))]


def _bar(span: StoredSpan, start: int, length: int) -> str:
    first = int((span.start - start) / length * _BAR_WIDTH)
    last = max(first + 1, round((span.end - start) / length * _BAR_WIDTH))
    return " " * min(first, _BAR_WIDTH - 1) + "█" * max(1, min(last, _BAR_WIDTH) - first)
