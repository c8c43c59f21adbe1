"""Processes of this machine, told apart even when a number is used again. From /proc: Linux."""

import contextlib
import os
import signal
from collections.abc import Collection, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

_LISTENING: Final = "0A"


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


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stops a process and all that came from it; they go on when the block ends.

    Who is stopped has no more children: asked again until nobody new is found, it misses nobody.
    """
    stopped: set[ProcessId] = set()
    try:
        while found := descendants(pid) - stopped:
            for process in found:
                _signal(process, signal.SIGSTOP)
            stopped |= found
        yield
    finally:
        for process in stopped:
            _signal(process, signal.SIGCONT)


def _signal(process: ProcessId, sent: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.alive:
            os.kill(process.pid, sent)


def command_of(pid: int) -> str:
    """Its command line; empty once it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def listeners_of(pids: Collection[int]) -> set[str]:
    """Internet addresses on which any of these processes listens."""
    inodes = {link for pid in pids for link in _sockets(pid)}
    found = set()
    for table, width in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and f"socket:[{fields[9]}]" in inodes:
                raw = bytes.fromhex(fields[1][:width])
                # Each 32 bits of it are a number in this machine's byte order.
                words = (raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
                found.add(str(ip_address(b"".join(words))))
    return found


def _sockets(pid: int) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                yield str(link.readlink())


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
