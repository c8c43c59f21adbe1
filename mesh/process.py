"""A child process of the supervisor: started, logged, restarted when it dies, stopped in time."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from mesh.tracebacks import Joiner

log = logging.getLogger(__name__)

FIRST_BACKOFF: Final = 0.1
LONGEST_BACKOFF: Final = 10.0
STABLE_SECONDS: Final = 30.0
LINE_LIMIT: Final = 256 * 1024
"""Bytes of a line that a child prints."""
# A traceback is printed at once: what comes later is something else.
_QUIET_SECONDS: Final = 0.5
_LAUNCHER: Final = Path(__file__).with_name("launch.py")

Output = Callable[[str, str], None]
"""Takes the name of a process and a record that it printed: a line, or the lines of a traceback. It
does not fail: a mesh that cannot log goes on."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to start.

    Attributes:
        arguments: the program and its arguments.
        environment: its whole environment.
        user: whom to run it as, None for ourselves.
        death_signal: what it is sent when the supervisor dies.
        direct: it watches the supervisor itself and needs no launcher.
        stdin: a descriptor that it reads; a pipe whose other end this process keeps if None.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    user: str | None = None
    death_signal: signal.Signals = signal.SIGKILL
    direct: bool = False
    stdin: int | None = None


class Child(Protocol):
    """A process that runs, or has ended; as asyncio has it."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def returncode(self) -> int | None:
        """Its exit code once it has ended, the negative number of a signal that ended it."""

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """What it prints, on both of its streams."""

    async def wait(self) -> int:
        """Waits for its end; returns its exit code."""

    def send_signal(self, signal: int, /) -> None:
        """Sends it a signal.

        Raises:
            ProcessLookupError: it has ended.
        """


Start = Callable[[str, Command], Awaitable[Child]]
"""Starts what a command says, under a name.

Raises:
    OSError: it cannot be started now.
"""


class Process:
    """One child and its successors."""

    def __init__(self, name: str, output: Output, start: Start | None = None) -> None:
        self.name = name
        self.restarts = 0
        self.refusal = ""
        """What it said last when it ended by itself, for a reason that the next start will meet."""
        self.last_words = ""
        """What it said last that tells of its end."""
        self._output = output
        self._start = start or spawn
        self._child: Child | None = None
        self._started = 0.0
        self._end_is_planned = False

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        running = self._child is not None and self._child.returncode is None
        return self._child.pid if running and self._child else None

    @property
    def uptime(self) -> float:
        """Seconds since its start; 0 when it does not run."""
        return time.monotonic() - self._started if self.pid else 0.0

    async def start(self, command: Command) -> None:
        """Starts the program in a session of its own: Ctrl-C reaches only the supervisor."""
        self._started = time.monotonic()
        self._child = await self._start(self.name, command)
        self._started = time.monotonic()

    async def wait(self) -> int:
        """Passes output on until the program ends; returns its exit code."""
        child = self._child
        if child is None or child.stdout is None:
            raise RuntimeError(f"{self.name} was not started")
        joiner = Joiner()
        while True:
            try:
                async with asyncio.timeout(_QUIET_SECONDS if joiner.is_waiting else None):
                    line = await child.stdout.readline()
            except TimeoutError:
                self._tell(joiner.end())
                continue
            except ValueError:
                continue  # a line beyond the limit is left out
            if not line:
                break
            self._tell(joiner.add(line.decode(errors="replace").rstrip("\n")))
        self._tell(joiner.end())
        return await child.wait()

    def _tell(self, records: Sequence[str]) -> None:
        for record in records:
            self._output(self.name, record)
            self.last_words = last_words(record) or self.last_words

    async def keep_running(
        self,
        prepare: Callable[[], Awaitable[Command]],
        ended: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Starts the program, and starts it again whenever it ends, until cancelled.

        Each start asks `prepare` for a fresh command; `ended` is told of each end.
        """
        backoff = FIRST_BACKOFF
        while True:
            code = await self._run(prepare, ended)
            self.restarts += 1
            if self._end_is_planned:
                self._end_is_planned = False
                continue
            if self.uptime_at_end > STABLE_SECONDS:
                backoff = FIRST_BACKOFF
            log.warning(
                "%s ended with %s; starting it again in %.1f s%s",
                self.name,
                code,
                backoff,
                f" ({self.last_words})" if self.last_words else "",
            )
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF)

    async def _run(
        self,
        prepare: Callable[[], Awaitable[Command]],
        ended: Callable[[], Awaitable[None]] | None,
    ) -> int | OSError:
        """One life of the program; how it ended. No memory or disk is an end like any other."""
        self.last_words = ""
        try:
            await self.start(await prepare())
            code = await self.wait()
            if code > 0 and code != os.EX_TEMPFAIL:
                self.refusal = self.last_words or f"it ended with {code}"
            if ended is not None:
                await ended()
        except OSError as error:
            return error
        return code

    @property
    def uptime_at_end(self) -> float:
        """Seconds from the last start until now."""
        return time.monotonic() - self._started

    def send(self, number: int) -> None:
        """Sends a signal, if it runs."""
        if self.pid and self._child:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)

    async def restart(self, number: int, seconds: float) -> None:
        """Ends it as `stop` does; `keep_running` starts it again at once."""
        self._end_is_planned = self.pid is not None
        await self.stop(number, seconds)

    async def stop(self, number: int, seconds: float) -> None:
        """Asks it to end with a signal, and kills it when it takes longer."""
        child = self._child
        if child is None or child.returncode is not None:
            return
        self.send(number)
        try:
            async with asyncio.timeout(seconds):
                await child.wait()
        except TimeoutError:
            log.warning("%s did not stop in %.0f s; killing it", self.name, seconds)
            self.send(signal.SIGKILL)
            await child.wait()


async def spawn(name: str, command: Command) -> Child:
    """Starts a program of its own; `name` is for those who look."""
    del name
    return await asyncio.create_subprocess_exec(
        *_launched(command),
        env=environment_of(command),
        # Held open by us alone: its end tells a child on systems without a death signal.
        stdin=asyncio.subprocess.PIPE if command.stdin is None else command.stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        limit=LINE_LIMIT,
    )


def environment_of(command: Command) -> dict[str, str]:
    """The environment of a child: what was ordered, and whose child it is."""
    return dict(command.environment) | {"ICTO_PARENT_PID": str(os.getpid())}


def last_words(line: str) -> str:
    """What a line tells of the end of a program: a critical log line, or one that is no log line.

    Of a traceback that is its last line.
    """
    try:
        values = json.loads(line)
    except ValueError:
        return line.strip().rpartition("\n")[2].strip()
    if isinstance(values, dict) and values.get("level") == "critical":
        return str(values.get("message", ""))
    return ""


def _launched(command: Command) -> Sequence[str]:
    if command.direct:
        return command.arguments
    return (
        sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()),
        str(int(command.death_signal)), command.user or "-", *command.arguments,
    )  # fmt: skip
