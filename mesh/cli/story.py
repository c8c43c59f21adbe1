"""The platform's story, told by doing it: sign in, pay for a launch, follow it, claim, count."""

import asyncio
import base64
import secrets
import string
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from contract import principal
from icto.audit.v1 import audit_pb2
from icto.audit.v1.audit_pb2_grpc import AuditServiceStub
from icto.backend.v1 import launches_pb2
from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from mesh import control
from mesh.cli import follow
from mesh.cli.client import Answer, Client
from mesh.cli.launches import told
from mesh.cli.terminal import E8S, icp, plain
from mesh.operator import Operator
from mesh.render import Paths
from mesh.rundir import RunDirectory
from observability import waterfall
from observability.receiver import StoredSpan

T = TypeVar("T")
_GIFT = 10 * E8S
_SUPPLY = 1_000_000_00000000
_LOCKED = 200_000_00000000
_SHARE = 5_000_00000000
_GIVEN = 2 * _SHARE
_TRANSFER = 1234_00000000
_FEE = 10_000
_PATIENCE_SECONDS = 20.0
_SETTLE_SECONDS = 0.6


class StoryError(Exception):
    """The story did not end as it should. The message says where."""


class Story:
    """Tells the story at an edge, printing each step with its time."""

    def __init__(self, edge: str, run: RunDirectory, console: Console) -> None:
        self._client = Client(edge, Ed25519PrivateKey.generate())
        self._member = Client(edge, Ed25519PrivateKey.generate())
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
        except follow.LostError as error:
            raise StoryError(str(error)) from None
        except grpc.aio.AioRpcError as error:
            raise StoryError(f"{error.code().name}: {error.details()}") from None
        finally:
            await self._client.close()
            await self._member.close()

    async def _tell(self) -> None:
        client, note = self._client, self._note
        await self._step("sign in with a fresh key (REST)", client.sign_in())
        note(client.principal)
        await self._step("get ICP from the operator's faucet", self._fund())
        await self._step("a member of the community signs in (REST)", self._member.sign_in())
        spec = self._spec()
        quote = await self._step("ask for a quote and approve it (REST)", self._quote(spec))
        note(f"{icp(quote['total'])}, {quote['name']}")
        accepted = await self._step("order the launch (REST)", self._order(spec, quote["name"]))
        launch = await self._step("follow it to its end (gRPC)", self._followed(accepted.body))
        ledger = launch["token"].replace("tokens/", "ledgers/")
        note(f"{launch['token']}, symbol {launch['spec']['newToken']['symbol']}")
        await self._step("the member claims a share (REST)", self._claimed(launch))
        block = await self._step("transfer some of it (gRPC)", self._transfer(ledger))
        note(f"in block {block}")
        await self._step("read every balance (REST)", self._check_balances(launch, ledger))
        await self._step("read the invoice (REST)", self._invoiced(launch, quote["total"]))
        await self._step("find it all in the audit (REST)", self._audited(launch["name"]))
        verified = await self._step("verify the audit chain (operator)", self._verified())
        note(verified)
        spans = await self._step("draw the trace", self._trace(accepted.trace_id))
        note(f"{len(spans)} spans; 'icto trace' draws each, the calls and steps are these")
        self._console.print(waterfall.draw(waterfall.outline(spans)))

    def _note(self, text: str) -> None:
        self._console.print(f"           {plain(text)}")

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

    def _spec(self) -> dict[str, Any]:
        """A token; a fifth of it is locked for a friend, and two get a share at once."""
        symbol = "".join(secrets.choice(string.ascii_uppercase) for _ in range(8))
        return {
            "displayName": "Demo",
            "newToken": {
                "displayName": "Demo token",
                "symbol": symbol,
                "totalSupply": str(_SUPPLY),
                "transferFee": str(_FEE),
            },
            "locks": [
                {
                    "displayName": "Team",
                    "totalAmount": str(_LOCKED),
                    "schedule": {"linear": {"duration": "31536000s"}},
                    "beneficiaries": [{"principal": _FRIEND, "amount": str(_LOCKED)}],
                }
            ],
            "distributions": [
                {
                    "displayName": "Community",
                    "campaignType": "CAMPAIGN_TYPE_AIRDROP",
                    "totalAmount": str(_GIVEN),
                    "categories": [
                        {
                            "id": 1,
                            "displayName": "Early users",
                            "schedule": {"instant": {}},
                            "whitelist": {
                                "recipients": [
                                    {"principal": who, "amount": str(_SHARE)}
                                    for who in (self._member.principal, _FRIEND)
                                ]
                            },
                        }
                    ],
                }
            ],
        }

    async def _quote(self, spec: dict[str, Any]) -> dict[str, Any]:
        checked = (await self._client.rest("POST", "/v1/launches:validate", {"spec": spec})).body
        return await self._client.quote(*((i["step"], i["service"]) for i in checked["items"]))

    async def _order(self, spec: dict[str, Any], quote: str) -> Answer:
        body = {"requestId": str(uuid4()), "spec": spec, "quote": quote}
        return await self._client.rest("POST", "/v1/launches", body)

    async def _followed(self, launch: dict[str, Any]) -> dict[str, Any]:
        """Prints each step as it is done."""
        begin = datetime.now(UTC)
        state = launches_pb2.LAUNCH_STATE_PENDING
        async for change in follow.changes(self._client, launch["name"]):
            begin = min(begin, change.time.ToDatetime(UTC))
            line = told(change, begin)
            if line is not None:
                self._console.print("  ", line)
            if not change.HasField("step"):
                state = change.state
        ended = (await self._client.rest("GET", f"/v1/{launch['name']}")).body
        if state != launches_pb2.LAUNCH_STATE_SUCCEEDED:
            raise StoryError(f"the launch ended as {ended['state']}: {ended.get('error')}")
        return ended

    async def _claimed(self, launch: dict[str, Any]) -> None:
        (distribution,) = launch["distributions"]
        body = {"requestId": str(uuid4())}
        claim = (await self._member.rest("POST", f"/v1/{distribution}:claim", body)).body
        if int(claim["netAmount"]) != _SHARE - _FEE:
            raise StoryError(f"the share is {claim['netAmount']}, not {_SHARE - _FEE}")

        async def read() -> str:
            found = (await self._member.rest("GET", f"/v1/{claim['name']}")).body
            return str(found["state"])

        await _until(read, lambda state: state == "CLAIM_STATE_PAID")

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

    async def _check_balances(self, launch: dict[str, Any], ledger: str) -> None:
        """Every base unit of the supply, to the last: what is not held was burned as a fee."""
        (lock,), (distribution,) = launch["locks"], launch["distributions"]
        held = (await self._client.rest("GET", f"/v1/{lock}")).body["account"]
        kept = (await self._client.rest("GET", f"/v1/{distribution}")).body["account"]
        # Two parts and the rest leave the escrow; then a claim and a transfer.
        rest = _SUPPLY - _LOCKED - _GIVEN - 3 * _FEE
        expected = {
            self._client.principal: rest - _TRANSFER - _FEE,
            self._member.principal: _SHARE - _FEE,
            _FRIEND: _TRANSFER,
            _account(held): _LOCKED,
            _account(kept): _GIVEN - _SHARE,
            _account(launch["escrow"]): 0,
        }
        for owner, amount in expected.items():
            account = (await self._client.rest("GET", f"/v1/{ledger}/accounts/{owner}")).body
            if int(account["balance"]) != amount:
                raise StoryError(f"{owner} holds {account['balance']}, not {amount}")
        supply = int((await self._client.rest("GET", f"/v1/{ledger}")).body["totalSupply"])
        if sum(expected.values()) != supply:
            raise StoryError(f"the supply is {supply}, the balances {sum(expected.values())}")

    async def _invoiced(self, launch: dict[str, Any], total: str) -> None:
        payment = (await self._client.rest("GET", f"/v1/{launch['payment']}")).body
        invoice = (await self._client.rest("GET", f"/v1/{payment['invoice']}")).body
        if (invoice["total"], payment["deliveredAmount"]) != (total, total):
            raise StoryError(f"the invoice says {invoice['total']}, the quote {total}")

    async def _verified(self) -> str:
        operator = Operator(Paths(self._run.envoy, self._run.sockets))
        try:
            answer = await operator.stub(AuditServiceStub).VerifyChain(
                audit_pb2.VerifyChainRequest(), timeout=_PATIENCE_SECONDS
            )
        finally:
            await operator.close()
        if not answer.intact:
            raise StoryError(f"the audit is not intact: {answer.fault.description}")
        gaps = "".join(f"; {gap.description}" for gap in answer.restorations)
        return f"{answer.verified_count} entries, intact{gaps}"

    async def _audited(self, operation: str) -> None:
        async def read() -> set[str]:
            entries = await self._client.rest("GET", f"/v1/auditEntries?operation={operation}")
            return {entry["event"]["act"]["status"] for entry in entries.body["entries"]}

        await _until(read, {"ACT_STATUS_INITIATED", "ACT_STATUS_COMPLETED"}.issubset)

    async def _trace(self, trace_id: str) -> list[StoredSpan]:
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
        return spans


_FRIEND = principal.of_service("friend of the demo")
_EXPECTED = {
    "envoy", "backend", "token_deployer", "lock_deployer", "distribution_deployer", "ledger",
    "invoice_storage", "audit_storage",
}  # fmt: skip


def _account(account: dict[str, str]) -> str:
    """An account as paths name it."""
    return principal.encode_account(account["owner"], base64.b64decode(account["subaccount"]))


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
