"""The pipelines of the backend, each declared in one readable place."""

from collections.abc import Mapping, Sequence
from typing import Final

from icto.backend.v1 import deployments_pb2 as pb
from icto.events.v1 import events_pb2 as events
from icto.token.v1 import token_pb2
from icto.token.v1.token_pb2_grpc import TokenServiceStub
from observability import names
from services.backend import store
from services.kit import Kit, ids
from services.kit.database import Connection
from services.kit.journal import (
    Claim,
    Definition,
    PipelineState,
    Step,
    StepContext,
    StepRecord,
)

_ACTION: Final = "CreateToken"
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
        self,
        connection: Connection,
        claim: Claim,
        state: PipelineState,
        records: Mapping[str, StepRecord],
    ) -> Sequence[events.Event]:
        """Links what was delivered, and tells the audit how it ended."""
        created = records.get("create_token")
        token = created.result.decode() if created else ""
        deployment = await store.settle_deployment(connection, claim.id, token)
        if deployment.project_id is not None:
            await store.settle_project(connection, deployment.project_id, token)
        name = ids.resource_name("deployments", claim.id)
        act = events.Act(
            action=_ACTION,
            status=_STATUS[state],
            principal=deployment.owner,
            actor=events.ACTOR_KIND_USER,
            caller="backend",
            method=pb.DESCRIPTOR.services_by_name["DeploymentService"].full_name + "/DeployToken",
            operation=name,
            severity=events.SEVERITY_INFO
            if state is not PipelineState.FAILED
            else events.SEVERITY_ERROR,
            error_reason=created.error_reason if created else "",
            details={"token": token} if token else {},
        )
        return [
            events.Event(subject=name, partition_key=name, act=act, traceparent=claim.traceparent)
        ]
