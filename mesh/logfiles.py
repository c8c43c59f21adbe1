"""What the processes print: to bounded files, and as lines for people on the terminal."""

import json
from pathlib import Path
from typing import IO, Final

_LIMIT_BYTES: Final = 8 * 1024 * 1024


class LogFiles:
    """A log file for each process; the one before it is kept when it is full."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[str]] = {}

    def write(self, name: str, line: str) -> None:
        """Adds a line."""
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = self.path(name).open("a", buffering=1)
        file.write(line + "\n")
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
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if not isinstance(values, dict) or "message" not in values:
        return f"{name:<18} {line}"
    values = {
        k: v for k, v in values.items() if k not in ("service", "instance", "logger", "span_id")
    }
    moment = str(values.pop("time", ""))[11:23]
    level, message = str(values.pop("level", "")), values.pop("message")
    trace = str(values.pop("trace_id", ""))[:8]
    exception = values.pop("exception", None)
    rest = " ".join(f"{key}={value}" for key, value in values.items() if value is not None)
    text = f"{moment} {name:<18} {level:<8} {message} {rest}".rstrip()
    text += f"  [{trace}]" if trace else ""
    return text if exception is None else f"{text}\n{exception}"
