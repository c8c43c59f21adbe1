"""Programs that know nothing of us: grpcurl and grpc_health_probe, at the edge."""

import asyncio
import signal
import time
from importlib import resources
from pathlib import Path

import pytest

from contract import loader
from contract.environment import Environment
from mesh.cli.client import Client
from tests.conftest import tool
from tests.support.installation import (
    HEALTH_INTERVAL,
    START_SECONDS,
    Installation,
    finished,
    kill,
    paid_body,
    signalled,
    until,
)

CONTRACT = loader.load(Environment.TEST)
EXPOSED = {method.full_name for method in CONTRACT.methods() if method.audience.from_outside}
HIDDEN = {method.full_name for method in CONTRACT.methods()} - EXPOSED
DESCRIPTORS = Path(str(resources.files("icto") / "descriptors.binpb"))
DEPLOY = "icto.token.v1.TokenService/DeployToken"
WATCH = "icto.backend.v1.DeploymentService/WatchDeployment"


async def run(*command: str) -> tuple[int, str]:
    """Exit status and output of a program."""
    child = await asyncio.create_subprocess_exec(
        tool(command[0]), *command[1:],
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode()


async def grpcurl(mesh: Installation, *arguments: str, flags: tuple[str, ...] = ()) -> str:
    """What grpcurl prints, with its exit status if that is not 0."""
    status, output = await run("grpcurl", "-plaintext", *flags, mesh.target, *arguments)
    return output if status == 0 else f"exit {status}: {output}"


def signed(client_token: str, request: str) -> tuple[str, ...]:
    return ("-H", f"authorization: Bearer {client_token}", "-d", request)


async def test_reflection_shows_what_users_may_call_and_nothing_else(mesh: Installation) -> None:
    services = sorted({name.partition("/")[0] for name in EXPOSED})
    assert (await grpcurl(mesh, "list")).split() == services
    listed = await asyncio.gather(*(grpcurl(mesh, "list", service) for service in services))
    methods = {line for text in listed for line in text.split()}
    assert methods == {name.replace("/", ".") for name in EXPOSED}

    ours = [name for name in sorted(EXPOSED | HIDDEN) if name.startswith("icto.")]
    told = await asyncio.gather(*(grpcurl(mesh, "describe", n.replace("/", ".")) for n in ours))
    for name, description in zip(ours, told, strict=True):
        if name in EXPOSED:
            assert f"rpc {name.partition('/')[2]} (" in description
        else:
            assert "not found" in description


async def test_grpcurl_calls_and_watches(mesh: Installation, alice: Client) -> None:
    ledger = await grpcurl(
        mesh, "icto.ledger.v1.LedgerService/GetLedger", flags=("-d", '{"name": "ledgers/icp"}')
    )
    assert '"symbol": "ICP"' in ledger
    order = (await alice.rest("POST", "/v1/tokens", await paid_body(alice))).body
    request = f'{{"name": "{order["name"]}"}}'
    watched = await grpcurl(mesh, WATCH, flags=signed(await alice.token(), request))
    assert watched.count('"deployment"') >= 1
    assert '"state": "DEPLOYMENT_STATE_SUCCEEDED"' in watched
    assert (await finished(alice, order["name"]))["token"] in watched


async def test_a_method_for_services_is_refused_at_the_edge(
    mesh: Installation, alice: Client
) -> None:
    """Nobody who is signed in gets around paying by calling the deployer (F-19)."""
    flags = ("-protoset", str(DESCRIPTORS), *signed(await alice.token(), "{}"))
    refused = await grpcurl(mesh, DEPLOY, flags=flags)
    assert "Code: Unimplemented" in refused
    assert "METHOD_NOT_FOUND" in refused


async def probe(mesh: Installation, service: str) -> tuple[int, str]:
    """grpc_health_probe's exit status and output."""
    return await run(
        "grpc_health_probe", "-addr", mesh.target, "-service", service, "-rpc-timeout", "2s"
    )


async def test_an_unknown_service_has_no_health(mesh: Installation) -> None:
    status, output = await probe(mesh, "icto.nothing.v1.NothingService")
    assert status != 0
    assert "NotFound" in output


@pytest.mark.parametrize("service", sorted(CONTRACT.services))
async def test_the_probe_of_a_service_fails_while_it_hangs_and_recovers(
    mesh: Installation, service: str
) -> None:
    """What a probe tells is measured, and not older than it says (F-61, F-62)."""
    name = CONTRACT.services[service].proto_services[0]
    assert (await probe(mesh, name))[0] == 0
    pids = [replica["pid"] for replica in await mesh.replicas(service)]
    assert len(pids) == CONTRACT.services[service].replicas
    stopped = time.monotonic()
    try:
        for pid in pids:
            kill(pid, signal.SIGSTOP)
        asked = stopped
        while (await probe(mesh, name))[0] == 0:
            asked = time.monotonic()
            assert asked - stopped < 3 * HEALTH_INTERVAL, "still healthy"
    finally:
        for pid in pids:
            signalled(pid, signal.SIGCONT)

    async def serving() -> bool:
        return (await probe(mesh, name))[0] == 0

    await until(serving, START_SECONDS)
    await mesh.until_healthy()
