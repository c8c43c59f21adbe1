"""A trace as a waterfall in the terminal, whatever its width; what failed says so in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import grpc
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from observability import names
from observability.printable import escape
from observability.receiver import StoredSpan

_MILLISECOND: Final = 1_000_000
_DURATION_WIDTH: Final = 9
_SHORTEST_BAR: Final = 12
_LONGEST_BAR: Final = 60
_WIDE: Final = 110
"""From here on there is room to indent children by two."""
_CODES: Final = {str(code.value[0]): code.name for code in grpc.StatusCode}
# What Envoy writes on its spans.
_ENVOY_GRPC: Final = "grpc.status_code"
_ENVOY_HTTP: Final = "http.status_code"
_ENVOY_FLAGS: Final = "response_flags"
_FIRST_HTTP_ERROR: Final = 400


def draw(spans: Sequence[StoredSpan]) -> "Waterfall":
    """A line for each span, children below their parents, bars on one time axis."""
    return Waterfall(spans)


def outline(spans: Sequence[StoredSpan]) -> list[StoredSpan]:
    """The calls that services served and the steps of pipelines, without all that they did inside.

    Each is put below the closest of them around it.
    """
    parents = {span.span_id: span.parent_id for span in spans}
    kept = {s.span_id for s in spans if {names.CALLER, names.PIPELINE_ID} & set(s.attributes)}

    def above(span_id: str) -> str:
        parent = parents.get(span_id, "")
        while parent and parent not in kept:
            parent = parents.get(parent, "")
        return parent

    return [replace(s, parent_id=above(s.span_id)) for s in spans if s.span_id in kept]


@dataclass(frozen=True)
class Waterfall:
    """Spans of one trace, to be printed."""

    spans: Sequence[StoredSpan]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lays the lines out for the width that there is."""
        start = min(span.start for span in self.spans)
        length = max(max(span.end for span in self.spans) - start, 1)
        columns = _Columns.within(options.max_width, self.spans)
        services = {span.service for span in self.spans}
        yield Text(f"trace {escape(self.spans[0].trace_id)}", style="bold")
        yield Text(
            f"{len(self.spans)} spans of {len(services)} services in {length / _MILLISECOND:.1f} ms"
        )
        for depth, span in in_tree_order(self.spans):
            failure = failure_of(span)
            style = "red" if failure else ""
            name = " " * (columns.indent * depth) + short_name(span.name)
            yield Text.assemble(
                (_fit(name, columns.name), style),
                " ",
                (_fit(_place(span), columns.place), "dim"),
                f"{(span.end - span.start) / _MILLISECOND:{_DURATION_WIDTH}.2f} ",
                (_bar(span, start, length, columns.bar), style or "cyan"),
            )
            if failure:
                yield Text(f"{' ' * (columns.indent * depth)}! {failure}", style)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Widths of the columns."""

    name: int
    place: int
    bar: int
    indent: int

    @classmethod
    def within(cls, width: int, spans: Sequence[StoredSpan]) -> "_Columns":
        """Widths for a terminal: names get what they need, bars get the rest."""
        indent = 2 if width >= _WIDE else 1
        place = max(len(_place(span)) for span in spans)
        longest = max(indent * depth + len(short_name(s.name)) for depth, s in in_tree_order(spans))
        free = width - place - _DURATION_WIDTH - 3
        bar = max(_SHORTEST_BAR, min(free - longest, _LONGEST_BAR))
        return cls(max(1, min(longest, free - bar)), place, bar, indent)


def failure_of(span: StoredSpan) -> str:
    """How it failed, as `UNAVAILABLE ledger: REASON: message`; "" when it did not."""
    said = span.attributes
    code = _code(span)
    parts = (said.get(key, "") for key in (names.ERROR_SERVICE, names.REASON, names.ERROR_MESSAGE))
    why = ": ".join(part for part in parts if part) or said.get(_ENVOY_FLAGS, "").strip("-")
    return escape(f"{code} {why}".strip())


def _code(span: StoredSpan) -> str:
    """The status that a call ended with, or the kind of error; "" when it went well."""
    said = span.attributes
    status = said.get(names.RPC_STATUS) or _CODES.get(said.get(_ENVOY_GRPC, ""), "")
    if status and status != names.OK:
        return status
    http = said.get(_ENVOY_HTTP, "")
    if http.isdecimal() and int(http) >= _FIRST_HTTP_ERROR:
        return f"HTTP {http}"
    return said.get(names.ERROR_TYPE, "ERROR") if span.failed else ""


def short_name(name: str) -> str:
    """A span's name without the package: `DeploymentService/DeployToken`."""
    service, slash, method = escape(name).rpartition("/")
    return f"{service.rpartition('.')[2]}{slash}{method}"


def _place(span: StoredSpan) -> str:
    return escape(span.instance or span.service)


def _fit(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"


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


def _bar(span: StoredSpan, start: int, length: int, width: int) -> str:
    first = min(int((span.start - start) / length * width), width - 1)
    last = round((span.end - start) / length * width)
    return " " * first + "█" * max(1, min(last, width) - first)
