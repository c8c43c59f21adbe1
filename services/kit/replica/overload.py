"""Sheds load by criticality when a replica cannot keep up.

The measure is how late the event loop runs its timers: the age of the work that waits in it. What
matters least is refused first, marked as safe for another replica to serve.
"""

import asyncio
from typing import Final

from contract.errors import Code, Error
from contract.method import Criticality, Method
from observability.metrics import Metrics

_TICK_SECONDS: Final = 0.05
# Lag at which calls are refused. Critical calls are never shed; Envoy's breaker bounds them.
_LIMITS: Final = {Criticality.SHEDDABLE: 0.25, Criticality.NORMAL: 1.0}


class Overload:
    """The load of one replica."""

    def __init__(self, metrics: Metrics) -> None:
        self.lag = 0.0
        self._metrics = metrics

    async def watch(self) -> None:
        """Measures the loop's lag, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            self.lag = max(0.0, loop.time() - due)
            self._metrics.loop_lag.set(self.lag)

    def admit(self, method: Method) -> None:
        """Passes, or refuses.

        Raises:
            Error: UNAVAILABLE and retriable, this replica cannot keep up.
        """
        limit = _LIMITS.get(method.criticality)
        if limit is not None and self.lag > limit:
            self._metrics.shed.labels(method.criticality.name).inc()
            raise Error(
                Code.UNAVAILABLE,
                "OVERLOADED",
                "The service cannot keep up; try again in a moment.",
                retry_after=1.0,
                retriable=True,
            )
