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


async def demo(**environment: str) -> tuple[int, str]:
    """Exit status and output."""
    child = await asyncio.create_subprocess_exec(
        ICTO, "demo",
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
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
