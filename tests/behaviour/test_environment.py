"""What libraries read of the environment reaches no process of the mesh, and no command."""

import asyncio
import os
from pathlib import Path

from tests.support import strange
from tests.support.installation import ICTO, Installation


async def icto(environment: dict[str, str], *arguments: str, umask: int = 0o022) -> tuple[int, str]:
    """Runs a command in an environment; exit status and output."""
    child = await asyncio.create_subprocess_exec(
        ICTO, *arguments,
        env={"PATH": os.environ["PATH"], "COLUMNS": "200"} | environment,
        umask=umask,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode(errors="replace")


async def test_the_whole_story_works_with_every_strange_variable_at_once(tmp_path: Path) -> None:
    status, output = await icto(strange.ALL | {"HOME": str(tmp_path)}, "demo", umask=0o077)
    assert status == 0, output
    assert "The demo worked." in output


async def test_a_command_works_with_every_strange_variable_at_once(
    mesh: Installation, tmp_path: Path
) -> None:
    environment = strange.ALL | {"HOME": str(tmp_path)}
    call = ("call", "IdentityService/WhoAmI", "--edge", mesh.edge)
    status, output = await icto(environment, *call)
    assert status == 0, output
    assert '"principal"' in output
    assert "Warning" not in output


async def test_check_names_variables_that_nothing_reads(tmp_path: Path) -> None:
    strangers = {"OTEL_SDK_DISABLED": "true", "ICTO_DATABASE_POOL": "3", "PGHOST": "x"}
    status, output = await icto(strangers, "check", "--run-dir", str(tmp_path))
    assert status == 0, output
    assert "ICTO_DATABASE_POOL is ignored" in output
    assert "OTEL_SDK_DISABLED is ignored" in output
    assert "PGHOST" not in output
