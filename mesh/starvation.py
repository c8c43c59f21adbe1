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


@dataclass(frozen=True, slots=True)
class Wait:
    """How long a process has waited for a processor since it was first looked at.

    Attributes:
        began: when it was first looked at, and its threads then.
        queued: threads that wait now: what each had run when that began, and since when it is
            known to wait.
        seconds: the waits of all threads since the first look. They take turns: the wait of one is
            held up by those of the others.
    """

    began: tuple[float, Threads]
    queued: Mapping[str, tuple[float, float]]
    seconds: float = 0.0

    @classmethod
    def begin(cls, threads: Threads, now: float) -> "Wait":
        """The first look."""
        return cls((now, threads), _queued({}, threads, now))

    def look(self, threads: Threads, now: float) -> "Wait":
        """The next look."""
        start, first = self.began
        queued = _queued(self.queued, threads, now)
        ended = sum(t.waited - first[name].waited for name, t in threads.items() if name in first)
        present = sum(now - since for _, since in queued.values())
        return Wait(self.began, queued, min(ended + present, now - start))

    def answerable(self, now: float) -> float:
        """Seconds since the first look in which it could have answered."""
        return now - self.began[0] - self.seconds


def _queued(
    before: Mapping[str, tuple[float, float]], threads: Threads, now: float
) -> Mapping[str, tuple[float, float]]:
    """The threads that want a processor: what each has run, and since when it has run no more."""
    found = {}
    for name, thread in threads.items():
        if thread.runnable:
            ran, since = before.get(name, (thread.ran, now))
            found[name] = (ran, since) if ran == thread.ran else (thread.ran, now)
    return found
