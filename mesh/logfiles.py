"""What the processes print: JSON in bounded files, and lines for people on the terminal."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

_LIMIT_BYTES: Final = 8 * 1024 * 1024
# In the file for those who look for it; on the terminal it would bury the rest.
_NOT_FOR_PEOPLE: Final = ("service", "instance", "logger", "span_id", "settings")


class LogFiles:
    """A log file for each process; the one before it is kept when it is full."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[str]] = {}

    def write(self, name: str, line: str) -> None:
        """Adds a line: as it is when it is JSON, else as the message of a JSON object."""
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = self.path(name).open("a", buffering=1)
        file.write((line if _values(line) else _wrapped(name, line)) + "\n")
        if file.tell() > _LIMIT_BYTES:
            file.close()
            del self._files[name]
            self.path(name).replace(self.path(name).with_suffix(".log.1"))

    def path(self, name: str) -> Path:
        """The file of a process."""
        return self._folder / f"{name}.log"

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()


def readable(name: str, line: str) -> str:
    """A line for people: time, process, level, message and what else it says."""
    values = _values(line)
    if "message" not in values:
        return f"{name:<18} {line}"
    values = {k: v for k, v in values.items() if k not in _NOT_FOR_PEOPLE}
    moment = str(values.pop("time", ""))[11:23]
    level, message = str(values.pop("level", "")), values.pop("message")
    trace = str(values.pop("trace_id", ""))[:8]
    exception = values.pop("exception", None)
    rest = " ".join(f"{key}={value}" for key, value in values.items() if value is not None)
    text = f"{moment} {name:<18} {level:<8} {message} {rest}".rstrip()
    text += f"  [{trace}]" if trace else ""
    return text if exception is None else f"{text}\n{exception}"


def _values(line: str) -> dict[str, Any]:
    """What a line of JSON says; nothing when it is something else."""
    try:
        values = json.loads(line)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _wrapped(name: str, line: str) -> str:
    """A line of a program that does not log as we do: Postgres, or Python before it is set up."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": "info", "service": name, "message": line})
