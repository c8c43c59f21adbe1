"""Payments as their tests need them: administrators, prices, and the backend's own hand."""

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final
from uuid import uuid4

import grpc
import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract import principal, wire
from contract.errors import RemoteError
from contract.status import from_rpc_error
from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from icto.payment.v1 import payment_pb2
from icto.payment.v1.payment_pb2_grpc import PaymentServiceStub
from mesh.cli.client import CallError, Client
from observability import names
from tests.support.installation import Installation, until
from tests.support.roles import in_role
from tests.support.tokens import Mint, somebody

TREASURY: Final = principal.of_service("invoice_storage")
FEE: Final = 10_000
"""The fee of the ledger that payments are made on."""

LAUNCH: Final = (
    ("base", "PAID_SERVICE_PIPELINE"),
    ("create_token", "PAID_SERVICE_TOKEN"),
    ("lock", "PAID_SERVICE_LOCK"),
)
_REVISION: Final = re.compile(rf"^{names.CONFIG_REVISION}\{{[^}}]*\}} ([0-9.e+]+)$", re.MULTILINE)


class Somebody(Client):
    """A user whose token was made by the test, with whatever roles."""

    def __init__(self, mesh: Installation, mint: Mint, roles: Sequence[str]) -> None:
        super().__init__(mesh.edge, Ed25519PrivateKey.generate())
        self.principal = somebody()
        self.roles = list(roles)
        self._token = mint.token(self.principal, roles)
        self._expires = math.inf


@contextlib.asynccontextmanager
async def person(mesh: Installation, mint: Mint, *roles: str) -> AsyncIterator[Client]:
    """Somebody who has had roles for long, and no funds."""
    client = Somebody(mesh, mint, roles)
    for role in roles:
        await in_role(mesh, client.principal, role)
    try:
        yield client
    finally:
        await client.close()


async def post(client: Client, path: str, **body: Any) -> dict[str, Any]:
    """A mutation by REST, under a fresh request id unless one is given."""
    return (await client.rest("POST", path, {"requestId": str(uuid4())} | body)).body


async def get(client: Client, path: str) -> dict[str, Any]:
    """A read by REST."""
    return (await client.rest("GET", f"/v1/{path}")).body


async def reason_of(work: Any) -> str:
    """Why a call is refused; empty when it is not."""
    try:
        await work
    except CallError as error:
        return error.reason
    except RemoteError as error:
        return error.reason
    return ""


async def balance(client: Client, owner: str = "", ledger: str = "ledgers/icp") -> int:
    """What somebody holds; the client when nobody is named."""
    return int((await get(client, f"{ledger}/accounts/{owner or client.principal}"))["balance"])


async def quote_for(client: Client, *items: tuple[str, str]) -> dict[str, Any]:
    """A quote that nobody has approved yet."""
    order = [{"step": step, "service": service} for step, service in items]
    return await post(client, "/v1/quotes", items=order)


async def approve(client: Client, quote: dict[str, Any], amount: int, **more: Any) -> None:
    """Approves an amount for a quote's spender."""
    path = f"/v1/{quote['ledger']}:approve"
    await post(client, path, spender=quote["spender"], amount=str(amount), **more)


async def revisions(mesh: Installation) -> list[int]:
    """The revision of the configuration that each replica follows."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{mesh.metrics_port}/metrics")).text
    return [int(float(value)) for value in _REVISION.findall(text)]


async def until_followed(mesh: Installation, revision: int) -> None:
    """Waits until every replica follows a revision."""
    count = len((await mesh.status())["replicas"])

    async def followed() -> bool:
        found = await revisions(mesh)
        return len(found) == count and min(found) >= revision

    await until(followed)


async def configure(
    mesh: Installation, admin: Client, change: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Changes the configuration, and waits until every replica follows."""
    config = await get(admin, "config")
    change(config)
    body = {"requestId": str(uuid4()), "config": config, "justification": "a test"}
    changed = (await admin.rest("PATCH", "/v1/config", body)).body
    await until_followed(mesh, int(changed["revision"]))
    return changed


@contextlib.asynccontextmanager
async def configured(
    mesh: Installation, admin: Client, change: Callable[[dict[str, Any]], None]
) -> AsyncIterator[None]:
    """The configuration changed in this block, and put back after it."""
    before = await get(admin, "config")
    await configure(mesh, admin, change)

    def put_back(config: dict[str, Any]) -> None:
        for part in ("features", "limits", "payment"):
            config[part] = before[part]

    try:
        yield
    finally:
        await configure(mesh, admin, put_back)


class Backend:
    """The backend's own calls of the payment service, as its pipelines make them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._payments = PaymentServiceStub(channel)

    async def charge(
        self, client: Client, quote: str, operation: str, request_id: str = "", **more: Any
    ) -> payment_pb2.Payment:
        """Charges a quote of a client for an operation."""
        request = payment_pb2.ChargeRequest(
            request_id=request_id or str(uuid4()), operation=operation, quote=quote, **more
        )
        if not request.HasField("accept_time"):
            request.accept_time.GetCurrentTime()
        behalf = ((wire.HEADER_ON_BEHALF_OF, client.principal),)
        return await _told(self._payments.Charge(request, metadata=behalf, timeout=10))

    async def settle(
        self, operation: str, *delivered: str, request_id: str = ""
    ) -> payment_pb2.Payment:
        """Says what was delivered."""
        request = payment_pb2.SettlePaymentRequest(
            request_id=request_id or str(uuid4()),
            operation=operation,
            delivered_steps=delivered,
            failure="" if delivered else "It failed.",
        )
        return await _told(self._payments.SettlePayment(request, timeout=10))


async def _told(call: Any) -> payment_pb2.Payment:
    try:
        payment: payment_pb2.Payment = await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    return payment


@contextlib.asynccontextmanager
async def channel_of(mesh: Installation, service: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel under a service's identity: what whoever holds the run directory may have."""
    async with grpc.aio.insecure_channel(f"unix:{mesh.paths.egress(service)}") as channel:
        yield channel


def new_operation() -> str:
    """An operation that nobody has heard of."""
    return f"deployments/{uuid4()}"


@contextlib.asynccontextmanager
async def empty_treasury(mesh: Installation) -> AsyncIterator[None]:
    """The treasury holds nothing in this block, and what it held after it."""
    async with channel_of(mesh, "invoice_storage") as channel, mesh.operator() as operator:
        held = await operator.balance(TREASURY)
        elsewhere = ledger_pb2.Account(owner=principal.of_service("a vault of the tests"))
        await LedgerServiceStub(channel).Transfer(
            ledger_pb2.TransferRequest(
                request_id=str(uuid4()),
                ledger="ledgers/icp",
                to=elsewhere,
                amount=str(held - FEE),
            ),
            timeout=5,
        )
        try:
            yield
        finally:
            await operator.give(TREASURY, held)


async def refund_in(client: Client, payment: str, *states: str) -> dict[str, Any]:
    """The refund of a payment, once it is in one of these states."""
    wanted = {f"REFUND_STATE_{state}" for state in states}

    async def found() -> dict[str, Any] | None:
        name = (await get(client, payment))["refund"]
        refund = await get(client, name) if name else {}
        return refund if refund.get("state") in wanted else None

    refund: dict[str, Any] = await until(found, 15)
    return refund


async def gathered(*work: Any) -> list[str]:
    """The reasons of calls made at the same time, sorted."""
    return sorted(await asyncio.gather(*(reason_of(one) for one in work)))
