"""How replicas are started: forked from a fork server, or each as a program of its own."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

VARIABLE: Final = "ICTO_START"
# Read before any code of ours runs: by the interpreter, by libc, by the loader.
_READ_AT_START: Final = ("PYTHON", "MALLOC_", "LD_", "GLIBC_")


class StartMethodError(Exception):
    """What was asked for cannot be had. The message names the variable and what to do."""


class StartMethod(StrEnum):
    """How replicas are started."""

    FORK = "fork"
    """By a fork server: fast, and what they have in common is in memory once. Where the system
    cannot do that, they are spawned."""
    SPAWN = "spawn"
    """Each as a fresh process: nothing is shared, the layout of its memory neither."""


def chosen(environ: Mapping[str, str]) -> StartMethod:
    """The method that `ICTO_START` names; by default a fork server.

    Raises:
        StartMethodError: it names none.
    """
    text = environ.get(VARIABLE, StartMethod.FORK)
    try:
        return StartMethod(text)
    except ValueError:
        raise StartMethodError(
            f"{VARIABLE} is {text!r}; it must be one of {', '.join(StartMethod)}."
        ) from None


def check_environment(server: Mapping[str, str], replica: Mapping[str, str]) -> None:
    """Passes when a replica can have an environment although it is forked.

    Raises:
        StartMethodError: variables differ that are read when a program starts.
    """
    names = {name for name in (*server, *replica) if name.startswith(_READ_AT_START)}
    if differing := sorted(name for name in names if server.get(name) != replica.get(name)):
        raise StartMethodError(
            f"{', '.join(differing)}: read when a program starts, and a replica that is forked does"
            f" not start one. Leave it as it is for all, or set {VARIABLE}={StartMethod.SPAWN}."
        )
