"""CPU and memory of the parts of an installation, as the kernel counts them."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.processes import descendants

_TICK = os.sysconf("SC_CLK_TCK")


def parts(state: Mapping[str, Any]) -> dict[str, set[int]]:
    """Process ids by part, of what the supervisor tells."""
    found: dict[str, set[int]] = {
        "envoy": {state["envoy"]["pid"]},
        "postgres": {process.pid for process in descendants(state["postgres"]["pid"])},
        "supervisor": {state["pid"]},
    }
    for replica in state["replicas"]:
        found.setdefault(replica["service"], set()).add(replica["pid"])
    told = set[int]().union(*found.values())
    # What serves metrics, keeps the deny list, and forks replicas.
    found["helpers"] = {process.pid for process in descendants(state["pid"])} - told
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of processes, and of their children that ended."""
    return sum(_ticks(pid) for pid in pids) / _TICK


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(field) for field in fields[11:15])


def cpu_by_part(state: Mapping[str, Any]) -> dict[str, float]:
    """CPU time of each part; the load generator is this process."""
    spent = {name: cpu_seconds(pids) for name, pids in parts(state).items()}
    return spent | {"load generator": cpu_seconds([os.getpid()])}


def pss_by_part(state: Mapping[str, Any]) -> dict[str, int]:
    """Proportional set size of each part, bytes: what is shared counts once."""
    return {name: sum(map(_pss, pids)) for name, pids in parts(state).items()}


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    (line,) = (line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024
