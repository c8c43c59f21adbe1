"""Faults on demand, in the test environment alone: a process that dies at a named point.

A crash harness arms a point by creating a file of its name in `ICTO_FAULT_DIRECTORY`; whoever
passes the point first takes the file away and is gone. Anywhere else a point costs one comparison.
"""

import contextlib
import os
import signal
from pathlib import Path
from typing import Final

from contract.environment import Environment

DIRECTORY_VARIABLE: Final = "ICTO_FAULT_DIRECTORY"


class Faults:
    """The points of one process."""

    def __init__(self, environment: Environment) -> None:
        folder = os.environ.get(DIRECTORY_VARIABLE)
        armed = environment is Environment.TEST and folder
        self._folder = Path(folder) if armed and folder else None

    def point(self, name: str) -> None:
        """Dies here if the point is armed."""
        if self._folder is None:
            return
        with contextlib.suppress(FileNotFoundError):
            (self._folder / name).rename(self._folder / f"{name}.hit")
            os.kill(os.getpid(), signal.SIGKILL)
