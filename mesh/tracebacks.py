"""Makes one record of the lines of a traceback, or of whatever else Python says last.

A program of ours logs one JSON object a line. What its interpreter prints by itself, because
logging was not set up yet or is no more, is many lines that mean nothing one by one.
"""

import re
from collections.abc import Sequence
from typing import Final

_BEGINS: Final = re.compile(
    r"\s*(\+ Exception Group )?Traceback \(most recent call last\)"
    r"|Exception (ignored )?in|Fatal Python error|(Task|Future) exception was never retrieved"
    r"|--- Logging error ---|Unhandled exception in"
)
_MOST_LINES: Final = 2000


class Joiner:
    """Takes lines as they come, and gives records back."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @property
    def is_waiting(self) -> bool:
        """Whether a record has begun whose end is not known yet."""
        return bool(self._lines)

    def add(self, line: str) -> Sequence[str]:
        """The records that are complete with a line."""
        if line.startswith("{"):
            return [*self.end(), line]
        if self._lines or _BEGINS.match(line):
            self._lines.append(line)
            return self.end() if len(self._lines) >= _MOST_LINES else ()
        return (line,)

    def end(self) -> Sequence[str]:
        """The record that was begun, if there is one: nothing more came for a while, or ever."""
        lines, self._lines = self._lines, []
        return ["\n".join(lines).rstrip()] if lines else []
