"""Where the platform is reached, as people write it: `host:port`, `http://…` or `https://…`."""

import ssl
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
import httpx

_PORTS: Final = {"http": 80, "https": 443}
# A variable such as http_proxy would send calls for this machine elsewhere.
_DIRECT: Final = (("grpc.enable_http_proxy", 0),)


class AddressError(Exception):
    """That is no address of a platform. The message says what is."""


@dataclass(frozen=True)
class Address:
    """An edge: its scheme, and its host and port as in URLs."""

    scheme: str
    place: str

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Reads what a person typed; `http` and the scheme's port when absent.

        Raises:
            AddressError: it is no address of an edge.
        """
        try:
            url = urlsplit(text if "://" in text else f"http://{text}")
            host, port = url.hostname, url.port or _PORTS.get(url.scheme)
        except ValueError:
            host, port = None, None
        more = (url.path.strip("/"), url.query, url.fragment, url.username) if host else ()
        if not host or not port or any(more):
            raise AddressError(
                f"{text!r} is no address of a platform; it must be like host:8080,"
                " http://host:8080 or https://host."
            )
        return cls(url.scheme, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    @property
    def origin(self) -> str:
        """Scheme, host and port, the port left out where it is the scheme's own."""
        return f"{self.scheme}://{self.place.removesuffix(f':{_PORTS[self.scheme]}')}"

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        """Whom this machine trusts; SSL_CERT_FILE and SSL_CERT_DIR say it otherwise."""
        return ssl.create_default_context()

    def http(self, seconds: float) -> httpx.AsyncClient:
        """A client for its REST API."""
        trust: Any = self._trust if self.scheme == "https" else True
        return httpx.AsyncClient(
            base_url=self.origin, timeout=seconds, verify=trust, trust_env=False
        )

    def channel(self) -> grpc.aio.Channel:
        """A channel for gRPC."""
        if self.scheme == "http":
            return grpc.aio.insecure_channel(self.place, options=_DIRECT)
        authorities = self._trust.get_ca_certs(binary_form=True)
        roots = "".join(map(ssl.DER_cert_to_PEM_cert, authorities)).encode()
        credentials = grpc.ssl_channel_credentials(roots or None)
        return grpc.aio.secure_channel(self.place, credentials, options=_DIRECT)
