"""What each command of `icto` does, and what it says when it cannot."""

import asyncio
import json
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from contract import loader
from mesh import envoy, topology
from mesh.cli.client import Client
from tests.support.installation import ICTO, Installation, until

PROTOS = Path(__file__).parents[2] / "protos"


async def test_status_shows_every_process_and_its_health(mesh: Installation) -> None:
    state = await mesh.status()
    status, output = await mesh.icto("status")
    assert status == 0
    assert f"test at {mesh.edge}" in output
    for process in (state["postgres"], state["envoy"]):
        assert re.search(rf"^{process['name']} +{process['pid']} ", output, re.MULTILINE)
    for replica in state["replicas"]:
        assert re.search(rf"^{replica['name']} +healthy +{replica['pid']} ", output, re.MULTILINE)


async def test_logs_are_shown_by_process_and_followed(mesh: Installation) -> None:
    status, output = await mesh.icto("logs", "ledger-1", "-n", "100000")
    assert status == 0
    assert re.search(r"\d\d:\d\d:\d\d\.\d{3} ledger-1 +info +serving unix:", output)
    status, output = await mesh.icto("logs", "ledger-9")
    assert (status, "There is no log of 'ledger-9'" in output) == (1, True)

    following = await asyncio.create_subprocess_exec(
        ICTO, "logs", "lab-1", "-n", "1", "-f", "--run-dir", mesh.run.path,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert following.stdout is not None
    await asyncio.wait_for(following.stdout.readline(), 10)
    with (mesh.run.logs / "lab-1.log").open("a") as log:
        log.write(json.dumps({"message": "something new", "level": "info"}) + "\n")
    async with asyncio.timeout(10):
        while b"something new" not in (line := await following.stdout.readline()):
            assert line, "it ended before it showed the new line"
    following.terminate()
    await following.wait()


async def test_a_method_is_called_and_its_trace_is_drawn(
    mesh: Installation, tmp_path: Path
) -> None:
    status, output = await mesh.icto("call", "IdentityService/WhoAmI", home=tmp_path)
    assert status == 0, output
    principal = json.loads(output.partition("trace ")[0])["principal"]
    (trace_id,) = re.findall(r"^trace ([0-9a-f]{32})$", output, re.MULTILINE)

    async def drawn() -> bool:
        _, waterfall = await mesh.icto("trace", trace_id)
        return (
            re.search(r"^ +IdentityService/WhoAmI +gateway-\d ", waterfall, re.MULTILINE)
            is not None
        )

    await until(drawn)
    _, again = await mesh.icto("call", "icto.identity.v1.IdentityService/WhoAmI", home=tmp_path)
    assert principal in again
    request = '{"count": 3}'
    _, stream = await mesh.icto("call", "LabService/Stream", request, "--anonymous")
    assert stream.count('"index"') == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["call", "LedgerService/Nothing"], "There is no method 'LedgerService/Nothing'"),
        (["call", "LedgerService/GetLedger", '{"nam": 1}'], "is not a icto.ledger.v1.GetLedger"),
        (["call", "LedgerService/GetLedger", '{"name": "ledgers/x"}'], '"reason": "INVALID_NAME"'),
        (["call", "IdentityService/WhoAmI", "--anonymous"], '"code": "UNAUTHENTICATED"'),
        (["trace", "abc"], "A trace id is 32 hexadecimal digits."),
        (["trace", "0" * 31 + "1"], "No span of this trace is kept"),
        (["render", "nothing"], "There is no 'nothing'; take all, or one of bootstrap, clusters"),
        (["restart", "ledger-9"], "There is no ledger-9. Services are audit_storage, backend,"),
        (["faucet", "somebody"], "'somebody' is not a principal that can"),
        (["login", "--bootstrap", "guess" * 9], "BOOTSTRAP_KEY_INVALID"),
        (["status", "--run-dir", "/nowhere"], "Nothing runs in /nowhere. Start it with 'icto up'"),
    ],
)
async def test_what_cannot_be_done_is_said_in_words(
    mesh: Installation, tmp_path: Path, arguments: list[str], says: str
) -> None:
    status, output = await mesh.icto(*arguments, home=tmp_path)
    assert status == 1
    assert says in output
    assert "Traceback" not in output


