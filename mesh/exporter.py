"""Metrics of the whole installation at one address, by a process of its own.

    python -P -m mesh.exporter CONTROL ENVOY DENIED ADDRESS PORT

It asks the supervisor what runs, each replica and Envoy for their metrics, all at once, and none is
waited for longer than the others. What answered is served, and what did not is told by a metric.
Scrapes that come together share one gathering, and so do those that come within a second after it.
"""

import contextlib
import http.server
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import grpc
from prometheus_client.exposition import choose_encoder

from mesh import exposition, unix_http
from mesh.control import METRICS_PATH
from mesh.exposition import COUNTER, Family, Format, family
from observability import SCRAPE_PATH

_SECONDS: Final = 2.0
_SHARED_SECONDS: Final = 1.0
_IDLE_SECONDS: Final = 10.0
# A scraper holds one connection; whoever opens hundreds must not take threads for all of them.
_MOST_CONNECTIONS: Final = 64
_ENVOY_PATH: Final = "/stats/prometheus?usedonly"
_GAUGE: Final = "gauge"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where metrics come from.

    Attributes:
        control: the supervisor's socket.
        envoy: the socket of Envoy's admin interface.
        denied: file that is touched whenever the deny list was found to be the newest.
    """

    control: Path
    envoy: Path
    denied: Path


@dataclass(frozen=True)
class Gathering:
    """What was gathered at one moment."""

    families: Sequence[Family]
    taken: float = field(default_factory=time.monotonic)

    @cached_property
    def text(self) -> bytes:
        """In Prometheus' text format."""
        return exposition.write(self.families, Format.TEXT)

    @cached_property
    def openmetrics(self) -> bytes:
        """As OpenMetrics."""
        return exposition.write(self.families, Format.OPENMETRICS)


