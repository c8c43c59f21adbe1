"""`make` installs once, anywhere, again when a proto went, and is quiet when it is interrupted."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Python as the Makefile uses it; what pip would do is counted, and takes its time. As real pip is,
# it is a Python that answers Ctrl-C with a traceback.
_PYTHON = """#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip "*) mkdir {busy} && echo "$*" >>{log} \\
    && {python} -c 'import pathlib, time
pathlib.Path("{busy}/on").touch(); time.sleep({seconds})'; rm -r {busy} ;;
  *) exec {python} "$@" ;;
esac
"""


class Checkout:
    """A copy of what `make` needs, and a Python that only pretends to install."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.busy, self.log = scratch / "busy", scratch / "log"
        self._python = scratch / "python"
        for name in ("Makefile", "requirements.lock", "pyproject.toml", "protos/build.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        for name in ("protos/icto", "protos/vendor"):
            (folder / name).mkdir()
        shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("jaeger"))
        self.takes(seconds=1)

    def takes(self, seconds: float) -> None:
        """How long each installation takes."""
        values = {"busy": self.busy, "log": self.log, "python": sys.executable}
        self._python.write_text(_PYTHON.format(**values, seconds=seconds))
        self._python.chmod(0o755)
        shutil.rmtree(self.folder / ".venv", ignore_errors=True)

    def make(self, target: str = ".venv/.ready") -> "subprocess.Popen[bytes]":
        """Starts make, which Ctrl-C reaches even where these tests were started without it."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        left_out = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
        return subprocess.Popen(
            ["make", target, f"PYTHON={self._python}"],
            cwd=self.folder,
            env={name: value for name, value in os.environ.items() if name not in left_out},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def made(self, target: str = ".venv/.ready") -> str:
        """Runs make to its end, which is a good one; what it printed."""
        make = self.make(target)
        output = make.communicate(timeout=60)[0].decode()
        assert make.returncode == 0, output
        return output

    @property
    def installations(self) -> int:
        """How often something was installed."""
        return len(self.log.read_text().splitlines())


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout", tmp_path)


def test_two_makes_at_once_install_once(checkout: Checkout) -> None:
    makes = [checkout.make() for _ in range(2)]
    outputs = [make.communicate(timeout=60)[0].decode() for make in makes]
    assert [make.returncode for make in makes] == [0, 0], outputs
    assert checkout.installations == 2, "the lock's packages once, and the project once"
    assert sum("waiting for another make" in output for output in outputs) == 1


def test_a_proto_that_went_has_the_protos_built_anew(checkout: Checkout) -> None:
    checkout.takes(seconds=0)
    folder = checkout.folder / "protos/icto/notes/v1"
    folder.mkdir(parents=True)
    (folder / "notes.proto").touch()
    checkout.made()
    before = checkout.installations
    checkout.made()
    assert checkout.installations == before, "nothing changed"
    shutil.rmtree(folder.parent)
    checkout.made()
    assert checkout.installations == before + 1


def test_ctrl_c_during_installation_is_quiet(checkout: Checkout) -> None:
    """As a terminal does it: each process of its group gets the signal, whatever that runs."""
    checkout.takes(seconds=60)
    make = checkout.make()
    deadline = time.monotonic() + 30
    while not (checkout.busy / "on").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(make.pid, signal.SIGINT)
    output = make.communicate(timeout=60)[0].decode()
    assert make.returncode != 0
    assert "Traceback" not in output
    assert "KeyboardInterrupt" not in output
    assert "interrupted; the next make goes on from here" in output


def test_tools_are_installed_in_a_folder_with_a_space(tmp_path: Path) -> None:
    """Not really: what `make` runs prints where it was told to install."""
    checkout = Checkout(tmp_path / "my own folder", tmp_path)
    (checkout.folder / "tools/install.sh").write_text('printf "[%s]" "$@"\n')
    assert f"[{checkout.folder}/.tools]" in checkout.made("tools")
