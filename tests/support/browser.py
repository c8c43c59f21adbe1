"""A real browser: headless Chromium, driven by the DevTools protocol over a pipe."""

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

_SECONDS: Final = 30.0
# Chromium reads from descriptor 3 and writes to 4.
_START: Final = """
import fcntl, os, sys
reads, writes, *command = sys.argv[1:]
reads, writes = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in (reads, writes)]
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execvp(command[0], command)
"""


class Page:
    """One page of a browser."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session

    async def run(self, script: str) -> Any:
        """What an expression evaluates to, awaited if it is a promise."""
        answer = await self._browser.send(
            "Runtime.evaluate",
            self._session,
            expression=script,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")


class Browser:
    """A browser that runs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def listen(self) -> None:
        """Hands answers to whoever waits for them."""
        while True:
            message = json.loads((await self._reader.readuntil(b"\0"))[:-1])
            waiting = self._waiting.pop(message.get("id", 0), None)
            if waiting is not None:
                waiting.set_result(message)

    async def send(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        number = next(self._ids)
        command = {"id": number, "method": method, "params": parameters}
        if session:
            command["sessionId"] = session
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps(command).encode() + b"\0")
        async with asyncio.timeout(_SECONDS):
            answer = await self._waiting[number]
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str) -> Page:
        """A page that has loaded."""
        target = await self.send("Target.createTarget", url="about:blank")
        attached = await self.send(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        page = Page(self, attached["sessionId"])
        await self.send("Page.enable", attached["sessionId"])
        await self.send("Page.navigate", attached["sessionId"], url=url)
        async with asyncio.timeout(_SECONDS):
            while await page.run("document.readyState + ' ' + location.href") != f"complete {url}":
                await asyncio.sleep(0.05)
        return page


@contextlib.asynccontextmanager
async def browser(program: str, folder: Path) -> AsyncIterator[Browser]:
    """A browser with a profile of its own, ended at the end."""
    reads, commands = os.pipe()
    answers, writes = os.pipe()
    with (folder / "browser.log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _START, str(reads), str(writes), program, "--headless=new",
            "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking",
            f"--user-data-dir={folder}/profile",
            pass_fds=(reads, writes), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    os.close(reads)
    os.close(writes)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
    reading, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(answers, "rb", 0)
    )
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(commands, "wb", 0)
    )
    made = Browser(reader, asyncio.StreamWriter(transport, protocol, None, loop))
    listening = asyncio.create_task(made.listen())
    try:
        yield made
    finally:
        listening.cancel()
        transport.close()  # it ends when nobody can command it any more
        reading.close()
        await _end(child)


async def _end(child: asyncio.subprocess.Process) -> None:
    """Waits for a browser that was told to close; one that does not is killed with its group."""
    try:
        async with asyncio.timeout(10):
            await child.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, 9)
        await child.wait()
