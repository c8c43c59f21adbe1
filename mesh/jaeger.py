"""A Jaeger from PATH, started beside the mesh; it shows the traces that the collector passes on.

It keeps them in memory, takes them on a private socket, and listens on one port: its page.
"""

import json
import os
import shutil
from typing import Any, Final

from mesh import inherited
from mesh.process import Command, Output, Process
from mesh.rundir import RunDirectory, write_atomically

_MAX_TRACES: Final = 50_000


class JaegerMissingError(Exception):
    """There is no Jaeger on PATH."""


class Jaeger:
    """Jaeger with its storage in memory."""

    def __init__(self, run: RunDirectory, port: int, output: Output) -> None:
        found = shutil.which("jaeger")
        if found is None:
            raise JaegerMissingError(
                "There is no 'jaeger' on PATH. Install Jaeger 2, or leave --jaeger out:"
                " 'icto trace' shows traces without it."
            )
        self._binary = found
        self._run = run
        self._page = f"127.0.0.1:{port}"
        self._socket = run.sockets / "jaeger.sock"
        self._process = Process("jaeger", output)

    @property
    def otlp(self) -> str:
        """Where it takes traces."""
        return f"unix:{self._socket}"

    @property
    def url(self) -> str:
        """Where it shows them."""
        return f"http://{self._page}"

    async def keep_running(self) -> None:
        """Keeps it running."""
        await self._process.keep_running(self._command)

    async def _command(self) -> Command:
        self._socket.unlink(missing_ok=True)
        file = self._run.path / "jaeger.json"
        write_atomically(file, json.dumps(self._configuration()))
        return Command(
            (self._binary, "--config", f"file:{file}"),
            inherited.environment(inherited.JAEGER, os.environ) | {"HOME": str(self._run.path)},
        )

    def _configuration(self) -> dict[str, Any]:
        """Its own standard one would take a dozen ports."""
        store, exporter = "memory", "jaeger_storage_exporter"
        pipeline = {"receivers": ["otlp"], "exporters": [exporter]}
        return {
            "service": {
                "extensions": ["jaeger_storage", "jaeger_query"],
                "pipelines": {"traces": pipeline},
                "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "error"}},
            },
            "receivers": {
                "otlp": {
                    "protocols": {"grpc": {"endpoint": str(self._socket), "transport": "unix"}}
                }
            },
            "exporters": {exporter: {"trace_storage": store}},
            "extensions": {
                "jaeger_storage": {"backends": {store: {"memory": {"max_traces": _MAX_TRACES}}}},
                "jaeger_query": {
                    "storage": {"traces": store},
                    "http": {"endpoint": self._page},
                    "grpc": {"endpoint": "127.0.0.1:0"},  # cannot be left out
                },
            },
        }
