"""HTTP over a unix socket: how Envoy's admin interface is asked."""

import http.client
import socket
from pathlib import Path


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("unix", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(socket_path: Path, path: str, seconds: float) -> bytes:
    """The body of an answer; waits so many seconds for each part of it.

    Raises:
        OSError: nobody answers there.
        http.client.HTTPException: what answers does not speak HTTP.
    """
    connection = _UnixConnection(socket_path, seconds)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()
