"""Scenario: creators who launch tokens with locks and distributions, a fifth of which must fail."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final
from unittest.mock import MagicMock
from uuid import uuid4

from mesh.cli.client import CallError, Client
from services.backend.launches.domain import CREATE_TOKEN, Shape
from services.backend.launches.pipeline import LaunchPipeline
from services.kit.testing.rehearsal import REFUSED_PREFIX, SLOW_PREFIX
from tests.chaos import invariants, launch_invariants
from tests.chaos.persistence import Persistence
from tests.chaos.scenario import Connection
from tests.chaos.schedule import step_points
from tests.support import launches
from tests.support.installation import E8S, Installation

_CREATORS: Final = 16
_FUNDS: Final = 1_000_000 * E8S
# The first faults meet a crowd; after that fewer are kept in flight, so that a run takes minutes.
_CROWD: Final = 140
_CROWDED_ORDERS: Final = 400
_ROUTINE: Final = 45
_CANCELLED_WITHIN_SECONDS: Final = 3.0
_SUCCEEDED: Final = "LAUNCH_STATE_SUCCEEDED"
_REFUSED_PART: Final = f"{REFUSED_PREFIX}part"


class Fate(Enum):
    """What must become of a launch."""

    DELIVERED = "delivered"
    TOKEN_REFUSED = "refused at the token, after the charge"  # a fate
    FIRST_LOCK_REFUSED = "partial: the first lock refused"
    LOCK_REFUSED = "partial: the second lock refused"
    DISTRIBUTION_REFUSED = "partial: a distribution refused"
    NOT_APPROVED = "not approved on the ledger"
    CANCELLED = "cancelled by its creator, however far it is"


_FATES: Final = {
    Fate.DELIVERED: 65,
    Fate.TOKEN_REFUSED: 8,
    Fate.FIRST_LOCK_REFUSED: 7,
    Fate.LOCK_REFUSED: 7,
    Fate.DISTRIBUTION_REFUSED: 7,
    Fate.NOT_APPROVED: 3,
    Fate.CANCELLED: 3,
}
_REFUSALS: Final = {Fate.NOT_APPROVED: "INSUFFICIENT_ALLOWANCE"}
"""What is refused before anything is kept."""
_PARTIAL: Final = "LAUNCH_STATE_PARTIALLY_SUCCEEDED"
STATES: Final = {
    Fate.DELIVERED: {_SUCCEEDED},
    Fate.TOKEN_REFUSED: {"LAUNCH_STATE_FAILED"},
    Fate.FIRST_LOCK_REFUSED: {_PARTIAL},
    Fate.LOCK_REFUSED: {_PARTIAL},
    Fate.DISTRIBUTION_REFUSED: {_PARTIAL},
    Fate.CANCELLED: {"LAUNCH_STATE_CANCELLED", _PARTIAL, _SUCCEEDED},
}


@dataclass(frozen=True, slots=True)
class Order:
    """A launch that was accepted, or that was refused for the reason `refusal`."""

    fate: Fate
    creator: Client
    request_id: str
    name: str = ""
    refusal: str = ""


class Launches:
    """Creators at work."""

    in_flight = """
    SELECT (SELECT count(*) FROM backend.kit_pipelines WHERE state IN (1, 6))
        + (SELECT count(*) FROM invoice_storage.refunds WHERE state IN (2, 3))
    """

    def __init__(self, installation: Installation, seed: int) -> None:
        self._installation = installation
        self._chance = random.Random(seed)
        self.persist = Persistence(random.Random(seed))
        self._creators: list[Client] = []
        self._strangers: list[Client] = []
        self._orders: list[Order] = []
        self._states: Counter[str] = Counter()

    @property
    def busy(self) -> int:
        return _CROWD if len(self._orders) < _CROWDED_ORDERS else _ROUTINE

    @property
    def points(self) -> Sequence[str]:
        # Nobody's kit: it is asked for its steps only.
        pipeline = LaunchPipeline(MagicMock(), MagicMock())
        return (
            *step_points(pipeline.definition(_SHAPE)),
            "lock.created.committed", "lock.funded", "lock.active.committed",
            "lock.tombstone.committed", "distribution.tombstone.committed",
        )  # fmt: skip

    def least(self, counts: Mapping[str, int]) -> Mapping[str, int]:
        return {
            "accepted": 200,
            "failed or partial": counts["accepted"] // 5,
            "refunded automatically": 20,
            "most launches in flight": 100,
            "failed in flight together": 20,
            "taken over by another worker": 1,
        }

    async def prepare(self) -> None:
        for _ in range(_CREATORS):
            self._creators.append(await self._payer())
            self._strangers.append(await self._installation.user())
        await self.complete_one()

    async def _payer(self) -> Client:
        """A user who has approved more than they will ever spend."""
        creator = await self._installation.user(_FUNDS)
        item = {"step": "launch", "service": "PAID_SERVICE_PIPELINE"}
        quote = await launches.quoted(creator, [item])
        approval = {
            "requestId": str(uuid4()),
            "spender": quote["spender"],
            "amount": str(_FUNDS),
        }
        await creator.rest("POST", f"/v1/{quote['ledger']}:approve", approval)
        return creator

    async def begin(self) -> None:
        (fate,) = self._chance.choices(list(_FATES), list(_FATES.values()))
        clients = self._strangers if fate is Fate.NOT_APPROVED else self._creators
        await self._ordered(fate, self._chance.choice(clients))

    async def complete_one(self) -> None:
        creator = self._chance.choice(self._creators)
        order = await self._ordered(Fate.DELIVERED, creator)
        ended = await self.persist(lambda: launches.ended(creator, order.name, 60.0))
        assert ended["state"] == _SUCCEEDED, ended

    async def _ordered(self, fate: Fate, client: Client) -> Order:
        """Orders a launch, as often as it takes to know the answer."""
        wanted = _spec(fate, client.principal)
        request = {"requestId": str(uuid4()), "items": _ITEMS}
        quote = (await self.persist(lambda: client.rest("POST", "/v1/quotes", request))).body
        body = {"requestId": str(uuid4()), "spec": wanted, "quote": quote["name"]}
        order = Order(fate, client, body["requestId"])
        try:
            answer = await self.persist(lambda: client.rest("POST", "/v1/launches", body))
        except CallError as error:
            order = Order(fate, client, order.request_id, refusal=error.reason)
        else:
            order = Order(fate, client, order.request_id, name=answer.body["name"])
        self._orders.append(order)
        if fate is Fate.CANCELLED and order.name:
            await self._cancel(order)
        return order

    async def _cancel(self, order: Order) -> None:
        """Cancels a launch after a moment, as often as it takes to know the answer."""
        await asyncio.sleep(self._chance.uniform(0, _CANCELLED_WITHIN_SECONDS))
        body = {"requestId": str(uuid4())}
        path = f"/v1/{order.name}:cancel"
        try:
            await self.persist(lambda: order.creator.rest("POST", path, body))
        except CallError as error:
            if error.reason != "LAUNCH_ENDED":
                raise

    async def finish(self) -> None:
        """Reads what became of each launch, as its creator sees it."""
        for order in self._orders:
            if order.name:
                found = await self.persist(
                    lambda o=order: o.creator.rest("GET", f"/v1/{o.name}")  # type: ignore[misc]
                )
                self._states[f"{order.fate.value}: {found.body['state']}"] += 1

    async def counts(self, connection: Connection) -> Mapping[str, int]:
        row: Any = await connection.fetchrow(_COUNTS)
        together: Any = await connection.fetchrow(_TOGETHER)
        return {
            **self._states,
            "accepted": sum(1 for order in self._orders if order.name),
            **dict(row),
            **dict(together),
            "repeated calls": self.persist.repeats,
        }

    async def problems(self, connection: Connection) -> Sequence[str]:
        return [
            *await self._told(connection),
            *await launch_invariants.of_launches(connection),
            *await launch_invariants.of_escrows(connection),
            *await launch_invariants.of_changes(connection),
            *await invariants.of_money(connection),
            *await invariants.of_ledgers(connection),
            *await invariants.of_audit(connection, self._installation),
        ]

    async def _told(self, connection: Connection) -> list[str]:
        """What creators were told against what is stored: one effect for each request."""
        rows = await connection.fetch("SELECT id FROM backend.launches")
        stored = {f"launches/{row['id']}" for row in rows}
        accepted = {order.name for order in self._orders if order.name}
        problems = [f"{name} was stored, and nobody was told" for name in stored - accepted]
        problems += [f"{name} was told, and is not stored" for name in accepted - stored]
        problems += [
            f"{order.request_id}, {order.fate.value}: {order.refusal}"
            for order in self._orders
            if order.refusal != _REFUSALS.get(order.fate, "")
        ]
        expected = {f"{fate.value}: {state}" for fate, states in STATES.items() for state in states}
        wrong = {told: count for told, count in self._states.items() if told not in expected}
        return problems + [f"{count} times {told}" for told, count in wrong.items()]


def _spec(fate: Fate, who: str) -> dict[str, Any]:
    refused, slow = fate is Fate.TOKEN_REFUSED, SLOW_PREFIX
    token = launches.token(displayName=f"{REFUSED_PREFIX if refused else slow}token")
    bad: dict[str, Any] = {"displayName": _REFUSED_PART}
    first = bad if fate is Fate.FIRST_LOCK_REFUSED else {}
    lock = bad if fate is Fate.LOCK_REFUSED else {}
    distribution = bad if fate is Fate.DISTRIBUTION_REFUSED else {}
    return launches.spec(
        {"newToken": token},
        [launches.lock(who, **first), launches.lock(who, 7_000, **lock)],
        [launches.distribution(who, **distribution)],
    )


_SHAPE: Final = Shape(CREATE_TOKEN, locks=2, distributions=1)
_ITEMS: Final = [
    {"step": "create_token", "service": "PAID_SERVICE_TOKEN"},
    {"step": "lock_1", "service": "PAID_SERVICE_LOCK"},
    {"step": "lock_2", "service": "PAID_SERVICE_LOCK"},
    {"step": "distribution_1", "service": "PAID_SERVICE_DISTRIBUTION"},
    {"step": "launch", "service": "PAID_SERVICE_PIPELINE"},
]
_COUNTS: Final = """
SELECT
    (SELECT count(*) FROM backend.kit_pipelines WHERE definition = 'launch' AND state <> 2)
        AS "failed or partial",
    (SELECT count(*) FROM invoice_storage.refunds WHERE state = 4 AND decided_by = 'automatic')
        AS "refunded automatically",
    (SELECT count(*) FROM lock_deployer.locks WHERE state IN (3, 4, 5)) AS "locks",
    (SELECT count(*) FROM distribution_deployer.distributions WHERE state = 2) AS "distributions",
    (SELECT coalesce(max(attempts), 0) FROM backend.kit_steps) AS "most attempts of a step",
    (SELECT count(*) FROM backend.kit_pipelines WHERE epoch > 1) AS "taken over by another worker"
"""
# How many launches overlapped in time, and how many of those failed in the end.
_TOGETHER: Final = """
WITH spans AS (
    SELECT l.create_time AS begun, p.update_time AS over, p.state
    FROM backend.launches AS l JOIN backend.kit_pipelines AS p ON p.id = l.id),
moments AS (
    SELECT (SELECT count(*) FROM spans WHERE begun <= m.begun AND over > m.begun) AS open,
        (SELECT count(*) FROM spans WHERE begun <= m.begun AND over > m.begun AND state <> 2) AS bad
    FROM spans AS m)
SELECT coalesce(max(open), 0) AS "most launches in flight",
    coalesce(max(bad), 0) AS "failed in flight together" FROM moments
"""
