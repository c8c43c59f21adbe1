"""One trace from the edge to the audit, metrics of everything, and logs that keep secrets.

The tests share an installation that passes its traces on to a real Jaeger.
"""

import asyncio
import contextlib
import json
import re
import secrets
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from mesh import control
from mesh.cli.client import CallError, Client
from mesh.cli.demo import free_ports
from mesh.jaeger import Jaeger
from observability import names
from observability.receiver import (
    EXPORT_PATH,
    Destination,
    Receiver,
    SpanStore,
    StoredSpan,
)
from tests.conftest import tool
from tests.support import semconv
from tests.support.installation import (
    Installation,
    finished,
    installation,
    kill,
    paid_body,
    until,
)
from tests.support.processes import command_of, descendants
from tests.support.tls import self_signed

# Longer than an exporter waits for an answer.
_FROZEN_SECONDS = 6.0
_LOOK_SECONDS = 0.5
_LOOK_BACK = 10

DEPLOY = "icto.backend.v1.DeploymentService/DeployToken"
VALIDATE = "icto.token.v1.TokenService/ValidateToken"
DEPLOY_STEP = "icto.token.v1.TokenService/DeployToken"
CREATE_LEDGER = "icto.ledger.v1.LedgerService/CreateLedger"
APPEND = "icto.audit.v1.AuditService/AppendEvents"
STEP = "deploy_token create_token"
# What a span of a kind says at least, by OTLP's number of the kind: served calls, sent events.
SAID_BY = {2: semconv.CALL, 4: semconv.SENT}

# From the edge span to the last statement: service and span of each parent and child.
EDGES = [
    (("envoy", DEPLOY), ("envoy", "router backend egress")),
    (("envoy", "router backend egress"), ("backend", DEPLOY)),
    (("backend", DEPLOY), ("envoy", VALIDATE)),
    (("envoy", VALIDATE), ("envoy", "router token_deployer egress")),
    (("envoy", "router token_deployer egress"), ("token_deployer", VALIDATE)),
    (("token_deployer", VALIDATE), ("token_deployer", "SELECT tokens")),
    (("backend", DEPLOY), ("backend", "WITH deployments")),
    (("backend", DEPLOY), ("backend", STEP)),
    (("backend", STEP), ("envoy", DEPLOY_STEP)),
    (("envoy", "router token_deployer egress"), ("token_deployer", DEPLOY_STEP)),
    (("token_deployer", DEPLOY_STEP), ("token_deployer", "INSERT tokens")),
    (("token_deployer", DEPLOY_STEP), ("envoy", CREATE_LEDGER)),
    (("envoy", "router ledger egress"), ("ledger", CREATE_LEDGER)),
    (("ledger", CREATE_LEDGER), ("ledger", "WITH ledgers")),
    (("ledger", CREATE_LEDGER), ("ledger", names.OUTBOX_PUBLISH)),
    (("token_deployer", DEPLOY_STEP), ("token_deployer", names.OUTBOX_PUBLISH)),
    (("backend", DEPLOY), ("backend", names.OUTBOX_PUBLISH)),
    (("backend", names.OUTBOX_PUBLISH), ("envoy", APPEND)),
    (("envoy", "router audit_storage egress"), ("audit_storage", APPEND)),
    (("audit_storage", APPEND), ("audit_storage", "COMMIT")),
]


@dataclass(frozen=True)
class House:
    """An installation with a Jaeger, and one traced deployment in it."""

    installation: Installation
    jaeger: str
    trace_id: str
    callers_trace: str
    client: Client

    @property
    def supervisor(self) -> int:
        assert self.installation.process is not None
        return self.installation.process.pid


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[House]:
    tool("jaeger")
    port = free_ports(4)[-1]
    toml = f"[observability]\njaeger_port = {port}\n"
    async with installation(toml, start=False) as running:
        await running.start("--jaeger")
        client = await running.user()
        callers_trace = secrets.token_hex(16)
        accepted = await client.rest(
            "POST", "/v1/tokens", await paid_body(client),
            {"traceparent": f"00-{callers_trace}-{secrets.token_hex(8)}-00"},
        )  # fmt: skip
        await finished(client, accepted.body["name"])
        jaeger = Jaeger(running.run, port, lambda *_: None).url
        yield House(running, jaeger, accepted.trace_id, callers_trace, client)
        await client.close()


async def test_one_trace_leads_from_the_edge_over_every_hop_to_the_audit(house: House) -> None:
    kept: dict[str, StoredSpan] = await until(whole_trace(house))
    (root,) = [span for span in kept.values() if not span.parent_id]
    assert (root.service, root.name) == ("envoy", DEPLOY)
    for span in kept.values():
        if span is not root:
            assert span.start >= kept[span.parent_id].start - 1_000_000  # clocks' own grain


