"""README.md tells the truth: its commands run as they stand."""

import asyncio
import os
from pathlib import Path

from contract import loader
from mesh import topology
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
        assert README.count(port) == 1, f"{port} is to be changed in one line"
        script = script.replace(port, ours)
    checkout, home, temporary = (tmp_path / name for name in ("checkout", "home", "tmp"))
    for folder in (checkout, home, temporary):
        folder.mkdir()
    for name in (".venv", "examples"):
        (checkout / name).symlink_to(ROOT / name)
    (checkout / ".icto").symlink_to(mesh.run.path)
    before = listing(checkout)
    shell = await asyncio.create_subprocess_exec(
        "bash", "-euxo", "pipefail", "-c", script,
        cwd=checkout,
        env={"PATH": path, "HOME": str(home), "TMPDIR": str(temporary), "COLUMNS": "200"},
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
    assert (listing(checkout), listing(temporary)) == (before, set()), "something is left behind"


def test_what_stands_in_the_readme_as_mesh_toml_is_one(tmp_path: Path) -> None:
    for number, text in enumerate(blocks(README, "toml")):
        (tmp_path / f"{number}.toml").write_text(text)
        topology.load(loader.load("local"), tmp_path / f"{number}.toml")


def test_a_program_is_on_the_path_before_a_reader_types_it() -> None:
    """Commands for readers stand in blocks that the test runs, but for what needs make alone."""
    typed = [line for block in blocks(README, "console") for line in block.splitlines()]
    assert typed
    assert all(line.startswith("$ make ") for line in typed)


def listing(folder: Path) -> set[str]:
    """What lies in a folder."""
    return {path.name for path in folder.iterdir()}
