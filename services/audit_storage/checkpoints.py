"""Signs the chain's head, and keeps the signatures where the database's owner cannot reach them.

Each checkpoint is written to the database and to a file beside it. The signing key is in neither.
Whoever rewrites the database can make the chain consistent again, but cannot make these agree.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from services.audit_storage.domain import (
    Checkpoint,
    Fault,
    FaultKind,
    Head,
    checkpoint_message,
)


class Signer:
    """Signs and verifies checkpoints with the key of this installation."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key()
        self.public_key = self._public.public_bytes(Encoding.Raw, PublicFormat.Raw)

    @classmethod
    def from_file(cls, path: Path) -> "Signer":
        """Reads the key, made now if there is none: 32 bytes in hexadecimal."""
        with contextlib.suppress(FileExistsError):
            key = Ed25519PrivateKey.generate()
            raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
            _create(path, raw.hex())
        return cls(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text())))

    def sign(self, head: Head, moment: datetime) -> Checkpoint:
        """A checkpoint of the head."""
        signature = self._key.sign(checkpoint_message(head, moment))
        return Checkpoint(head, moment, signature, self.public_key)

    def verifies(self, checkpoint: Checkpoint) -> bool:
        """Whether this installation signed the checkpoint."""
        return checkpoint.public_key == self.public_key and _verifies(self._public, checkpoint)


class CheckpointFile:
    """Checkpoints outside of the database, a line of JSON each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def add(self, checkpoint: Checkpoint) -> None:
        """Appends a checkpoint and makes it durable."""
        await asyncio.to_thread(self._append, _line(checkpoint))

    async def all(self) -> list[Checkpoint]:
        """Every checkpoint, oldest first. A line that was torn by a crash is left out."""
        return await asyncio.to_thread(self._read)

    def _append(self, line: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The line break comes first as well: a line that a crash tore must not swallow this one.
        with self._path.open("a") as file:
            file.write(f"\n{line}\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> list[Checkpoint]:
        if not self._path.exists():
            return []
        whole = (line for line in self._path.read_text().splitlines() if line.endswith("}"))
        return [_parse(line) for line in whole]


def _create(path: Path, text: str) -> None:
    """Makes a private file whole or not at all; two replicas may try at once.

    Raises:
        FileExistsError: it is there already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    try:
        temporary.write_text(text)
        os.link(temporary, path)
    finally:
        temporary.unlink()


def reconcile(
    signer: Signer, inside: Iterable[Checkpoint], outside: Iterable[Checkpoint]
) -> tuple[Mapping[int, Checkpoint], Fault | None]:
    """The checkpoints to trust, by sequence, and a fault if the two copies do not agree.

    A checkpoint that is only in the file tells that the database lost it; one that is only in the
    database was signed while the file could not be written, which is no fault.
    """
    trusted: dict[int, Checkpoint] = {}
    kept = {checkpoint.head.sequence: checkpoint for checkpoint in inside}
    for checkpoint in (*kept.values(), *outside):
        sequence = checkpoint.head.sequence
        if not signer.verifies(checkpoint):
            return trusted, _bad(sequence, "A checkpoint's signature does not verify.")
        if trusted.get(sequence, checkpoint).head != checkpoint.head:
            return trusted, _bad(sequence, "The two copies of a checkpoint differ.")
        trusted[sequence] = checkpoint
    lost = min(trusted.keys() - kept.keys(), default=None)
    if lost is not None:
        return trusted, _bad(lost, "A checkpoint is missing from the database.")
    return trusted, None


def _bad(sequence: int, description: str) -> Fault:
    return Fault(sequence, FaultKind.BAD_CHECKPOINT, description)


def _verifies(key: Ed25519PublicKey, checkpoint: Checkpoint) -> bool:
    try:
        key.verify(checkpoint.signature, checkpoint.message)
    except InvalidSignature:
        return False
    return True


def _line(checkpoint: Checkpoint) -> str:
    return json.dumps(
        {
            "sequence": checkpoint.head.sequence,
            "entry_hash": checkpoint.head.entry_hash.hex(),
            "sign_time": checkpoint.sign_time.isoformat(),
            "signature": checkpoint.signature.hex(),
            "public_key": checkpoint.public_key.hex(),
        }
    )


def _parse(line: str) -> Checkpoint:
    values = json.loads(line)
    return Checkpoint(
        Head(values["sequence"], bytes.fromhex(values["entry_hash"])),
        datetime.fromisoformat(values["sign_time"]),
        bytes.fromhex(values["signature"]),
        bytes.fromhex(values["public_key"]),
    )
