"""An earlier release of this project, out of its history, to be upgraded from."""

import base64
import subprocess
import sys
from pathlib import Path
from typing import Final

from mesh.cli.client import Client
from tests.support.installation import ICTO

ROOT: Final = Path(__file__).parents[2]


def program_of(commit: str, folder: Path) -> Path | None:
    """The `icto` of a commit, checked out into a folder; None where there is no such history."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=False
    )
    if archive.returncode != 0:
        return None
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    build = [sys.executable, "protos/build.py"]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    program = folder / "icto"
    # Replicas are started by the interpreter's name, and find the modules by this variable.
    program.write_text(
        f"#!/bin/sh\nexport PYTHONSAFEPATH=1 PYTHONPATH={folder}:{folder}/protos/gen\n"
        f"exec {ICTO.with_name('python')} -c 'from mesh.cli import app; app()' \"$@\"\n"
    )
    program.chmod(0o700)
    return program


class EarlierClient(Client):
    """A client as it was at ae57535: it signs the challenge that it is sent."""

    async def session_request(self) -> dict[str, str]:
        """What signs this user in."""
        public = base64.b64encode(self._key.public_key().public_bytes_raw()).decode()
        challenge = (await self._send("POST", "/v1/challenges", {"publicKey": public})).body
        signature = self._key.sign(base64.b64decode(challenge["message"]))
        return {
            "challengeId": challenge["challengeId"],
            "publicKey": public,
            "signature": base64.b64encode(signature).decode(),
        }
