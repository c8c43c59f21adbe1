"""How long a process waits for a processor: what a busy machine keeps it from, it does not refuse.

Linux counts a thread's wait when it ends (`schedstat`, see proc(5) and sched-stats.rst). One that
waits now, and has not run since it was last looked at, is seen by its state.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_RUNNABLE: Final = "R"
_NANOSECONDS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Thread:
    """What the system knows of a thread.

    Attributes:
        ran: seconds that it had a processor in its life.
        waited: seconds that it waited for one, without the present wait.
        runnable: whether it has a processor, or waits for one.
    """

    ran: float
    waited: float
    runnable: bool


Threads = Mapping[str, Thread]


def threads_of(pid: int) -> Threads:
    """The threads of a process by id; empty where the system does not say."""
    return dict(_threads(Path(f"/proc/{pid}/task")))


def _threads(folder: Path) -> Iterator[tuple[str, Thread]]:
    with contextlib.suppress(OSError):
        for thread in folder.iterdir():
            # Any of them may end while we read.
            with contextlib.suppress(OSError, IndexError, ValueError):
                ran, waited, *_ = map(int, (thread / "schedstat").read_text().split())
                state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
                yield (
                    thread.name,
                    Thread(ran / _NANOSECONDS, waited / _NANOSECONDS, state == _RUNNABLE),
                )


def waited_between(before: Threads, now: Threads, seconds: float) -> float:
    """For how much of the time between two looks a process waited for a processor, in seconds.

    Its threads take turns: the wait of one is held up by those of the others.
    """
    waited = sum(
        _waited(before[name], thread, seconds) for name, thread in now.items() if name in before
    )
    return min(waited, seconds)


def _waited(before: Thread, now: Thread, seconds: float) -> float:
    if before.runnable and now.runnable and now.ran == before.ran:
        return seconds
    return max(now.waited - before.waited, 0.0)


@dataclass(frozen=True, slots=True)
class Wait:
    """How long a process has waited for a processor since it was first looked at.

    Attributes:
        seconds: the sum so far.
        seen: when it was last looked at, and its threads then.
    """

    seconds: float
    seen: tuple[float, Threads]

    @classmethod
    def begin(cls, threads: Threads, now: float) -> "Wait":
        """The first look."""
        return cls(0.0, (now, threads))

    def look(self, threads: Threads, now: float) -> "Wait":
        """The next look."""
        then, before = self.seen
        more = waited_between(before, threads, now - then)
        return Wait(self.seconds + more, (now, threads))
