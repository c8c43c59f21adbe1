"""One mesh service: what it serves, how it is run, and how long it keeps what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from contract.method import Method


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a service keeps what nobody uses, from `since` on.

    Attributes:
        per_user: so many of one user at most meanwhile; 0 where that is bounded elsewhere.
    """

    since: str
    period: timedelta
    per_user: int = 0


ANSWERS: Final = "answers"
ANSWER_RETENTION: Final = Retention("a request was answered under its id", timedelta(hours=24))
"""What every service keeps, so that a repeat has the same answer."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """When Envoy stops queueing for a service, for each Envoy and priority."""

    # HTTP/2 needs one for each replica; whoever needs more than a thousand loses them somewhere.
    max_connections: int = 1024
    # Wait for a connection, as all do when replicas start: half of what may be at work after that.
    max_pending_requests: int = 1024
    # At a service's hundred or so calls a second and core, more than it answers within a deadline:
    # what would wait longer is better refused at once.
    max_requests: int = 2048
    # So that a service in trouble gets a quarter more calls at most, not three times as many.
    retry_budget_percent: int = 25


@dataclass(frozen=True, slots=True)
class Ejection:
    """When Envoy stops using a replica that it does not reach, for a while. Seconds and percent."""

    # One lost connection takes the few calls along that were on it; five in a row are no accident.
    consecutive_failures: int = 5
    # Worse than a coin: fewer failures, a retry at another replica makes good.
    failure_percent: int = 50
    # Longer than a replica takes to start again; a health check that passes ends it sooner.
    base_time: float = 10.0
    # The other half must carry it all: with more away, a hiccup of the machine would be an outage.
    max_percent: int = 50


@dataclass(frozen=True, slots=True)
class Service:
    """One mesh service: the proto services that one process serves, and how it is run."""

    mesh_name: str
    proto_services: tuple[str, ...]
    methods: tuple[Method, ...]
    shard_key: str
    replicas: int
    balancing: str
    breaker: Breaker
    ejection: Ejection
    retention: Mapping[str, Retention] = field(default_factory=dict)
    listeners: int = 0
    """Connections to the database that each replica keeps beside its pool."""
    # A person follows a launch in each of their windows; an office shares an address.
    streams_per_principal: int = 16
    streams_per_address: int = 100
