"""One method, and its policy: who may call it, how long it takes, whether a retry is safe."""

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from contract.identities import EVERY_SERVICE, OPERATOR
from contract.limits import DEFAULT_MAX_REQUEST_BYTES

HTTP_BODY: Final = "google.api.HttpBody"


class Kind(Enum):
    """Shape of a method."""

    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    CLIENT_STREAM = "client_stream"
    BIDI_STREAM = "bidi_stream"


class RetrySafety(Enum):
    """The standard `idempotency_level`: what a second attempt may do."""

    UNSAFE = "unsafe"
    SAFE = "safe"
    IDEMPOTENT = "idempotent"


class Criticality(IntEnum):
    """What is refused first under overload: the smaller, the sooner."""

    SHEDDABLE = 1
    NORMAL = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True)
class Audience:
    """Who may call. The parts add up; at least one is set."""

    public: bool
    user: bool
    owner: str
    permission: str
    roles: frozenset[str]
    services: frozenset[str]

    @property
    def from_outside(self) -> bool:
        """Whether the edge routes to the method at all."""
        return self.public or self.signed_in

    @property
    def signed_in(self) -> bool:
        """Whether some users may call because they are signed in."""
        return self.user or bool(self.owner) or bool(self.permission)

    def admits_service(self, mesh_name: str) -> bool:
        """Whether a mesh service may call."""
        everyone = EVERY_SERVICE in self.services and mesh_name != OPERATOR
        return mesh_name in self.services or everyone


@dataclass(frozen=True, slots=True)
class Http:
    """One REST mapping of a method."""

    verb: str
    path: str
    body: str


@dataclass(frozen=True, slots=True)
class Method:
    """One method and its policy. Durations in seconds."""

    service: str
    name: str
    mesh_name: str
    kind: Kind
    request_type: str
    response_type: str
    audience: Audience
    deadline: float
    deadline_ceiling: float
    rate_limit: str
    criticality: Criticality
    max_request_bytes: int
    retry_safety: RetrySafety
    http: tuple[Http, ...] = ()
    has_request_id: bool = False
    allowed_when_suspended: bool = False
    feature: str = ""
    allowed_in_maintenance: bool = False
    allowed_in_emergency_stop: bool = False
    on_behalf_of: bool = False
    audit_action: str = ""
    cycle_cost: int = 0
    anonymous_write: str = ""

    @property
    def full_name(self) -> str:
        """`package.Service/Method`, the form of OpenTelemetry's `rpc.method`."""
        return f"{self.service}/{self.name}"

    @property
    def path(self) -> str:
        """The path on the wire."""
        return f"/{self.full_name}"

    @property
    def large(self) -> bool:
        """Whether it admits so much that its cost is counted in bytes.

        Such a call takes long because it has much to look through: to send it twice would do the
        work twice, and help nobody.
        """
        return self.max_request_bytes > DEFAULT_MAX_REQUEST_BYTES

    @property
    def hedged(self) -> bool:
        """Whether the edge asks a second replica when the first one takes long."""
        return self.retry_safety is RetrySafety.SAFE and not self.large

    @property
    def mutates(self) -> bool:
        """Whether a call may change something."""
        return self.kind is Kind.UNARY and self.retry_safety is not RetrySafety.SAFE

    @property
    def retriable(self) -> bool:
        """Whether the mesh may send a call twice."""
        return self.retry_safety is not RetrySafety.UNSAFE

    @property
    def lists(self) -> bool:
        """Whether it answers with a page of a list."""
        return self.kind is Kind.UNARY and self.name.startswith(("List", "Search"))

    @property
    def sends_events(self) -> bool:
        """Whether it streams server-sent events, which the kit keeps from being quiet."""
        return self.response_type == HTTP_BODY and self.kind is not Kind.UNARY

    @property
    def takes_cookie(self) -> bool:
        """Whether a browser's cookie signs its REST calls in.

        An EventSource can send nothing else. A page of somebody else's could make a browser send
        one, too, so it counts only for what is read, and read alone.
        """
        return self.sends_events and {http.verb for http in self.http} == {"GET"}
