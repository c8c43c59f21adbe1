"""What an installation logged while a test failed: the report carries it, since its folder goes."""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.support.installation import Installation

_LOUD: Final = {"warning", "error", "critical"}
_READ_BYTES: Final = 200_000
_LINES: Final = 40


def told_since(began: float, fixtures: Iterable[object]) -> str:
    """Newest warnings and errors of all processes since then, seconds since the epoch."""
    since = datetime.fromtimestamp(began, UTC).isoformat()
    lines = sorted(
        (str(line["time"]), f"{file.stem}: {json.dumps(line)}")
        for installation in _installations(fixtures)
        for file in installation.run.logs.glob("*.log")
        for line in _lines(file)
        if line.get("level") in _LOUD and str(line.get("time", "")) >= since
    )
    return "\n".join(text for _, text in lines[-_LINES:])


def _installations(fixtures: Iterable[object]) -> set[Installation]:
    found = (getattr(fixture, "installation", fixture) for fixture in fixtures)
    return {each for each in found if isinstance(each, Installation)}


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - _READ_BYTES))
        for text in log.read().splitlines():
            if text.startswith(b"{"):
                try:
                    yield json.loads(text)
                except ValueError:  # cut off, at either end
                    continue
