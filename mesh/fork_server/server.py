"""The fork server: imports all that a program needs, once, and forks it whenever it is asked.

    python -P -m mesh.fork_server.server PROGRAM [ARGUMENT ...]

PROGRAM is a module whose `prepare(*ARGUMENTS)` returns what each fork runs. Standard input is a
socket of the supervisor's: the server writes a byte to it once it is prepared, and each byte that
it reads comes with the end of a socket over which the new process, and nobody else, learns its
orders. Secrets are among those: they are never in the memory of this process.

It has one thread, no event loop and no handler for signals, since a fork copies the thread that
forks and whatever the others were in the middle of. It ends when nobody can ask it any more.
"""

import gc
import importlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import setproctitle

from mesh.fork_server import child, linux

READY: Final = b"R"
FORK: Final = b"F"
Program = Callable[[Sequence[str]], None]


def main(arguments: Sequence[str]) -> None:
    """Serves; in a process that was forked it returns when the program has ended."""
    module, *values = arguments
    supervisor = os.getppid()
    # The first call looks for what this process was started with; a fork has other things there.
    setproctitle.setproctitle(" ".join(("icto: fork_server", *arguments)))
    program: Program = importlib.import_module(module).prepare(*values)
    # What is here now stays: no collection writes to the pages that forks share.
    gc.collect()
    gc.freeze()
    _check_threads()
    with socket.socket(fileno=sys.stdin.fileno()) as asked:
        asked.sendall(READY)
        forked = _serve(asked)
    if forked is not None:
        # Outside of the loop, which it can never come back to: it ends as any program does.
        program(child.become(forked, supervisor))


def _serve(asked: socket.socket) -> child.Forked | None:
    """Forks until nobody asks any more; in a new process, what that one needs to know."""
    while True:
        request, descriptors, *_ = socket.recv_fds(asked, len(FORK), 1)
        if not request:
            return None
        orders = socket.socket(fileno=descriptors[0])
        between = _fork()
        if between is not None:
            return child.Forked(between, orders)
        orders.close()


def _fork() -> int | None:
    """Forks twice, so that the new process is an orphan, whom the supervisor gets.

    Returns:
        In the new process the id of the one between, which ends at once. None here.
    """
    _check_threads()
    sys.stdout.flush()
    server = os.getpid()
    try:
        between = os.fork()
    except OSError as error:
        print(f"cannot fork: {error}", flush=True)  # noqa: T201  # it has no other log
        return None
    if between:
        os.waitpid(between, 0)
        return None
    between = os.getpid()
    try:
        # Stopped or not, it does not outlive the server, and that one not the supervisor.
        linux.die_with_parent()
        if os.getppid() != server or os.fork():
            os._exit(0)
    except OSError:
        os._exit(1)
    return between


def _check_threads() -> None:
    """Passes when there is nothing to fork but this thread.

    Raises:
        SystemExit: a thread was started by what is imported.
    """
    threads = list(Path("/proc/self/task").iterdir())
    if len(threads) != 1:
        raise SystemExit(f"the fork server has {len(threads)} threads; a fork would copy one")


if __name__ == "__main__":
    main(sys.argv[1:])
