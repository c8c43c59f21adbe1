"""The file of a backup: a tar whose first members are a manifest and its signature.

The manifest names every other member with its size and SHA-256, so that the signature covers all of
it. It is signed with a key that lies beside the installation and in no backup: whoever could change
a backup could sign it again with whatever it holds.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mesh.rundir import write_atomically

FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"
_SIGNATURE: Final = "manifest.signature"
_LARGEST_MANIFEST: Final = 1024 * 1024
_PIECE: Final = 1024 * 1024


class BackupError(Exception):
    """A backup cannot be taken or restored. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a backup: bytes, and SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds.

    Attributes:
        version: of this software.
        postgres: major version of the database server.
        backup_time: the moment that it is of, RFC 3339.
        audit_sequence: newest entry of the audit.
        audit_hash: hash of that entry, in hexadecimal.
        members: its files by path.
        format: of the file itself.
    """

    version: str
    postgres: int
    backup_time: str
    audit_sequence: int
    audit_hash: str
    members: Mapping[str, Member]
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        """As it is signed."""
        return json.dumps(asdict(self), sort_keys=True, indent=1).encode()


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The key of this installation's backups, made at the first use."""
    if not path.exists():
        made = Ed25519PrivateKey.generate().private_bytes_raw().hex()
        write_atomically(path, made, durable=True)
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text()))


def verification_key(path: Path) -> str | None:
    """What verifies backups of this installation, in hexadecimal; None if it never made one."""
    if not path.exists():
        return None
    return signing_key(path).public_key().public_bytes_raw().hex()


def describe(folder: Path) -> dict[str, Member]:
    """Every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _member(path) for path in files}


def write(file: Path, folder: Path, manifest: Manifest, key: Ed25519PrivateKey) -> None:
    """Packs what the manifest names out of a folder, readable by this user alone.

    Raises:
        BackupError: the file cannot be written.
    """
    temporary = file.with_name(f".{file.name}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w") as tar:
            signed = manifest.to_bytes()
            _add(tar, _MANIFEST, signed)
            _add(tar, _SIGNATURE, key.sign(signed))
            for name in manifest.members:
                tar.add(folder / name, name, recursive=False)
            tar.close()
            raw.flush()
            os.fsync(raw.fileno())
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BackupError(f"{file} cannot be written: {error.strerror}.") from None


def unpack(file: Path, folder: Path, verification: str) -> Manifest:
    """Verifies a backup and unpacks it into a folder.

    Raises:
        BackupError: it is not a whole and untouched backup signed with that key.
    """
    try:
        with tarfile.open(file, mode="r:") as tar:
            manifest = _read_manifest(tar, verification)
            for name, member in manifest.members.items():
                _extract(tar, name, member, folder)
    except OSError as error:
        raise BackupError(f"{file} cannot be read: {error.strerror or error}.") from None
    except (tarfile.TarError, KeyError, ValueError, TypeError, EOFError):
        raise BackupError(f"{file} is not a whole backup: nothing was restored.") from None
    return manifest


def _read_manifest(tar: tarfile.TarFile, verification: str) -> Manifest:
    signed = _small(tar, _MANIFEST)
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(verification))
    try:
        key.verify(_small(tar, _SIGNATURE), signed)
    except InvalidSignature:
        raise BackupError(
            "The backup was changed, or was signed by another installation: its signature does not"
            " verify. Nothing was restored."
        ) from None
    values: dict[str, Any] = json.loads(signed)
    if values["format"] != FORMAT:
        raise BackupError(f"The backup has format {values['format']}; this version reads {FORMAT}.")
    members = {name: Member(**member) for name, member in values.pop("members").items()}
    return Manifest(**values, members=members)


def _small(tar: tarfile.TarFile, name: str) -> bytes:
    info = tar.getmember(name)
    opened = tar.extractfile(info)
    if opened is None or info.size > _LARGEST_MANIFEST:
        raise ValueError(name)
    return opened.read()


def _extract(tar: tarfile.TarFile, name: str, member: Member, folder: Path) -> None:
    # The manifest is signed, and all the same nothing leaves the folder.
    path = PurePosixPath(name)
    info = tar.getmember(name)
    opened = tar.extractfile(info) if info.isreg() else None
    if opened is None or path.is_absolute() or ".." in path.parts or info.size != member.size:
        raise ValueError(name)
    target = folder / path
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with target.open("xb") as written:
        while piece := opened.read(_PIECE):
            written.write(piece)
    target.chmod(0o600)
    if _member(target) != member:
        with suppress(OSError):
            target.unlink()
        raise BackupError(f"The backup was changed: {name} is not what was signed.")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o600
    tar.addfile(info, io.BytesIO(content))


def _member(path: Path) -> Member:
    with path.open("rb") as file:
        return Member(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
