"""Processes of this machine, told apart even when a number is used again. From /proc: Linux."""

from pathlib import Path
from typing import NamedTuple


class ProcessId(NamedTuple):
    """A process: its number and when it began."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Whether it still runs; one that only waits to be collected does not."""
        found = _read(self.pid)
        return found is not None and found.start == self.start and found.state != "Z"


class _Stat(NamedTuple):
    state: str
    parent: int
    start: int


def descendants(pid: int) -> set[ProcessId]:
    """A process and all that came from it and still have their parent."""
    table = {
        int(entry.name): stat
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (stat := _read(int(entry.name)))
    }
    found: set[ProcessId] = set()
    pending = [pid]
    while pending:
        current = pending.pop()
        found.add(ProcessId(current, table[current].start))
        pending += [child for child, stat in table.items() if stat.parent == current]
    return found


def command_of(pid: int) -> str:
    """Its command line."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def capabilities_of(pid: int) -> int:
    """What it may do beyond a plain user, as the kernel's bits."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("CapEff:")[2].split()[0], 16)


def _read(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in brackets, may hold anything.
    values = text.rpartition(")")[2].split()
    return _Stat(values[0], int(values[1]), int(values[19]))
