"""A program for a fork server: it tells what it is, what it was given, or ends as it is told.

    python -P -m tests.support.probe TASK

`prepare` takes the path of a file. It says what is wrong with the code; without it nothing is.
"""

import ctypes
import importlib
import json
import os
import random
import resource
import secrets
import signal
import ssl
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from contract import ids

THREAD: Final = "it starts a thread"
_PR_GET_PDEATHSIG: Final = 2
_SIGNALS: Final = ("SigBlk", "SigIgn", "SigCgt")


def prepare(fault: str) -> Callable[[Sequence[str]], None]:
    """What each fork runs."""
    wrong = Path(fault).read_text() if Path(fault).exists() else ""
    if wrong == THREAD:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    elif wrong:
        raise ImportError(wrong)
    return main


def main(arguments: Sequence[str] | None = None) -> None:
    """Does one thing."""
    task, *values = arguments or sys.argv[1:]
    match task:
        case "tell":
            say(json.dumps(state()))
        case "draw":
            say(json.dumps(drawn()))
        case "wait":
            signal.pause()
        case "exit":
            sys.exit(int(values[0]))
        case "fail":
            raise ArithmeticError("nobody caught this")
        case "import":
            importlib.import_module(values[0])
        case _:
            raise SystemExit(f"there is no task {task!r}")


def say(line: str) -> None:
    """Prints a line."""
    sys.stdout.write(f"{line}\n")


def state() -> dict[str, Any]:
    """What this process is."""
    death = ctypes.c_int()
    ctypes.CDLL(None).prctl(_PR_GET_PDEATHSIG, ctypes.byref(death))
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "group": os.getpgid(0),
        "descriptors": {n: kind_of(n) for n in descriptors()},
        "environment": dict(os.environ),
        "variables of libc": libc_environment(),
        "mask": oct(umask()),
        "signals": {name: status[name] for name in _SIGNALS},
        "handlers": {n: str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)},
        "death signal": death.value,
        "folder": str(Path.cwd()),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "open files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "flags": str(sys.flags),
        "arguments": sys.argv[1:],
        "streams": [str(s.encoding) for s in (sys.stdin, sys.stdout, sys.stderr)],
        "buffered": [s.line_buffering for s in (sys.stdout, sys.stderr)],
        "threads": threading.active_count(),
        "main thread": threading.main_thread() is threading.current_thread(),
    }


def descriptors() -> list[int]:
    """Those that are open."""
    return sorted(
        int(entry.name) for entry in Path("/proc/self/fd").iterdir() if os.path.lexists(entry)
    )


def kind_of(descriptor: int) -> str:
    """What it is open for."""
    return str(Path(f"/proc/self/fd/{descriptor}").readlink()).partition(":")[0]


def umask() -> int:
    """This process's."""
    found = os.umask(0)
    os.umask(found)
    return found


def libc_environment() -> dict[str, str]:
    """What C code sees of the environment."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    found = {name: libc.getenv(name.encode()) for name in os.environ}
    return {name: value.decode() for name, value in found.items() if value is not None}


def drawn() -> dict[str, str]:
    """Ids and random bytes, from each source that there is."""
    generator = RandomIdGenerator()
    return {
        "pid": str(os.getpid()),
        "id": str(ids.new_id("key")),
        "uuid4": str(uuid.uuid4()),
        "random": str(random.getrandbits(64)),
        "secrets": secrets.token_hex(8),
        "urandom": os.urandom(8).hex(),
        "OpenSSL of Python": ssl.RAND_bytes(8).hex(),
        "OpenSSL of cryptography": Ed25519PrivateKey.generate().private_bytes_raw().hex(),
        "trace": f"{generator.generate_trace_id():x}",
        "span": f"{generator.generate_span_id():x}",
    }


if __name__ == "__main__":
    main()
