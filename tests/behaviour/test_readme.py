"""README.md tells the truth: its commands run as they stand."""

import asyncio
import os
from pathlib import Path

from tests.conftest import tool
from tests.support.installation import Installation
from tests.support.markdown import blocks

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TOOLS = ("curl", "openssl", "bash", "grpcurl", "grpc_health_probe")


async def test_every_command_of_the_readme_runs(mesh: Installation, tmp_path: Path) -> None:
    """One shell runs all blocks, as a reader would who copies one after the other."""
    path = os.pathsep.join(str(Path(tool(name)).parent) for name in TOOLS)
    script = "\n".join(blocks(README, "sh"))
    for port, ours in ((":8080", f":{mesh.port}"), (":9464", f":{mesh.metrics_port}")):
        assert port in script
        script = script.replace(port, ours)
    for name in (".venv", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    shell = await asyncio.create_subprocess_exec(
        "bash", "-euxo", "pipefail", "-c", script,
        cwd=tmp_path,
        env={
            "PATH": path,
            "HOME": str(tmp_path),
            "COLUMNS": "200",
            "ICTO_RUN_DIR": str(mesh.run.path),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output = (await shell.communicate())[0].decode()
    assert shell.returncode == 0, output
    for shown in (
        "DEPLOYMENT_STATE_SUCCEEDED",
        "Harbour",
        "PAYMENT_STATE_SETTLED",
        "ACT_STATUS_COMPLETED",
        "TokenService/DeployToken",
        "status: SERVING",
        "HEALTH_STATE_HEALTHY",
        "NOT_FOUND",
        "ledger-1 is fresh and healthy",
    ):
        assert shown in output, f"{shown} was not shown by\n{output}"
