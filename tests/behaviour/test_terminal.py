"""What commands print of others: whole, in words, and nothing that a terminal would obey."""

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import grpc
import pytest
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from icto.backend.v1 import launches_pb2
from mesh.cli import app, platform
from mesh.cli.client import Client, load_key
from observability.receiver import EXPORT_PATH
from tests.support.installation import ICTO, Installation, new_symbol, until
from tests.support.terminal import at_terminal
from tests.support.texts import DECEIVING

ID: Final = r"[0-9a-f-]{36}"
LONG: Final = "A launch with a long name, as long as people call theirs when nobody stops them"
HOSTILE: Final = "evil [red]:boom:" + "".join(DECEIVING) + "\r\n12:00:00.000 forged"
SPEC: Final = """\
display_name: {name}
new_token:
  {{display_name: Small token, symbol: {symbol}, total_supply: 1_000_000, transfer_fee: 10}}
locks:
  - display_name: {lock}
    total_amount: 1_000
    schedule:
      instant: {{}}
    beneficiaries:
      - principal: e73il-iz5tp-nkgt7-idxyw-ngkah-47bpv-qdase-pzde6-g6vwc-a3eql-jae
        amount: 1_000
"""


def spec(folder: Path, name: str = LONG, lock: str = "Team") -> str:
    file = folder / f"{uuid4()}.yaml"
    file.write_text(SPEC.format(name=name, lock=lock, symbol=new_symbol()))
    return str(file)


class Launched:
    """A user with a launch that was delivered in part: its name and its trace."""

    def __init__(self, home: Path, name: str, trace: str) -> None:
        self.home = home
        self.name = name
        self.trace = trace

    @property
    def id(self) -> str:
        return self.name.removeprefix("launches/")

    @property
    def environment(self) -> dict[str, str]:
        return {"XDG_CONFIG_HOME": str(self.home)}


