"""Rows of named columns, of which nothing is ever cut.

A table where it fits. In a terminal that is too narrow for it each row becomes a block with a line
for each column, as psql's expanded form.
"""

from collections.abc import Callable
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mesh.cli.terminal import plain_text

Bar = Callable[[int], Text]
"""Draws a bar in so many columns."""

_LONGEST_BAR: Final = 40
_SHORTEST_BAR: Final = 8
_BETWEEN: Final = 2
"""Columns that rich leaves between two."""
_ENDLESS: Final = 1_000_000


class Rows:
    """A table in the making. `numbers` are columns that stand to the right."""

    def __init__(self, *columns: str, numbers: frozenset[str] = frozenset()) -> None:
        self._columns = columns
        self._numbers = numbers
        self._rows: list[tuple[list[Text], Bar | None]] = []

    def add(self, *cells: str | Text, style: str = "", bar: Bar | None = None) -> None:
        """Adds a row; what is no Text of our own is escaped. A bar takes the room that is left."""
        texts = [cell if isinstance(cell, Text) else plain_text(cell, style) for cell in cells]
        self._rows.append((texts, bar))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, or the blocks."""
        wide = options.update(max_width=_ENDLESS)
        needed = Measurement.get(console, wide, self._table(0)).maximum
        if needed > options.max_width:
            yield from self._blocks()
            return
        room = min(options.max_width - needed - _BETWEEN, _LONGEST_BAR)
        yield self._table(room if room >= _SHORTEST_BAR else 0)

    def _table(self, room: int) -> Table:
        """The table, with bars in as many columns."""
        drawn = bool(room) and any(bar is not None for _, bar in self._rows)
        table = Table(box=None, pad_edge=False)
        for column in self._columns:
            justify = "right" if column in self._numbers else "left"
            table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # a literal
        if drawn:
            table.add_column("", no_wrap=True)
        for cells, bar in self._rows:
            table.add_row(*cells, *([bar(room) if bar else Text()] if drawn else []))
        return table

    def _blocks(self) -> RenderResult:
        width = max(map(len, self._columns)) + 2
        for number, (cells, _) in enumerate(self._rows):
            if number:
                yield Text()
            for column, cell in zip(self._columns, cells, strict=True):
                if cell.plain.strip():
                    yield Text.assemble((f"{column:<{width}}", "dim"), cell)
