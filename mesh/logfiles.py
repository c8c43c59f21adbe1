"""What the processes print: JSON in bounded files, and lines for people on the terminal."""

import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from observability.printable import escape

_LIMIT_BYTES: Final = 8 * 1024 * 1024
# In the file for those who look for it; on the terminal it would bury the rest.
_NOT_FOR_PEOPLE: Final = ("service", "instance", "logger", "span_id", "settings")


class LogFiles:
    """A log file for each process; the one before it is kept when it is full.

    A line that cannot be written, say on a full disk, is lost; the next that can be tells how many
    were.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[str]] = {}
        self._lost: dict[str, int] = {}

    def write(self, name: str, line: str) -> None:
        """Adds a line: as it is when it is JSON, else as the message of a JSON object."""
        lost = self._lost.get(name, 0)
        try:
            if lost:
                self._add(name, _wrapped(name, f"{lost} lines before this could not be written"))
                self._lost[name] = 0
            self._add(name, line if _values(line) else _wrapped(name, line))
        except OSError:
            self._lost[name] = self._lost.get(name, 0) + 1
            self._close(name)

    def _add(self, name: str, line: str) -> None:
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = self.path(name).open("a", buffering=1)
        file.write(line + "\n")
        if file.tell() > _LIMIT_BYTES:
            self._close(name)
            self.path(name).replace(self.path(name).with_suffix(".log.1"))

    def path(self, name: str) -> Path:
        """The file of a process."""
        return self._folder / f"{name}.log"

    def close(self) -> None:
        """Closes the files."""
        for name in list(self._files):
            self._close(name)

    def _close(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


def readable(name: str, line: str) -> str:
    """A line for people: time, process, level, message and what else it says.

    What it quotes of others stays in that line; only a traceback has lines of its own, indented.
    """
    values = _values(line)
    if "message" not in values:
        return escape(f"{name:<18} {line}")
    values = {k: v for k, v in values.items() if k not in _NOT_FOR_PEOPLE}
    moment = str(values.pop("time", ""))[11:23]
    level, message = str(values.pop("level", "")), values.pop("message")
    trace = str(values.pop("trace_id", ""))[:8]
    exception = values.pop("exception", None)
    rest = " ".join(f"{key}={value}" for key, value in values.items() if value is not None)
    text = f"{moment} {name:<18} {level:<8} {message} {rest}".rstrip()
    text = escape(f"{text}  [{trace}]" if trace else text)
    if exception is None:
        return text
    lines = escape(str(exception), lines=True).split("\n")
    return "\n".join((text, *(f"    {line}" for line in lines)))


def _values(line: str) -> dict[str, Any]:
    """What a line of JSON says; nothing when it is something else."""
    try:
        values = json.loads(line)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _wrapped(name: str, line: str) -> str:
    """What a program prints that does not log as we do: Postgres, or Python before it is set up.

    Of several lines the last one says what happened: it is a traceback.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    told = {"time": now, "level": "info", "service": name, "message": line}
    if "\n" in line:
        told |= {"level": "error", "message": line.rpartition("\n")[2].strip(), "exception": line}
    return json.dumps(told)
