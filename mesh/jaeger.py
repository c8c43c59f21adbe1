"""A Jaeger from PATH, started beside the mesh; it shows the traces that the collector passes on."""

import os
import shutil

from mesh.process import Command, Output, Process
from mesh.rundir import RunDirectory

_OTLP = "127.0.0.1:4317"
_QUERY = "http://127.0.0.1:16686"


class JaegerMissingError(Exception):
    """There is no Jaeger on PATH."""


class Jaeger:
    """Jaeger with its storage in memory."""

    def __init__(self, run: RunDirectory, output: Output) -> None:
        found = shutil.which("jaeger")
        if found is None:
            raise JaegerMissingError(
                "There is no 'jaeger' on PATH. Install Jaeger 2, or leave --jaeger out:"
                " 'icto trace' shows traces without it."
            )
        self._binary = found
        self._run = run
        self.otlp = _OTLP
        self.query = _QUERY
        self._process = Process("jaeger", output)

    async def keep_running(self) -> None:
        """Keeps it running."""
        await self._process.keep_running(self._command)

    async def _command(self) -> Command:
        return Command((self._binary,), {"PATH": os.defpath, "HOME": str(self._run.path)})
