"""Figures, and how they are printed: a table for people, or one JSON object a line."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Attributes:
        name: what was measured.
        value: the number; settings are text.
        unit: of the number.
        reference: the bar, and what others do.
        runs: how many single measurements are in it.
    """

    name: str
    value: float | str
    unit: str = ""
    reference: str = ""
    runs: int = 1


class Report:
    """Prints each figure as soon as it is known."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def title(self, text: str) -> None:
        """Begins a part."""
        if not self._as_json:
            print(f"\n{text}\n{'-' * len(text)}", flush=True)

    def add(self, figure: Figure) -> None:
        """Prints a figure."""
        print(json.dumps(asdict(figure)) if self._as_json else _row(figure), flush=True)

    def latencies(self, name: str, seconds: Sequence[float], reference: str = "") -> None:
        """Prints p50, p95 and p99 of latencies."""
        for percent in (50, 95, 99):
            value = percentile(seconds, percent) * 1000
            told = reference if percent == 50 else ""
            self.add(Figure(f"{name}, p{percent}", value, "ms", told, len(seconds)))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


def _row(figure: Figure) -> str:
    value = figure.value if isinstance(figure.value, str) else _rounded(figure.value)
    return f"{figure.name:<58}{value:>10} {figure.unit:<10} {figure.reference}".rstrip()


def _rounded(value: float) -> str:
    """Three digits that mean something."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
