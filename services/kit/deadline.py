"""The deadline of the call that a task serves, handed on to every call it makes.

Work that must outlive its caller detaches: it runs in a task of its own with a deadline of its own.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_expires: Final[ContextVar[float]] = ContextVar("icto_deadline", default=math.inf)


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
