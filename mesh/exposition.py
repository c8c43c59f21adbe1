"""Prometheus expositions of many processes made one: read, labelled, merged, and written again.

Lines are moved, not parsed into numbers: a hundred times cheaper, and nothing is rounded. What is
read is Prometheus' text format; what is written is that, or OpenMetrics.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from prometheus_client.utils import floatToGoString

COUNTER: Final = "counter"
_TOTAL: Final = "_total"
_CREATED: Final = "_created"
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_BOUND: Final = re.compile(r'\ble="([^"]*)"')


def _number(value: float | str) -> str:
    """A number as both formats spell it."""
    spelled: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return spelled


class Format(Enum):
    """What is written."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass
class Family:
    """The samples of one metric.

    Attributes:
        name: as the text format has it: a counter's ends in `_total`.
        kind: counter, gauge, histogram ...
        help: what it says, escaped as the text format does.
        samples: lines.
    """

    name: str
    kind: str = "untyped"
    help: str = ""
    samples: list[str] = field(default_factory=list)


def family(
    name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]
) -> Family:
    """A metric of our own, with its samples: labels and value of each."""
    lines = [
        f"{name}{{{labels(**given)}}} {_number(value)}" if given else f"{name} {_number(value)}"
        for given, value in samples
    ]
    return Family(name, kind, text, lines)


def labels(**given: str) -> str:
    """Labels as they stand between braces."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in given.items())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def read(text: str, more_labels: str = "") -> Iterator[Family]:
    """The families of an exposition in text format, `more_labels` put before those of each sample.

    A counter whose name does not say so is given the suffix that it must have. When each series
    began is left out: a line more for each, that nobody reads, and no family in OpenMetrics.
    """
    return (one for one in _families(text, more_labels) if not one.name.endswith(_CREATED))


def _families(text: str, more_labels: str) -> Iterator[Family]:
    told, suffix, current = "", "", Family("")
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            _, word, name, *rest = line.split(" ", 3)
            if name != told:
                if current.samples:
                    yield current
                told, suffix, current = name, "", Family(name)
            if word == "HELP":
                current.help = "".join(rest)
                continue
            current.kind = "".join(rest)
            if current.kind == COUNTER and not name.endswith(_TOTAL):
                suffix, current.name = _TOTAL, name + _TOTAL
        elif line and not line.startswith("#"):
            current.samples.append(_labelled(line, more_labels, suffix))
    if current.samples:
        yield current


def _labelled(line: str, more_labels: str, suffix: str) -> str:
    found = _NAME.match(line)
    if found is None:
        return line
    name, rest = found[0], line[found.end() :]
    if name.endswith("_bucket"):
        rest = _BOUND.sub(_canonical, rest)
    rest = rest.removeprefix("{}")
    if not rest.startswith("{"):
        more = f"{{{more_labels}}}" if more_labels else ""
        return f"{name}{suffix}{more}{rest}"
    comma = "," if more_labels else ""
    return f"{name}{suffix}{{{more_labels}{comma}{rest[1:]}"


def _canonical(bound: re.Match[str]) -> str:
    """OpenMetrics takes the bound of a bucket in one spelling only."""
    return f'le="{_number(bound[1])}"'


def merge(families: Iterable[Family]) -> list[Family]:
    """Families of one name and kind made one. Of another kind, the first counts."""
    merged: dict[str, Family] = {}
    for one in families:
        known = merged.get(one.name)
        if known is None:
            merged[one.name] = Family(one.name, one.kind, one.help, list(one.samples))
        elif known.kind == one.kind:
            known.samples.extend(one.samples)
    return list(merged.values())


def write(families: Iterable[Family], form: Format) -> bytes:
    """An exposition of families whose names differ."""
    lines: list[str] = []
    for one in families:
        name, kind, told = one.name, one.kind, one.help or "From Envoy."
        if form is Format.OPENMETRICS:
            told = told.replace('"', r"\"")
            kind = "unknown" if kind == "untyped" else kind
            name = name.removesuffix(_TOTAL) if kind == COUNTER else name
        lines += (f"# HELP {name} {told}", f"# TYPE {name} {kind}", *one.samples)
    if form is Format.OPENMETRICS:
        lines.append("# EOF")
    return "\n".join((*lines, "")).encode()
