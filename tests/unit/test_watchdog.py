"""What the watchdog does not hold against a replica."""

import time

import pytest

from mesh import watchdog
from mesh.starvation import Thread
from mesh.watchdog import _AwakeClock


def test_time_that_the_watchdog_slept_through_counts_little() -> None:
    clock = _AwakeClock(longest=0.01)
    begun = time.monotonic()
    time.sleep(0.2)
    clock.tick()
    assert clock.now() < 0.1 < time.monotonic() - begun


def test_time_in_which_it_could_run_counts() -> None:
    clock = _AwakeClock(longest=60.0)
    time.sleep(0.05)
    clock.tick()
    time.sleep(0.05)
    clock.tick()
    assert 0.05 <= clock.now() < 60.0


def test_waits_of_a_busy_hour_do_not_stop_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited = 0.0
    monkeypatch.setattr(
        watchdog, "threads_of", lambda _: {"1": Thread(ran=1.0, waited=waited, runnable=False)}
    )
    clock = _AwakeClock(longest=60.0)
    waited = 3600.0
    time.sleep(0.05)
    clock.tick()
    assert clock.now() == 0.0
    time.sleep(0.05)
    clock.tick()
    assert clock.now() >= 0.05
