"""A child that must not outlive the supervisor, even one that was killed.

On Linux the kernel tells us when the parent dies. Elsewhere the child holds the reading end of a pipe
whose writing end only the supervisor has, and a thread waits for its end.
"""

import ctypes
import os
import signal
import sys
import threading
from typing import Final

PIPE_VARIABLE: Final = "ICTO_LIFELINE_FD"
_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Asks the kernel to send us a signal when the parent dies. Linux only, no-op elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number))


def follow_parent() -> None:
    """Ends this process when the supervisor's end of the lifeline pipe closes, if there is one."""
    descriptor = os.environ.get(PIPE_VARIABLE)
    if descriptor:
        threading.Thread(target=_wait_for_end, args=(int(descriptor),), daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    os.read(descriptor, 1)
    os._exit(1)