class Gatherer:
    """Gathers once for all who ask meanwhile."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._lock = threading.Lock()
        self._newest: Gathering | None = None
        self._state: Mapping[str, Any] = {"replicas": []}
        self._channels: dict[str, grpc.Channel] = {}

    def newest(self) -> Gathering:
        """What was gathered within the last second, or is gathered now."""
        with self._lock:
            newest = self._newest
            if newest is None or time.monotonic() - newest.taken >= _SHARED_SECONDS:
                newest = self._newest = Gathering(self._gather())
            return newest

    def _gather(self) -> Sequence[Family]:
        started = time.monotonic()
        supervisor = self._ask_supervisor()
        replicas = self._state["replicas"]
        self._forget(replica["socket"] for replica in replicas)
        asked = [self._ask_replica(replica) for replica in replicas]
        envoy = self._ask_envoy()
        texts = [_answer(question) for question in asked]
        found = [
            *self._own(texts, supervisor=supervisor, envoy=bool(envoy)),
            family(
                "icto_metrics_gathering_seconds", _GAUGE, "How long these took to be gathered.",
                [({}, time.monotonic() - started)],
            ),
        ]  # fmt: skip
        for replica, text in zip(replicas, texts, strict=True):
            found += exposition.read(text, exposition.labels(**_labels(replica)))
        # Envoy writes the method of a gRPC-Web call into the name; replicas have it as a label.
        found += (one for one in exposition.read(envoy) if one.name.islower())
        return exposition.merge(found)

    def _ask_supervisor(self) -> bool:
        """Learns what runs. What is known stays when the supervisor does not answer."""
        ask: Any = self._channel(str(self._sources.control)).unary_unary(METRICS_PATH)
        try:
            self._state = json.loads(ask(b"{}", timeout=_SECONDS))
        except grpc.RpcError:
            return False
        return True

    def _ask_replica(self, replica: Mapping[str, Any]) -> Any:
        """A question under way; None for a replica that does not run."""
        if not replica["socket"]:
            return None
        ask: Any = self._channel(replica["socket"]).unary_unary(SCRAPE_PATH)
        return ask.future(b"", timeout=_SECONDS)

    def _ask_envoy(self) -> str:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return unix_http.get(self._sources.envoy, _ENVOY_PATH, _SECONDS).decode()
        return ""

    def _channel(self, path: str) -> grpc.Channel:
        channel = self._channels.get(path)
        if channel is None:
            channel = self._channels[path] = grpc.insecure_channel(f"unix:{path}")
        return channel

    def _forget(self, sockets: Iterator[str]) -> None:
        """Closes channels to replicas that are gone: each start has a socket of its own."""
        known = {str(self._sources.control), *sockets}
        for path in self._channels.keys() - known:
            self._channels.pop(path).close()

    def _own(self, texts: Sequence[str], *, supervisor: bool, envoy: bool) -> Iterator[Family]:
        """What is known of the sources themselves."""
        replicas = self._state["replicas"]
        yield family(
            "icto_replica_up", _GAUGE, "Whether a replica answers.",
            [(_labels(r), float(bool(t))) for r, t in zip(replicas, texts, strict=True)],
        )  # fmt: skip
        yield family(
            "icto_replica_restarts_total", COUNTER, "Starts after the first.",
            [(_labels(replica), replica["restarts"]) for replica in replicas],
        )  # fmt: skip
        yield family(
            "icto_metrics_source_up", _GAUGE, "Whether a part that is no replica answers.",
            [({"source": "envoy"}, float(envoy)), ({"source": "supervisor"}, float(supervisor))],
        )  # fmt: skip
        age = _age(self._sources.denied)
        if age is not None:
            yield family(
                "icto_deny_list_age_seconds", _GAUGE,
                "Time since the edge's list of users to turn away was known to be the newest.",
                [({}, age)],
            )  # fmt: skip
        for name, text in _COLLECTED.items():
            if name in self._state:
                yield family(
                    f"icto_collector_{name}_total", COUNTER, text, [({}, self._state[name])]
                )


_COLLECTED: Final = {
    "batches": "Batches of spans that were taken.",
    "dropped": "Batches that were not passed on.",
}


def _labels(replica: Mapping[str, Any]) -> Mapping[str, str]:
    return {"instance": replica["name"], "service": replica["service"]}


def _answer(question: Any) -> str:
    if question is None:
        return ""
    try:
        text: bytes = question.result()
    except grpc.RpcError:
        return ""
    return text.decode()


def _age(file: Path) -> float | None:
    """Seconds since a file was touched; None when it never was."""
    try:
        return max(time.time() - file.stat().st_mtime, 0.0)
    except OSError:
        return None


class Server(http.server.ThreadingHTTPServer):
    """Answers `/metrics` and `/healthz`, and nothing else."""

    daemon_threads = True

    def __init__(self, address: str, port: int, gatherer: Gatherer) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.gatherer = gatherer
        self._room = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__((address, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serves a connection, or closes it when there are too many."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that went away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "icto"
    sys_version = ""
    timeout = _IDLE_SECONDS
    server: Server

    def do_GET(self) -> None:
        """Answers one request."""
        match self.path.partition("?")[0]:
            case "/metrics":
                self._metrics()
            case "/healthz":
                self._send(200, "text/plain; charset=utf-8", b"ok\n")
            case _:
                told = b"There is nothing here but /metrics and /healthz.\n"
                self._send(404, "text/plain; charset=utf-8", told)

    do_HEAD = do_GET  # noqa: N815  # the library's names

    def _metrics(self) -> None:
        gathering = self.server.gatherer.newest()
        _, chosen = choose_encoder(self.headers.get("accept", ""))
        if chosen.startswith("application/openmetrics-text"):
            self._send(200, Format.OPENMETRICS.value, gathering.openmetrics)
        else:
            self._send(200, Format.TEXT.value, gathering.text)

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # its name for it
        """Nobody reads a line for each scrape."""


def main(arguments: Sequence[str]) -> None:
    """Serves until it is ended."""
    control, envoy, denied, address, port = arguments
    gatherer = Gatherer(Sources(Path(control), Path(envoy), Path(denied)))
    Server(address, int(port), gatherer).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
