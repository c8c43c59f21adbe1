"""The crash harness: a seed decides its schedule, and a run that shows too little is not sound."""

from collections import Counter

import pytest

from tests.chaos.run import SCENARIOS, WORKERS, Report, plan, shortfalls
from tests.chaos.saboteur import Blow
from tests.chaos.schedule import BEYOND_LEASE_SECONDS, ENVOY, EVERYTHING, MOMENTS, POSTGRES, Kind

scenarios = pytest.mark.parametrize("scenario", sorted(SCENARIOS))


@scenarios
def test_the_same_seed_is_the_same_schedule_and_another_is_not(scenario: str) -> None:
    assert plan(scenario, 7) == plan(scenario, 7)
    assert plan(scenario, 7) != plan(scenario, 8)


@scenarios
def test_every_process_is_killed_and_stopped_and_every_point_is_passed_once(scenario: str) -> None:
    faults = plan(scenario, 1)
    assert set(Counter((fault.kind, fault.target) for fault in faults).values()) == {1}
    killed = {fault.target for fault in faults if fault.kind is Kind.KILL}
    stopped = {fault.target: fault.seconds for fault in faults if fault.kind is Kind.STOP}
    assert killed == set(stopped) >= {*WORKERS, ENVOY, POSTGRES, EVERYTHING}
    assert all(stopped[worker] == BEYOND_LEASE_SECONDS for worker in (*WORKERS, EVERYTHING))


@pytest.mark.parametrize(
    ("scenario", "steps"),
    [
        (
            "deploy",
            {
                "deploy_token.charge", "deploy_token.create_token", "deploy_token.abandon",
                "deploy_token.settle", "refund.transfer",
            },
        ),
        (
            "launch",
            {
                "launch.charge", "launch.create_token", "launch.abandon_token", "launch.lock_1",
                "launch.lock_2", "launch.distribution_1", "launch.abandon_lock_1",
                "launch.abandon_lock_2", "launch.abandon_distribution_1",
                "launch.transfer_ownership", "launch.finalize", "launch.settle",
            },
        ),
    ],
)  # fmt: skip
def test_every_step_is_crashed_at_before_after_and_once_committed(
    scenario: str, steps: set[str]
) -> None:
    points = {fault.target for fault in plan(scenario, 1) if fault.kind is Kind.POINT}
    assert points >= {f"{step}.{moment}" for step in steps for moment in MOMENTS}


def test_a_run_below_its_counts_fails() -> None:
    least = {"accepted": 200, "refunded": 10}
    assert shortfalls({"accepted": 200, "refunded": 10}, least) == []
    assert shortfalls({"accepted": 199}, least) == [
        "only 199 accepted, at least 200 are needed",
        "only 0 refunded, at least 10 are needed",
    ]


def test_a_run_is_sound_when_every_fault_was_done_and_nothing_is_wrong() -> None:
    faults = plan("deploy", 1)
    blows = [Blow(fault, 20, 0.1) for fault in faults]
    assert Report("deploy", 1, faults, blows).sound
    assert not Report("deploy", 1, faults, blows[1:]).sound
    assert not Report("deploy", 1, faults, blows, problems=["one"]).sound
