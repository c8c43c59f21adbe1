"""Who is calling: read from the metadata that Envoy writes, and from nothing else.

Envoy strips these headers from what comes in and sets them itself: at the edge from the verified
token, on a service's egress listener from the listener. A replica is reachable only through Envoy
(a private socket, or mTLS), so what stands here is true.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from contract import principal, wire
from contract.identities import OPERATOR
from contract.method import Method


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller of one call.

    Attributes:
        caller: mesh name of the calling service, "edge" for a call from outside, "" for none.
        principal: who acts: the signed-in user, the user a service acts for, or the service's own
            principal. The anonymous principal when nobody signed in.
        roles: administrative roles of a signed-in user.
        suspended: the user may only do what is allowed to suspended users.
        address: whence a call from outside came.
    """

    caller: str
    principal: str
    roles: frozenset[str]
    suspended: bool = False
    address: str = ""

    @property
    def from_outside(self) -> bool:
        """The call came through the edge."""
        return self.caller == wire.EDGE

    @property
    def is_service(self) -> bool:
        """A mesh service, or the operator, calls."""
        return bool(self.caller) and not self.from_outside

    @property
    def is_operator(self) -> bool:
        """Whoever holds the run directory calls."""
        return self.caller == OPERATOR

    @property
    def signed_in(self) -> bool:
        """A user stands behind the call."""
        return self.from_outside and self.principal != principal.ANONYMOUS


def read(metadata: Mapping[str, str | bytes], method: Method) -> Identity:
    """The identity that Envoy wrote into the metadata of a call."""
    caller = str(metadata.get(wire.HEADER_CALLER, ""))
    if caller == wire.EDGE:
        acting = str(metadata.get(wire.HEADER_PRINCIPAL, "")) or principal.ANONYMOUS
        roles = frozenset(str(metadata.get(wire.HEADER_ROLES, "")).split())
        suspended = metadata.get(wire.HEADER_STATUS) == wire.SUSPENDED
        address = str(metadata.get(wire.HEADER_ADDRESS, ""))
        return Identity(caller, acting, roles, suspended, address)
    if not caller:
        return Identity("", principal.ANONYMOUS, frozenset())
    behalf = str(metadata.get(wire.HEADER_ON_BEHALF_OF, "")) if method.on_behalf_of else ""
    return Identity(caller, behalf or principal.of_service(caller), frozenset())


def callers_trace(metadata: Mapping[str, str | bytes]) -> tuple[str, str]:
    """`traceparent` and `tracestate` of a caller from outside, which Envoy keeps apart; or ""."""
    return (
        str(metadata.get(wire.HEADER_CALLERS_TRACEPARENT, "")),
        str(metadata.get(wire.HEADER_CALLERS_TRACESTATE, "")),
    )