async def test_spans_carry_current_names_and_no_deprecated_one(house: House) -> None:
    await until(whole_trace(house))
    allowed = semconv.current()
    assert {"rpc.service", "rpc.system", "db.system", "db.statement"}.isdisjoint(allowed)
    batches = (await ask(house, f"/api/v3/traces/{house.trace_id}"))["result"]["resourceSpans"]
    kinds = Counter[int]()
    for batch in batches:
        resource = {pair["key"]: pair["value"] for pair in batch["resource"]["attributes"]}
        if resource[names.SERVICE_NAME]["stringValue"] == "envoy":
            continue  # Envoy's own names are Envoy's
        used = set(resource)
        for scope in batch["scopeSpans"]:
            for span in scope["spans"]:
                said = {pair["key"] for pair in span.get("attributes", ())}
                assert said >= SAID_BY.get(span["kind"], set()), span["name"]
                used |= said
                kinds[span["kind"]] += 1
        foreign = {n for n in used - allowed if not n.startswith(("icto.", "@jaeger@"))}
        assert foreign == set()
        assert {names.SERVICE_NAMESPACE, names.SERVICE_INSTANCE_ID} < set(resource)
    assert kinds.keys() >= SAID_BY.keys()
    assert kinds.total() > 10


async def test_a_callers_trace_is_a_link_of_the_first_call_alone(house: House) -> None:
    """Inside the mesh one trace goes on; it is found by the caller's id, too."""
    kept: dict[str, StoredSpan] = await until(whole_trace(house))
    assert house.trace_id != house.callers_trace
    assert {span.span_id for span in await stored(house, house.callers_trace)} == set(kept)
    batches = (await ask(house, f"/api/v3/traces/{house.trace_id}"))["result"]["resourceSpans"]
    spans = [s for b in batches for scope in b["scopeSpans"] for s in scope["spans"]]
    linked = [
        span["name"]
        for span in spans
        if house.callers_trace in {link["traceId"] for link in span.get("links", ())}
    ]
    assert linked == [DEPLOY]


async def test_a_dead_collector_holds_nothing_up_and_what_is_lost_is_counted(
    house: House,
) -> None:
    before = await counted(house, "icto_spans_dropped_total")
    kill(house.supervisor, signal.SIGSTOP)
    try:
        frozen = time.monotonic()
        while time.monotonic() < frozen + _FROZEN_SECONDS:
            await house.client.rest("GET", "/v1/whoami")
            await asyncio.sleep(0.05)
    finally:
        kill(house.supervisor, signal.SIGCONT)

    async def losses_are_told() -> bool:
        return await counted(house, "icto_spans_dropped_total") > before

    await until(losses_are_told, 20)


async def test_a_dead_jaeger_is_started_again_and_what_it_missed_is_counted(house: House) -> None:
    before = await counted(house, "icto_collector_dropped_total")

    async def losses_are_told() -> bool:
        # Again whenever it is back: nothing need have been sent in so short an absence.
        for process in descendants(house.supervisor):
            if "jaeger.json" in command_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    kill(process.pid)
        await house.client.rest("GET", "/v1/whoami")
        return await counted(house, "icto_collector_dropped_total") > before

    await until(losses_are_told)
    called: list[str] = []

    async def shows_new_traces() -> bool:
        # What is called before the new one listens is lost, too; what comes later must show.
        called.append((await house.client.rest("GET", "/v1/whoami")).trace_id)
        await asyncio.sleep(_LOOK_SECONDS)
        with contextlib.suppress(httpx.HTTPError):
            for trace_id in called[-_LOOK_BACK:]:
                if await spans_in_jaeger(house, trace_id):
                    return True
        return False

    await until(shows_new_traces, 45)


@contextlib.asynccontextmanager
async def collector(credentials: grpc.ServerCredentials | None) -> AsyncIterator[Any]:
    """Another collector: its port, and a queue of what it is sent with which headers."""
    taken: asyncio.Queue[tuple[bytes, dict[str, Any]]] = asyncio.Queue()

    async def export(batch: bytes, context: Any) -> bytes:
        await taken.put((batch, dict(context.invocation_metadata())))
        return b""

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (control.Routes({}, {EXPORT_PATH: grpc.unary_unary_rpc_method_handler(export)}),)
    )
    port = (
        server.add_secure_port("localhost:0", credentials)
        if credentials
        else server.add_insecure_port("localhost:0")
    )
    await server.start()
    yield port, taken
    await server.stop(0)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_traces_are_passed_on_as_the_standard_variables_say(
    scheme: str, tmp_path: Path
) -> None:
    key, certificate = self_signed("localhost")
    (tmp_path / "roots.pem").write_bytes(certificate)
    tls = grpc.ssl_server_credentials([(key, certificate)]) if scheme == "https" else None
    async with collector(tls) as (port, taken):
        destination = Destination.of_environment(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"{scheme}://localhost:{port}/",
                "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20key",
                "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "roots.pem"),
            }
        )
        receiver = Receiver(SpanStore(), destination)
        forwarding = asyncio.create_task(receiver.forward())
        await receiver._export(b"a batch", None)
        await receiver.flush(10)
        forwarding.cancel()
        batch, headers = taken.get_nowait()
    assert (batch, headers["authorization"]) == (b"a batch", "Bearer key")
    assert receiver.dropped == 0


