"""Processes that became children of this one although another one forked them.

The kernel gives a child subreaper every orphan among its descendants. Those that this process
asked for are waited for one by one, each through a descriptor of its own, so that no exit code goes
to somebody else. The others, left by whatever was killed, are only taken off the process table.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mesh.fork_server import linux

_LOOK_SECONDS: Final = 1.0
_ZOMBIE: Final = "Z"


class Adopted:
    """A process that was forked for us. It is used as `asyncio.subprocess.Process` is."""

    def __init__(self, pid: int, stdin: int, stdout: asyncio.StreamReader) -> None:
        """Takes the end of its standard input over, which is held open while it runs.

        Raises:
            OSError: it is no child of this process.
        """
        self.pid = pid
        self.returncode: int | None = None
        """Exit code once it has ended; the negative number of a signal that ended it."""
        self.stdout = stdout
        self._stdin = stdin
        self._ended = asyncio.Event()
        self._descriptor = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._descriptor, self._collect)

    async def wait(self) -> int:
        """Waits for its end; returns its exit code."""
        await self._ended.wait()
        if self.returncode is None:
            raise RuntimeError("a process has ended and has no exit code")
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it a signal.

        Raises:
            ProcessLookupError: it has ended.
        """
        if self.returncode is not None:
            raise ProcessLookupError
        signal.pidfd_send_signal(self._descriptor, number)

    def _collect(self) -> None:
        found = os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
        if found is None:
            return
        exited = found.si_code == os.CLD_EXITED
        self.returncode = found.si_status if exited else -found.si_status
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        os.close(self._stdin)
        self._ended.set()


@contextlib.contextmanager
def subreaper() -> Iterator[None]:
    """This process gets the orphans among its descendants in this block."""
    linux.set_child_subreaper(on=True)
    try:
        yield
    finally:
        linux.set_child_subreaper(on=False)


class Orphans:
    """Takes those off the process table that nobody waits for.

    A process that is waited for is collected within milliseconds; one that is found dead at two
    looks in a row is not.
    """

    def __init__(self) -> None:
        self._dead: frozenset[int] = frozenset()
        self._expected = 0

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """In this block a process is on its way whose id is not known yet: nothing is taken."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1
            self._dead = frozenset()

    async def collect(self) -> None:
        """Looks once a second, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Takes those that were dead at the last look already."""
        dead = _dead_children()
        if self._expected:
            return
        for pid in dead & self._dead:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._dead = dead


def _dead_children() -> frozenset[int]:
    """Children that have ended and were not waited for; they stay on the table."""
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return frozenset()
    except ChildProcessError:
        return frozenset()
    return frozenset(int(entry.name) for entry in Path("/proc").iterdir() if _is_dead_child(entry))


def _is_dead_child(entry: Path) -> bool:
    if not entry.name.isdigit():
        return False
    try:
        status = (entry / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # The name, in brackets, may hold anything.
    state, parent, *_ = status.rpartition(")")[2].split()
    return state == _ZOMBIE and int(parent) == os.getpid()
