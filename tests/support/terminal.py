"""A program at a terminal: what it shows there, and what a person types."""

import asyncio
import contextlib
import fcntl
import os
import re
import struct
import termios
from collections.abc import Mapping
from typing import Final

from tests.support.installation import Installation

# What rich writes itself: colours, the cursor, and whether it is seen.
_OWN: Final = re.compile(r"\x1b\[(?:[0-9;]*m|[0-9;]*[ABCDGHJK]|\?25[hl])")


async def at_terminal(
    mesh: Installation,
    *arguments: str,
    environment: Mapping[str, str],
    columns: int = 80,
    typed: str = "",
) -> tuple[int, str, str]:
    """Runs `icto` at a terminal: exit status, what it showed, and what of it is plain text."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    child = await asyncio.create_subprocess_exec(
        str(mesh.program), *arguments,
        env={**kept, "ICTO_RUN_DIR": str(mesh.run.path), "TERM": "xterm-256color", **environment},
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = await asyncio.to_thread(_everything, ours)
    status = await child.wait()
    os.close(ours)
    text = shown.decode().replace("\r\n", "\n")
    return status, text, _OWN.sub("", text)


def _everything(terminal: int) -> bytes:
    parts = []
    with contextlib.suppress(OSError):  # Linux says EIO once nobody has the other end
        while part := os.read(terminal, 65536):
            parts.append(part)
    return b"".join(parts)
