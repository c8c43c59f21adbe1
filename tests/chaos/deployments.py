"""Scenario: creators who pay for tokens, a fifth of which must fail for business reasons."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final
from unittest.mock import MagicMock
from uuid import uuid4

import grpc

from contract import wire
from icto.token.v1 import token_pb2
from icto.token.v1.token_pb2_grpc import TokenServiceStub
from mesh.cli.client import CallError, Client
from services.backend.pipelines import DeployTokenPipeline
from services.invoice_storage.refunds import Refunds
from services.kit.testing.rehearsal import REFUSED_PREFIX, SLOW_PREFIX
from tests.chaos import invariants
from tests.chaos.persistence import Persistence
from tests.chaos.scenario import Connection
from tests.chaos.schedule import step_points
from tests.support.installation import E8S, TOKEN_ORDER, Installation, finished, new_symbol

_CREATORS: Final = 16
_FUNDS: Final = 100_000 * E8S
_LATE_DELIVERIES: Final = 8
_SUCCEEDED: Final = "DEPLOYMENT_STATE_SUCCEEDED"


class Fate(Enum):
    """What must become of an order."""

    DELIVERED = "delivered"
    CHAIN_REFUSES = "refused by the chain after the charge"
    NOT_APPROVED = "not approved on the ledger"
    SYMBOL_TAKEN = "symbol taken"


_FATES: Final = {
    Fate.DELIVERED: 70,
    Fate.CHAIN_REFUSES: 18,
    Fate.NOT_APPROVED: 7,
    Fate.SYMBOL_TAKEN: 5,
}


@dataclass(frozen=True, slots=True)
class Order:
    """An order that was accepted, or that was refused for the reason `refusal`."""

    fate: Fate
    creator: str
    request_id: str
    name: str = ""
    refusal: str = ""


class TokenDeployments:
    """Creators at work."""

    busy = 60
    in_flight = """
    SELECT (SELECT count(*) FROM backend.kit_pipelines WHERE state = 1)
        + (SELECT count(*) FROM invoice_storage.refunds WHERE state IN (2, 3))
    """

    def __init__(self, installation: Installation, seed: int) -> None:
        self._installation = installation
        self._chance = random.Random(seed)
        self.persist = Persistence(random.Random(seed))
        self._creators: list[Client] = []
        self._strangers: list[Client] = []
        self._orders: list[Order] = []
        self._symbol = new_symbol()
        self._late_refusals = 0

    @property
    def points(self) -> Sequence[str]:
        # Nobody's kit: they are asked for their steps only.
        kit, treasury = MagicMock(), MagicMock()
        return (
            *step_points(DeployTokenPipeline(kit).definition),
            *step_points(Refunds(kit, treasury).definition),
            "payment.charge.before", "payment.charge.after", "payment.charge.committed",
            "payment.refund.before", "payment.refund.after", "payment.settle.committed",
            "token.installing.before", "token.installing.after", "token.active.committed",
        )  # fmt: skip

    def least(self, counts: Mapping[str, int]) -> Mapping[str, int]:
        return {
            "accepted": 200,
            "failed for business reasons": counts["ordered"] // 5,
            "failed after the charge": 20,
            "refunded automatically": 10,
            "late deliveries refused": 5,
            "taken over by another worker": 1,
        }

    async def prepare(self) -> None:
        for _ in range(_CREATORS):
            creator = await self._installation.user(_FUNDS)
            quote = await creator.quote(TOKEN_ORDER)
            approval = {
                "requestId": str(uuid4()),
                "spender": quote["spender"],
                "amount": str(_FUNDS),
            }
            await creator.rest("POST", f"/v1/{quote['ledger']}:approve", approval)
            self._creators.append(creator)
            self._strangers.append(await self._installation.user())
        taken = await self._ordered(Fate.DELIVERED, self._creators[0], self._symbol)
        await self._delivered(self._creators[0], taken)

    async def begin(self) -> None:
        (fate,) = self._chance.choices(list(_FATES), list(_FATES.values()))
        clients = self._strangers if fate is Fate.NOT_APPROVED else self._creators
        symbol = self._symbol if fate is Fate.SYMBOL_TAKEN else new_symbol()
        await self._ordered(fate, self._chance.choice(clients), symbol)

    async def complete_one(self) -> None:
        creator = self._chance.choice(self._creators)
        order = await self._ordered(Fate.DELIVERED, creator, new_symbol())
        await self._delivered(creator, order)

    async def _delivered(self, creator: Client, order: Order) -> None:
        ended = await self.persist(lambda: finished(creator, order.name, 60.0))
        assert ended["state"] == _SUCCEEDED, ended

    async def _ordered(self, fate: Fate, client: Client, symbol: str) -> Order:
        """Orders a token, as often as it takes to know the answer."""
        wanted = {"requestId": str(uuid4()), "items": [_item()]}
        quote = (await self.persist(lambda: client.rest("POST", "/v1/quotes", wanted))).body
        name = f"{REFUSED_PREFIX}token" if fate is Fate.CHAIN_REFUSES else f"{SLOW_PREFIX}token"
        spec = {"displayName": name, "symbol": symbol, "totalSupply": "1000000"}
        body = {"requestId": str(uuid4()), "spec": spec, "quote": quote["name"]}
        order = Order(fate, client.principal, body["requestId"])
        try:
            answer = await self.persist(lambda: client.rest("POST", "/v1/tokens", body))
        except CallError as error:
            order = Order(fate, client.principal, order.request_id, refusal=error.reason)
        else:
            order = Order(fate, client.principal, order.request_id, name=answer.body["name"])
        self._orders.append(order)
        return order

    async def finish(self) -> None:
        """Original calls of refunded deployments arrive late, from the backend itself."""
        async with self._installation.superuser() as connection:
            given_up = await connection.fetch(_GIVEN_UP, _LATE_DELIVERIES)
        egress = f"unix:{self._installation.paths.egress('backend')}"
        async with grpc.aio.insecure_channel(egress) as channel:
            for row in given_up:
                self._late_refusals += await _refused_late(TokenServiceStub(channel), row)

    async def counts(self, connection: Connection) -> Mapping[str, int]:
        found = Counter(order.fate.value for order in self._orders)
        row: Any = await connection.fetchrow(_COUNTS)
        return {
            **found,
            "ordered": len(self._orders),
            "accepted": sum(1 for order in self._orders if order.name),
            "failed for business reasons": len(self._orders) - found[Fate.DELIVERED.value],
            **dict(row),
            "late deliveries refused": self._late_refusals,
            "repeated calls": self.persist.repeats,
        }

    async def problems(self, connection: Connection) -> Sequence[str]:
        return [
            *await self._told(connection),
            *await invariants.of_deployments(connection),
            *await invariants.of_money(connection),
            *await invariants.of_ledgers(connection),
            *await invariants.of_audit(connection, self._installation),
        ]

    async def _told(self, connection: Connection) -> list[str]:
        """What creators were told against what is stored: one effect for each request."""
        rows = await connection.fetch("SELECT id, owner, token FROM backend.deployments")
        stored = {f"deployments/{row['id']}": row for row in rows}
        accepted = {order.name: order for order in self._orders if order.name}
        problems = [f"{name} was stored, and nobody was told" for name in stored - accepted.keys()]
        problems += [f"{name} was told, and is not stored" for name in accepted - stored.keys()]
        for name, order in accepted.items():
            delivered = bool(stored[name]["token"]) if name in stored else None
            if delivered is not (order.fate is Fate.DELIVERED):
                problems.append(f"{name} should be {order.fate.value}: delivered is {delivered}")
        wrong = {
            Fate.SYMBOL_TAKEN: "SYMBOL_TAKEN",
            Fate.NOT_APPROVED: "INSUFFICIENT_ALLOWANCE",
        }
        for order in self._orders:
            if order.refusal and order.refusal != wrong.get(order.fate):
                problems.append(f"{order.request_id}, {order.fate.value}: {order.refusal}")
        return problems


def _item() -> dict[str, str]:
    step, service = TOKEN_ORDER
    return {"step": step, "service": service}


_GIVEN_UP: Final = """
SELECT d.id, d.owner, d.spec, d.payment FROM backend.deployments AS d
JOIN token_deployer.tokens AS t ON t.operation = 'deployments/' || d.id AND t.state = 9
ORDER BY d.id LIMIT $1
"""
_COUNTS: Final = """
SELECT
    (SELECT count(*) FROM backend.deployments WHERE token = '' AND payment <> '')
        AS "failed after the charge",
    (SELECT count(*) FROM invoice_storage.refunds WHERE state = 4 AND decided_by = 'automatic')
        AS "refunded automatically",
    (SELECT count(*) FROM token_deployer.tokens WHERE state = 5) AS "tokens",
    (SELECT coalesce(max(attempts), 0) FROM backend.kit_steps) AS "most attempts of a step",
    (SELECT count(*) FROM backend.kit_pipelines WHERE epoch > 1) AS "taken over by another worker"
"""


async def _refused_late(tokens: TokenServiceStub, row: Any) -> bool:
    """Whether the original call of a deployment that was given up is refused."""
    request = token_pb2.DeployTokenRequest(
        request_id=f"{row['id']}:create_token",
        operation=f"deployments/{row['id']}",
        spec=token_pb2.TokenSpec.FromString(row["spec"]),
        payment=row["payment"],
    )
    try:
        await tokens.DeployToken(
            request, metadata=((wire.HEADER_ON_BEHALF_OF, row["owner"]),), timeout=10
        )
    except grpc.aio.AioRpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        return trailers.get(wire.TRAILER_REASON) == "OPERATION_ABANDONED"
    return False
