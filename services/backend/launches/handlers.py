"""icto.backend.v1.LaunchService."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from uuid import UUID

from google.api.httpbody_pb2 import HttpBody
from typing_extensions import override

from contract import ids, principal
from contract.errors import Code, Error, RemoteError, invalid, not_found
from icto.backend.v1 import launches_pb2 as pb
from icto.backend.v1.launches_handlers import LaunchServiceHandlers
from icto.distribution.v1 import distribution_pb2
from icto.distribution.v1.distribution_pb2_grpc import DistributionServiceStub
from icto.events.v1 import events_pb2 as events
from icto.ledger.v1 import ledger_pb2
from icto.lock.v1 import lock_pb2
from icto.lock.v1.lock_pb2_grpc import LockServiceStub
from icto.payment.v1 import payment_pb2
from icto.payment.v1.payment_pb2_grpc import PaymentServiceStub
from icto.token.v1 import token_pb2
from icto.token.v1.token_pb2_grpc import TokenServiceStub
from observability.tracing import trace_id
from services.backend import orders
from services.backend import store as backend_store
from services.backend.domain import Limits
from services.backend.launches import domain, store
from services.backend.launches.domain import BASE_FEE, CREATE_TOKEN, TAKE_IN, Launch, Shape
from services.backend.launches.escrow import Escrow
from services.backend.launches.messages import change_message, launch_message, state_of
from services.backend.launches.pipeline import LaunchPipeline, ledger_of, part_amounts
from services.kit.answering import paging, sse
from services.kit.audit.operations import Operation
from services.kit.calling.client import on_behalf_of
from services.kit.journal import change_log
from services.kit.journal.changes import ChangeFeed
from services.kit.journal.model import PipelineState, Run
from services.kit.journal.pipelines import Pipelines
from services.kit.journal.postgres import PostgresJournal
from services.kit.payouts import PaidOut, Payout, Payouts
from services.kit.serving import Call, Effect, Kit
from services.kit.storage import Connection

T = TypeVar("T")

_SEQUENCE_DIGITS: Final = 9
_WITHDRAWAL: Final = Operation.of(pb.DESCRIPTOR.services_by_name["LaunchService"], "WithdrawEscrow")


@dataclass(frozen=True, slots=True)
class _Checked:
    """A launch that may be accepted, and where its tokens come from."""

    spec: pb.LaunchSpec
    shape: Shape
    coverage: domain.Coverage
    fee: int
    token: str = ""
    earlier: UUID | None = None


class LaunchService(LaunchServiceHandlers[Call]):
    """Accepts launches, runs their pipelines, and tells how they go."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._platform = kit.platform
        self._spender = principal.of_service(kit.service.mesh_name)
        self._heartbeat = kit.settings.heartbeat_seconds
        self._payments = kit.clients.stub(PaymentServiceStub)
        self._tokens = kit.clients.stub(TokenServiceStub)
        self._locks = kit.clients.stub(LockServiceStub)
        self._distributions = kit.clients.stub(DistributionServiceStub)
        dsn = kit.settings.database_url.reveal()
        self._changes = ChangeFeed(kit.database, dsn, kit.service.mesh_name)
        self._journal = PostgresJournal(kit.database, kit.outbox, self._changes, logged=True)
        self._pipelines = Pipelines(kit, self._journal)
        self._accounts = Escrow(kit)
        self._pipeline = LaunchPipeline(kit, self._accounts)
        self._pipelines.define(self._pipeline.family)
        self._payouts = Payouts(kit, self._pipelines, self._withdrawn)

    async def run(self) -> None:
        """Works on launches, as long as the replica lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._changes.run())
            tasks.create_task(self._pipelines.run())
            tasks.create_task(self._payouts.run())

    @override
    async def ValidateLaunch(
        self, request: pb.ValidateLaunchRequest, call: Call
    ) -> pb.ValidateLaunchResponse:
        """Checks a launch without launching."""
        checked = await self._checked(request.spec, ids.new_id(call.principal), call.principal)
        await orders.check_limits(self._database, call.principal, self._limits())
        return pb.ValidateLaunchResponse(
            spec=checked.spec,
            items=[
                payment_pb2.OrderItem(step=step, service=service)
                for step, service in _order(checked.shape).items()
            ],
            escrow_amount=str(checked.coverage.taken),
            remainder_amount=str(checked.coverage.remainder),
            spender=ledger_pb2.Account(owner=self._spender),
        )

    @override
    async def CreateLaunch(self, request: pb.CreateLaunchRequest, call: Call) -> pb.Launch:
        """Accepts a launch; it waits for its turn when the transaction has committed."""
        launch_id = ids.new_id(call.principal)
        try:
            await orders.check_limits(self._database, call.principal, self._limits())
            checked, cost = await self._ordered(request, launch_id, call.principal)
        except Error:
            await call.replay()
            raise
        launch = Launch(
            id=launch_id,
            owner=call.principal,
            project_id=_project(request),
            spec=checked.spec.SerializeToString(),
            shape=checked.shape,
            trace_id=trace_id(call.span),
            quote=request.quote,
            cost=cost,
            token=checked.token,
            earlier=checked.earlier,
        )
        response = self._message(launch, None)
        act = call.act(
            status=events.ACT_STATUS_INITIATED, operation=launch.name, details={"cost": cost}
        )
        effects = (
            store.added(launch),
            backend_store.counted_deployment(call.principal, self._limits()),
            self._pipelines.enqueue(
                self._pipeline.family, launch.id, launch.shape.encode(), launch.owner
            ),
        )
        if launch.project_id is None and launch.earlier is None:
            await call.commit(response, *effects, subject=launch.name, act=act)
        else:
            async with call.transaction() as tx:
                await self._reserve(tx, launch, checked, request.project)
                await tx.apply(*effects)
                tx.answer(response, subject=launch.name, act=act)
        self._pipelines.admit()
        return response

    def _limits(self) -> Limits:
        config = self._platform.config.limits
        return orders.limits(config, config.pipeline_cooldown)

    async def _ordered(
        self, request: pb.CreateLaunchRequest, launch_id: UUID, owner: str
    ) -> tuple[_Checked, str]:
        """Everything that can be known before anything is charged (F-12)."""
        checked = await self._checked(request.spec, launch_id, owner)
        cost = await orders.cost(
            self._payments,
            self._platform,
            request.quote,
            _order(checked.shape),
            on_behalf_of(owner),
        )
        if request.project and not checked.shape.makes_token:
            raise invalid("project", "takes a new token; this launch makes none")
        if request.spec.token:
            taken = checked.coverage.taken + checked.fee
            await self._accounts.check_takeable(ledger_of(checked.token), owner, taken)
        return checked, cost

    async def _checked(self, spec: pb.LaunchSpec, launch_id: UUID, owner: str) -> _Checked:
        """The spec as whoever will deliver its parts completes it."""
        self._check_features(spec)
        complete = pb.LaunchSpec()
        complete.CopyFrom(spec)
        if spec.WhichOneof("source") == "new_token":
            return await self._of_new_token(complete, launch_id, owner)
        return await self._of_existing_token(complete, owner)

    async def _of_new_token(self, spec: pb.LaunchSpec, launch_id: UUID, owner: str) -> _Checked:
        validated = await _about(
            "spec.new_token",
            self._tokens.ValidateToken(
                token_pb2.ValidateTokenRequest(
                    spec=spec.new_token, custodian=self._accounts.account(launch_id)
                ),
                metadata=on_behalf_of(owner),
            ),
        )
        spec.new_token.CopyFrom(validated.spec)
        fee = int(validated.spec.transfer_fee)
        await self._complete_parts(spec, fee, owner)
        supply = int(validated.spec.total_supply)
        shape = Shape(CREATE_TOKEN, len(spec.locks), len(spec.distributions))
        return _Checked(spec, shape, domain.coverage(supply, part_amounts(spec), fee), fee)

    async def _of_existing_token(self, spec: pb.LaunchSpec, owner: str) -> _Checked:
        shape = Shape(TAKE_IN, len(spec.locks), len(spec.distributions))
        domain.check_parts(shape)
        earlier = await self._earlier(spec.launch, owner) if spec.launch else None
        token = earlier.token if earlier else spec.token
        ledger = await self._accounts.ledger(ledger_of(token))
        if earlier is None:
            domain.check_owner(owner, ledger.controller)
        fee = int(ledger.transfer_fee)
        await self._complete_parts(spec, fee, owner)
        taken = domain.needed(part_amounts(spec), fee)
        if earlier is not None:
            # It pays for the transfer into the new escrow, too.
            balance = await self._accounts.balance(earlier.id, ledger.name)
            domain.check_drawable(earlier, balance, taken + fee)
        coverage = domain.Coverage(taken, 0)
        return _Checked(spec, shape, coverage, fee, token, earlier.id if earlier else None)

    async def _earlier(self, name: str, owner: str) -> Launch:
        """A launch of the owner with a token in its escrow."""
        launch = await store.get(self._database, ids.parse_name("launches", name, "spec.launch"))
        if launch is None or launch.owner != owner:
            raise not_found("launch", name)
        if not launch.token:
            raise invalid("spec.launch", "has no token: nothing lies in its escrow")
        return launch

    async def _complete_parts(self, spec: pb.LaunchSpec, fee: int, owner: str) -> None:
        """Has every part checked and completed by whoever will deliver it."""
        locks = [
            _about(
                f"spec.locks[{position}]",
                self._locks.ValidateLock(
                    lock_pb2.ValidateLockRequest(spec=lock, transfer_fee=str(fee)),
                    metadata=on_behalf_of(owner),
                ),
            )
            for position, lock in enumerate(spec.locks)
        ]
        distributions = [
            _about(
                f"spec.distributions[{position}]",
                self._distributions.ValidateDistribution(
                    distribution_pb2.ValidateDistributionRequest(
                        spec=distribution, transfer_fee=str(fee)
                    ),
                    metadata=on_behalf_of(owner),
                ),
            )
            for position, distribution in enumerate(spec.distributions)
        ]
        locked, distributed = await asyncio.gather(
            asyncio.gather(*locks), asyncio.gather(*distributions)
        )
        for lock, validated in zip(spec.locks, locked, strict=True):
            lock.CopyFrom(validated.spec)
        for distribution, answer in zip(spec.distributions, distributed, strict=True):
            distribution.CopyFrom(answer.spec)

    def _check_features(self, spec: pb.LaunchSpec) -> None:
        """Passes when each kind of part may be made now (F-16)."""
        features = self._platform.config.features
        wanted = {
            "token_deployment": spec.HasField("new_token"),
            "lock_deployment": bool(spec.locks),
            "distribution_deployment": bool(spec.distributions),
        }
        for feature, needed in wanted.items():
            if needed and not getattr(features, feature):
                raise Error(
                    Code.FAILED_PRECONDITION,
                    "FEATURE_DISABLED",
                    f"The feature {feature} is switched off.",
                )

    async def _reserve(self, tx: Effect, launch: Launch, checked: _Checked, project: str) -> None:
        """Reserves the project, and the escrow that the tokens come from."""
        if launch.project_id is not None:
            await orders.occupy_project(tx, launch.project_id, launch.owner, project, launch.id)
        if launch.earlier is not None:
            earlier = await store.lock(tx, launch.earlier)
            if earlier is None:
                raise not_found("launch", str(launch.earlier))
            domain.check_drawable(earlier, checked.coverage.taken, checked.coverage.taken)
            await store.draw(tx, earlier.id, launch.id)

    @override
    async def GetLaunch(self, request: pb.GetLaunchRequest, call: Call) -> pb.Launch:
        """One launch."""
        (message,) = await self._messages([await self._owned(request.name, call)])
        return message

    @override
    async def ListLaunches(
        self, request: pb.ListLaunchesRequest, call: Call
    ) -> pb.ListLaunchesResponse:
        """The caller's launches, newest first."""
        asked = paging.by_id(request)
        rows = await store.list_owned(self._database, call.principal, asked.after, asked.limit)
        messages = await self._messages(rows[: asked.size])
        page, token = asked.page(rows, messages)
        return pb.ListLaunchesResponse(launches=page, next_page_token=token)

    @override
    async def WatchLaunch(
        self, request: pb.WatchLaunchRequest, call: Call
    ) -> AsyncIterator[pb.WatchLaunchResponse]:
        """Changes after a number, until the launch has ended; a heartbeat when it is quiet."""
        launch = await self._owned(request.name, call)
        async for change in self._watched(launch, request.after_sequence):
            yield pb.WatchLaunchResponse(change=change)

    @override
    async def WatchLaunchEvents(
        self, request: pb.WatchLaunchEventsRequest, call: Call
    ) -> AsyncIterator[HttpBody]:
        """The same as server-sent events, after the `Last-Event-ID` that the browser sent."""
        launch = await self._owned(request.name, call)
        over, known = await self._known(launch, call)
        if over:
            sse.nothing_more(call)
            return
        after = max(request.after_sequence, known)
        changes = (
            (str(change.sequence), "change", change)
            async for change in self._watched(launch, after)
            if change is not None
        )
        async for chunk in sse.encode(changes, call, self._heartbeat, str(after or "")):
            yield chunk

    async def _known(self, launch: Launch, call: Call) -> tuple[bool, int]:
        """Whether a browser knows all there will ever be, and the change that it knows last.

        A number beyond the newest is none of ours: taken at its word, it would hide the end.
        """
        known = _sequence(call.last_event_id)
        # In this order: nothing is added once it is over.
        over = bool(known) and await self._is_over(launch)
        newest = await change_log.newest(self._database, launch.id) if known else 0
        return over and known == newest, known if known <= newest else 0

    async def _owned(self, name: str, call: Call) -> Launch:
        """A launch that the caller may see."""
        row = await store.get(self._database, ids.parse_name("launches", name))
        return call.owned(row, "launch", name)

    async def _watched(self, launch: Launch, after: int) -> AsyncIterator[pb.LaunchChange | None]:
        """Changes in order, and None whenever there was none for a while."""
        async for _ in self._changes.watch(launch.id, self._heartbeat):
            quiet = True
            async for change, final in self._unread(launch, after):
                quiet, after = False, change.sequence
                yield change
                if final:
                    return
            if not quiet:
                continue
            if await self._is_over(launch):
                # Its end is known already, or was written since the last look.
                async for change, _ in self._unread(launch, after):
                    yield change
                return
            yield None

    async def _unread(
        self, launch: Launch, after: int
    ) -> AsyncIterator[tuple[pb.LaunchChange, bool]]:
        """Changes after a number, each with whether it is the last there will ever be."""
        full = True
        while full:
            changes = await change_log.read(self._database, launch.id, after)
            full = len(changes) == change_log.PAGE
            for change in changes:
                after = change.sequence
                final = change.state is not None and change.state.final
                yield change_message(change, await self._state_after(change, launch)), final

    async def _is_over(self, launch: Launch) -> bool:
        """Whether nothing about it will change any more."""
        (run,) = await self._journal.get([launch.id])
        return run.state.final

    async def _state_after(
        self, change: change_log.Change, launch: Launch
    ) -> "pb.LaunchState.ValueType":
        """State of a launch that has changed itself; where a step changed, nobody asks."""
        if change.state is None:
            return pb.LAUNCH_STATE_IN_PROGRESS
        (run,) = await self._journal.get([launch.id])
        return state_of(change.state, run.steps, launch)

    @override
    async def CancelLaunch(self, request: pb.CancelLaunchRequest, call: Call) -> pb.Launch:
        """Asks the pipeline to stop; what was charged and not delivered goes back."""
        launch_id = ids.parse_name("launches", request.name)
        async with call.transaction() as tx:
            launch = call.owned(await store.get(tx, launch_id), "launch", request.name)
            if launch.owner != call.principal and not request.justification:
                raise invalid("justification", "must say why you stop somebody else's launch")
            before = await self._run(tx, launch_id)
            if not await self._journal.cancel(tx, launch_id):
                raise Error(Code.FAILED_PRECONDITION, "LAUNCH_ENDED", "The launch has ended.")
            response = await self._changed(tx, call, launch, before, request.justification)
        self._pipelines.engine.cancel(launch_id)
        self._journal.tell(launch_id)
        return response

    @override
    async def ListPendingLaunches(
        self, request: pb.ListPendingLaunchesRequest, call: Call
    ) -> pb.ListPendingLaunchesResponse:
        """Launches that wait for a person, oldest first."""
        del call
        asked = paging.by_id(request)
        runs = await self._journal.parked(asked.after or UUID(int=0), asked.limit)
        rows = await store.get_all(self._database, [run.id for run in runs[: asked.size]])
        messages = (self._message(rows[run.id], run) if run.id in rows else None for run in runs)
        page, token = asked.page(runs, messages)
        return pb.ListPendingLaunchesResponse(launches=page, next_page_token=token)

    @override
    async def RetryLaunch(self, request: pb.RetryLaunchRequest, call: Call) -> pb.Launch:
        """Lets a parked launch go on. What has failed stays so: its money went back."""
        launch_id = ids.parse_name("launches", request.name)
        async with call.transaction() as tx:
            launch = await store.get(tx, launch_id)
            if launch is None:
                raise not_found("launch", request.name)
            before = await self._run(tx, launch_id)
            if not await self._journal.unpark(tx, launch_id):
                raise Error(
                    Code.FAILED_PRECONDITION,
                    "LAUNCH_NOT_PARKED",
                    "Only a launch that waits for a person can be retried. What failed was "
                    "refunded: launch it again, from the escrow of this launch.",
                )
            response = await self._changed(tx, call, launch, before, request.justification)
        self._journal.tell(launch_id)
        return response

    async def _run(self, tx: Effect, launch_id: UUID) -> Run:
        """A pipeline as the transaction sees it."""
        (run,) = await self._journal.get([launch_id], tx)
        return run

    async def _changed(
        self, tx: Effect, call: Call, launch: Launch, before: Run, justification: str
    ) -> pb.Launch:
        """The answer to a change of a pipeline, and what the audit is told of it."""
        after = await self._run(tx, launch.id)
        act = call.act(
            operation=launch.name,
            previous_value=before.standing,
            new_value=after.standing,
            justification=justification,
        )
        return tx.answer(self._message(launch, after), subject=launch.name, act=act)

    @override
    async def WithdrawEscrow(
        self, request: pb.WithdrawEscrowRequest, call: Call
    ) -> pb.WithdrawEscrowResponse:
        """Pays what lies in escrow to the owner."""
        launch_id = ids.parse_name("launches", request.name)
        found = call.owned(await store.get(self._database, launch_id), "launch", request.name)
        try:
            domain.check_withdrawable(found)
        except Error:
            await call.replay()
            raise
        ledger = ledger_of(found.token)
        fee = await self._accounts.fee(ledger)
        account = self._accounts.account(launch_id)
        async with call.transaction() as tx:
            launch = call.owned(await store.lock(tx, launch_id), "launch", request.name)
            domain.check_withdrawable(launch)
            # Read under the lock: an earlier withdrawal is either seen here or under way.
            balance = await self._accounts.balance(launch_id, ledger)
            amount = domain.payout_of(balance, fee)
            payout = Payout(
                id=ids.new_id(launch.owner),
                ledger=ledger,
                subaccount=account.subaccount,
                to=(launch.owner, principal.DEFAULT_SUBACCOUNT),
                amount=amount,
                fee=fee,
            )
            claim, ordered = self._payouts.ordered(payout)
            await tx.apply(*ordered)
            await store.withdraw(tx, launch.id, payout.id)
            response = pb.WithdrawEscrowResponse(amount=str(amount), fee=str(fee))
            act = call.act(
                status=events.ACT_STATUS_INITIATED,
                operation=launch.name,
                details={"amount": str(amount)},
            )
            tx.answer(response, subject=launch.name, act=act)
        self._payouts.adopt(claim)
        return response

    async def _withdrawn(
        self, connection: Connection, paid: Sequence[PaidOut]
    ) -> Sequence[events.Event]:
        """Records payouts to owners, and tells the audit by which block each was made."""
        paid_by = {one.id: one for one in paid}
        return [
            _withdrawal(one, paid_by[one.payout]) for one in await store.withdrawn(connection, paid)
        ]

    async def _messages(self, launches: Sequence[Launch]) -> list[pb.Launch]:
        launch_ids = [launch.id for launch in launches]
        runs = {run.id: run for run in await self._journal.get(launch_ids)}
        queued = [run.id for run in runs.values() if run.state is PipelineState.QUEUED]
        places = await self._places(queued) if queued else {}
        # One that ended between the two reads has its token and its payment by now.
        missed = [x.id for x in launches if not x.ended and x.id in runs and runs[x.id].state.final]
        fresh = await store.get_all(self._database, missed) if missed else {}
        return [
            self._message(fresh.get(x.id, x), runs.get(x.id), places.get(x.id, 0)) for x in launches
        ]

    async def _places(self, queued: Sequence[UUID]) -> Mapping[UUID, int]:
        """Places in the queue of launches that wait in it."""
        family = self._pipeline.family
        return await self._journal.positions(family.name, family.places, queued)

    def _message(self, launch: Launch, run: Run | None, position: int = 0) -> pb.Launch:
        return launch_message(
            launch,
            self._pipeline.definition(launch.shape),
            run,
            escrow=self._accounts.account(launch.id),
            position=position,
        )


