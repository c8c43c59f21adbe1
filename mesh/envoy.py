"""The real Envoy: its configuration on disk, its process, and its own account of what it sees."""

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from contract.model import Contract
from mesh import denylist, inherited, unix_http
from mesh.process import Command, Output, Process
from mesh.render import NO_AUDIENCE, Paths, Renderer, no_keys
from mesh.rundir import write_atomically
from mesh.topology import Topology

_ADMIN_SECONDS: Final = 5.0
_LOG_FORMAT: Final = (
    '{"time":"%Y-%m-%dT%T.%eZ","level":"%l","service":"envoy","logger":"%n","message":"%j"}'
)
_REFUSED: Final = re.compile(r"Proto constraint validation failed \((.*)\)$", re.MULTILINE)
_FIELD: Final = re.compile(r"ValidationError\.(\w+(?:\[\w+\])?):")
_RESOURCE: Final = re.compile(r"^(Listeners|Clusters)\[(\d+)\]")
_LONGEST_LINE: Final = 500
_MOST_LINES: Final = 10


class EnvoyRefusedError(Exception):
    """Envoy refused its configuration. The message names the resource and the reason."""


def binary() -> Path:
    """The program in the wheel."""
    return Path(str(files("envoy") / "_bin" / "envoy"))


@dataclass(frozen=True, slots=True)
class Host:
    """A replica as Envoy sees it."""

    address: str
    healthy: bool


class Envoy:
    """The proxy of one node."""

    def __init__(self, renderer: Renderer, paths: Paths, output: Output) -> None:
        self._renderer = renderer
        self._paths = paths
        self.process = Process("envoy", output)

    def write_all(self, services: Sequence[str]) -> None:
        """Writes every file that Envoy reads at its start."""
        for mesh_name in services:
            self.write_endpoints(mesh_name, ())
        for name in self._renderer.resources:
            self._write(name, self._renderer.resource(name))
        if not self._paths.resource("tokens").exists():
            self.write_keys(no_keys(), NO_AUDIENCE)
        if not self._paths.resource("denylist").exists():
            self._write("denylist", denylist.resource(()))
        self._write("bootstrap", self._renderer.bootstrap())

    def write_endpoints(self, mesh_name: str, sockets: Sequence[str]) -> None:
        """Tells which replicas of a service there are."""
        self._write(f"endpoints-{mesh_name}", self._renderer.endpoints(mesh_name, sockets))

    def write_keys(self, jwks: str, audience: str) -> None:
        """Tells which keys verify access tokens, a JWK set as JSON, and for whom they must be."""
        self._write("tokens", self._renderer.tokens(jwks, audience))

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_atomically(self._paths.resource(name), json.dumps(content))

    async def command(self) -> Command:
        """How to start it. One worker: on a small machine more of them only cost."""
        return Command(
            (
                str(binary()), "--config-path", str(self._paths.resource("bootstrap")),
                "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn",
                "--file-flush-interval-msec", "500",  # 10 s by default: too late for whoever looks
                "--log-format", _LOG_FORMAT,
            ),
            inherited.environment(inherited.ENVOY, os.environ),
        )  # fmt: skip

    async def hosts(self) -> dict[str, list[Host]]:
        """The replicas of each service and whether they pass their health checks."""
        found: dict[str, list[Host]] = {}
        for status in json.loads(await self.admin("/clusters?format=json"))["cluster_statuses"]:
            found[status["name"]] = [
                Host(host["address"].get("pipe", {}).get("path", ""), _is_healthy(host))
                for host in status.get("host_statuses", ())
            ]
        return found

    async def admin(self, path: str) -> bytes:
        """Asks its admin interface.

        Raises:
            OSError: it is not there.
            TimeoutError: it does not answer.
        """
        async with asyncio.timeout(_ADMIN_SECONDS):
            return await asyncio.to_thread(unix_http.get, self._paths.admin, path, _ADMIN_SECONDS)


def _is_healthy(host: Mapping[str, Any]) -> bool:
    health = host.get("health_status", {})
    return not any(
        health.get(flag)
        for flag in (
            "failed_active_health_check",
            "failed_outlier_check",
            "failed_active_degraded_check",
            "pending_active_hc",
        )
    )


async def check(contract: Contract, topology: Topology, scratch: Path) -> None:
    """Passes when Envoy accepts the whole configuration, written to a scratch directory.

    Raises:
        EnvoyRefusedError: it does not, and why.
    """
    # Sockets are named, not opened, and their paths are limited: a scratch directory may be deep.
    paths = Paths(scratch, Path("/nowhere"))
    renderer = Renderer(contract, topology, paths)
    Envoy(renderer, paths, lambda *_: None).write_all(list(contract.services))
    file = scratch / "check.json"
    write_atomically(file, json.dumps(renderer.check()))
    child = await asyncio.create_subprocess_exec(
        str(binary()), "--mode", "validate", "--config-path", str(file), "--log-level", "error",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=inherited.environment(inherited.ENVOY, os.environ),
    )  # fmt: skip
    output, _ = await child.communicate()
    if child.returncode != 0:
        config = json.loads(file.read_text())["static_resources"]
        raise EnvoyRefusedError(in_words(output.decode(errors="replace"), config))


def in_words(output: str, static: Mapping[str, Any]) -> str:
    """What Envoy says about refused static resources: which one, where in it, and why.

    Envoy prints all of the configuration before that, if it is a value that it does not take.
    """
    refused = _REFUSED.search(output)
    if refused is None:
        texts = (line.rpartition("] ")[2].strip() for line in output.splitlines())
        said = [text for text in texts if text and not text.startswith(("exiting", "{", "}"))]
        return "\n".join(text[:_LONGEST_LINE] for text in said[:_MOST_LINES])

    def named(place: re.Match[str]) -> str:
        kind, index = place.groups()
        return f"{kind[:-1].lower()} {static[kind.lower()][int(index)]['name']!r}"

    *_, last = refused[1].split(" | caused by ")
    path = ".".join(_FIELD.findall(refused[1])).removeprefix("StaticResources.")
    return f"{_RESOURCE.sub(named, path)}: {last.partition(': ')[2]}"
