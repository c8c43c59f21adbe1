"""The run directory: everything one installation keeps on this machine.

Whoever can read it is the operator. It holds the lock, secrets, logs, Envoy's configuration and the
database. Sockets lie elsewhere, in a short directory named by a hash, since their paths are limited
to 107 bytes; as root the database lies elsewhere too, since Postgres refuses to run as root. A run
directory that was lost finds it again: what opens the database is kept beside it, and so is what
the services sign with.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ENVIRONMENT_VARIABLE: Final = "ICTO_RUN_DIR"
DEFAULT: Final = ".icto"
_PRIVATE: Final = 0o700
_ROOT_STATE: Final = Path("/var/lib/icto")


class RunDirectoryError(Exception):
    """The run directory cannot be used. The message says why and what to do."""


class RunDirectory:
    """Paths and secrets of one installation."""

    def __init__(self, path: Path) -> None:
        # However it is spelled, the hash is of the one folder that it is.
        self.path = path.resolve()
        self._hash = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:10]

    @property
    def envoy(self) -> Path:
        """Envoy's configuration."""
        return self.path / "envoy"

    @property
    def denylist_confirmed(self) -> Path:
        """Touched whenever the edge's deny list was found to be the newest."""
        return self.path / "denylist.confirmed"

    @property
    def logs(self) -> Path:
        """A log file for each process."""
        return self.path / "logs"

    @property
    def sockets(self) -> Path:
        """Where processes of this installation meet."""
        base = Path(tempfile.gettempdir()) if os.name != "posix" else Path("/tmp")  # noqa: S108
        return base / f"icto-{os.getuid()}-{self._hash}"

    @property
    def control(self) -> Path:
        """The supervisor's own socket."""
        return self.sockets / "control.sock"

    def state(self, mesh_name: str) -> Path:
        """Files of a service, beside its database: the audit's key must not be lost without it."""
        return self.states / mesh_name

    @property
    def states(self) -> Path:
        """A folder for each service. As root outside of the run directory, as the database is."""
        if os.getuid() == 0:
            return self.database.with_name(f"{self._hash}.state")
        return self._states_before

    @property
    def _states_before(self) -> Path:
        """Where they were kept, whoever ran it."""
        return self.path / "state"

    @property
    def database(self) -> Path:
        """The database's files."""
        if os.getuid() == 0:
            return _ROOT_STATE / self._hash
        return self.path / "postgres"

    @property
    def names_its_database_by_hash(self) -> bool:
        """Whether the folder of the database does not tell whose it is."""
        return self.path not in self.database.parents

    @property
    def database_socket(self) -> Path:
        """The folder of the database's socket: short, and open to the user that it runs as."""
        return (self.database if os.getuid() == 0 else self.sockets) / "postgres"

    @property
    def database_password(self) -> Path:
        """The administrator's password, beside what it opens: it must not be lost without it."""
        return self.database / "password"

    @property
    def mesh_toml(self) -> Path:
        """What this installation changes; looked for here, then in the current directory."""
        own = self.path / "mesh.toml"
        return own if own.exists() else Path("mesh.toml")

    @property
    def restoring(self) -> Path:
        """There while a backup is being restored: what there is now is a part of it."""
        return self.path / "restoring"

    @property
    def signing_key(self) -> Path:
        """What backups are signed with. It is in none of them."""
        return self.states.with_name(f"{self.states.name}.backup-key")

    @property
    def left_behind(self) -> tuple[Path, ...]:
        """What root keeps elsewhere of an installation whose run directory is gone, if anything."""
        kept = (self.database, self.states)
        apart = not self.database.is_relative_to(self.path)
        gone = apart and not self.secrets_file.exists() and (self.database / "data").exists()
        return tuple(folder for folder in kept if folder.exists()) if gone else ()

    def create(self) -> None:
        """Makes the directories, private to this user; what services kept here before moves along.

        Raises:
            RunDirectoryError: somebody else's files are in the way.
        """
        for folder in (self.path, self.envoy, self.logs, self.sockets):
            try:
                _make_private(folder)
            except OSError as error:
                raise RunDirectoryError(
                    f"{folder} cannot be made or used: {error.strerror}. Choose another directory"
                    f" with --run-dir or {ENVIRONMENT_VARIABLE}."
                ) from None
        if self._states_before.is_dir() and not self.states.exists():
            self.states.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            shutil.move(self._states_before, self.states)

    def remove(self) -> None:
        """Deletes everything. Only for an installation that is not running."""
        for kept in (self.database, self.states):
            for folder in (kept, *kept.parent.glob(f"{kept.name}.replaced-*")):
                shutil.rmtree(folder, ignore_errors=True)
        self.signing_key.unlink(missing_ok=True)
        for folder in (self.sockets, self.path):
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory for one supervisor.

        Raises:
            RunDirectoryError: another supervisor holds it.
        """
        file = self.path / "lock"
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                raise RunDirectoryError(
                    f"{self.path} is in use: a supervisor runs there with process id"
                    f" {self.owner() or 'unknown'}. Stop it with 'icto down', or choose another"
                    " directory with --run-dir."
                ) from None
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def owner(self) -> int | None:
        """Process id of the supervisor that runs here, if one does."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            text = os.read(descriptor, 32).decode()
            return int(text) if text else None
        else:
            return None
        finally:
            os.close(descriptor)

    def secret(self, name: str) -> str:
        """A secret of this installation, made at its first use and kept."""
        kept = self._secrets()
        if name not in kept:
            kept[name] = new_secret()
            write_atomically(self.secrets_file, json.dumps(kept))
        return kept[name]

    def kept_secret(self, name: str) -> str | None:
        """A secret of this installation, if it was made."""
        return self._secrets().get(name)

    @property
    def secrets_file(self) -> Path:
        """Where secrets are kept."""
        return self.path / "secrets.json"

    def _secrets(self) -> dict[str, str]:
        file = self.secrets_file
        try:
            kept: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        except ValueError:
            raise RunDirectoryError(
                f"{file} is damaged. Put back what it held, or remove it: the next start gives the"
                " services new passwords."
            ) from None
        return kept


def new_secret() -> str:
    """A fresh secret, as text."""
    return secrets.token_urlsafe(24)


def write_atomically(path: Path, text: str, *, durable: bool = False) -> None:
    """Replaces a file by rename, so that a reader sees the old or the new one, never a part.

    A durable one survives a power cut as well.
    """
    # Not by a name that can be foretold: the folder may be another user's, with links in it.
    descriptor, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=".new", dir=path.parent
    )
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise RunDirectoryError(f"{folder} belongs to somebody else; remove it or use --run-dir.")
    folder.chmod(_PRIVATE)
