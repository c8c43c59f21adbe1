"""Forks and kills probes without end, so that it can be killed in the middle of that.

    python -m tests.support.busy_supervisor FOLDER

Once several run it prints the process id of one that stays. All are named after the folder.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Final

from mesh import inherited
from mesh.fork_server.client import ForkServers, Program
from mesh.process import Command, Process
from tests.support import probe

_AT_ONCE: Final = 3


async def main(folder: str) -> None:
    """Forks until it is killed."""
    environment = inherited.environment(inherited.FORK_SERVER, os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (Path.cwd(), Path.cwd() / "protos/gen")))
    program = Program(probe.__name__, (str(Path(folder) / "fault"),), environment)
    servers = ForkServers(program, lambda *_: None)
    running = asyncio.create_task(servers.run())
    command = Command((probe.__name__, "wait"), environment)
    lasting = Process(f"{folder} lasting", lambda *_: None, servers.start)
    await lasting.start(command)

    async def fork(number: int) -> None:
        process = Process(f"{folder} {number}", lambda *_: None, servers.start)
        while True:
            await process.start(command)
            await process.stop(signal.SIGKILL, 1)

    sys.stdout.write(f"{lasting.pid}\n")
    sys.stdout.flush()
    await asyncio.gather(running, *map(fork, range(_AT_ONCE)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
