"""What a process waits for a processor is not held against it."""

import os

import pytest

from mesh.starvation import Thread, Wait, threads_of, waited_between

IDLE = Thread(ran=1.0, waited=1.0, runnable=False)
QUEUED = Thread(ran=1.0, waited=1.0, runnable=True)


@pytest.mark.parametrize(
    ("before", "now", "waited"),
    [
        (QUEUED, QUEUED, 2.0),
        (IDLE, IDLE, 0.0),
        (IDLE, QUEUED, 0.0),
        (QUEUED, Thread(ran=3.0, waited=1.0, runnable=True), 0.0),
        (QUEUED, Thread(ran=1.5, waited=2.5, runnable=False), 1.5),
        (IDLE, Thread(ran=1.1, waited=9.0, runnable=False), 2.0),
    ],
    ids=["in the queue all the time", "asleep", "just woken", "spins", "ran a little", "bounded"],
)
def test_a_thread_in_the_queue_waits(before: Thread, now: Thread, waited: float) -> None:
    assert waited_between({"1": before}, {"1": now}, 2.0) == waited


def test_threads_that_wait_for_one_another_wait_one_after_the_other() -> None:
    after = Thread(ran=1.1, waited=1.6, runnable=False)
    assert waited_between({"1": IDLE, "2": IDLE}, {"1": after, "2": after}, 2.0) == pytest.approx(
        1.2
    )


def test_looks_add_up_and_a_new_thread_counts_from_its_second() -> None:
    wait = Wait.begin({"1": QUEUED}, 10.0)
    wait = wait.look({"1": QUEUED, "2": QUEUED}, 11.0)
    wait = wait.look({"1": QUEUED, "2": QUEUED}, 12.0)
    assert wait.seconds == 2.0


def test_this_process_has_run() -> None:
    threads = threads_of(os.getpid())
    assert threads[str(os.getpid())].runnable
    assert sum(thread.ran for thread in threads.values()) > 0


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    assert threads_of(2**30) == {}
