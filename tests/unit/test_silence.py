"""Who hangs, and who of them is ended: every rule by example, and what always holds by chance."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.silence import HANG_INTERVALS, HOLD_SECONDS, Hold, Judgement, Pulse, judge

INTERVAL = 0.5
HANG = HANG_INTERVALS * INTERVAL
NOW = 1000.0
NOTHING = Judgement()


def fleet(silent: Mapping[str, float | None], services: int = 5) -> list[Pulse]:
    """Two replicas of each service, all of which answer but those given."""
    names = [f"{chr(ord('a') + service)}-{n}" for service in range(services) for n in (1, 2)]
    return [Pulse(name, name[0], silent.get(name, 0.0)) for name in names]


def ended(judgement: Judgement) -> list[str]:
    return [pulse.process for pulse in judgement.ended]


@pytest.mark.parametrize(
    ("silent", "names"),
    [(0.0, []), (HANG - 0.01, []), (HANG, ["a-1"]), (99.0, ["a-1"]), (None, [])],
)
def test_who_has_not_answered_for_three_intervals_hangs(
    silent: float | None, names: list[str]
) -> None:
    assert ended(judge(fleet({"a-1": silent}), NOTHING, NOW, INTERVAL)) == names


def test_one_replica_of_a_service_is_ended_at_a_time() -> None:
    hanging = {"a-1": HANG, "a-2": HANG, "b-2": HANG}
    assert ended(judge(fleet(hanging), NOTHING, NOW, INTERVAL)) == ["a-1", "b-2"]


def test_nobody_is_ended_while_another_of_the_service_comes_back() -> None:
    starting = Pulse("a-3", "a", None, replacing=True)
    pulses = [*fleet({"a-1": HANG, "b-1": HANG}), starting]
    assert ended(judge(pulses, NOTHING, NOW, INTERVAL)) == ["b-1"]


def half(seconds: float = HANG) -> dict[str, float | None]:
    return {"a-1": seconds, "a-2": seconds, "b-1": seconds, "b-2": seconds, "c-1": seconds}


def test_of_half_of_all_that_are_silent_at_once_nobody_is_ended() -> None:
    found = judge(fleet(half()), NOTHING, NOW, INTERVAL)
    assert found == Judgement((), Hold(NOW, frozenset(half())))


def test_who_stopped_with_others_is_not_ended_because_he_was_asked_before_them() -> None:
    """A question is up to an interval older than the next one."""
    silent = half(HANG - INTERVAL) | {"a-1": HANG}
    assert ended(judge(fleet(silent), NOTHING, NOW, INTERVAL)) == []


def test_once_one_of_them_answers_the_others_have_the_time_of_a_hang() -> None:
    everyone: dict[str, float | None] = {p.process: 9.0 for p in fleet({})}
    held = judge(fleet(everyone), NOTHING, NOW, INTERVAL)
    lifted = judge(fleet(everyone | {"e-1": 0.0}), held, NOW + 5, INTERVAL)
    assert ended(lifted) == []
    silent = everyone | {"e-1": 0.0}
    soon = judge(fleet(silent), lifted, NOW + 5 + HANG - 0.1, INTERVAL)
    assert ended(soon) == []
    after = judge(fleet(silent), soon, NOW + 5 + HANG, INTERVAL)
    assert ended(after) == ["a-1", "b-1", "c-1", "d-1", "e-2"]


def test_when_all_go_on_those_that_answer_last_are_not_ended() -> None:
    everyone: dict[str, float | None] = {p.process: 9.0 for p in fleet({})}
    held = judge(fleet(everyone), NOTHING, NOW, INTERVAL)
    last = judge(fleet({"a-1": 9.1}), held, NOW + 5, INTERVAL)
    assert (ended(last), last.hold) == ([], None)
    later = judge(fleet({"a-1": 9.1 + HANG}), last, NOW + 5 + HANG, INTERVAL)
    assert ended(later) == ["a-1"]


def test_after_a_minute_they_are_ended_by_turns_though_nobody_answers() -> None:
    everyone: dict[str, float | None] = {p.process: 99.0 for p in fleet({})}
    held = judge(fleet(everyone), NOTHING, NOW, INTERVAL)
    almost = judge(fleet(everyone), held, NOW + HOLD_SECONDS - 0.1, INTERVAL)
    assert ended(almost) == []
    after = judge(fleet(everyone), almost, NOW + HOLD_SECONDS, INTERVAL)
    assert ended(after) == ["a-1", "b-1", "c-1", "d-1", "e-1"]
    second_half = {name: 99.0 for name in everyone if name.endswith("2")}
    rest = judge(fleet(second_half), after, NOW + HOLD_SECONDS + 9, INTERVAL)
    assert ended(rest) == ["a-2", "b-2", "c-2", "d-2", "e-2"]


SILENCE = st.one_of(st.none(), st.just(0.0), st.floats(0.0, 5.0))


@st.composite
def histories(draw: st.DrawFn) -> list[list[Pulse]]:
    """What was seen of a fleet in successive moments, half an interval apart."""
    moments = draw(st.integers(1, 12))
    names = [pulse.process for pulse in fleet({})]
    return [
        fleet(dict(zip(names, draw(st.tuples(*[SILENCE] * len(names))), strict=True)))
        for _ in range(moments)
    ]


@given(histories())
def test_whatever_happens_only_who_hangs_is_ended_and_one_of_a_service(
    history: Sequence[list[Pulse]],
) -> None:
    found = NOTHING
    for number, pulses in enumerate(history):
        before, found = found, judge(pulses, found, NOW + number * INTERVAL / 2, INTERVAL)
        assert all(pulse.silent is not None and pulse.silent >= HANG for pulse in found.ended)
        services = [pulse.service for pulse in found.ended]
        assert len(services) == len(set(services))
        if found.ended and is_half_silent(pulses):
            assert before.hold is not None
            assert found.hold is not None
            assert found.hold.lifted


@given(st.sets(st.sampled_from([p.process for p in fleet({})]), min_size=1, max_size=4))
def test_fewer_than_half_that_hang_are_all_ended_in_two_turns(names: set[str]) -> None:
    hanging: dict[str, float | None] = dict.fromkeys(names, HANG)
    first = judge(fleet(hanging), NOTHING, NOW, INTERVAL)
    left = {name: HANG for name in names if name not in ended(first)}
    second = judge(fleet(left), first, NOW + 5, INTERVAL)
    assert {*ended(first), *ended(second)} == names


def is_half_silent(pulses: Sequence[Pulse]) -> bool:
    expected = [pulse.silent for pulse in pulses if pulse.silent is not None]
    return 2 * sum(silent >= INTERVAL for silent in expected) >= len(expected)
