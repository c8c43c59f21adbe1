"""What cannot work is refused before anything starts, in words that name what to change."""

import asyncio
from pathlib import Path

import pytest

from mesh.cli.demo import free_ports
from tests.support.installation import ICTO, installation
from tests.support.postgres import Postgres

PORTS = """
[edge]
port = {0}
[observability]
metrics_port = {1}
"""


async def icto(*arguments: str, open_files: int = 0, **environment: str) -> tuple[int, str]:
    """Runs a command with nothing running; exit status and output."""
    limit = ["sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh"] if open_files else []
    child = await asyncio.create_subprocess_exec(
        *limit, ICTO, *arguments,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "COLUMNS": "300"} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(child.communicate(), 100)
    assert child.returncode is not None
    return child.returncode, output.decode()


async def refused(output: tuple[int, str], *says: str) -> None:
    """One line that says all of it, and nothing was started."""
    status, text = output
    assert status == 1, text
    assert "Traceback" not in text
    assert "starting" not in text, text
    (line,) = text.strip().splitlines()
    for words in says:
        assert words in line


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with free ports."""
    (tmp_path / "mesh.toml").write_text(PORTS.format(*free_ports(2)))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "text", "says"),
    [
        ("up", PORTS.format(9464, 9464).encode(), ("edge.port", "metrics_port are both 9464")),
        ("up", b"# \xff\n", ("line 1 is not UTF-8", "save the file as UTF-8")),
        (
            "check",
            b"[services.backend]\nreplicas = 20",
            ("replicas may open", "Raise database.max_connections in mesh.toml"),
        ),
    ],
    ids=["one port", "no text", "too many replicas"],
)
async def test_a_mesh_toml_that_cannot_work_is_refused(
    tmp_path: Path, command: str, text: bytes, says: tuple[str, ...]
) -> None:
    (tmp_path / "mesh.toml").write_bytes(text)
    await refused(await icto(command, "--run-dir", str(tmp_path)), "mesh.toml", *says)


async def test_an_address_that_this_machine_lacks_is_refused_with_its_key(run: Path) -> None:
    toml = run / "mesh.toml"
    toml.write_text(toml.read_text().replace("[edge]", '[edge]\naddress = "2001:db8::1"'))
    output = await icto("up", "--run-dir", str(run))
    await refused(output, "on 2001:db8::1, for the edge, cannot be used", "set edge.port")


async def test_a_start_method_that_does_not_exist_is_refused_with_those_that_do(run: Path) -> None:
    for command in (("up", "--run-dir", str(run)), ("demo",)):
        output = await icto(*command, ICTO_START="forkserver")
        await refused(output, "ICTO_START is 'forkserver'", "fork, spawn")


async def test_too_few_open_files_are_refused_with_the_key(run: Path) -> None:
    output = await icto("up", "--run-dir", str(run), open_files=256)
    await refused(output, "the limit is 256", "ulimit -n", "edge.max_connections in mesh.toml")


@pytest.mark.parametrize("command", ["up", "check"])
async def test_a_database_with_too_few_connections_is_refused(
    run: Path, postgres: Postgres, command: str
) -> None:
    url = postgres.dsn
    output = await icto(command, "--run-dir", str(run), ICTO_DATABASE_URL=url)
    await refused(output, "replicas may open", "room for 56", "Raise max_connections of postgresql")


async def test_a_database_that_does_not_answer_is_given_up_after_connect_timeout(
    run: Path,
) -> None:
    """An address of the documentation's own network, where nobody answers."""
    url = "postgresql://me:Hush@192.0.2.1/tokens?connect_timeout=1"
    output = await icto("up", "--run-dir", str(run), ICTO_DATABASE_URL=url)
    await refused(output, "postgresql://192.0.2.1/tokens cannot be used")
    assert "Hush" not in output[1]


async def test_a_run_directory_that_cannot_be_made_is_refused() -> None:
    output = await icto("up", "--run-dir", "/dev/null/run")
    await refused(output, "/dev/null/run cannot be made", "--run-dir")


async def test_a_key_file_that_is_cut_is_told(tmp_path: Path) -> None:
    key = tmp_path / "icto" / "key"
    key.parent.mkdir()
    key.write_text("00" * 31)
    login = ("login", "--edge", "127.0.0.1:1")
    output = await icto(*login, XDG_CONFIG_HOME=str(tmp_path))
    await refused(output, str(key), "does not hold a key", "Put back")
    assert key.read_text() == "00" * 31


async def test_a_home_that_cannot_be_written_is_told() -> None:
    output = await icto("login", "--edge", "127.0.0.1:1", HOME="/dev/null")
    await refused(output, "/dev/null/.config/icto/key cannot be used", "set XDG_CONFIG_HOME")


async def test_a_replica_that_cannot_run_is_told_at_once_by_its_last_words() -> None:
    """Not after a minute of restarts, and not by a hint at a log."""
    async with installation(
        environment={"ICTO_INITIAL_CONFIG": '{"nope": 1}'}, start=False
    ) as running:
        running.spawn()
        assert running.process is not None
        assert await asyncio.to_thread(running.process.wait, 100) == 1
        output = running.output().decode()
    last = output.strip().splitlines()[-1]
    assert last.startswith("backend-")
    assert "ICTO_INITIAL_CONFIG is not a SystemConfig" in last
    assert "Traceback" not in output
    assert output.count("did not become healthy") == 0
