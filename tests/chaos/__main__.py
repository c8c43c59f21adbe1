"""`make crash SEED=n`: kills everything there is under load, and says whether it all adds up."""

import argparse
import asyncio
import statistics
import sys

from tests.chaos.run import SCENARIOS, Report, plan, run


def main() -> None:
    """Runs one seed; the exit status tells whether everything held."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), default="deploy")
    parser.add_argument("--plan", action="store_true", help="print the schedule and do nothing")
    chosen = parser.parse_args()
    if chosen.plan:
        for fault in plan(chosen.scenario, chosen.seed):
            print(fault)  # noqa: T201
        return
    report = asyncio.run(run(chosen.scenario, chosen.seed, _tell))
    _show(report)
    sys.exit(0 if report.sound else 1)


def _tell(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _show(report: Report) -> None:
    recoveries = [blow.recovery for blow in report.blows]
    _tell(f"\nscenario {report.scenario}, seed {report.seed}, {len(report.blows)} faults")
    for what, count in report.counts.items():
        _tell(f"{count:8}  {what}")
    if recoveries:
        _tell(
            f"work went on after {statistics.median(recoveries):.2f} s (median),"
            f" {max(recoveries):.2f} s (longest); all had ended {report.calm_after:.1f} s after the"
            f" last fault; {report.seconds:.0f} s in all"
        )
    for problem in report.problems:
        _tell(f"PROBLEM   {problem}")
    _tell("everything adds up" if report.sound else "NOT SOUND")


if __name__ == "__main__":
    main()
