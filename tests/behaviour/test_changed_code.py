"""Code that changes while a mesh runs: what is started then is all new, what runs is all old."""

from pathlib import Path
from typing import Any, Final

import grpc

from contract import wire
from tests.support.house_copy import copy_of_the_house, run
from tests.support.installation import Installation, installation, kill, until
from tests.support.lab import LAB
from tests.support.processes import command_of, descendants

_ONE_REPLICA: Final = "[services.{}]\nreplicas = 1\n"
_OTHERS: Final = (
    "audit_storage", "backend", "distribution_deployer", "gateway", "invoice_storage", "ledger",
    "lock_deployer", "token_deployer",
)  # fmt: skip
_HEAL_SECONDS: Final = 30.0
_IMPORTS: Final = "import asyncio\n"
_ANSWER: Final = "FailSafelyResponse(attempt_count=count)"
_MESSAGE: Final = "message FailSafelyResponse {"


async def test_what_starts_after_a_change_runs_the_new_code_and_none_runs_a_mixture(
    tmp_path: Path,
) -> None:
    """A handler changes, a proto, and the version of a dependency; then the handler is broken.

    Each time one replica is killed and the other one restarted: until then it answers as before.
    """
    house = tmp_path / "house"
    copy_of_the_house(house)
    version = parser_of(house, "1.0")
    await run(house, "make", "-s", ".venv/.ready")
    async with installation(
        "".join(map(_ONE_REPLICA.format, _OTHERS)), icto=house / ".venv/bin/icto"
    ) as mesh:
        handlers = house / "services/lab/service.py"
        change(handlers, _ANSWER, "FailSafelyResponse(attempt_count=7)")
        await both_replaced(mesh, before=b"", after=b"\x08\x07")

        change(house / "protos/icto/lab/v1/lab.proto", _MESSAGE, f"{_MESSAGE} string extra = 2;")
        await run(house, ".venv/bin/python", "protos/build.py")
        change(handlers, _IMPORTS, f"{_IMPORTS}from importlib.metadata import version\n")
        change(handlers, "_SECRET =", '_VERSION = version("parser")\n_SECRET =')
        change(handlers, "count=7)", "count=7, extra=_VERSION)")
        await both_replaced(mesh, before=b"\x08\x07", after=b"\x08\x07\x12\x031.0")

        change(version, "1.0", "2.0")
        await both_replaced(mesh, before=b"\x08\x07\x12\x031.0", after=b"\x08\x07\x12\x032.0")
        assert len(fork_servers(mesh)) == 1

        await check_broken(mesh, handlers)


async def both_replaced(mesh: Installation, *, before: bytes, after: bytes) -> None:
    """Kills one replica, restarts the other one, and reads what each answers meanwhile."""
    others = [r["pid"] for r in (await mesh.status())["replicas"] if r["service"] != "lab"]
    killed, restarted = await mesh.replicas("lab")
    assert [await answer_of(killed), await answer_of(restarted)] == [before, before]
    await killed_and_replaced(mesh, killed)
    assert await answers_of(mesh) == [after, before]
    status, output = await mesh.icto("restart", restarted["name"])
    assert status == 0, output
    assert await answers_of(mesh) == [after, after]
    now = [r["pid"] for r in (await mesh.status())["replicas"] if r["service"] != "lab"]
    assert now == others


async def check_broken(mesh: Installation, handlers: Path) -> None:
    """Code that cannot be loaded is told once, and replaces nobody until it can."""
    logged, before = len(mesh.output()), await mesh.replicas("lab")
    change(handlers, _IMPORTS, f"{_IMPORTS}import no_such_module\n")
    for replica in before:
        status, output = await mesh.icto("restart", replica["name"])
        assert status == 1
        assert f"{replica['name']} runs as before" in output
        assert "No module named 'no_such_module'" in output
    assert [r["pid"] for r in await mesh.replicas("lab")] == [r["pid"] for r in before]
    assert mesh.output(logged).count(b"no replica starts until its code can be loaded") == 1
    change(handlers, "import no_such_module\n", "")
    await killed_and_replaced(mesh, before[0])


async def killed_and_replaced(mesh: Installation, victim: dict[str, Any]) -> None:
    """Kills a replica, and waits until another process is healthy in its place."""
    kill(victim["pid"])

    async def replaced() -> bool:
        (now,) = [r for r in await mesh.replicas(victim["service"]) if r["name"] == victim["name"]]
        return bool(now["healthy"]) and now["pid"] not in {None, victim["pid"]}

    await until(replaced, _HEAL_SECONDS)


async def answers_of(mesh: Installation) -> list[bytes]:
    """What each replica of the lab answers, as it stands on the wire."""
    return [await answer_of(replica) for replica in await mesh.replicas("lab")]


async def answer_of(replica: dict[str, Any]) -> bytes:
    async with grpc.aio.insecure_channel(f"unix:{replica['socket']}") as channel:
        call: Any = channel.unary_unary(f"{LAB}/FailSafely")
        answer: bytes = await call(
            b"", timeout=10, wait_for_ready=True, metadata=((wire.HEADER_CALLER, "backend"),)
        )
    return answer


def change(file: Path, old: str, new: str) -> None:
    """Edits a file as an editor does that replaces it."""
    text = file.read_text()
    assert old in text
    edited = file.with_name(f".{file.name}.new")
    edited.write_text(text.replace(old, new, 1))
    edited.replace(file)


def parser_of(house: Path, version: str) -> Path:
    """A package beside the others; the file that says its version."""
    (packages,) = house.glob(".venv/lib/python*/site-packages")
    metadata = packages / "parser-0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: parser\nVersion: {version}\n")
    return metadata


def fork_servers(mesh: Installation) -> list[int]:
    """Those that run."""
    assert mesh.process is not None
    family = descendants(mesh.process.pid)
    return [p.pid for p in family if command_of(p.pid).startswith("icto: fork_server")]
