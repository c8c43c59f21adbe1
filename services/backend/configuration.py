"""icto.config.v1.ConfigService."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf import json_format
from typing_extensions import override

from contract.environment import Environment
from contract.errors import Code, Error, RemoteError, invalid
from contract.model import Contract
from icto.config.v1 import config_pb2 as pb
from icto.config.v1.config_handlers import ConfigServiceHandlers
from icto.events.v1 import events_pb2 as events
from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from services.backend import config_rules, config_store, release_rules, restrictions
from services.backend.config_store import Revision
from services.backend.release_rules import Decision
from services.kit import settings
from services.kit.answering import paging
from services.kit.replica.platform import HEARTBEAT_SECONDS
from services.kit.roles.register import Register
from services.kit.serving import Call, Effect, Kit
from services.kit.settings import SettingsError

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.25
_SYSTEM: Final = "system"
_SUBJECT: Final = "config"


@dataclass(frozen=True)
class ConfigSettings:
    """What a new platform starts with instead of the standard configuration."""

    initial_config: str = ""
    """JSON of a SystemConfig, merged over the standard one. Not in production."""


class ConfigService(ConfigServiceHandlers[Call]):
    """Keeps the configuration and tells everybody about it."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._register = Register(kit.clients)
        self._retention = _retention(kit.contract)
        self._ledgers = kit.clients.stub(LedgerServiceStub)
        self._first = _first(kit.settings.environment)
        self._newest: pb.SystemConfig | None = None
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Looks for changes that other replicas made, as long as this one lives."""
        while True:
            try:
                if self._newest is None:
                    first = Revision(self._first, _SYSTEM, "first configuration")
                    await config_store.add_first(self._database, first)
                found = await config_store.newest(self._database)
                if found is not None:
                    await self._take(found.config)
            except Error as error:
                log.debug("configuration waits: %s", error)
            await asyncio.sleep(_POLL_SECONDS)

    async def _take(self, newest: pb.SystemConfig) -> None:
        if self._newest is None or newest.revision > self._newest.revision:
            async with self._changed:
                self._newest = newest
                self._changed.notify_all()

    @override
    async def GetConfig(self, request: pb.GetConfigRequest, call: Call) -> pb.SystemConfig:
        """The configuration in force."""
        del request, call
        found = await config_store.newest(self._database)
        if found is None:
            raise Error(Code.UNAVAILABLE, "CONFIGURATION_UNKNOWN", "The platform is starting.")
        found.config.retention.extend(self._retention)
        return found.config

    @override
    async def WatchConfig(
        self, request: pb.WatchConfigRequest, call: Call
    ) -> AsyncIterator[pb.SystemConfig]:
        """The configuration, at every change and as a heartbeat."""
        del request, call
        while True:
            if self._newest is not None:
                yield self._newest
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS), self._changed:
                    await self._changed.wait()
            except TimeoutError:
                continue

    @override
    async def UpdateConfig(self, request: pb.UpdateConfigRequest, call: Call) -> pb.SystemConfig:
        """Replaces limits, features and payment settings."""
        config_rules.check(request.config)
        await self._check_ledger(request.config.payment.ledger)

        def change(current: pb.SystemConfig) -> pb.SystemConfig:
            config_rules.check_revision(request.config.revision, current.revision)
            replaced = pb.SystemConfig()
            replaced.CopyFrom(request.config)
            replaced.ClearField("retention")
            replaced.maintenance_mode = current.maintenance_mode
            replaced.emergency_stop = current.emergency_stop
            return replaced

        return await self._change(call, change, request.justification, events.SEVERITY_WARNING)

    async def _check_ledger(self, name: str) -> None:
        """Passes when there is a ledger of that name to be paid on.

        Raises:
            Error: INVALID_ARGUMENT, there is none; what the ledger raises when it does not answer.
        """
        try:
            await self._ledgers.GetLedger(ledger_pb2.GetLedgerRequest(name=name))
        except RemoteError as error:
            if error.code not in (Code.NOT_FOUND, Code.INVALID_ARGUMENT):
                raise
            raise invalid(
                "config.payment.ledger", "names a ledger that does not exist", "LEDGER_NOT_FOUND"
            ) from None

    @override
    async def SetMaintenance(
        self, request: pb.SetMaintenanceRequest, call: Call
    ) -> pb.SystemConfig:
        """Switches maintenance."""

        def change(current: pb.SystemConfig) -> pb.SystemConfig:
            current.maintenance_mode = request.enabled
            return current

        return await self._change(call, change, request.justification, events.SEVERITY_WARNING)

    @override
    async def StopPlatform(self, request: pb.StopPlatformRequest, call: Call) -> pb.SystemConfig:
        """Stops every change, and turns maintenance on."""

        def change(current: pb.SystemConfig) -> pb.SystemConfig:
            current.emergency_stop = current.maintenance_mode = True
            return current

        return await self._change(call, change, request.justification, events.SEVERITY_CRITICAL)

    async def _change(
        self,
        call: Call,
        change: Callable[[pb.SystemConfig], pb.SystemConfig],
        justification: str,
        severity: "events.Severity.ValueType",
    ) -> pb.SystemConfig:
        async with call.transaction() as tx:
            answer, act = await self._apply(tx, call, change, justification, severity)
            if answer.emergency_stop:
                await config_store.forget_release(tx)
            tx.answer(answer, subject=_SUBJECT, act=act)
        await self._take(answer)
        return answer

    async def _apply(
        self,
        tx: Effect,
        call: Call,
        change: Callable[[pb.SystemConfig], pb.SystemConfig],
        justification: str,
        severity: "events.Severity.ValueType",
    ) -> tuple[pb.SystemConfig, events.Act]:
        """Puts a changed configuration in force; returns it and what the audit is told."""
        await config_store.lock(tx)
        before = await config_store.newest(tx)
        if before is None:
            raise Error(Code.UNAVAILABLE, "CONFIGURATION_UNKNOWN", "The platform is starting.")
        current = pb.SystemConfig()
        current.CopyFrom(before.config)
        after = change(current)
        after.revision = before.config.revision + 1
        await tx.apply(config_store.added(Revision(after, call.principal, justification)))
        act = call.act(
            severity=severity,
            previous_value=config_rules.as_text(before.config),
            new_value=config_rules.as_text(after),
            justification=justification,
        )
        return after, act

    @override
    async def ReleasePlatform(
        self, request: pb.ReleasePlatformRequest, call: Call
    ) -> pb.ReleasePlatformResponse:
        """Ends the stop once two people asked for it. Maintenance stays on."""

        def change(current: pb.SystemConfig) -> pb.SystemConfig:
            current.emergency_stop = False
            return current

        after: pb.SystemConfig | None = None
        async with call.transaction() as tx:
            # Two people who ask at the same moment are counted one after the other.
            await config_store.lock(tx)
            decision = await self._decided(tx, call)
            act = call.act(
                severity=events.SEVERITY_CRITICAL,
                justification=request.justification,
                details={
                    "people": str(decision.people),
                    "released": str(decision.released).lower(),
                    "explanation": decision.explanation,
                },
            )
            if decision.released:
                after, act = await self._apply(
                    tx, call, change, request.justification, events.SEVERITY_CRITICAL
                )
                await config_store.forget_release(tx)
            answer = tx.answer(_release_message(decision), subject=_SUBJECT, act=act)
        if after is not None:
            await self._take(after)
        return answer

    async def _decided(self, tx: Effect, call: Call) -> Decision:
        """Records the caller's wish to end the stop, and whether that is enough.

        Roles are read while nobody else can ask: who asked first may have lost theirs meanwhile.
        """
        await config_store.ask_release(tx, call.principal)
        stop = await restrictions.stop(tx, self._register, call.principal)
        return release_rules.decide(call.principal, stop.standings)

    @override
    async def ListConfigRevisions(
        self, request: pb.ListConfigRevisionsRequest, call: Call
    ) -> pb.ListConfigRevisionsResponse:
        """Configurations, newest first."""
        del call
        asked = paging.by_number(request)
        rows = await config_store.history(self._database, asked.after, asked.limit)
        messages = (
            pb.ConfigRevision(
                config=row.config, changed_by=row.changed_by, justification=row.justification
            )
            for row in rows
        )
        page, token = asked.page(rows, messages, lambda row: row.config.revision)
        return pb.ListConfigRevisionsResponse(revisions=page, next_page_token=token)


def _release_message(decision: Decision) -> pb.ReleasePlatformResponse:
    message = pb.ReleasePlatformResponse(
        released=decision.released, explanation=decision.explanation
    )
    if decision.counts_from is not None:
        message.counts_from.FromDatetime(decision.counts_from)
    return message


def _retention(contract: Contract) -> list[pb.Retention]:
    """What each service forgets, as the contract says."""
    told = []
    for service in contract.services.values():
        for what, kept in service.retention.items():
            one = pb.Retention(
                service=service.mesh_name, what=what, since=kept.since, per_user=kept.per_user
            )
            one.period.FromTimedelta(kept.period)
            told.append(one)
    return told


def _first(environment: Environment) -> pb.SystemConfig:
    """The first configuration of a platform.

    Raises:
        SettingsError: ICTO_INITIAL_CONFIG is not one, or this is production.
    """
    standard = config_rules.initial()
    text = settings.load(ConfigSettings, os.environ).initial_config
    if not text:
        return standard
    if not environment.is_play:
        raise SettingsError("ICTO_INITIAL_CONFIG is not for production; use UpdateConfig.")
    try:
        if json_format.Parse(text, pb.SystemConfig()).payment.prices:
            del standard.payment.prices[:]
        # Parsed over the standard, not merged: what says 0 or false is not left out.
        json_format.Parse(text, standard)
    except json_format.ParseError as error:
        raise SettingsError(f"ICTO_INITIAL_CONFIG is not a SystemConfig: {error}") from None
    config_rules.check(standard)
    return standard
