"""A traceback is one record, however it came to be printed."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

import pytest

from mesh.logfiles import LogFiles
from mesh.process import Command, Process
from mesh.tracebacks import Joiner

# What a process does, and what the record of its end must name.
_ENDS: Final = {
    "uncaught": ("raise ValueError('no way')", "ValueError: no way"),
    "chained": (
        "try:\n  {}['x']\nexcept KeyError:\n  raise ValueError('no way') from None",
        "ValueError: no way",
    ),
    "during another": (
        "try:\n  {}['x']\nexcept KeyError:\n  raise ValueError('no way')",
        "ValueError: no way",
    ),
    "of a group": ("raise ExceptionGroup('many', [KeyError('x'), ValueError('no way')])", "no way"),
    "import": ("import nothing_of_this_name", "ModuleNotFoundError: No module named"),
    "syntax": ("compile('def f(:', 'file', 'exec')", "SyntaxError"),
    "thread": (
        "import threading\nt = threading.Thread(target=lambda: {}['x'])\nt.start(); t.join()",
        "KeyError: 'x'",
    ),
    "finalizer": ("class A:\n  def __del__(self): {}['x']\na = A(); del a", "KeyError: 'x'"),
    "task": (
        (
            "import asyncio, gc\n"
            "async def fail(): raise ValueError('no way')\n"
            "async def main():\n"
            "  asyncio.create_task(fail())\n"
            "  await asyncio.sleep(0.01)\n"
            "  gc.collect()\n"
            "asyncio.run(main())"
        ),
        "ValueError: no way",
    ),
    "fatal": ("import faulthandler, os\nfaulthandler.enable()\nos.abort()", "Aborted"),
}
_LOGGED: Final = "from observability import logs\nlogs.configure('lab', 'lab-1', 'info')\n"


async def records(folder: Path, name: str, program: str) -> list[dict[str, str]]:
    """What the log file of a process says."""
    files = LogFiles(folder)
    process = Process(name, files.write)
    print_too = 'import sys\nprint(\'{"message": "before"}\', flush=True)\n'
    await process.start(Command((sys.executable, "-c", print_too + program), {}, direct=True))
    await process.wait()
    files.close()
    return [json.loads(line) for line in files.path(name).read_text().splitlines()]


@pytest.mark.parametrize("set_up", ["", _LOGGED], ids=["logging not set up", "logging set up"])
async def test_what_python_says_last_is_one_record(tmp_path: Path, set_up: str) -> None:
    ends = [
        records(tmp_path, name.replace(" ", "_"), set_up + program)
        for name, (program, _) in _ENDS.items()
    ]
    for (_, named), told in zip(_ENDS.values(), await asyncio.gather(*ends), strict=True):
        (_, last) = told
        assert named in last["exception"]
        assert "\n" not in last["message"].partition("\nfuture:")[0]
        assert last["level"] in {"error", "critical"}


async def test_a_traceback_is_told_though_the_process_lives_on() -> None:
    told: list[str] = []
    process = Process("lab-1", lambda _, line: told.append(line))
    program = """
import time, traceback
try: {}['x']
except KeyError: traceback.print_exc()
time.sleep(60)
"""
    await process.start(Command((sys.executable, "-c", program), {}, direct=True))
    waiting = asyncio.create_task(process.wait())
    async with asyncio.timeout(30):
        while not told:
            await asyncio.sleep(0.05)
    await process.stop(9, 10)
    await waiting
    (record,) = told
    assert record.endswith("KeyError: 'x'")


def test_lines_that_belong_to_no_traceback_stay_as_they_are() -> None:
    joiner = Joiner()
    lines = ["LOG:  starting", "  indented", '{"message": "x"}', "", "E0000 00:00 chttp2.cc] x"]
    assert [record for line in lines for record in joiner.add(line)] == lines
    assert joiner.end() == []


def test_a_line_of_json_ends_a_traceback() -> None:
    joiner = Joiner()
    assert joiner.add("Traceback (most recent call last):") == ()
    assert joiner.add("KeyError: 'x'") == ()
    told = joiner.add('{"message": "x"}')
    assert told == ["Traceback (most recent call last):\nKeyError: 'x'", '{"message": "x"}']
