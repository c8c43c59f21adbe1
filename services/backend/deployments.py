"""icto.backend.v1.DeploymentService."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from typing_extensions import override

from contract import ids
from contract.errors import Code, Error, not_found
from icto.backend.v1 import deployments_pb2 as pb
from icto.backend.v1.deployments_handlers import DeploymentServiceHandlers
from icto.events.v1 import events_pb2 as events
from icto.payment.v1 import payment_pb2
from icto.payment.v1.payment_pb2_grpc import PaymentServiceStub
from icto.token.v1 import token_pb2
from icto.token.v1.token_pb2_grpc import TokenServiceStub
from observability.tracing import trace_id
from services.backend import orders, store
from services.backend.domain import Deployment, Limits
from services.backend.messages import deployment_message
from services.backend.pipelines import CREATE_TOKEN, DeployTokenPipeline
from services.kit.answering import paging
from services.kit.calling.client import on_behalf_of
from services.kit.forgetting import keep_forgetting
from services.kit.journal.changes import ChangeFeed
from services.kit.journal.model import Run
from services.kit.journal.pipelines import Pipelines
from services.kit.journal.postgres import PostgresJournal
from services.kit.serving import Call, Effect, Kit

UNPAID: Final = "unpaid_orders"
_HEARTBEAT_SECONDS: Final = 10.0
_ORDER: Final = {CREATE_TOKEN: payment_pb2.PAID_SERVICE_TOKEN}


@dataclass(frozen=True, slots=True)
class _Checked:
    """An order that may be accepted."""

    spec: token_pb2.TokenSpec
    cost: str


class DeploymentService(DeploymentServiceHandlers[Call]):
    """Accepts deployments and runs their pipelines."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._database = kit.database
        self._platform = kit.platform
        self._tokens = kit.clients.stub(TokenServiceStub)
        self._payments = kit.clients.stub(PaymentServiceStub)
        dsn = kit.settings.database_url.reveal()
        self._changes = ChangeFeed(kit.database, dsn, kit.service.mesh_name)
        self._journal = PostgresJournal(kit.database, kit.outbox, self._changes)
        self._definition = DeployTokenPipeline(kit).definition
        self._pipelines = Pipelines(kit, self._journal)
        self._pipelines.define(self._definition)
        self._engine = self._pipelines.engine

    async def run(self) -> None:
        """Works on pipelines, as long as the replica lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._changes.run())
            tasks.create_task(self._pipelines.run())
            tasks.create_task(keep_forgetting(self._kit, UNPAID, store.forget_unpaid))

    @override
    async def DeployToken(self, request: pb.DeployTokenRequest, call: Call) -> pb.Deployment:
        """Accepts a token deployment; its pipeline begins when the transaction has committed."""
        try:
            await orders.check_limits(self._database, call.principal, self._limits())
            checked = await self._checked(request, call)
        except Error:
            await call.replay()
            raise
        deployment = Deployment(
            id=ids.new_id(call.principal),
            owner=call.principal,
            project_id=ids.parse_name("projects", request.project, "project")
            if request.project
            else None,
            spec=checked.spec.SerializeToString(),
            trace_id=trace_id(call.span),
            quote=request.quote,
            cost=checked.cost,
        )
        claim, begun = self._pipelines.begin(self._definition, deployment.id)
        response = deployment_message(deployment, self._definition, None)
        act = call.act(
            status=events.ACT_STATUS_INITIATED,
            operation=response.name,
            details={"symbol": checked.spec.symbol, "cost": checked.cost},
        )
        effects = (
            store.added_deployment(deployment),
            store.counted_deployment(call.principal, self._limits()),
            begun,
        )
        if deployment.project_id is None:
            await call.commit(response, *effects, subject=response.name, act=act)
        else:
            async with call.transaction() as tx:
                await orders.occupy_project(
                    tx, deployment.project_id, call.principal, request.project, deployment.id
                )
                await tx.apply(*effects)
                tx.answer(response, subject=response.name, act=act)
        self._engine.adopt(claim)
        return response

    def _limits(self) -> Limits:
        config = self._platform.config.limits
        return orders.limits(config, config.deployment_cooldown)

    async def _checked(self, request: pb.DeployTokenRequest, call: Call) -> _Checked:
        """Everything that can be known before anything is charged (F-12), asked at one time."""
        metadata = on_behalf_of(call.principal)
        validating = self._tokens.ValidateToken(
            token_pb2.ValidateTokenRequest(spec=request.spec), metadata=metadata
        )
        costing = orders.cost(self._payments, self._platform, request.quote, _ORDER, metadata)
        validated, cost = await asyncio.gather(validating, costing)
        return _Checked(validated.spec, cost)

    @override
    async def GetDeployment(self, request: pb.GetDeploymentRequest, call: Call) -> pb.Deployment:
        """One deployment."""
        deployment_id = ids.parse_name("deployments", request.name)
        row = await store.get_deployment(self._database, deployment_id)
        deployment = call.owned(row, "deployment", request.name)
        (message,) = await self._messages([deployment])
        return message

    @override
    async def ListDeployments(
        self, request: pb.ListDeploymentsRequest, call: Call
    ) -> pb.ListDeploymentsResponse:
        """The caller's deployments, newest first."""
        asked = paging.by_id(request)
        rows = await store.list_deployments(
            self._database, call.principal, asked.after, asked.limit
        )
        messages = await self._messages(rows[: asked.size])
        page, token = asked.page(rows, messages)
        return pb.ListDeploymentsResponse(deployments=page, next_page_token=token)

    @override
    async def WatchDeployment(
        self, request: pb.WatchDeploymentRequest, call: Call
    ) -> AsyncIterator[pb.WatchDeploymentResponse]:
        """The deployment at every change, until it has ended; a heartbeat when it is quiet."""
        deployment_id = ids.parse_name("deployments", request.name)
        row = await store.get_deployment(self._database, deployment_id)
        deployment = call.owned(row, "deployment", request.name)
        told = b""
        async for _ in self._changes.watch(deployment_id, _HEARTBEAT_SECONDS):
            (message,) = await self._messages([deployment])
            now = message.SerializeToString(deterministic=True)
            if now == told:
                yield pb.WatchDeploymentResponse()
                continue
            told = now
            yield pb.WatchDeploymentResponse(deployment=message)
            if message.state in _ENDED:
                return

    @override
    async def CancelDeployment(
        self, request: pb.CancelDeploymentRequest, call: Call
    ) -> pb.Deployment:
        """Asks the pipeline to stop; what was charged and not delivered goes back."""
        deployment_id = ids.parse_name("deployments", request.name)
        async with call.transaction() as tx:
            row = await store.get_deployment(tx, deployment_id)
            deployment = call.owned(row, "deployment", request.name)
            response = await self._stop(tx, call, deployment)
        self._stopped(deployment_id)
        return response

    @override
    async def ListPendingDeployments(
        self, request: pb.ListPendingDeploymentsRequest, call: Call
    ) -> pb.ListPendingDeploymentsResponse:
        """Deployments that wait for a person, oldest first."""
        del call
        asked = paging.by_id(request)
        runs = await self._journal.parked(asked.after or UUID(int=0), asked.limit)
        rows = await store.get_deployments(self._database, [run.id for run in runs[: asked.size]])
        messages = (
            deployment_message(rows[run.id], self._definition, run) if run.id in rows else None
            for run in runs
        )
        page, token = asked.page(runs, messages)
        return pb.ListPendingDeploymentsResponse(deployments=page, next_page_token=token)

    @override
    async def RetryDeployment(
        self, request: pb.RetryDeploymentRequest, call: Call
    ) -> pb.Deployment:
        """Lets a parked deployment go on. One that has failed stays so: its money went back."""
        deployment_id = ids.parse_name("deployments", request.name)
        async with call.transaction() as tx:
            deployment = await store.get_deployment(tx, deployment_id)
            if deployment is None:
                raise not_found("deployment", request.name)
            before = await self._run(tx, deployment_id)
            if not await self._journal.unpark(tx, deployment_id):
                raise Error(
                    Code.FAILED_PRECONDITION,
                    "DEPLOYMENT_NOT_PARKED",
                    "Only a deployment that waits for a person can be retried.",
                )
            response = await self._changed(tx, call, deployment, before, request.justification)
        self._journal.tell(deployment_id)
        return response

    @override
    async def ReconcileDeployment(
        self, request: pb.ReconcileDeploymentRequest, call: Call
    ) -> pb.Deployment:
        """Has an open deployment decided now: what was not delivered is given up and refunded."""
        deployment_id = ids.parse_name("deployments", request.name)
        async with call.transaction() as tx:
            deployment = await store.get_deployment(tx, deployment_id)
            if deployment is None:
                raise not_found("deployment", request.name)
            response = await self._stop(tx, call, deployment, request.justification)
        self._stopped(deployment_id)
        return response

    async def _stop(
        self, tx: Effect, call: Call, deployment: Deployment, justification: str = ""
    ) -> pb.Deployment:
        """Asks a pipeline to stop, and tells the audit."""
        before = await self._run(tx, deployment.id)
        if not await self._journal.cancel(tx, deployment.id):
            raise Error(Code.FAILED_PRECONDITION, "DEPLOYMENT_ENDED", "The deployment has ended.")
        return await self._changed(tx, call, deployment, before, justification)

    async def _changed(
        self, tx: Effect, call: Call, deployment: Deployment, before: Run, justification: str
    ) -> pb.Deployment:
        """The answer to a change of a pipeline, and what the audit is told of it."""
        after = await self._run(tx, deployment.id)
        name = ids.resource_name("deployments", deployment.id)
        act = call.act(
            operation=name,
            previous_value=before.standing,
            new_value=after.standing,
            justification=justification,
        )
        response = deployment_message(deployment, self._definition, after)
        return tx.answer(response, subject=name, act=act)

    def _stopped(self, deployment_id: UUID) -> None:
        """Tells whoever works on it or watches it, once the transaction has committed."""
        self._engine.cancel(deployment_id)
        self._journal.tell(deployment_id)

    async def _run(self, tx: Effect, deployment_id: UUID) -> Run:
        """A pipeline as the transaction sees it."""
        (run,) = await self._journal.get([deployment_id], tx)
        return run

    async def _messages(self, deployments: list[Deployment]) -> list[pb.Deployment]:
        runs = {run.id: run for run in await self._journal.get([d.id for d in deployments])}
        # One that ended between the two reads has its token by now: one that was cancelled after
        # it was delivered, too.
        missed = [
            d.id for d in deployments if not d.token and d.id in runs and runs[d.id].state.final
        ]
        fresh = await store.get_deployments(self._database, missed) if missed else {}
        return [
            deployment_message(fresh.get(d.id, d), self._definition, runs.get(d.id))
            for d in deployments
        ]


_ENDED: Final = frozenset(
    {
        pb.DEPLOYMENT_STATE_SUCCEEDED,
        pb.DEPLOYMENT_STATE_FAILED,
        pb.DEPLOYMENT_STATE_CANCELLED,
    }
)
