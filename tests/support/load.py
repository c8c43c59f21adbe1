"""Users at work while something is broken: each call is recorded, and every effect is counted."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import grpc
import httpx

from contract import loader, principal
from contract.environment import Environment
from contract.method import Method
from icto.lab.v1 import lab_pb2
from icto.lab.v1.lab_pb2_grpc import LabServiceStub
from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from mesh.cli.client import CallError, Client
from tests.support.installation import (
    E8S,
    START_SECONDS,
    Installation,
    approve_everything,
    deployed,
    finished,
    quoted_body,
    until,
)

_USERS: Final = 2
_FUNDS: Final = 1_000_000 * E8S
_FEE: Final = 10
_SUPPLY: Final = 10**12
_PAUSE_SECONDS: Final = 0.1
_FAILURES: Final = (CallError, grpc.aio.AioRpcError, httpx.HTTPError)

_CONTRACT: Final = loader.load(Environment.TEST)


def _reads() -> dict[str, Method]:
    """A read of each service that has one for users and asks for nothing."""
    found: dict[str, Method] = {}
    for method in _CONTRACT.methods():
        plain = method.http and method.http[0].verb == "GET" and "{" not in method.http[0].path
        allowed = method.audience.user or method.audience.public
        if plain and allowed and method.retriable and method.mesh_name != "lab":
            found.setdefault(method.mesh_name, method)
    return found


READS: Final = _reads()
METHODS: Final = (
    *(method.path for method in READS.values()),
    "/icto.ledger.v1.LedgerService/GetAccount",
    "/icto.ledger.v1.LedgerService/Transfer",
    "/icto.token.v1.TokenService/GetToken",
    "/icto.payment.v1.PaymentService/CreateQuote",
    "/icto.backend.v1.DeploymentService/DeployToken",
    "/icto.lab.v1.LabService/Slow",
)
"""What the load calls."""


@dataclass(frozen=True, slots=True)
class Record:
    """One call. Times on the monotonic clock."""

    what: str
    started: float
    ended: float
    error: str


@dataclass
class User:
    """One user with a token of their own, and what the platform acknowledged to them."""

    client: Client
    token: str
    friend: str
    transfers: dict[str, int | None] = field(default_factory=dict)
    """By request id: the acknowledged block, or None while the outcome is unknown."""
    deployments: list[str] = field(default_factory=list)

    @property
    def ledger(self) -> str:
        return self.token.replace("tokens/", "ledgers/")

    async def transfer(self, request_id: str) -> None:
        """Sends one unit to the friend."""
        self.transfers.setdefault(request_id, None)
        answer = await LedgerServiceStub(self.client.channel).Transfer(
            ledger_pb2.TransferRequest(
                request_id=request_id,
                ledger=self.ledger,
                to=ledger_pb2.Account(owner=self.friend),
                amount="1",
            ),
            metadata=await self.client.metadata(),
            timeout=3,
        )
        self.transfers[request_id] = answer.block_index

    async def deploy(self) -> None:
        """Asks for another token, and pays."""
        answer = await self.client.rest("POST", "/v1/tokens", await quoted_body(self.client))
        self.deployments.append(answer.body["name"])


class Load:
    """Users at work until told to stop."""

    def __init__(self, users: list[User]) -> None:
        self.users = users
        self.records: list[Record] = []
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Works until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            for user in self.users:
                for what, work in self._kinds(user).items():
                    tasks.create_task(self._repeat(what, work))

    @property
    def busy(self) -> bool:
        """Whether each kind of work was done at least once."""
        answered = {record.what for record in self.records if not record.error}
        return answered == set(self._kinds(self.users[0]))

    def stop(self) -> None:
        """Ends the work after the calls that are under way."""
        self._stop.set()

    def failures(self, since: float = 0.0) -> list[Record]:
        """Calls that failed, of those that ended after a moment."""
        return [record for record in self.records if record.error and record.ended >= since]

    def _kinds(self, user: User) -> dict[str, Callable[[], Awaitable[Any]]]:
        client = user.client
        account = f"/v1/{user.ledger}/accounts/{client.principal}"

        async def slow() -> None:
            request = lab_pb2.SlowRequest()
            request.delay.FromMilliseconds(50)
            await LabServiceStub(client.channel).Slow(request, timeout=3)

        def read(path: str) -> Callable[[], Awaitable[Any]]:
            return lambda: client.rest("GET", path)

        return {
            **{method.name: read(method.http[0].path) for method in READS.values()},
            "GetAccount": read(account),
            "GetToken": read(f"/v1/{user.token}"),
            "Transfer": lambda: user.transfer(str(uuid4())),
            "DeployToken": user.deploy,
            "Slow": slow,
        }

    async def _repeat(self, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        while not self._stop.is_set():
            started, error = time.monotonic(), ""
            try:
                await work()
            except _FAILURES as failure:
                error = f"{type(failure).__name__} {failure}"
            self.records.append(Record(what, started, time.monotonic(), error))
            await asyncio.sleep(_PAUSE_SECONDS)

    async def settle(self) -> None:
        """Repeats what has no known outcome, until everything has one."""
        for user in self.users:
            for request_id in [key for key, block in user.transfers.items() if block is None]:
                await user.transfer(request_id)

    async def check_effects(self) -> None:
        """Passes when everything that was acknowledged is there, once."""
        for user in self.users:
            blocks = list(user.transfers.values())
            assert None not in blocks
            assert len(set(blocks)) == len(blocks)
            account = await user.client.rest("GET", f"/v1/{user.ledger}/accounts/{user.friend}")
            assert int(account.body["balance"]) == len(blocks)
            ended = [await finished(user.client, name) for name in user.deployments]
            assert {one["state"] for one in ended} <= {"DEPLOYMENT_STATE_SUCCEEDED"}
            assert len({one["token"] for one in ended}) == len(ended)


@contextlib.asynccontextmanager
async def load_on(installation: Installation) -> AsyncIterator[Load]:
    """Load on an installation while the block runs; at its end every effect is checked."""
    async with contextlib.AsyncExitStack() as clients:
        users = [
            await clients.enter_async_context(new_user(installation, number))
            for number in range(_USERS)
        ]
        load = Load(users)
        running = asyncio.create_task(load.run())
        try:
            await until(_busy(load), START_SECONDS)
            yield load
        finally:
            load.stop()
            await running
        await load.settle()
        await load.check_effects()


def _busy(load: Load) -> Callable[[], Awaitable[bool]]:
    async def every_kind_was_answered() -> bool:
        return load.busy

    return every_kind_was_answered


@contextlib.asynccontextmanager
async def new_user(installation: Installation, number: int = 0) -> AsyncIterator[User]:
    """A user with a token of their own."""
    client = await installation.user(_FUNDS)
    try:
        deployment = await deployed(client, totalSupply=str(_SUPPLY), transferFee=str(_FEE))
        assert deployment["token"], deployment
        await approve_everything(client)
        yield User(client, deployment["token"], principal.of_service(f"friend {number}"))
    finally:
        await client.close()


def rounds(replicas: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Replicas in rounds with at most one of each service."""
    by_service: dict[str, list[dict[str, Any]]] = {}
    for replica in replicas:
        by_service.setdefault(replica["service"], []).append(replica)
    return [
        [replica for replica in column if replica]
        for column in itertools.zip_longest(*by_service.values())
    ]
