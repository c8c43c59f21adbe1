"""The platform's configuration as this replica knows it, and what it forbids at the moment.

Every service follows the configuration over a stream. A replica that has not heard of it yet
changes nothing: what is not known may be an emergency stop. One that lost the stream goes on with
what it knew.
"""

import asyncio
import contextlib
import logging
from typing import Any, Final

from contract.errors import Code, Error
from contract.method import Method
from icto.config.v1 import config_pb2
from icto.config.v1.config_pb2_grpc import ConfigServiceStub
from observability.metrics import Metrics
from services.kit.calling.client import Clients

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 2.0
"""How often whoever follows hears of the configuration, changed or not."""
_RETRY_SECONDS: Final = 0.25
_FIRST_SECONDS: Final = 1.0
# A stream to a frozen replica says nothing, and ends only after half a minute.
_SILENT_HEARTBEATS: Final = 2


class Platform:
    """The configuration, followed."""

    def __init__(
        self, clients: Clients, metrics: Metrics, heartbeat: float = HEARTBEAT_SECONDS
    ) -> None:
        self._silence = _SILENT_HEARTBEATS * heartbeat
        self._metrics = metrics
        self._stub = clients.stub(ConfigServiceStub)
        self._config: config_pb2.SystemConfig | None = None
        self._heard = asyncio.Event()

    @property
    def config(self) -> config_pb2.SystemConfig:
        """The newest configuration.

        Raises:
            Error: UNAVAILABLE, none was heard of yet.
        """
        if self._config is None:
            raise Error(
                Code.UNAVAILABLE,
                "CONFIGURATION_UNKNOWN",
                "This replica is still starting; try again in a moment.",
                retriable=True,
            )
        return self._config

    async def heard(self) -> None:
        """Waits a moment for the first configuration: whoever calls right after the start may."""
        if self._config is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_SECONDS):
                    await self._heard.wait()

    async def follow(self) -> None:
        """Keeps up with every change, as long as the replica lives."""
        while True:
            try:
                await self._follow_one()
            except (Error, TimeoutError) as error:
                log.debug("configuration stream: %r", error)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _follow_one(self) -> None:
        """Follows one stream until it ends.

        Raises:
            TimeoutError: it was silent; another replica may know more.
            Error: it broke.
        """
        stream: Any = self._stub.WatchConfig(config_pb2.WatchConfigRequest())
        async with contextlib.aclosing(stream):
            while True:
                async with asyncio.timeout(self._silence):
                    newest = await anext(stream, None)
                if newest is None:
                    return
                self._take(newest)

    def _take(self, newest: config_pb2.SystemConfig) -> None:
        """Takes a configuration in, unless a newer one is known: streams may overtake another."""
        if self._config is None or newest.revision > self._config.revision:
            self._config = newest
            self._heard.set()
            self._metrics.config_revision.set(newest.revision)
            self._metrics.maintenance.set(newest.maintenance_mode)
            self._metrics.emergency_stop.set(newest.emergency_stop)

    @property
    def running(self) -> bool:
        """Whether work that goes on behind calls may: not in a stop, nor before we know."""
        return self._config is not None and not self._config.emergency_stop

    def check(self, method: Method) -> None:
        """Passes, or refuses a change that the configuration forbids now (F-16).

        Raises:
            Error: UNAVAILABLE, a stop or maintenance that will end; FAILED_PRECONDITION, the
                feature is switched off.
        """
        if not method.mutates or method.allowed_in_emergency_stop:
            return
        known = self.config
        if known.emergency_stop:
            raise _stopped()
        if known.maintenance_mode and not method.allowed_in_maintenance:
            raise Error(
                Code.UNAVAILABLE, "MAINTENANCE", "The platform is in maintenance; try again later."
            )
        if method.feature and not getattr(known.features, method.feature):
            raise Error(
                Code.FAILED_PRECONDITION,
                "FEATURE_DISABLED",
                f"The feature {method.feature} is switched off.",
            )


def _stopped() -> Error:
    return Error(Code.UNAVAILABLE, "EMERGENCY_STOP", "The platform is stopped; nothing changes.")
