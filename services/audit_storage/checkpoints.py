"""Signs the chain's head, and keeps the signatures where the database's owner cannot reach them.

Each checkpoint is written to the database and then to a file beside it. The signing key is in
neither. Whoever rewrites the database can make the chain consistent again, but cannot make these
agree. Written in that order and read in the other one, the file never has more than the database.
"""

import asyncio
import contextlib
import json
import os
import re
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

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

from contract.errors import Code, Error
from services.audit_storage.domain import (
    Checkpoint,
    Fault,
    FaultKind,
    Head,
    Known,
    Restoration,
    checkpoint_message,
)

T = TypeVar("T")

_REMEMBERED: Final = 10_000
"""Verified checkpoints that are remembered: those of a page of entries, at most."""
_LINE: Final = re.compile(rb'\{"sequence": (\d+), .*\}\n')
_RESTORATION_LINE: Final = re.compile(rb'\{"restored_to": \d+, .*\}\n')
_RESTORATIONS: Final = 100
"""The newest restorations that are told of."""


class Signer:
    """Signs and verifies checkpoints with the key of this installation.

    Attributes:
        public_key: verifies what was signed.
        verifies: whether this installation signed a checkpoint; remembers what it was asked.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key()
        self.public_key = self._public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.verifies: Callable[[Checkpoint], bool] = lru_cache(_REMEMBERED)(self._verify)

    @classmethod
    def from_file(cls, path: Path) -> "Signer":
        """Reads the key, made now if there is none: 32 bytes in hexadecimal.

        Raises:
            Error: FAILED_PRECONDITION, the file holds no key.
        """
        with contextlib.suppress(FileExistsError):
            key = Ed25519PrivateKey.generate()
            raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
            _create(path, raw.hex())
        try:
            return cls(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text())))
        except ValueError:
            raise Error(
                Code.FAILED_PRECONDITION,
                "CHECKPOINT_KEY_DAMAGED",
                f"{path} does not hold a key of 64 hexadecimal digits any more. Put back what it"
                " held: without it the audit cannot vouch for its past.",
            ) from None

    def sign(self, head: Head, moment: datetime) -> Checkpoint:
        """A checkpoint of the head."""
        signature = self._key.sign(checkpoint_message(head, moment))
        return Checkpoint(head, moment, signature, self.public_key)

    def sign_restoration(self, restoration: Restoration) -> bytes:
        """The signature of a restoration."""
        return self._key.sign(restoration.message)

    def verifies_restoration(self, restoration: Restoration, signature: bytes) -> bool:
        """Whether this installation's key signed it."""
        return _signed(self._public, signature, restoration.message)

    def _verify(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.public_key == self.public_key and _signed(
            self._public, checkpoint.signature, checkpoint.message
        )


class CheckpointFile:
    """Checkpoints outside of the database, a line of JSON each.

    The file grows for ever: it is remembered where each checkpoint stands, and only what was added
    since is read again. A line that was torn by a crash is left out. After a restoration, which
    `signer` must have signed, what the database lost by it counts no more.
    """

    def __init__(self, path: Path, signer: Signer) -> None:
        self._path = path
        self._signer = signer
        self._restorations: deque[Restoration] = deque(maxlen=_RESTORATIONS)
        self._busy = asyncio.Lock()
        self._end = 0
        # Side by side, by sequence: a replica that was frozen may add an older one late.
        self._sequences = array("Q")
        self._places = array("Q")

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return self._path.name

    async def add(self, checkpoint: Checkpoint) -> None:
        """Appends a checkpoint and makes it durable."""
        await asyncio.to_thread(self._append, _line(checkpoint))

    async def mark(self, restoration: Restoration) -> None:
        """Signs and appends a restoration, unless that was done, and makes it durable."""
        line = _restoration_line(restoration, self._signer.sign_restoration(restoration))
        if restoration not in await self.restorations():
            await asyncio.to_thread(self._append, line)

    async def restorations(self) -> Sequence[Restoration]:
        """The newest restorations, oldest first."""

        def read() -> Sequence[Restoration]:
            self._catch_up()
            return tuple(self._restorations)

        return await self._with_file(read)

    async def stretch(self, first: int, last: int) -> list[Checkpoint]:
        """The checkpoints of these entries, and the newest of all; oldest first."""
        return await self._with_file(lambda: self._stretch(first, last))

    async def newest(self, trusts: Callable[[Checkpoint], bool]) -> Checkpoint | None:
        """The newest checkpoint that is to be trusted; looks no further back than for that."""
        return await self._with_file(lambda: self._newest(trusts))

    async def _with_file(self, read: Callable[[], T]) -> T:
        async with self._busy:
            return await asyncio.to_thread(read)

    def _append(self, line: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The line break comes first as well: a line that a crash tore must not swallow this one.
        with self._path.open("a") as file:
            file.write(f"\n{line}\n")
            file.flush()
            os.fsync(file.fileno())

    def _stretch(self, first: int, last: int) -> list[Checkpoint]:
        self._catch_up()
        start, end = bisect_left(self._sequences, first), bisect_right(self._sequences, last)
        newest = self._places[end:][-1:]
        return self._at(self._places[start:end] + newest)

    def _newest(self, trusts: Callable[[Checkpoint], bool]) -> Checkpoint | None:
        self._catch_up()
        for place in reversed(self._places):
            (checkpoint,) = self._at([place])
            if trusts(checkpoint):
                return checkpoint
        return None

    def _catch_up(self) -> None:
        """Notes the places of what was added."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # it is being written
                if whole := _LINE.fullmatch(line):
                    self._note(int(whole[1]), self._end)
                elif _RESTORATION_LINE.fullmatch(line):
                    self._set_back(line)
                self._end += len(line)

    def _note(self, sequence: int, place: int) -> None:
        position = bisect_right(self._sequences, sequence)
        self._sequences.insert(position, sequence)
        self._places.insert(position, place)

    def _set_back(self, line: bytes) -> None:
        """Forgets the checkpoints of entries that a restoration took from the database."""
        restoration, signature = _parse_restoration(line)
        if self._signer.verifies_restoration(restoration, signature):
            kept = bisect_right(self._sequences, restoration.head.sequence)
            del self._sequences[kept:], self._places[kept:]
            self._restorations.append(restoration)

    def _at(self, places: Sequence[int]) -> list[Checkpoint]:
        if not places:
            return []
        with self._path.open("rb") as file:
            return [_parse(_line_at(file, place)) for place in places]


def _line_at(file: BinaryIO, place: int) -> bytes:
    file.seek(place)
    return file.readline()


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

    The database's copies are those of the file's stretch, and were read after it. A checkpoint that
    is only in the file tells that the database lost it; one that is only in the database is being
    written, or was when its signer was killed, which is no fault: its signature tells who made it.
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


def _signed(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
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


def _parse(line: bytes) -> Checkpoint:
    values = json.loads(line)
    return Checkpoint(
        Head(values["sequence"], bytes.fromhex(values["entry_hash"])),
        datetime.fromisoformat(values["sign_time"]),
        bytes.fromhex(values["signature"]),
        bytes.fromhex(values["public_key"]),
    )


def _restoration_line(restoration: Restoration, signature: bytes) -> str:
    known = restoration.known
    return json.dumps(
        {
            "restored_to": restoration.head.sequence,
            "entry_hash": restoration.head.entry_hash.hex(),
            "backup_time": restoration.backup_time.isoformat(),
            "restore_time": restoration.restore_time.isoformat(),
            "known": [known.sequence, known.sign_time.isoformat()] if known else None,
            "signature": signature.hex(),
        }
    )


def _parse_restoration(line: bytes) -> tuple[Restoration, bytes]:
    values = json.loads(line)
    known = values["known"]
    restoration = Restoration(
        Head(values["restored_to"], bytes.fromhex(values["entry_hash"])),
        datetime.fromisoformat(values["backup_time"]),
        datetime.fromisoformat(values["restore_time"]),
        Known(known[0], datetime.fromisoformat(known[1])) if known else None,
    )
    return restoration, bytes.fromhex(values["signature"])