@pytest.fixture(scope="module")
async def launched(mesh: Installation, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    home = tmp_path_factory.mktemp("home")
    assert (await mesh.icto("faucet", home=home))[0] == 0
    _, output = await mesh.icto("launch", spec(home, lock="Refused lock"), "--yes", home=home)
    name, trace = re.findall(rf"^(launches/{ID}), trace ([0-9a-f]{{32}})", output, re.MULTILINE)[0]
    return Launched(home, name, trace)


def is_whole(output: str, launched: Launched) -> bool:
    rows = (launched.name, LONG, rf"tokens/{ID}", "succeeded in part")
    return "…" not in output and all(re.search(row, output) for row in rows)


async def test_a_pipe_cuts_nothing(mesh: Installation, launched: Launched) -> None:
    _, listed = await mesh.icto("launches", home=launched.home)
    assert is_whole(listed, launched), listed
    (row,) = (line for line in listed.splitlines() if line.startswith(launched.name))
    assert is_whole(row, launched), listed

    _, told = await mesh.icto("launch-status", launched.id, home=launched.home)
    assert "…" not in told
    assert re.search(r"^create_token +done +backend-\d +\d+ .* █+", told, re.MULTILINE), told


async def test_a_narrow_terminal_cuts_no_id_and_no_state(
    mesh: Installation, launched: Launched
) -> None:
    for command in (("launches",), ("launch-status", launched.id), ("status",)):
        _, _, output = await at_terminal(mesh, *command, environment=launched.environment)
        assert "…" not in output, output
        if command == ("launches",):
            assert is_whole(output, launched), output
            assert max(map(len, output.splitlines())) <= len(LONG) + 10, output
        if command[0] == "launch-status":
            assert re.search(r"^transfer_ownership +done +backend-\d ", output, re.MULTILINE)
    wide = await at_terminal(mesh, "launches", environment=launched.environment, columns=300)
    assert re.search(rf"^{launched.name} +{LONG} +succeeded in part ", wide[2], re.MULTILINE)


@pytest.mark.timeout(400)
async def test_programs_read_json(mesh: Installation, launched: Launched) -> None:
    home = launched.home

    async def read(*arguments: str, status: int = 0) -> Any:
        ended, output = await mesh.icto(*arguments, "--json", home=home)
        assert ended == status, output
        return json.loads(output)

    (first, *_) = (await read("launches"))["launches"]
    assert (first["name"], first["spec"]["displayName"]) == (launched.name, LONG)
    told = await read("launch-status", launched.id)
    assert told["state"] == "LAUNCH_STATE_PARTIALLY_SUCCEEDED"
    (failed,) = (step for step in told["steps"] if step["state"] == "STEP_STATE_FAILED")
    assert (failed["error"]["reason"], failed["error"]["service"]) == (
        "LOCK_REFUSED",
        "lock_deployer",
    )
    assert {r["name"] for r in (await read("status"))["replicas"]} >= {"ledger-1", "backend-1"}
    assert (await read("trace", launched.trace))["spans"]
    checked = await read("launch", spec(home), "--check")
    assert (checked["quote"]["total"], checked["check"]["remainderAmount"]) == (
        "200000000",
        "998980",
    )
    assert (await read("check", "--environment", "test"))["ok"] is True


async def test_a_launch_ends_as_json_for_programs(mesh: Installation, launched: Launched) -> None:
    """And nothing else stands where they read."""
    child = await asyncio.create_subprocess_exec(
        ICTO, "launch", spec(launched.home), "--yes", "--json",
        env={"ICTO_RUN_DIR": str(mesh.run.path), "PATH": "/usr/bin:/bin", **launched.environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, told = await child.communicate()
    assert child.returncode == 0, told
    assert json.loads(output)["state"] == "LAUNCH_STATE_SUCCEEDED"
    assert b"create_token" in told


@pytest.fixture(scope="module")
async def hostile(mesh: Installation, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """What somebody wrote before there was a rule, or past it: names, reasons, logs, spans."""
    home = tmp_path_factory.mktemp("hostile")
    assert (await mesh.icto("faucet", home=home))[0] == 0
    _, output = await mesh.icto("launch", spec(home, lock="Refused lock"), "--yes", home=home)
    name, trace = re.findall(rf"^(launches/{ID}), trace ([0-9a-f]{{32}})", output, re.MULTILINE)[0]
    made = Launched(home, name, trace)
    async with mesh.superuser() as database:
        stored = await database.fetchval("SELECT spec FROM backend.launches WHERE id = $1", made.id)
        wrong = launches_pb2.LaunchSpec.FromString(stored)
        # PostgreSQL and protobuf keep what they can: no U+0000 in a text, no half of a character.
        wrong.display_name = HOSTILE
        wrong.new_token.display_name = wrong.new_token.symbol = HOSTILE
        kept = HOSTILE.replace("\0", "")
        await database.execute(
            "UPDATE backend.launches SET spec = $2 WHERE id = $1", made.id, serialized(wrong)
        )
        await database.execute(
            "UPDATE backend.kit_steps SET error_reason = $2, error_message = $2, replica = $2"
            " WHERE pipeline_id = $1 AND error_reason <> ''",
            made.id, kept,
        )  # fmt: skip
        await database.execute(
            "UPDATE backend.kit_pipelines SET parked_reason = $2 WHERE id = $1", made.id, kept
        )
    with (mesh.run.logs / "lab-2.log").open("a", newline="") as log:
        line = {"time": "2027-01-31T12:00:00.000", "level": "info", "message": HOSTILE}
        line |= {"exception": f"Traceback\n{HOSTILE}", HOSTILE: HOSTILE}
        log.write(json.dumps(line) + "\n")
        log.write("no JSON " + HOSTILE.replace("\n", "") + "\n")
    await send_span(mesh, made.trace)
    return made


def serialized(message: Message) -> bytes:
    return message.SerializeToString()


async def send_span(mesh: Installation, trace_id: str) -> None:
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    for key in ("service.name", "service.instance.id"):
        resource_spans.resource.attributes.add(key=key).value.string_value = HOSTILE
    now = time.time_ns()
    span = resource_spans.scope_spans.add().spans.add(
        trace_id=bytes.fromhex(trace_id), span_id=b"12345678", name=HOSTILE,
        start_time_unix_nano=now, end_time_unix_nano=now + 1,
    )  # fmt: skip
    span.status.code = span.status.STATUS_CODE_ERROR
    for key in ("error.type", "icto.error.reason", "icto.error.message"):
        span.attributes.add(key=key).value.string_value = HOSTILE
    async with grpc.aio.insecure_channel(f"unix:{mesh.run.control}") as channel:
        export: Any = channel.unary_unary(EXPORT_PATH)
        await export(request.SerializeToString())


def commands(made: Launched) -> dict[str, tuple[str, ...]]:
    """Each command, told to print something hostile."""
    say = json.dumps({"code": 3, "reason": "SAID", "message": HOSTILE})
    file = made.home / "hostile.yaml"
    # Neither YAML nor TOML takes a character in two halves, as JSON writes it.
    key = "".join(character for character in HOSTILE if ord(character) < 0x10000)
    file.write_text(json.dumps({"display_name": key, "locks": [{key: 1}]}))
    folder = made.home / "installation"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "mesh.toml").write_text(json.dumps(key) + " = 1\n")
    return {
        "launches": ("launches",),
        "launches, for programs": ("launches", "--json"),
        "launch-status": ("launch-status", made.id),
        "launch-status, for programs": ("launch-status", made.id, "--json"),
        "launch": ("launch", str(file), "--check"),
        "logs": ("logs", "lab-2", "-n", "2"),
        "trace": ("trace", made.trace),
        "trace, for programs": ("trace", made.trace, "--json"),
        "call": ("call", "LaunchService/GetLaunch", json.dumps({"name": made.name})),
        "call, refused": ("call", "LabService/Fail", say),
        "check": ("check", "--run-dir", str(folder)),
        "check, for programs": ("check", "--run-dir", str(folder), "--json"),
        "render": ("render", "--run-dir", str(folder)),
        "restart": ("restart", HOSTILE.replace("\0", "")),
        "faucet": ("faucet", HOSTILE.replace("\0", "")),
        "status": ("status", "--run-dir", f"/{HOSTILE}".replace("\0", "")),
    }


_SAY_NOTHING_OF_OTHERS: Final = {
    "token",
    "login",
    "bootstrap-key",
    "backup",
    "restore",
    "down",
    "up",
    "demo",
}
_SAY_WHAT_HOLDS_THE_PLATFORM_UP: Final = {"stop", "release", "maintenance"}


@pytest.mark.timeout(400)
async def test_no_command_obeys_what_it_prints(mesh: Installation, hostile: Launched) -> None:
    obeyed = {}
    for name, arguments in commands(hostile).items():
        _, output = await mesh.icto(*arguments, home=hostile.home)
        assert "evil [red]:boom:" in output, (name, output)
        found = {c for c in DECEIVING if c in output and c != "\n"}
        if found or re.search(r"^12:00:00.000 forged", output, re.MULTILINE):
            obeyed[name] = sorted(found)
        assert "Traceback (most" not in output, (name, output)
    assert obeyed == {}


def test_every_command_is_tried_so() -> None:
    registered = {command.name for command in app.registered_commands}
    registered |= {group.name for group in app.registered_groups}
    tried = {name.partition(",")[0] for name in commands(Launched(Path("/tmp"), "", ""))}
    assert registered - tried <= _SAY_NOTHING_OF_OTHERS | _SAY_WHAT_HOLDS_THE_PLATFORM_UP


def test_what_holds_the_platform_up_obeys_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    held = {"startTime": "2027-01-31T12:00:00Z", "principal": HOSTILE, "justification": HOSTILE}
    wish = {"principal": HOSTILE, "expireTime": "2027-01-31T12:15:00Z"}
    platform.show({"maintenance": held, "emergencyStop": held, "releaseWishes": [wish]})
    printed = capsys.readouterr().out
    assert printed.count("evil [red]:boom:") == 5
    assert not {c for c in DECEIVING if c in printed and c != "\n"}
    assert not re.search(r"^12:00:00.000 forged", printed, re.MULTILINE)


async def test_a_terminal_is_not_told_either(mesh: Installation, hostile: Launched) -> None:
    """There rich writes sequences of its own beside them."""
    for command in (("launches",), ("launch-status", hostile.id), ("logs", "lab-2", "-n", "2")):
        _, _, output = await at_terminal(mesh, *command, environment=hostile.environment)
        assert "evil [red]:boom:" in output, output
        found = {c for c in DECEIVING if c in output and c != "\n"}
        assert not found, (command, found)


async def test_a_trace_says_what_failed_and_why(mesh: Installation, tmp_path: Path) -> None:
    request = json.dumps({"code": 9, "reason": "NOT_YET", "message": "Come back tomorrow."})
    status, output = await mesh.icto("call", "LabService/Fail", request, home=tmp_path)
    assert status == 1
    trace_id = json.loads(output)["metadata"]["trace_id"]

    async def drawn() -> str | None:
        _, waterfall = await mesh.icto("trace", trace_id)
        return waterfall if "LabService/Fail" in waterfall else None

    waterfall = await until(drawn)
    assert "FAILED_PRECONDITION NOT_YET: Come back tomorrow." in waterfall, waterfall


@pytest.mark.timeout(400)
async def test_a_step_that_waits_says_for_whom_and_each_try_is_logged(
    mesh: Installation, tmp_path: Path
) -> None:
    """Here for a service that cannot write its rows."""
    assert (await mesh.icto("faucet", home=tmp_path))[0] == 0
    async with mesh.held("lock_deployer.locks"):
        running = asyncio.create_task(mesh.icto("launch", spec(tmp_path), "--yes", home=tmp_path))

        async def waiting() -> tuple[str, str] | None:
            _, listed = await mesh.icto("launches", home=tmp_path)
            found = re.search(rf"launches/{ID}", listed)
            if found is None:
                return None
            _, told = await mesh.icto("launch-status", found.group(), home=tmp_path)
            again = re.search(r"^lock_1: [A-Z_]+: .+ \(lock_deployer\)$", told, re.MULTILINE)
            return (found.group(), told) if again else None

        name, _ = await until(waiting, 90)
        _, told = await mesh.icto("launch-status", name, "--json", home=tmp_path)
    status, output = await running
    assert status == 0, output
    (step,) = (s for s in json.loads(told)["steps"] if s["name"] == "lock_1")
    assert step["state"] == "STEP_STATE_RETRYING"
    assert step["error"]["service"] == "lock_deployer"
    assert step["error"]["reason"]

    client = Client(mesh.edge, load_key(tmp_path / "icto" / "key"))
    try:
        launch = (await client.rest("GET", f"/v1/{name}")).body
    finally:
        await client.close()
    (attempts,) = (s["attempts"] for s in launch["steps"] if s["name"] == "lock_1")
    logged = [
        line
        for file in mesh.run.logs.glob("backend-*.log")
        for line in file.read_text().splitlines()
        if launch["traceId"] in line and "step lock_1, attempt" in line
    ]
    numbers = sorted(int(re.findall(r"attempt (\d+)", line)[0]) for line in logged)
    assert numbers == list(range(1, attempts)), logged
    assert all("lock_deployer" in line for line in logged)