def _order(shape: Shape) -> orders.Order:
    """What a launch pays for."""
    services = {
        CREATE_TOKEN: payment_pb2.PAID_SERVICE_TOKEN,
        BASE_FEE: payment_pb2.PAID_SERVICE_PIPELINE,
        **dict.fromkeys(shape.lock_steps, payment_pb2.PAID_SERVICE_LOCK),
        **dict.fromkeys(shape.distribution_steps, payment_pb2.PAID_SERVICE_DISTRIBUTION),
    }
    return {step: services[step] for step in shape.paid_steps}


def _withdrawal(withdrawn: store.Withdrawn, paid: PaidOut) -> events.Event:
    """What the audit is told of a withdrawal that has arrived."""
    return _WITHDRAWAL.told(
        events.ACT_STATUS_COMPLETED,
        ids.resource_name("launches", withdrawn.launch_id),
        principal=withdrawn.owner,
        actor=events.ACTOR_KIND_USER,
        caller="backend",
        details={"amount": str(withdrawn.amount), "block_index": str(paid.block_index)},
        traceparent=paid.traceparent,
    )


async def _about(field: str, answer: Awaitable[T]) -> T:
    """What somebody answers about a part; their `spec` is our caller's `field`.

    Raises:
        Error: they refuse it.
    """
    try:
        return await answer
    except RemoteError as error:
        raise error.about("spec", field) from None


def _project(request: pb.CreateLaunchRequest) -> UUID | None:
    if not request.project:
        return None
    return ids.parse_name("projects", request.project, "project")


def _sequence(last_event_id: str) -> int:
    """The number that a browser knows last; 0 for none, or for what is no number of ours."""
    known = last_event_id.isascii() and last_event_id.isdecimal()
    return int(last_event_id) if known and len(last_event_id) <= _SEQUENCE_DIGITS else 0