async def test_logs_are_json_with_the_trace_and_hold_no_secret(house: House) -> None:
    with pytest.raises(CallError, match="INTERNAL") as failed:
        await house.client.rest("POST", "/v1/lab:fail", {"code": 13})
    with pytest.raises(CallError, match="401"):
        await house.client._send("GET", "/v1/whoami", headers={"authorization": "Bearer x.y.z"})
    run = house.installation.run
    logs = {file: file.read_text() for file in run.logs.iterdir()}
    assert {"envoy.log", "ledger-1.log"} <= {file.name for file in logs}
    lines = [json.loads(line) for text in logs.values() for line in text.splitlines()]
    assert all({"time", "level", "message"} <= line.keys() for line in lines if "ts" not in line)
    (told,) = [line for line in lines if line.get("exception")]
    assert told["trace_id"] == failed.value.problem["trace_id"]
    assert "LabBrokenError" in told["exception"]

    secret = json.loads((run.path / "secrets.json").read_text())
    secret["postgres"] = run.database_password.read_text()
    (key,) = re.findall(r"--bootstrap (\S+)", house.installation.output().decode())
    token = await house.client.token()
    for hidden in (*secret.values(), key, token, token.split(".")[2]):
        assert len(hidden) > 20
        assert not [file.name for file, text in logs.items() if hidden in text]


async def test_metrics_of_every_replica_and_of_envoy_follow_prometheus_conventions(
    mesh: Installation, alice: Client
) -> None:
    await alice.rest("GET", "/v1/whoami")
    text = await metrics(mesh)
    assert lint(text) == ""

    status = 'rpc_response_status_code="OK"'
    served = (
        f'rpc_server_call_duration_seconds_count{{.*rpc_method="icto.identity.v1.+WhoAmI".*{status}'
    )
    assert re.search(served, text)
    assert "envoy_cluster_upstream_rq_total{" in text
    for replica in (await mesh.status())["replicas"]:
        label = f'instance="{replica["name"]}",service="{replica["service"]}"'
        assert f"icto_replica_up{{{label}}} 1.0" in text
        for name in (
            names.CALLS_IN_FLIGHT, names.LOOP_LAG, names.OUTBOX_PENDING, names.POOL_WAIT + "_count",
            names.SPANS_DROPPED,
        ):  # fmt: skip
            assert re.search(rf"^{name}{{[^}}]*{label}", text, re.MULTILINE), (name, label)
        assert re.search(rf'^{names.POOL_SIZE}{{{label},state="open"}}', text, re.MULTILINE)


def lint(text: str) -> str:
    """What promtool has to say about metrics."""
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        input=text, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return checked.stdout + checked.stderr


async def metrics(installation: Installation) -> str:
    """What Prometheus would read."""
    async with httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{installation.metrics_port}/metrics"
        return (await http.get(url, timeout=10)).raise_for_status().text


async def counted(house: House, name: str) -> float:
    """Sum of a counter over all replicas."""
    text = await metrics(house.installation)
    return sum(
        float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    )


async def stored(house: House, trace_id: str) -> list[StoredSpan]:
    """The spans in the supervisor's own store."""
    found = await control.ask(house.installation.run, "trace", trace_id=trace_id)
    return [StoredSpan(**span) for span in found]


async def ask(house: House, path: str) -> Any:
    """What Jaeger's query API says."""
    async with httpx.AsyncClient(base_url=house.jaeger) as http:
        return (await http.get(path)).json()


async def spans_in_jaeger(house: House, trace_id: str) -> dict[str, tuple[str, str, str]]:
    """Jaeger's spans by id: service, name, and the span that each is a child of."""
    found = (await ask(house, f"/api/traces/{trace_id}"))["data"] or []
    spans: dict[str, tuple[str, str, str]] = {}
    for trace in found:
        for span in trace["spans"]:
            parents = [r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"]
            service = trace["processes"][span["processID"]]["serviceName"]
            spans[span["spanID"]] = service, span["operationName"], "".join(parents)
    return spans


def whole_trace(house: House) -> Any:
    """The trace's spans by id, once no call is half told and both stores say the same."""

    async def every_edge_is_there() -> dict[str, StoredSpan] | None:
        spans = await spans_in_jaeger(house, house.trace_id)
        kept = {span.span_id: span for span in await stored(house, house.trace_id)}
        known = {**spans, "": ("caller", "", "")}
        if any(parent not in known for _, _, parent in spans.values()):
            return None  # a span is exported when it ends: its parent is yet to come
        routed = {key for key, (_, name, _) in spans.items() if name.endswith(" egress")}
        if not routed <= {parent for _, _, parent in spans.values()}:
            return None  # every process exports for itself: the callee is yet to come
        edges = {(known[parent][:2], (service, name)) for service, name, parent in spans.values()}
        agreed = {key: (span.service, span.name, span.parent_id) for key, span in kept.items()}
        return kept if set(EDGES) <= edges and spans == agreed else None

    return every_edge_is_there
