"""What is done to an installation, decided by a seed alone: the same seed, the same schedule."""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import Final

from services.kit.journal.model import Definition

ENVOY: Final = "envoy"
POSTGRES: Final = "postgres"
EVERYTHING: Final = "everything"
MOMENTS: Final = ("before", "after", "committed")
# A worker that is stopped for longer than its lease wakes up to find its pipelines taken.
BEYOND_LEASE_SECONDS: Final = 7.0


class Kind(Enum):
    """Kinds of faults."""

    KILL = "kill -9"
    STOP = "SIGSTOP"
    POINT = "crash at"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: what is done.
        target: a mesh service, one of the constants above, or the name of a crash point.
        replica: which replica of the service, counted round.
        seconds: how long it is stopped.
    """

    kind: Kind
    target: str
    replica: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        seconds = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind.value} {self.target}{seconds}"


def step_points(definition: Definition) -> Iterator[str]:
    """Crash points before the call, after it, and after the commit of each step of a pipeline."""
    for step, moment in product(definition.steps, MOMENTS):
        yield f"{definition.name}.{step.name}.{moment}"


def schedule(
    seed: int,
    services: Sequence[str],
    workers: Collection[str],
    points: Sequence[str],
    limit: int | None = None,
) -> list[Fault]:
    """All faults in an order that the seed decides; the first `limit` of them, when given.

    `workers` are the services whose replicas run pipelines.
    """
    chance = random.Random(seed)
    targets = [*services, ENVOY, POSTGRES]
    faults = [Fault(Kind.POINT, point) for point in points]
    faults += [Fault(Kind.KILL, target, chance.randrange(8)) for target in targets]
    faults += [Fault(Kind.KILL, EVERYTHING)]
    for target in (*targets, EVERYTHING):
        leased = target in workers or target == EVERYTHING
        seconds = BEYOND_LEASE_SECONDS if leased else chance.uniform(0.5, 2.5)
        faults.append(Fault(Kind.STOP, target, chance.randrange(8), seconds))
    chance.shuffle(faults)
    return faults[:limit]
