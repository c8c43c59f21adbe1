"""Runs a command while nobody else runs one under the same lock, and ends it quietly at Ctrl-C.

    python3 tools/alone.py LOCK COMMAND [ARGUMENT ...]

The kernel's lock on a file: it goes with whoever holds it, however that ends, as a folder made for
a lock would not. By Python, which is needed anyway, since flock(1) is not on every system.

The command runs in a session of its own, where Ctrl-C does not reach it: pip and venv would each
answer with a traceback. It is told to end by SIGTERM instead, and what it kept for a while is
removed.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

INTERRUPTED = 130


def main() -> None:
    """Runs the command; ends as it does."""
    lock, *command = sys.argv[1:]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        hold(Path(lock))
        status = run(command)
    except KeyboardInterrupt:
        print("... interrupted; the next make goes on from here", file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status)


def hold(lock: Path) -> None:
    """Waits for the lock, and holds it until this process and the command have ended."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(descriptor, True)  # a positional-only parameter
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("... waiting for another make", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def run(command: list[str]) -> int:
    """Runs a command to its end; its exit status."""
    with tempfile.TemporaryDirectory(prefix="icto-make-", ignore_cleanup_errors=True) as scratch:
        child = subprocess.Popen(  # noqa: S603  # this is what it is for
            command,
            env=os.environ | {"TMPDIR": scratch},
            start_new_session=True,
            close_fds=False,  # the lock's, and those by which make counts its jobs
        )
        try:
            return child.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            child.wait()
            raise


if __name__ == "__main__":
    main()
