"""The supervisor's side: a fork server of the code that is installed now, and what it forks.

There is one fork server at a time. When what is installed differs from what it has loaded, or when
it ends, another one takes its place; what it forked before lives on.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from mesh.fork_server import installed_code, server
from mesh.fork_server.adoption import Adopted, Orphans, subreaper
from mesh.fork_server.child import Orders
from mesh.fork_server.installed_code import InstalledCode, first_difference
from mesh.fork_server.start_method import check_environment
from mesh.process import (
    FIRST_BACKOFF,
    LINE_LIMIT,
    LONGEST_BACKOFF,
    STABLE_SECONDS,
    Child,
    Command,
    Output,
    Process,
    environment_of,
)

log = logging.getLogger(__name__)

NAME: Final = "fork_server"
_READY_SECONDS: Final = 60.0
_FORK_SECONDS: Final = 30.0
_END_SECONDS: Final = 2.0
_TRIES: Final = 3
# Code that cannot be loaded may be mended, and what it lacks may be no file of ours.
_LOOK_SECONDS: Final = 0.5
_TRY_AGAIN_SECONDS: Final = 10.0
_PID_BYTES: Final = 32


class CodeError(Exception):
    """The code that is installed now cannot be loaded. The message is what it said itself."""


class _EndedError(Exception):
    """A fork server ended before it did what it was asked."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is forked.

    Attributes:
        module: its name; its function `prepare` returns what each fork runs.
        arguments: those of `prepare`. No secret is among them.
        environment: that of the fork server.
    """

    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Failure:
    """That some code cannot be loaded, and when that was found."""

    code: InstalledCode
    reason: str
    found: float = field(default_factory=time.monotonic)


class ForkServers:
    """The fork server of an installation, and its successors."""

    name: Final = NAME

    def __init__(self, program: Program, output: Output) -> None:
        self._program = program
        self._output = output
        self._folders = installed_code.folders()
        self._turn = asyncio.Lock()
        self._server: _Server | None = None
        self._failure: _Failure | None = None
        self._orphans = Orphans()

    @property
    def refusal(self) -> str:
        """Why the code cannot be loaded that is installed now; empty as far as is known."""
        return self._failure.reason if self._failure else ""

    async def run(self) -> None:
        """Keeps a fork server standing, and the process table clean, until cancelled."""
        with subreaper():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._orphans.collect())
                tasks.create_task(self._keep_standing())

    async def end(self) -> None:
        """Lets the fork server end."""
        if self._server is not None:
            await self._server.end()

    async def check(self) -> None:
        """Passes when a replica could be started now.

        Raises:
            CodeError: the code that is installed now cannot be loaded.
            OSError: there is no fork server for another reason.
        """
        await self._standing()

    async def start(self, name: str, command: Command) -> Child:
        """Starts a process of the code that is installed now; waits until that can be loaded.

        Raises:
            StartMethodError: its environment is not possible for one that is forked.
            OSError: it cannot be started now.
        """
        check_environment(self._program.environment, command.environment)
        for _ in range(_TRIES):
            server = await self._loadable()
            with contextlib.suppress(_EndedError), self._orphans.expecting():
                return await server.fork(name, command)
        raise ChildProcessError("the fork server ends whenever it is asked; see its log")

    async def _loadable(self) -> "_Server":
        """The fork server, once the code that is installed can be loaded."""
        while True:
            with contextlib.suppress(CodeError):
                return await self._standing()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _keep_standing(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            try:
                server = await self._loadable()
                code = await server.ended()
            except OSError as error:
                log.warning("there is no fork server: %s", error)
            else:
                if server is not self._server:
                    continue  # another one took its place
                log.warning("the fork server ended with %s; starting another one", code)
                if server.uptime > STABLE_SECONDS:
                    backoff = FIRST_BACKOFF
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF)

    async def _standing(self) -> "_Server":
        """The fork server of the code that is installed now."""
        async with self._turn:
            code = await asyncio.to_thread(installed_code.look, self._folders)
            before = self._server
            if before is not None and before.stands and before.code == code:
                return before
            fresh = await self._loaded(code)
            if before is not None and (file := first_difference(before.code, code)):
                log.warning("%s changed: what starts from now on has the new code", file)
            self._server, self._failure = fresh, None
            if before is not None:
                await before.end()
            return fresh

    async def _loaded(self, code: InstalledCode) -> "_Server":
        """A fork server that has loaded the code. What keeps it from that is said once."""
        known = self._failure if self._failure and self._failure.code == code else None
        if known and time.monotonic() - known.found < _TRY_AGAIN_SECONDS:
            raise CodeError(known.reason)
        server = _Server(self._program, code, _unheard if known else self._output)
        try:
            await server.start()
        except CodeError as error:
            reason = str(error)
            if known is None or known.reason != reason:
                log.warning("no replica starts until its code can be loaded: %s", reason)
            self._failure = _Failure(code, reason)
            raise
        return server


def _unheard(name: str, line: str) -> None:
    """Says nothing: what would be said was said."""


class _Server:
    """One fork server."""

    def __init__(self, program: Program, code: InstalledCode, output: Output) -> None:
        self.code = code
        self._program = program
        self._process = Process(NAME, output)
        self._asking: socket.socket | None = None
        self._ends: asyncio.Task[int] | None = None

    @property
    def stands(self) -> bool:
        """Whether it can be asked: its end of the socket is open."""
        if self._asking is None:
            return False
        try:
            return bool(self._asking.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    @property
    def uptime(self) -> float:
        """Seconds from its start until now."""
        return self._process.uptime_at_end

    async def start(self) -> None:
        """Starts it, and waits until it has loaded everything.

        Raises:
            CodeError: it cannot.
            OSError: it did not get that far.
        """
        self._asking, theirs = socket.socketpair()
        self._asking.setblocking(False)
        try:
            with theirs:
                await self._process.start(self._command(theirs.fileno()))
            self._ends = asyncio.create_task(self._process.wait())
            async with asyncio.timeout(_READY_SECONDS):
                ready = await asyncio.get_running_loop().sock_recv(self._asking, len(server.READY))
                if not ready:
                    self._tell_end(await self._ends)
        except BaseException:
            await self.end()
            raise

    def _tell_end(self, code: int) -> NoReturn:
        """Tells why it ended before it was ready."""
        if code > 0:
            raise CodeError(self._process.last_words)
        raise ChildProcessError(f"the fork server ended with {code} while it loaded the code")

    def _command(self, asked: int) -> Command:
        module, arguments = self._program.module, self._program.arguments
        # -P: whatever lies in the folder where somebody typed `icto up`, it is not our code.
        program = (sys.executable, "-P", "-m", server.__name__, module, *arguments)
        return Command(program, self._program.environment, stdin=asked)

    async def fork(self, name: str, command: Command) -> Child:
        """A new process.

        Raises:
            _EndedError: the server is no more.
            OSError: there is no new process.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            with theirs:
                self._ask(theirs)
            try:
                async with asyncio.timeout(_FORK_SECONDS):
                    said = await asyncio.get_running_loop().sock_recv(ours, _PID_BYTES)
            except TimeoutError:
                self._process.send(signal.SIGKILL)  # it hangs
                raise
            if not said and self.stands:
                raise ChildProcessError("the fork server could not fork")
            if not said:
                raise _EndedError
            return await _ordered(int(said), ours, name, command)

    def _ask(self, orders: socket.socket) -> None:
        if self._asking is None:
            raise _EndedError
        try:
            socket.send_fds(self._asking, [server.FORK], [orders.fileno()])
        except OSError:
            raise _EndedError from None

    async def ended(self) -> int:
        """Waits until it has ended; returns its exit code."""
        if self._ends is None:
            raise RuntimeError("the fork server was not started")
        return await asyncio.shield(self._ends)

    async def end(self) -> None:
        """Lets it end, as it does when nobody can ask it any more; what it forked lives on."""
        if self._asking is not None:
            self._asking.close()
            self._asking = None
        await self._process.stop(signal.SIGTERM, _END_SECONDS)
        if self._ends is not None:
            await self._ends


async def _ordered(pid: int, orders: socket.socket, name: str, command: Command) -> Child:
    """Tells a new process who it is, and gives it its standard streams."""
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        stdin, held = os.pipe()
        theirs.callback(os.close, stdin)
        # Held open by us alone, as that of every child.
        ours.callback(os.close, held)
        read, stdout = os.pipe()
        theirs.callback(os.close, stdout)
        adopted = Adopted(pid, held, await _reader(read))
        ours.pop_all()
        sent = Orders(name, command.arguments, environment_of(command)).packed()
        try:
            first = socket.send_fds(orders, [sent], [stdin, stdout])
            if rest := sent[first:]:
                await asyncio.get_running_loop().sock_sendall(orders, rest)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                adopted.send_signal(signal.SIGKILL)
            raise
    return adopted


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    return reader
