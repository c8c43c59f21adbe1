"""Calls that may be refused: each refusal is counted by its status, and ends no bench."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tests.bench.http import LOST, RefusedError
from tests.bench.report import Figure, Report

T = TypeVar("T")

_PASSING: Final = frozenset({LOST, 429, 503, 504})
"""Refusals that say something of the moment: the same call may be taken a moment later."""
_REPEATS: Final = 50


@dataclass
class Offers:
    """What became of the calls of one part of the bench."""

    taken: int = 0
    refused: Counter[int] = field(default_factory=Counter)

    async def once(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """The answer of a call, or None when it is refused."""
        try:
            answer = await call()
        except RefusedError as refused:
            self.refused[refused.status] += 1
            return None
        self.taken += 1
        return answer

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer of a call that is repeated while it is refused for the moment.

        Raises:
            RefusedError: for good, or for the moment every time.
        """
        for repeats in range(_REPEATS):
            try:
                answer = await call()
            except RefusedError as refused:
                self.refused[refused.status] += 1
                if refused.status not in _PASSING or repeats == _REPEATS - 1:
                    raise
            else:
                self.taken += 1
                return answer
        raise AssertionError("unreachable")

    def tell(self, report: Report, name: str) -> None:
        """A figure for each status that calls were refused with, or one that says none was."""
        total = self.taken + self.refused.total()
        report.add(Figure(f"{name}, refused", self.refused.total(), "", "", total))
        for status, count in sorted(self.refused.items()):
            told = "lost connections" if status == LOST else f"with {status}"
            report.add(Figure(f"  {told}", count, "", "", total))
