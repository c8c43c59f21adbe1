"""The platform's story, told by doing it: sign in, pay for a token, transfer some of it."""

import asyncio
import secrets
import string
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from icto.audit.v1 import audit_pb2
from icto.audit.v1.audit_pb2_grpc import AuditServiceStub
from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from mesh import control
from mesh.cli.client import Client
from mesh.operator import Operator
from mesh.render import Paths
from mesh.rundir import RunDirectory
from observability import waterfall
from observability.receiver import StoredSpan
from services.kit import principal

T = TypeVar("T")
_E8S = 100_000_000
_GIFT = 10 * _E8S
_ORDER = ("create_token", "PAID_SERVICE_TOKEN")
_SUPPLY = 1_000_000_00000000
_TRANSFER = 1234_00000000
_PATIENCE_SECONDS = 20.0
_SETTLE_SECONDS = 0.6


class StoryError(Exception):
    """The story did not end as it should. The message says where."""


class Story:
    """Tells the story at an edge, printing each step with its time."""

    def __init__(self, edge: str, run: RunDirectory, console: Console) -> None:
        self._client = Client(edge, Ed25519PrivateKey.generate())
        self._run = run
        self._console = console

    async def tell(self) -> None:
        """Does it all.

        Raises:
            StoryError: something is not as it should be.
            CallError: the platform refused a call.
        """
        try:
            await self._tell()
        finally:
            await self._client.close()

    async def _tell(self) -> None:
        client = self._client
        await self._step("sign in with a fresh key (REST)", client.sign_in())
        self._console.print(f"           you are {client.principal}")
        await self._step("get ICP from the operator's faucet", self._fund())
        quote = await self._step("ask for a quote and approve it (REST)", client.quote(_ORDER))
        self._console.print(f"           {int(quote['total']) / _E8S} ICP, {quote['name']}")
        accepted = await self._step("order the token (REST)", self._deploy(quote["name"]))
        deployment = await self._step("wait until it is deployed", self._finished(accepted.body))
        token = deployment["token"]
        ledger = token.replace("tokens/", "ledgers/")
        self._console.print(f"           {token}, symbol {deployment['spec']['symbol']}")
        block = await self._step("transfer some of it (gRPC)", self._transfer(ledger))
        self._console.print(f"           in block {block}")
        await self._step("read both balances (REST)", self._check_balances(ledger))
        await self._step("read the invoice (REST)", self._invoiced(deployment, quote["total"]))
        await self._step("find it all in the audit (REST)", self._audited(deployment["name"]))
        verified = await self._step("verify the audit chain (operator)", self._verified())
        self._console.print(f"           {verified} entries, intact")
        self._console.print(await self._step("draw the trace", self._trace(accepted.trace_id)))

    async def _step(self, title: str, work: Awaitable[T]) -> T:
        started = time.perf_counter()
        result = await work
        milliseconds = (time.perf_counter() - started) * 1000
        self._console.print(f"{milliseconds:7.1f} ms  {title}")
        return result

    async def _fund(self) -> None:
        operator = Operator(Paths(self._run.envoy, self._run.sockets))
        try:
            await operator.give(self._client.principal, _GIFT)
        finally:
            await operator.close()

    async def _deploy(self, quote: str) -> Any:
        symbol = "".join(secrets.choice(string.ascii_uppercase) for _ in range(8))
        spec = {"displayName": "Demo token", "symbol": symbol, "totalSupply": str(_SUPPLY)}
        body = {"requestId": str(uuid4()), "spec": spec, "quote": quote}
        return await self._client.rest("POST", "/v1/tokens", body)

    async def _finished(self, deployment: dict[str, Any]) -> dict[str, Any]:
        async def read() -> dict[str, Any]:
            return (await self._client.rest("GET", f"/v1/{deployment['name']}")).body

        done = await _until(read, lambda d: d["state"] not in _UNFINISHED)
        if done["state"] != "DEPLOYMENT_STATE_SUCCEEDED":
            raise StoryError(f"the deployment ended as {done['state']}: {done.get('error')}")
        return done

    async def _transfer(self, ledger: str) -> int:
        response = await LedgerServiceStub(self._client.channel).Transfer(
            ledger_pb2.TransferRequest(
                request_id=str(uuid4()),
                ledger=ledger,
                to=ledger_pb2.Account(owner=_FRIEND),
                amount=str(_TRANSFER),
            ),
            metadata=await self._client.metadata(),
            timeout=_PATIENCE_SECONDS,
        )
        return int(response.block_index)

    async def _check_balances(self, ledger: str) -> None:
        fee = int((await self._client.rest("GET", f"/v1/{ledger}")).body["transferFee"])
        expected = {_FRIEND: _TRANSFER, self._client.principal: _SUPPLY - _TRANSFER - fee}
        for owner, amount in expected.items():
            account = (await self._client.rest("GET", f"/v1/{ledger}/accounts/{owner}")).body
            if int(account["balance"]) != amount:
                raise StoryError(f"{owner} holds {account['balance']}, not {amount}")

    async def _invoiced(self, deployment: dict[str, Any], total: str) -> None:
        payment = (await self._client.rest("GET", f"/v1/{deployment['payment']}")).body
        invoice = (await self._client.rest("GET", f"/v1/{payment['invoice']}")).body
        if (invoice["total"], payment["deliveredAmount"]) != (total, total):
            raise StoryError(f"the invoice says {invoice['total']}, the quote {total}")

    async def _verified(self) -> int:
        operator = Operator(Paths(self._run.envoy, self._run.sockets))
        try:
            answer = await operator.stub(AuditServiceStub).VerifyChain(
                audit_pb2.VerifyChainRequest(), timeout=_PATIENCE_SECONDS
            )
        finally:
            await operator.close()
        if not answer.intact:
            raise StoryError(f"the audit is not intact: {answer.fault.description}")
        return int(answer.verified_count)

    async def _audited(self, operation: str) -> None:
        async def read() -> set[str]:
            entries = await self._client.rest("GET", f"/v1/auditEntries?operation={operation}")
            return {entry["event"]["act"]["status"] for entry in entries.body["entries"]}

        await _until(read, {"ACT_STATUS_INITIATED", "ACT_STATUS_COMPLETED"}.issubset)

    async def _trace(self, trace_id: str) -> waterfall.Waterfall:
        """The trace once nothing is added to it: spans are exported when they end."""

        async def read() -> list[StoredSpan]:
            spans = await control.ask(self._run, "trace", trace_id=trace_id)
            return [StoredSpan(**span) for span in spans]

        async def twice() -> tuple[list[StoredSpan], list[StoredSpan]]:
            before = await read()
            await asyncio.sleep(_SETTLE_SECONDS)
            return before, await read()

        _, spans = await _until(
            twice, lambda r: len(r[0]) == len(r[1]) and {s.service for s in r[1]} >= _EXPECTED
        )
        return waterfall.draw(spans)


_FRIEND = principal.of_service("friend of the demo")
_UNFINISHED = {"DEPLOYMENT_STATE_PENDING", "DEPLOYMENT_STATE_IN_PROGRESS"}
_EXPECTED = {"envoy", "backend", "token_deployer", "ledger", "invoice_storage", "audit_storage"}


async def _until(read: Callable[[], Awaitable[T]], done: Callable[[T], bool]) -> T:
    """Reads until it is as it should be.

    Raises:
        StoryError: it never is.
    """
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                value = await read()
                if done(value):
                    return value
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise StoryError(f"{read.__qualname__}: not within {_PATIENCE_SECONDS:.0f} s") from None
