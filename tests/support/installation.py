"""A real installation for tests, in a run directory of its own, started as a user would."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh import control
from mesh.cli.client import Client
from mesh.cli.demo import free_ports
from mesh.operator import Operator
from mesh.render import Paths
from mesh.rundir import RunDirectory, RunDirectoryError
from services.kit.testing.faults import DIRECTORY_VARIABLE

START_SECONDS: Final = 180.0
STOP_SECONDS: Final = 40.0
HEALTH_INTERVAL: Final = 0.5
E8S: Final = 100_000_000
TOKEN_ORDER: Final = ("create_token", "PAID_SERVICE_TOKEN")
# Many tokens in one test run; the limits themselves are tested under limits of their own.
INITIAL_CONFIG: Final = json.dumps(
    {
        "limits": {
            "maxProjectsPerUser": 1000,
            "maxTokensPerUser": 100000,
            "maxDeploymentsPerDay": 100000,
            "deploymentCooldown": "0s",
            "pipelineCooldown": "0s",
            "maxConcurrentPipelines": 1000,
        }
    }
)
ICTO: Final = Path(sys.executable).with_name("icto")

# Tests use many principals; what a single one may do is raised through configuration, not bypassed.
# STREAM stays small: the limits themselves are tested with it.
_LIMITS: Final[Mapping[str, Mapping[str, int]]] = {
    name: {"capacity": 100_000, "per_second": 100_000}
    for name in ("READ", "WRITE", "DEPLOY", "SIGN_IN")
}


class Installation:
    """A supervisor and all that it started, as the operator has it."""

    def __init__(
        self,
        folder: Path,
        ports: tuple[int, int],
        environment: Mapping[str, str] | None = None,
        icto: Path = ICTO,
    ) -> None:
        self._icto = icto
        self.faults = folder.with_name("faults")
        self._environment = {
            "ICTO_INITIAL_CONFIG": INITIAL_CONFIG,
            DIRECTORY_VARIABLE: str(self.faults),
        } | dict(environment or {})
        self.run = RunDirectory(folder)
        self.port, self.metrics_port = ports
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder.with_name(f"{folder.name}.out")

    @property
    def program(self) -> Path:
        return self._icto

    @property
    def edge(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def paths(self) -> Paths:
        return Paths(self.run.envoy, self.run.sockets)

    @property
    def database(self) -> str:
        """Address of the database as its superuser."""
        host, password = self.run.database_socket, self.run.database_password.read_text()
        return f"postgresql://postgres:{password}@/icto?host={host}"

    @property
    def postgres_pid(self) -> int | None:
        """The database server's main process, as it says itself."""
        file = self.run.database / "data" / "postmaster.pid"
        try:
            return int(file.read_text().splitlines()[0])
        except (OSError, IndexError, ValueError):
            return None

    def spawn(self, *arguments: str) -> None:
        """Starts the supervisor and returns at once."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    str(self._icto), "up", "--run-dir", str(self.run.path), "--environment", "test",
                    "--port", str(self.port), "--metrics-port", str(self.metrics_port),
                    *arguments,
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | self._environment,
                start_new_session=True,
            )  # fmt: skip

    async def start(self, *arguments: str) -> None:
        """Starts the supervisor and waits until it says that it is up."""
        before = self.log.stat().st_size if self.log.exists() else 0
        self.spawn(*arguments)
        deadline = time.monotonic() + START_SECONDS
        while b"is up after" not in self.output(before):
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"did not start:\n{self.output(before).decode()[-4000:]}")
            await asyncio.sleep(0.05)

    def output(self, start: int = 0) -> bytes:
        """What the supervisor printed."""
        return self.log.read_bytes()[start:] if self.log.exists() else b""

    async def stop(self) -> None:
        """Ends the supervisor as Ctrl-C does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                await asyncio.to_thread(self.process.wait, STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"did not stop:\n{self.output().decode()[-4000:]}") from None

    async def status(self) -> Any:
        """What the supervisor says."""
        return await control.ask(self.run, "status")

    async def envoy(self, path: str) -> str:
        """What Envoy's admin interface says."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.paths.admin))
        async with httpx.AsyncClient(transport=transport, base_url="http://envoy") as admin:
            return (await admin.get(path)).text

    async def ejections(self, service: str) -> int:
        """How often Envoy has stopped using a replica of a service because of its failures."""
        name = f"cluster.{service}.outlier_detection.ejections_enforced_total"
        return int((await self.envoy(f"/stats?filter=^{name}$")).rpartition(": ")[2])

    async def spans(self, trace_id: str) -> list[dict[str, Any]]:
        """What is known of a trace by now."""
        found: list[dict[str, Any]] = await control.ask(self.run, "trace", trace_id=trace_id)
        return found

    async def replicas(self, service: str) -> list[dict[str, Any]]:
        """The replicas of a service."""
        state = await self.status()
        return [replica for replica in state["replicas"] if replica["service"] == service]

    async def until_healthy(self, seconds: float = START_SECONDS) -> None:
        """Waits until every replica passes its health checks."""

        async def healthy() -> bool:
            state = await self.status()
            return all(replica["healthy"] for replica in state["replicas"])

        await until(healthy, seconds)

    @contextlib.asynccontextmanager
    async def crash_at(self, point: str) -> AsyncIterator[None]:
        """Whoever passes a point first in this block dies there; it must be passed."""
        armed, hit = self.faults / point, self.faults / f"{point}.hit"
        armed.touch()
        try:
            yield
            assert hit.exists(), f"nobody passed {point}"
        finally:
            armed.unlink(missing_ok=True)
            hit.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def frozen(self, service: str) -> AsyncIterator[None]:
        """Every replica of a service is stopped in this block, and Envoy knows it.

        So are those that the supervisor starts in their place: it takes them for hanging.
        """
        stopped: set[int] = set()

        async def stop_all() -> None:
            for replica in await self.replicas(service):
                if replica["pid"] not in {None, *stopped}:
                    stopped.add(replica["pid"])
                    signalled(replica["pid"], signal.SIGSTOP)

        async def keep_stopping() -> None:
            while True:
                await stop_all()
                await asyncio.sleep(0.05)

        async def away() -> bool:
            return not any(replica["healthy"] for replica in await self.replicas(service))

        await stop_all()
        stopping = asyncio.create_task(keep_stopping())
        try:
            await until(away)
            yield
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)
            for pid in stopped:
                signalled(pid, signal.SIGCONT)
            await self.until_healthy()

    @contextlib.asynccontextmanager
    async def held(self, table: str, *, reads: bool = False) -> AsyncIterator[None]:
        """Nobody writes a table in this block, so that what has to is under way meanwhile.

        With `reads` nobody reads it, either.
        """
        mode = "ACCESS EXCLUSIVE" if reads else "EXCLUSIVE"
        async with self.superuser() as database, database.transaction():
            await database.execute(f"LOCK TABLE {table} IN {mode} MODE")
            yield

    async def until_served(self, seconds: float = START_SECONDS) -> None:
        """Waits until every service has a replica that passes its health checks."""

        async def served() -> bool:
            with contextlib.suppress(RunDirectoryError):
                state = await self.status()
                healthy = {r["service"] for r in state["replicas"] if r["healthy"]}
                return healthy == {r["service"] for r in state["replicas"]}
            return False

        await until(served, seconds)

    async def user(self, funds: int = 1000 * E8S) -> Client:
        """A fresh user, signed in, with some ICP (base units)."""
        client = Client(self.edge, Ed25519PrivateKey.generate())
        await client.sign_in()
        if funds:
            async with self.operator() as operator:
                await operator.give(client.principal, funds)
        return client

    @contextlib.asynccontextmanager
    async def operator(self) -> AsyncIterator[Operator]:
        """Whoever holds the run directory."""
        operator = Operator(self.paths)
        try:
            yield operator
        finally:
            await operator.close()

    @contextlib.asynccontextmanager
    async def superuser(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        """A connection that may do anything to the database."""
        connection = await asyncpg.connect(self.database)
        await _exact(connection)
        try:
            yield connection
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def superusers(self) -> AsyncIterator["asyncpg.Pool[Any]"]:
        """Such connections that are replaced when they break."""
        async with asyncpg.create_pool(
            self.database, min_size=0, max_size=4, timeout=2, command_timeout=5, init=_exact
        ) as pool:
            yield pool

    async def icto(self, *arguments: str, home: Path | None = None) -> tuple[int, str]:
        """Runs the command line against this installation; exit code and output."""
        environment = dict(os.environ) | {"ICTO_RUN_DIR": str(self.run.path)}
        if home is not None:
            environment["XDG_CONFIG_HOME"] = str(home)
        child = await asyncio.create_subprocess_exec(
            str(self._icto), *arguments,
            env=environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await child.communicate()
        assert child.returncode is not None
        return child.returncode, output.decode()


@contextlib.asynccontextmanager
async def installation(
    overrides: str = "",
    environment: Mapping[str, str] | None = None,
    *,
    limits: Mapping[str, Mapping[str, int]] | None = None,
    start: bool = True,
    icto: Path = ICTO,
) -> AsyncIterator[Installation]:
    """A fresh installation, removed at the end.

    `overrides` goes into its mesh.toml; `limits` are buckets that differ from the usual ones;
    `icto` is another program than this checkout's.
    """
    with tempfile.TemporaryDirectory(prefix="icto-test-") as base:
        folder = Path(base) / "run"
        folder.mkdir(mode=0o700)
        (folder / "mesh.toml").write_text(_toml({**_LIMITS, **(limits or {})}) + overrides)
        edge, metrics = free_ports(2)
        made = Installation(folder, (edge, metrics), environment, icto)
        made.faults.mkdir()
        try:
            if start:
                await made.start()
            yield made
        finally:
            await made.stop()
            made.run.remove()


async def _exact(connection: Any) -> None:
    """Amounts are whole numbers."""
    await connection.set_type_codec("numeric", encoder=str, decoder=int, schema="pg_catalog")


def _toml(limits: Mapping[str, Mapping[str, int]]) -> str:
    lines = []
    for name, bucket in limits.items():
        lines += [f"[limits.{name}]", *(f"{key} = {value}" for key, value in bucket.items())]
    return "\n".join(lines) + "\n"


async def until(condition: Any, seconds: float = 10.0, pause: float = 0.05) -> Any:
    """Waits until an async condition holds, and returns what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        value = await condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{condition.__qualname__}: not within {seconds} s"
        await asyncio.sleep(pause)


