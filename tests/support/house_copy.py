"""A copy of the whole project that a test may change, with an environment of its own."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_LEFT_OUT: Final = shutil.ignore_patterns(".*", "gen", "tests", "__pycache__")


def copy_of_the_house(house: Path) -> None:
    """The project as it is, and what is installed here in an environment of its own."""
    shutil.copytree(ROOT, house, ignore=_LEFT_OUT)
    venv.create(house / ".venv", symlinks=True)
    (house / ".venv/.locked").touch()
    packages = Path(sysconfig.get_paths()["purelib"])
    theirs = house / ".venv" / packages.relative_to(sys.prefix)
    for entry in packages.iterdir():
        if not re.match(r"_?icto_mesh", entry.name):
            (theirs / entry.name).symlink_to(entry)
    for program in Path(sysconfig.get_paths()["scripts"]).iterdir():
        target = house / ".venv/bin" / program.name
        if program.name != "icto" and not target.exists():
            target.symlink_to(program)


async def run(house: Path, *command: str) -> None:
    """Runs a command in the copy."""
    child = await asyncio.create_subprocess_exec(
        *command, cwd=house, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ
    )
    output, _ = await child.communicate()
    assert child.returncode == 0, output.decode()
