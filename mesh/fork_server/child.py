"""What a forked process does before it runs its program: it leaves all behind that is the server's.

First the supervisor becomes its parent; then it tells its process id and is told who it is. What it
does not get from its orders, it has as a fresh process would.
"""

import json
import os
import random
import signal
import socket
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import setproctitle

from mesh.fork_server import linux
from mesh.fork_server.no_more_code import NoMoreCode

_LENGTH_BYTES: Final = 4
_STREAMS: Final = 2
_LAST_STANDARD: Final = 2
_POLL_SECONDS: Final = 0.001
_PRIVATE: Final = 0o077
_SEED_BYTES: Final = 48
# What an interpreter sets at its start, of all signals.
_IGNORED: Final = (signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, slots=True)
class Forked:
    """What a new process knows: the process between, and where its orders come from."""

    between: int
    orders: socket.socket


@dataclass(frozen=True, slots=True)
class Orders:
    """What a new process is told. Its standard streams come along as descriptors.

    Attributes:
        name: shown by `ps`.
        arguments: `sys.argv`.
        environment: all of it.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]

    def packed(self) -> bytes:
        """As it is sent."""
        text = json.dumps(asdict(self)).encode()
        return len(text).to_bytes(_LENGTH_BYTES) + text


def become(forked: Forked, supervisor: int) -> Sequence[str]:
    """Makes the process that was ordered of this one; returns the arguments of its program."""
    os.setsid()
    _wait_for_adoption(forked.between, supervisor)
    try:
        forked.orders.sendall(f"{os.getpid()}\n".encode())
        orders, streams = _receive(forked.orders)
    except OSError:  # whoever asked for this process does not want it any more
        os._exit(1)
    forked.orders.close()
    _reset_descriptors(streams)
    _reset_signals()
    os.umask(_PRIVATE)
    _reset_environment(orders.environment)
    sys.argv[:] = orders.arguments
    sys.orig_argv[:] = [sys.executable, *orders.arguments]
    random.seed()
    ssl.RAND_add(os.urandom(_SEED_BYTES), _SEED_BYTES)
    setproctitle.setproctitle(f"icto: {orders.name}")
    setproctitle.setthreadtitle(orders.name)
    NoMoreCode.install()
    return orders.arguments[1:]


def _wait_for_adoption(between: int, supervisor: int) -> None:
    """Returns as a child of the supervisor that ends with it; in no other case does it return."""
    while os.getppid() == between:
        time.sleep(_POLL_SECONDS)
    linux.die_with_parent()
    # Only now: had it ended before that, nobody would have told this process.
    if os.getppid() != supervisor:
        os._exit(1)


def _receive(orders: socket.socket) -> tuple[Orders, Sequence[int]]:
    header, streams, *_ = socket.recv_fds(orders, _LENGTH_BYTES, _STREAMS)
    if len(streams) != _STREAMS:
        raise ConnectionAbortedError
    left, text = int.from_bytes(header), b""
    while len(text) < left:
        if not (more := orders.recv(left - len(text))):
            raise ConnectionAbortedError
        text += more
    return Orders(**json.loads(text)), streams


def _reset_descriptors(streams: Sequence[int]) -> None:
    """Standard streams as ordered, and nothing else open."""
    entered, left = streams
    for descriptor, number in ((entered, 0), (left, 1), (left, 2)):
        os.dup2(descriptor, number)
    for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if descriptor > _LAST_STANDARD:
            _close(descriptor)


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:  # that of the folder just listed
        return


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in _IGNORED else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _reset_environment(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
