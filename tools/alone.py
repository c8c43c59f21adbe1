"""Runs a command while nobody else runs one under the same lock.

    python3 tools/alone.py LOCK COMMAND [ARGUMENT ...]

The kernel's lock on a file: it goes with whoever holds it, however that ends, as a folder made for
a lock would not. By Python, which is needed anyway, since flock(1) is not on every system.
"""

import fcntl
import os
import sys
from pathlib import Path


def main() -> None:
    """Becomes the command, which holds the lock until its end."""
    lock, *command = sys.argv[1:]
    Path(lock).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(descriptor, True)  # a positional-only parameter
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("... waiting for another make")
        sys.stdout.flush()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.execvp(command[0], command)  # noqa: S606  # this is what it is for


if __name__ == "__main__":
    main()
