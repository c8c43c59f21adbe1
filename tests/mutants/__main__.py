"""`make mutants`: takes every guard away in turn; the exit status tells whether tests noticed.

python -m tests.mutants              all of them
python -m tests.mutants refund:      those whose guard has this in its name
"""

import sys
import tempfile
from pathlib import Path

from tests.mutants.table import MUTANTS
from tests.mutants.trial import Copy, TrialError, Verdict


def main() -> None:
    """Tries the table."""
    words = sys.argv[1:]
    chosen = [m for m in MUTANTS if not words or any(word in m.guard for word in words)]
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="icto-mutants-") as folder:
        try:
            copy = Copy(Path(folder))
            copy.unmodified(chosen)
        except TrialError as error:
            sys.exit(str(error))
        _tell(f"{'guard taken away':64} {'tests':>5}  {'s':>5}  noticed")
        for mutant in chosen:
            verdict = copy.judge(mutant)
            verdicts.append(verdict)
            _tell(_line(verdict))
    unnoticed = [verdict for verdict in verdicts if not verdict.caught]
    _tell(f"{len(verdicts)} guards taken away, {len(unnoticed)} of them without a test noticing")
    sys.exit(1 if unnoticed or not verdicts else 0)


def _line(verdict: Verdict) -> str:
    told = "yes" if verdict.caught else "NO"
    mutant = verdict.mutant
    line = f"{mutant.guard:64} {len(mutant.tests):5}  {verdict.seconds:5.1f}  {told}"
    details = [*verdict.survived, *([verdict.problem] if verdict.problem else [])]
    return "\n".join((line, *(f"    {detail}" for detail in details)))


def _tell(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
