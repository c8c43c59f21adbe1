"""icto.backend.v1.DeploymentService."""

import asyncio

from icto.backend.v1 import deployments_pb2 as pb
from icto.events.v1 import events_pb2 as events
from icto.token.v1 import token_pb2
from icto.token.v1.token_pb2_grpc import TokenServiceStub
from observability import names
from observability.tracing import current_traceparent, trace_id
from services.backend import domain, store
from services.backend.domain import Deployment
from services.backend.messages import deployment_message
from services.backend.pipelines import DeployTokenPipeline
from services.kit import Call, Effect, Kit, ids, paging
from services.kit.errors import Error
from services.kit.journal import Engine, NewPipeline, PipelineState, PostgresJournal


class DeploymentService:
    """Accepts deployments and runs their pipelines."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._worker = kit.settings.instance
        self._tokens = kit.clients.stub(TokenServiceStub)
        self._journal = PostgresJournal(kit.database, kit.outbox)
        self._definition = DeployTokenPipeline(kit).definition
        self._engine = Engine(
            self._journal,
            [self._definition],
            worker=self._worker,
            tracer=kit.telemetry.tracing.tracer,
        )

    async def run(self) -> None:
        """Works on pipelines, as long as the replica lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._journal.run())
            tasks.create_task(self._engine.run())

    async def DeployToken(self, request: pb.DeployTokenRequest, call: Call) -> pb.Deployment:
        """Accepts a token deployment; its pipeline begins when the transaction has committed."""
        try:
            spec = await self._complete(request.spec, call)
        except Error:
            await call.replay()
            raise
        deployment = Deployment(
            id=ids.new_id(call.principal),
            owner=call.principal,
            project_id=ids.parse_name("projects", request.project, "project")
            if request.project
            else None,
            spec=spec.SerializeToString(),
            trace_id=trace_id(call.span),
        )
        claim, begun = self._journal.begin(self._pipeline(deployment), self._worker)
        response = deployment_message(deployment, self._definition, None)
        act = call.act(
            status=events.ACT_STATUS_INITIATED,
            operation=response.name,
            details={"symbol": spec.symbol},
        )
        effects = (
            store.added_deployment(deployment),
            store.counted_deployment(call.principal),
            begun,
        )
        if deployment.project_id is None:
            await call.commit(response, *effects, subject=response.name, act=act)
        else:
            async with call.transaction() as tx:
                await self._occupy(tx, deployment, call, request.project)
                await tx.apply(*effects)
                tx.answer(response, subject=response.name, act=act)
        self._engine.adopt(claim)
        return response

    async def _complete(self, spec: token_pb2.TokenSpec, call: Call) -> token_pb2.TokenSpec:
        """The deployer's own check, so that what is accepted here is not refused there (F-12)."""
        checked = await self._tokens.ValidateToken(
            token_pb2.ValidateTokenRequest(spec=spec),
            metadata=((names.HEADER_ON_BEHALF_OF, call.principal),),
        )
        return checked.spec

    async def _occupy(self, tx: Effect, deployment: Deployment, call: Call, name: str) -> None:
        assert deployment.project_id is not None  # noqa: S101  # checked by the caller
        project = await store.lock_project(tx, deployment.project_id)
        if project is None or project.owner != call.principal:
            raise domain.project_not_found(name)
        domain.check_project_free(project)
        await store.occupy_project(tx, project.id, deployment.id)

    def _pipeline(self, deployment: Deployment) -> NewPipeline:
        return NewPipeline(
            id=deployment.id,
            definition=self._definition.name,
            version=self._definition.version,
            input=b"",
            traceparent=current_traceparent(),
        )

    async def GetDeployment(self, request: pb.GetDeploymentRequest, call: Call) -> pb.Deployment:
        """One deployment."""
        deployment_id = ids.parse_name("deployments", request.name)
        row = await store.get_deployment(self._database, deployment_id)
        deployment = call.owned(row, "deployment", request.name)
        (message,) = await self._messages([deployment])
        return message

    async def ListDeployments(
        self, request: pb.ListDeploymentsRequest, call: Call
    ) -> pb.ListDeploymentsResponse:
        """The caller's deployments, newest first."""
        cursor = paging.decode_token(request.page_token, str)
        before = paging.as_uuid(cursor[0]) if cursor else None
        size = paging.page_size(request.page_size)
        rows = await store.list_deployments(self._database, call.principal, before, size + 1)
        page, token = paging.cut(rows, size, lambda row: paging.encode_token(str(row.id)))
        messages = await self._messages(list(page))
        return pb.ListDeploymentsResponse(deployments=messages, next_page_token=token)

    async def _messages(self, deployments: list[Deployment]) -> list[pb.Deployment]:
        runs = {run.id: run for run in await self._journal.get([d.id for d in deployments])}
        # One that succeeded between the two reads has its token by now.
        missed = [
            d.id
            for d in deployments
            if not d.token and d.id in runs and runs[d.id].state is PipelineState.SUCCEEDED
        ]
        fresh = await store.get_deployments(self._database, missed) if missed else {}
        return [
            deployment_message(fresh.get(d.id, d), self._definition, runs.get(d.id))
            for d in deployments
        ]
