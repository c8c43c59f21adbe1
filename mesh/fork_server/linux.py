"""What a fork server needs of Linux: who gets orphans, and who dies with whom. See prctl(2)."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def has_what_it_takes() -> bool:
    """Whether this system can make a process the parent of orphans, and wait for one of them."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # an old kernel, or one that is kept from us
        return False
    return True


def set_child_subreaper(*, on: bool) -> None:
    """Makes this process the parent of every orphan among its descendants, or no longer.

    Raises:
        OSError: the system refuses.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, int(on))


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends; a fork does not inherit that.

    Raises:
        OSError: the system refuses.
    """
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