def new_symbol() -> str:
    """A token symbol that nobody has."""
    return "".join(secrets.choice(string.ascii_uppercase) for _ in range(8))


def token_body(**spec: Any) -> dict[str, Any]:
    """A request for a token, as REST takes it, not paid for."""
    standard = {"displayName": "Test token", "symbol": new_symbol(), "totalSupply": "1000000000"}
    return {"requestId": str(uuid4()), "spec": standard | spec}


async def paid_body(client: Client, **spec: Any) -> dict[str, Any]:
    """A request for a token, with a quote that the client has approved."""
    quote = await client.quote(TOKEN_ORDER)
    return token_body(**spec) | {"quote": quote["name"]}


async def approve_everything(client: Client) -> None:
    """Lets the platform charge the client for whatever they order."""
    quote = await client.quote(TOKEN_ORDER)
    approval = {"requestId": str(uuid4()), "spender": quote["spender"], "amount": str(10**15)}
    await client.rest("POST", f"/v1/{quote['ledger']}:approve", approval)


async def quoted_body(client: Client, **spec: Any) -> dict[str, Any]:
    """A request for a token of a client who has approved everything."""
    step, service = TOKEN_ORDER
    body = {"requestId": str(uuid4()), "items": [{"step": step, "service": service}]}
    quote = await client.rest("POST", "/v1/quotes", body)
    return token_body(**spec) | {"quote": quote.body["name"]}


async def deployed(client: Client, **spec: Any) -> dict[str, Any]:
    """A token of the client, paid for and deployed."""
    accepted = await client.rest("POST", "/v1/tokens", await paid_body(client, **spec))
    return await finished(client, accepted.body["name"])


async def finished(client: Client, name: str, seconds: float = 20.0) -> dict[str, Any]:
    """A deployment once it has ended."""

    async def ended() -> dict[str, Any] | None:
        body = (await client.rest("GET", f"/v1/{name}")).body
        return body if body["state"] not in _UNFINISHED else None

    found: dict[str, Any] = await until(ended, seconds)
    return found


_UNFINISHED: Final = {"DEPLOYMENT_STATE_PENDING", "DEPLOYMENT_STATE_IN_PROGRESS"}


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Sends a signal to a process that this test's installation started."""
    os.kill(pid, number)


def signalled(pid: int, number: signal.Signals) -> None:
    """Sends a signal to a process that the supervisor may have replaced meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        kill(pid, number)


def parse_lines(text: str) -> list[dict[str, Any]]:
    """JSON objects, one a line."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
