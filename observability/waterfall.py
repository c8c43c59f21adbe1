"""A trace as a waterfall in the terminal, whatever its width."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from observability import names
from observability.receiver import StoredSpan

_MILLISECOND: Final = 1_000_000
_DURATION_WIDTH: Final = 9
_SHORTEST_BAR: Final = 12
_LONGEST_BAR: Final = 60
_WIDE: Final = 110
"""From here on there is room to indent children by two."""


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
        yield Text(f"trace {self.spans[0].trace_id}", style="bold")
        yield Text(
            f"{len(self.spans)} spans of {len(services)} services in {length / _MILLISECOND:.1f} ms"
        )
        for depth, span in in_tree_order(self.spans):
            style = "red" if span.failed else ""
            name = " " * (columns.indent * depth) + short_name(span.name)
            yield Text.assemble(
                (_fit(name, columns.name), style),
                " ",
                (_fit(_place(span), columns.place), "dim"),
                f"{(span.end - span.start) / _MILLISECOND:{_DURATION_WIDTH}.2f} ",
                (_bar(span, start, length, columns.bar), style or "cyan"),
            )


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


def short_name(name: str) -> str:
    """A span's name without the package: `DeploymentService/DeployToken`."""
    service, slash, method = name.rpartition("/")
    return f"{service.rpartition('.')[2]}{slash}{method}"


def _place(span: StoredSpan) -> str:
    return span.instance or span.service


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
