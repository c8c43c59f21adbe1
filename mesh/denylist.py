"""Whom the edge turns away: the filter's configuration, and a process that keeps it new.

    python -P -m mesh.denylist OPERATOR_SOCKET FILE CONFIRMED

A suspension holds within two seconds, so nothing that the supervisor does may hold this up. FILE is
what Envoy reads; CONFIRMED is touched whenever the list was found to be the newest, so that its age
shows. An exact-match map costs Envoy the same for one name and for 50,000.
"""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import grpc

from contract import wire
from icto.identity.v1 import identity_pb2
from icto.identity.v1.identity_pb2_grpc import IdentityServiceStub
from mesh.rundir import write_atomically
from observability import logs

log = logging.getLogger(__name__)

FILTER: Final = "icto.deny_list"
_TYPE: Final = "type.googleapis.com/envoy."
_ASK_SECONDS: Final = 1.5
_PAUSE_SECONDS: Final = 0.5


def resource(denied: Collection[str]) -> dict[str, Any]:
    """What Envoy reads.

    Turned away are tokens that say so, and by name users whose tokens from before they were
    suspended may still be good.
    """
    by_token = {
        "predicate": {
            "single_predicate": {
                "input": _header("status", wire.HEADER_STATUS),
                "value_match": {"exact": wire.SUSPENDED},
            }
        },
        "on_match": _verdict("DENY"),
    }
    config = {
        "@type": f"{_TYPE}extensions.filters.http.rbac.v3.RBAC",
        "matcher": {"matcher_list": {"matchers": [by_token]}, "on_no_match": _by_name(denied)},
    }
    extension = {
        "@type": f"{_TYPE}config.core.v3.TypedExtensionConfig",
        "name": FILTER,
        "typed_config": config,
    }
    return {"resources": [extension]}


def _by_name(denied: Collection[str]) -> dict[str, Any]:
    if not denied:
        return _verdict("ALLOW")
    tree = {
        "input": _header("principal", wire.HEADER_PRINCIPAL),
        "exact_match_map": {"map": dict.fromkeys(denied, _verdict("DENY"))},
    }
    return {"matcher": {"matcher_tree": tree, "on_no_match": _verdict("ALLOW")}}


def _header(name: str, header: str) -> dict[str, Any]:
    kind = f"{_TYPE}type.matcher.v3.HttpRequestHeaderMatchInput"
    return {"name": name, "typed_config": {"@type": kind, "header_name": header}}


def _verdict(action: str) -> dict[str, Any]:
    """What the filter decides; the name shows in Envoy's account of a refused call."""
    kind = f"{_TYPE}config.rbac.v3.Action"
    typed_config = {"@type": kind, "name": "deny_list", "action": action}
    return {"action": {"name": "verdict", "typed_config": typed_config}}


class Keeper:
    """Keeps Envoy's file as new as what the gateway tells."""

    def __init__(self, gateway: Any, file: Path, confirmed: Path) -> None:
        """`gateway` is a stub of the IdentityService, that waits for its answers."""
        self._gateway = gateway
        self._file = file
        self._confirmed = confirmed
        self._revision = ""

    def renew(self) -> None:
        """Asks once. What cannot be had or written now is tried the next time."""
        request = identity_pb2.GetDenyListRequest(known_revision=self._revision)
        with contextlib.suppress(grpc.RpcError):
            newest = self._gateway.GetDenyList(request, timeout=_ASK_SECONDS)
            try:
                if newest.revision != self._revision:
                    write_atomically(self._file, json.dumps(resource(newest.principals)))
                    self._revision = newest.revision
                self._confirmed.touch()
            except OSError as error:
                log.warning("whom the edge turns away cannot be written: %s", error)

    def run(self) -> None:
        """Asks twice a second, until the process is ended."""
        while True:
            self.renew()
            time.sleep(_PAUSE_SECONDS)


def main(arguments: Sequence[str]) -> None:
    """Keeps one installation's list."""
    operator, file, confirmed = arguments
    logs.configure("denylist", "denylist", "info")
    options = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))
    with grpc.insecure_channel(f"unix:{operator}", options=options) as channel:
        stub: Any = IdentityServiceStub(channel)  # type: ignore[arg-type]  # typed for asyncio
        Keeper(stub, Path(file), Path(confirmed)).run()


if __name__ == "__main__":
    main(sys.argv[1:])
