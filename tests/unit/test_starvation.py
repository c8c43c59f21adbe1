"""What a process waits for a processor is not held against it."""

import os

import pytest

from mesh.starvation import Thread, Wait, threads_of

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
    wait = Wait.begin({"1": before}, 10.0).look({"1": now}, 12.0)
    assert wait.seconds == waited
    assert wait.answerable(12.0) == 2.0 - waited


def test_threads_that_wait_for_one_another_wait_one_after_the_other() -> None:
    after = Thread(ran=1.1, waited=1.6, runnable=False)
    wait = Wait.begin({"1": IDLE, "2": IDLE}, 10.0).look({"1": after, "2": after}, 12.0)
    assert wait.seconds == pytest.approx(1.2)


def test_a_wait_that_ends_counts_from_where_it_began_between_two_looks() -> None:
    wait = Wait.begin({"1": IDLE}, 10.0)
    wait = wait.look({"1": QUEUED}, 11.0)
    wait = wait.look({"1": QUEUED}, 12.0)
    assert wait.seconds == 1.0
    wait = wait.look({"1": Thread(ran=1.1, waited=3.5, runnable=False)}, 13.0)
    assert wait.seconds == 2.5


def test_a_new_thread_counts_while_it_waits() -> None:
    wait = Wait.begin({}, 10.0).look({"1": QUEUED}, 11.0).look({"1": QUEUED}, 12.0)
    assert wait.seconds == 1.0


def test_this_process_has_run() -> None:
    threads = threads_of(os.getpid())
    assert threads[str(os.getpid())].runnable
    assert sum(thread.ran for thread in threads.values()) > 0


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    assert threads_of(2**30) == {}
