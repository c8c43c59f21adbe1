"""The pipelines of the backend, each declared in one readable place."""

from collections.abc import Sequence
from typing import Final

from icto.backend.v1 import deployments_pb2 as pb
from icto.events.v1 import events_pb2 as events
from icto.token.v1 import token_pb2
from icto.token.v1.token_pb2_grpc import TokenServiceStub
from observability import names
from services.backend import store
from services.backend.domain import Deployment
from services.kit import Kit, ids
from services.kit.database import Connection
from services.kit.journal import (
    Definition,
    Ended,
    PipelineState,
    Step,
    StepContext,
)

_ACTION: Final = "CreateToken"
_METHOD: Final = f"{pb.DESCRIPTOR.services_by_name['DeploymentService'].full_name}/DeployToken"
_STATUS: Final = {
    PipelineState.SUCCEEDED: events.ACT_STATUS_COMPLETED,
    PipelineState.FAILED: events.ACT_STATUS_FAILED,
    PipelineState.CANCELLED: events.ACT_STATUS_CANCELLED,
}


class DeployTokenPipeline:
    """Deploys one token."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._tokens = kit.clients.stub(TokenServiceStub)
        self.definition = Definition(
            "deploy_token",
            version=1,
            steps=(Step("create_token", self._create_token),),
            settle=self._settle,
        )

    async def _create_token(self, context: StepContext) -> bytes:
        """Has the token deployed for the owner that the deployment's row names."""
        deployment = await store.get_deployment(self._database, context.pipeline_id)
        if deployment is None:
            raise RuntimeError("a pipeline without its deployment")
        token = await self._tokens.DeployToken(
            token_pb2.DeployTokenRequest(
                request_id=context.request_id,
                operation=ids.resource_name("deployments", deployment.id),
                spec=token_pb2.TokenSpec.FromString(deployment.spec),
            ),
            metadata=((names.HEADER_ON_BEHALF_OF, deployment.owner),),
        )
        return token.name.encode()

    async def _settle(
        self, connection: Connection, ended: Sequence[Ended]
    ) -> Sequence[events.Event]:
        """Links what was delivered, and tells the audit how it ended."""
        tokens = {one.claim.id: _token(one) for one in ended}
        deployments = await store.settle_deployments(connection, tokens)
        linked = {d.project_id: d.token for d in deployments.values() if d.project_id}
        await store.settle_projects(connection, linked)
        return [_ending(one, deployments[one.claim.id]) for one in ended]


def _token(ended: Ended) -> str:
    created = ended.records.get("create_token")
    return created.result.decode() if created else ""


def _ending(ended: Ended, deployment: Deployment) -> events.Event:
    name = ids.resource_name("deployments", deployment.id)
    failed = [record for record in ended.records.values() if record.error_reason]
    act = events.Act(
        action=_ACTION,
        status=_STATUS[ended.state],
        principal=deployment.owner,
        actor=events.ACTOR_KIND_USER,
        caller="backend",
        method=_METHOD,
        operation=name,
        severity=events.SEVERITY_ERROR
        if ended.state is PipelineState.FAILED
        else events.SEVERITY_INFO,
        error_reason=failed[0].error_reason if failed else "",
        details={"token": deployment.token} if deployment.token else {},
    )
    return events.Event(
        subject=name, partition_key=name, act=act, traceparent=ended.claim.traceparent
    )
