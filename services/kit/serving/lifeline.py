"""A replica must not outlive its supervisor, even one that was killed.

On Linux the kernel kills us when the parent dies. Elsewhere a thread waits for the end of standard
input, whose other end only the supervisor holds. Without a supervisor (Kubernetes) nothing is done.
"""

import ctypes
import os
import signal
import sys
import threading
from typing import Final

PARENT_VARIABLE: Final = "ICTO_PARENT_PID"
_PR_SET_PDEATHSIG: Final = 1


def follow_parent() -> None:
    """Ends this process when the supervisor that started it is gone."""
    parent = os.environ.get(PARENT_VARIABLE)
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != int(parent):
            os._exit(1)
    else:
        threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
