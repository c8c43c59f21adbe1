"""Starts a program that must not outlive the supervisor, as another user if need be.

    python -I -S mesh/launch.py PARENT_PID SIGNAL USER PROGRAM [ARGUMENT ...]

On Linux it becomes the program, which the kernel then signals when the parent dies. Elsewhere it
stays as a guard that waits for the end of its standard input, which only the supervisor holds open.
Imports nothing of ours, so that it starts in milliseconds.
"""

import ctypes
import os
import pwd
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Runs the program."""
    parent, number, user, *command = sys.argv[1:]
    if user != "-":
        become(user)
    os.umask(0o077)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != int(parent):
            raise SystemExit("the supervisor is gone")
        os.execv(command[0], command)  # noqa: S606  # this is what a launcher is for
    else:
        guard(command, int(number))


def become(user: str) -> None:
    """Gives up this user's rights for another's."""
    account = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.environ["HOME"] = "/"
    os.chdir("/")


def guard(command: list[str], number: int) -> None:
    """Runs the program as a child and ends it when standard input ends."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603

    def watch() -> None:
        sys.stdin.buffer.read()
        child.send_signal(number)

    threading.Thread(target=watch, daemon=True).start()
    for passed_on in (signal.SIGTERM, signal.SIGINT):
        signal.signal(passed_on, lambda received, _: child.send_signal(received))
    raise SystemExit(child.wait())


if __name__ == "__main__":
    main()
