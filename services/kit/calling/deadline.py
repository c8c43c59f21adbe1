"""The deadline of the call that a task serves, handed on to every call it makes.

Work that must outlive its caller detaches: it runs in a task of its own with a deadline of its own.
"""

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_expires: Final[ContextVar[float]] = ContextVar("icto_deadline", default=math.inf)

_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def seconds_of(timeout: str) -> float:
    """Seconds of a `grpc-timeout`; infinite for what is none."""
    parts = _TIMEOUT.fullmatch(timeout)
    return int(parts[1]) * _UNITS[parts[2]] if parts else math.inf


def remaining() -> float:
    """Seconds left; infinite outside of a call."""
    return _expires.get() - time.monotonic()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Everything in the block shares this budget, unless less was left before."""
    token = _expires.set(min(_expires.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _expires.reset(token)


@contextmanager
def detached(seconds: float) -> Iterator[None]:
    """A fresh budget, for work that goes on although its caller may be gone."""
    token = _expires.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _expires.reset(token)
