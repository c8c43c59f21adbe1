"""What a restore of the database left for the audit to sign.

`icto restore` leaves a note in the state directory of each service, which says what the backup
held, and beside it a folder with the state that was there before. The first replica that starts
afterwards marks the restore in the file of checkpoints, signed, before it signs anything else.
"""

import asyncio
import fcntl
import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Final

from services.audit_storage.checkpoints import CheckpointFile, Signer
from services.audit_storage.domain import Head, Known, Restoration

_NOTE: Final = "restored.json"
_FORMER: Final = "former"


class RestoreNote:
    """The note in a state directory, if there is one."""

    def __init__(self, state: Path) -> None:
        self._note = state / _NOTE
        self._former = state / _FORMER

    async def mark(self, file: CheckpointFile, signer: Signer) -> None:
        """Marks the restore that the note tells of; one replica does, others wait for it."""
        if not self._note.exists():
            return
        with self._note.open() as note:
            await asyncio.to_thread(fcntl.flock, note, fcntl.LOCK_EX)
            if self._note.exists():
                outside = CheckpointFile(self._former / file.name, signer)
                former = await outside.newest(signer.verifies)
                known = Known(former.head.sequence, former.sign_time) if former else None
                await file.mark(_restoration(json.load(note), known))
                self._note.unlink()
                await asyncio.to_thread(shutil.rmtree, self._former, ignore_errors=True)


def _restoration(values: dict[str, str | int], known: Known | None) -> Restoration:
    return Restoration(
        Head(int(values["audit_sequence"]), bytes.fromhex(str(values["audit_hash"]))),
        datetime.fromisoformat(str(values["backup_time"])),
        datetime.fromisoformat(str(values["restore_time"])),
        known,
    )
