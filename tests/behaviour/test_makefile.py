"""`make` installs once, however many are typed at one time."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Python as the Makefile uses it; what pip would do is counted, and takes its time.
_PYTHON = """#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip "*) mkdir {busy} && echo "$*" >>{log} && sleep 1 && rmdir {busy} ;;
  *) exec {python} "$@" ;;
esac
"""


def test_two_makes_at_once_install_once(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "protos/build.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("protos/icto", "protos/vendor"):
        (tmp_path / name).mkdir()
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("jaeger"))
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(_PYTHON.format(busy=tmp_path / "busy", log=log, python=sys.executable))
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    makes = [
        subprocess.Popen(
            ["make", ".venv/.ready", f"PYTHON={python}"],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]  # fmt: skip
    outputs = [make.communicate(timeout=60)[0].decode() for make in makes]
    assert [make.returncode for make in makes] == [0, 0], outputs
    assert len(log.read_text().splitlines()) == 2, "the lock's packages once, and the project once"
    assert sum("waiting for another make" in output for output in outputs) == 1
