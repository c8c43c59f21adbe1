"""A copy of the project in which a guard can be taken away, and its tests run.

The copy stands first on the path of Python, so that it is what runs, in the replicas that a test
starts too. Nothing is written to the project itself.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mutants.table import Mutant

PROJECT: Final = Path(__file__).parents[2]
_PARTS: Final = (
    "contract", "gateway", "mesh", "observability", "protos", "schema_setup", "services", "tests",
)  # fmt: skip
_SECONDS: Final = 300.0
_RESULT: Final = re.compile(r"^(PASSED|FAILED|ERROR) ([^\s\[]+)", re.MULTILINE)
_WHERE: Final = "import services; print(services.__file__)"


class TrialError(Exception):
    """The copy cannot be tried."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant: `survived` by those tests that did not fail, if any."""

    mutant: Mutant
    survived: Sequence[str]
    seconds: float
    problem: str = ""

    @property
    def caught(self) -> bool:
        """Whether every test that stands for the guard noticed."""
        return not self.survived and not self.problem


class Copy:
    """A copy of the project."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for part in _PARTS:
            shutil.copytree(
                PROJECT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(PROJECT / "pyproject.toml", folder)
        found = self._run([sys.executable, "-c", _WHERE]).stdout.strip()
        if not Path(found).is_relative_to(folder):
            raise TrialError(f"the copy is not what runs: {found}")

    def _run(self, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        path = os.pathsep.join((str(self._folder), str(self._folder / "protos" / "gen")))
        environment = os.environ | {
            "PYTHONPATH": path,
            # A mutant may be as long and as old as what it replaces: no byte code may outlive it.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            command, cwd=self._folder, env=environment, capture_output=True, text=True,
            timeout=_SECONDS, check=False,
        )  # fmt: skip

    def unmodified(self, mutants: Iterable[Mutant]) -> None:
        """Passes when every test passes as long as nothing is taken away.

        Raises:
            TrialError: one does not.
        """
        wanted = sorted({test for mutant in mutants for test in mutant.tests})
        outcomes, output = self._test(wanted)
        bad = [test for test in wanted if outcomes.get(test) != {"PASSED"}]
        if bad:
            failures = [line for line in output.splitlines() if not line.startswith("PASSED")]
            raise TrialError("\n".join(("these do not pass unmodified:", *bad, *failures[-20:])))

    def judge(self, mutant: Mutant) -> Verdict:
        """Takes a guard away, runs its tests, and puts it back."""
        file, started = self._folder / mutant.file, time.monotonic()
        text = file.read_text()
        if text.count(mutant.before) != 1:
            return Verdict(mutant, (), 0.0, f"stands {text.count(mutant.before)} times in the file")
        file.write_text(text.replace(mutant.before, mutant.after))
        try:
            outcomes, output = self._test(mutant.tests)
        finally:
            file.write_text(text)
        survived = [test for test in mutant.tests if "FAILED" not in outcomes.get(test, set())]
        # A test that could not even begin says nothing about the guard.
        broken = "" if outcomes else output[-500:]
        return Verdict(mutant, survived, time.monotonic() - started, broken)

    def _test(self, tests: Sequence[str]) -> tuple[dict[str, set[str]], str]:
        """How tests ended, all parameters of one together; and what pytest printed."""
        command = [
            sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "--no-header",
            "-p", "no:cacheprovider", *tests,
        ]  # fmt: skip
        output = self._run(command).stdout
        outcomes: dict[str, set[str]] = {}
        for how, test in _RESULT.findall(output):
            outcomes.setdefault(test, set()).add(how)
        return outcomes, output