async def test_login_keeps_a_private_key_and_the_faucet_gives(
    mesh: Installation, tmp_path: Path, alice: Client
) -> None:
    status, output = await mesh.icto("login", home=tmp_path)
    assert status == 0
    (principal,) = re.findall(r"You are (\S+)", output)
    (key,) = (tmp_path / "icto").iterdir()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600

    status, token = await mesh.icto("token", home=tmp_path)
    assert status == 0
    bearer = {"authorization": f"Bearer {token.strip()}"}
    assert (await alice._send("GET", "/v1/whoami", headers=bearer)).body["principal"] == principal

    status, output = await mesh.icto("faucet", "--amount", "2.5", home=tmp_path)
    assert (status, output.strip()) == (0, f"Gave 2.5 ICP to {principal}.")
    account = await alice.rest("GET", f"/v1/ledgers/icp/accounts/{principal}")
    assert account.body["balance"] == "250000000"


async def test_render_prints_what_envoy_reads(mesh: Installation) -> None:
    _, everything = await mesh.icto("render", "--environment", "test")
    rendered = [document for document in yaml.safe_load_all(everything) if document]
    assert rendered
    _, clusters = await mesh.icto("render", "clusters", "--environment", "test")
    names = {cluster["name"] for cluster in yaml.safe_load(clusters)["resources"]}
    assert {replica["service"] for replica in (await mesh.status())["replicas"]} < names


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("", "Envoy accepts its configuration."),
        ("[edge]\nprt = 1", "edge has no prt; it has"),
        ('[edge]\nport = "x"', "edge.port is 'x'; it must be int, for instance 8080"),
        ("[services.ledgr]\nreplicas = 1", "services has no ledgr; it has"),
        ("[edge\n", "mesh.toml: "),
        ('[edge]\naddress = "nowhere"', "edge.address is 'nowhere'; it must be an IP address"),
        ('[edge]\naddress = "1.2.3"', "edge.address is '1.2.3'; it must be an IP"),
    ],
)
async def test_check_names_what_is_wrong_in_mesh_toml(tmp_path: Path, toml: str, says: str) -> None:
    (tmp_path / "mesh.toml").write_text(toml)
    status, output = await run("check", "--run-dir", str(tmp_path))
    assert status == (0 if not toml else 1), output
    assert says in output
    assert "Traceback" not in output


async def test_what_envoy_refuses_is_told_by_resource_and_field(tmp_path: Path) -> None:
    """And not by all of the configuration, which Envoy prints with it."""
    loaded = loader.load("production")
    chosen = topology.load(loaded, None)
    wrong = replace(chosen, edge=replace(chosen.edge, port=70000))
    with pytest.raises(envoy.EnvoyRefusedError) as caught:
        await envoy.check(loaded, wrong, tmp_path)
    assert str(caught.value) == (
        "listener 'edge'.Address.SocketAddress.PortValue: value must be less than or equal to 65535"
    )


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Protos in which a method has no audience, compiled."""
    copy = tmp_path / "protos"
    shutil.copytree(PROTOS, copy, ignore=shutil.ignore_patterns("gen", ".gen.new"))
    proto = copy / "icto/backend/v1/users.proto"
    proto.write_text(proto.read_text().replace("audience: {user: true}", "", 1))
    subprocess.run([sys.executable, copy / "build.py"], check=True)
    return copy


async def test_check_names_what_a_contract_lacks(broken: Path) -> None:
    status, output = await run("check", PYTHONPATH=str(broken / "gen"))
    assert status == 1
    assert "icto.backend.v1.UserService/GetMyProfile" in output
    assert "audience" in output
    assert "Traceback" not in output


async def run(*arguments: str, **environment: str) -> tuple[int, str]:
    """Runs the command line with nothing running; exit status and output."""
    child = await asyncio.create_subprocess_exec(
        ICTO, *arguments,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode()
