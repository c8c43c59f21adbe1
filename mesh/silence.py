"""Which replicas hang, and which of them are ended now: decided by how long each has been silent.

Values in, values out: the watchdog asks, measures and kills. Three rules:

- Whoever has not answered for three health intervals hangs.
- Of one service, one replica at a time is replaced.
- When half of all are silent at once, the machine is more likely at fault than they are: nobody is
  ended until one of them answers, or a minute has passed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

HANG_INTERVALS: Final = 3
HOLD_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Pulse:
    """One process of a replica, as far as it was heard. Times in seconds.

    Attributes:
        process: tells it apart from the replica's earlier and later processes.
        service: the mesh name of its service.
        silent: age of the oldest question that it has not answered; 0 when it has answered all;
            None when nobody expects an answer: it starts, or it is being ended.
        replacing: whether the other replicas of its service wait for it to come back.
    """

    process: str
    service: str
    silent: float | None
    replacing: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """Half of all were silent at once: since when, who, and whether that is over."""

    since: float
    silent: frozenset[str]
    lifted: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found at one moment, and what the next judgement has to know.

    Attributes:
        ended: the processes to end now.
        hold: set while half of all are silent.
        counted_from: silence before this moment says nothing of a replica.
    """

    ended: Sequence[Pulse] = ()
    hold: Hold | None = None
    counted_from: float = float("-inf")


def judge(pulses: Sequence[Pulse], before: Judgement, now: float, interval: float) -> Judgement:
    """Who is ended at a moment, given what was found the last time. Times in seconds.

    A question may be an interval younger for one replica than for another that stopped with it. So
    whoever is silent for one interval counts as silent already when half of all are looked for.
    """
    expected = [pulse for pulse in pulses if pulse.silent is not None]
    silent = frozenset(p.process for p in expected if _age(p) >= interval)
    half_are_silent = bool(silent) and 2 * len(silent) >= len(expected)
    hold, counted_from = before.hold, before.counted_from
    if not half_are_silent:
        hold = None
        if before.hold is not None and not before.hold.lifted:
            counted_from = now
    elif hold is not None and not hold.lifted:
        answered = {pulse.process for pulse in expected} - silent
        if hold.silent & answered:
            # The others may answer in a moment, too: they get the time that a hang takes.
            hold, counted_from = Hold(hold.since, hold.silent, lifted=True), now
        elif now - hold.since >= HOLD_SECONDS:
            hold = Hold(hold.since, hold.silent, lifted=True)
    hanging = [
        pulse
        for pulse in expected
        if min(_age(pulse), now - counted_from) >= HANG_INTERVALS * interval
    ]
    if hanging and half_are_silent and hold is None:
        hold = Hold(now, silent)
    if hold is not None and not hold.lifted:
        return Judgement((), hold, counted_from)
    return Judgement(_one_of_each_service(hanging, pulses), hold, counted_from)


def _age(pulse: Pulse) -> float:
    return pulse.silent or 0.0


def _one_of_each_service(hanging: Iterable[Pulse], pulses: Iterable[Pulse]) -> Sequence[Pulse]:
    """The first that hangs of each service that is not waiting for another one of its replicas."""
    taken = {pulse.service for pulse in pulses if pulse.replacing}
    chosen: list[Pulse] = []
    for pulse in hanging:
        if pulse.service not in taken:
            taken.add(pulse.service)
            chosen.append(pulse)
    return chosen
