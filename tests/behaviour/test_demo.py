"""`icto demo`: the whole story beside whatever runs; its exit status tells whether it worked."""

import asyncio
import json
import os
import tempfile
from pathlib import Path

from tests.support.installation import ICTO, Installation

STEPS = (
    "sign in with a fresh key",
    "ask for a quote and approve it",
    "follow it to its end (gRPC)",
    "create_token",
    "lock_1",
    "distribution_1",
    "the member claims a share",
    "transfer some of it (gRPC)",
    "read every balance",
    "read the invoice",
    "verify the audit chain",
    "find it all in the audit",
    "LaunchService/CreateLaunch",
    "LockService/ActivateLock",
    "DistributionService/",
)


async def spawned(folder: Path | None = None, **environment: str) -> asyncio.subprocess.Process:
    """A demo that has been started in a folder."""
    return await asyncio.create_subprocess_exec(
        ICTO, "demo",
        env=os.environ | environment, cwd=folder,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def demo(folder: Path | None = None, **environment: str) -> tuple[int, str]:
    """Exit status and output."""
    child = await spawned(folder, **environment)
    output, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode()


def left_behind() -> set[str]:
    """What demos keep while they run."""
    return {path.name for path in Path(tempfile.gettempdir()).glob("icto-demo-*")}


async def test_the_demo_tells_its_story_beside_what_runs_and_leaves_nothing(
    mesh: Installation,
) -> None:
    running, before = await mesh.status(), left_behind()
    status, output = await demo()
    assert status == 0, output
    for step in STEPS:
        assert step in output
    assert output.rstrip().endswith("The demo worked.")
    assert left_behind() <= before
    pids = [replica["pid"] for replica in running["replicas"]]
    assert [replica["pid"] for replica in (await mesh.status())["replicas"]] == pids


async def test_a_demo_that_does_not_work_says_so_by_its_exit_status() -> None:
    broken = json.dumps({"features": {"tokenDeployment": False}})
    status, output = await demo(ICTO_INITIAL_CONFIG=broken)
    assert status == 1
    assert "The demo failed" in output
    assert "Traceback" not in output


async def test_a_demo_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text("[database]\npool = 0\n")
    status, output = await demo(tmp_path)
    assert (status, output.strip()) == (
        1,
        "mesh.toml: database.pool is 0; it must be from 1 to 100",
    )


async def test_a_demo_that_is_told_to_stop_leaves_nothing() -> None:
    before = left_behind()
    child = await spawned()
    assert child.stdout is not None
    started = await child.stdout.readuntil(b"starting Envoy")
    assert left_behind() > before
    child.terminate()
    output, _ = await child.communicate()
    assert child.returncode == 1, output.decode()
    assert b"The demo was stopped before its end." in output
    assert b"Traceback" not in started + output
    assert left_behind() <= before
