"""The pipelines of the backend, each declared in one readable place."""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from contract import ids
from icto.backend.v1 import deployments_pb2 as pb
from icto.events.v1 import events_pb2 as events
from icto.payment.v1 import payment_pb2
from icto.payment.v1.payment_pb2_grpc import PaymentServiceStub
from icto.token.v1 import token_pb2
from icto.token.v1.token_pb2_grpc import TokenServiceStub
from services.backend import store
from services.backend.domain import Deployment
from services.kit.audit.operations import Operation
from services.kit.calling.client import on_behalf_of
from services.kit.journal.model import (
    Definition,
    Ended,
    PipelineState,
    SkipStep,
    Step,
    StepContext,
    StepRecord,
    StepState,
)
from services.kit.serving import Kit
from services.kit.storage import Connection

CREATE_TOKEN: Final = "create_token"  # noqa: S105  # the name of a step
_DEPLOYMENT: Final = Operation.of(
    pb.DESCRIPTOR.services_by_name["DeploymentService"], "DeployToken"
)
_STATUS: Final = {
    PipelineState.SUCCEEDED: events.ACT_STATUS_COMPLETED,
    PipelineState.FAILED: events.ACT_STATUS_FAILED,
    PipelineState.CANCELLED: events.ACT_STATUS_CANCELLED,
}


class DeployTokenPipeline:
    """Deploys one token: charge, create, settle. What was charged is delivered XOR refunded.

    A token that could not be created is given up for good before its money goes back, so that a
    late call cannot deliver it after all.
    """

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._tokens = kit.clients.stub(TokenServiceStub)
        self._payments = kit.clients.stub(PaymentServiceStub)
        self.definition = Definition(
            "deploy_token",
            version=1,
            steps=(
                Step("charge", self._charge),
                Step(CREATE_TOKEN, self._create_token, after=("charge",)),
                Step(
                    "abandon",
                    self._abandon,
                    after=(CREATE_TOKEN,),
                    needs=("charge",),
                    unless=(CREATE_TOKEN,),
                ),
                Step(
                    "settle",
                    self._settle_payment,
                    after=(CREATE_TOKEN, "abandon"),
                    needs=("charge",),
                ),
            ),
            settle=self._settle,
        )

    async def _read(self, deployment_id: UUID) -> Deployment:
        """The row that says for whom and what; never a header (design: identity)."""
        deployment = await store.get_deployment(self._database, deployment_id)
        if deployment is None:
            raise RuntimeError("a pipeline without its deployment")
        return deployment

    async def _charge(self, context: StepContext) -> bytes:
        """Takes the money of the quote that the deployment was accepted with."""
        deployment = await context.once(self._read)
        if not deployment.quote:
            return b""
        request = payment_pb2.ChargeRequest(
            request_id=context.request_id,
            operation=_name(deployment),
            quote=deployment.quote,
        )
        request.accept_time.FromDatetime(deployment.accept_time)
        payment = await self._payments.Charge(request, metadata=on_behalf_of(deployment.owner))
        return payment.name.encode()

    async def _create_token(self, context: StepContext) -> bytes:
        """Has the token deployed for its owner."""
        deployment = await context.once(self._read)
        request = token_pb2.DeployTokenRequest(
            request_id=context.request_id,
            operation=_name(deployment),
            spec=token_pb2.TokenSpec.FromString(deployment.spec),
            payment=context.result("charge").decode(),
        )
        token = await self._tokens.DeployToken(request, metadata=on_behalf_of(deployment.owner))
        return token.name.encode()

    async def _abandon(self, context: StepContext) -> bytes:
        """Gives the token up; tells if it was delivered before that."""
        deployment = await context.once(self._read)
        request = token_pb2.AbandonTokenRequest(
            request_id=context.request_id, operation=_name(deployment)
        )
        answer = await self._tokens.AbandonToken(request)
        return answer.delivered_token.encode()

    async def _settle_payment(self, context: StepContext) -> bytes:
        """Tells the payment what was delivered; the rest goes back."""
        deployment = await context.once(self._read)
        payment = context.result("charge").decode()
        if not payment:
            raise SkipStep
        failure = context.records[CREATE_TOKEN].error_message or "The deployment was cancelled."
        delivered = bool(_delivered(context.records))
        request = payment_pb2.SettlePaymentRequest(
            request_id=context.request_id,
            operation=_name(deployment),
            delivered_steps=[CREATE_TOKEN] if delivered else [],
            failure="" if delivered else failure,
        )
        await self._payments.SettlePayment(request)
        return b""

    async def _settle(
        self, connection: Connection, ended: Sequence[Ended]
    ) -> Sequence[events.Event]:
        """Links what was delivered, and tells the audit how it ended."""
        outcomes = {one.claim.id: _outcome(one) for one in ended}
        deployments = await store.settle_deployments(connection, outcomes)
        rows = deployments.values()
        linked = {d.project_id: d.token for d in rows if d.project_id}
        await store.settle_projects(connection, linked)
        await store.release_tokens(connection, [d.owner for d in rows if not d.token])
        return [_ending(one, deployments[one.claim.id]) for one in ended]


def _name(deployment: Deployment) -> str:
    return ids.resource_name("deployments", deployment.id)


def _delivered(records: Mapping[str, StepRecord]) -> str:
    """The token, however it is known that it was delivered: "" when it was not."""
    for step in (CREATE_TOKEN, "abandon"):
        record = records.get(step)
        if record is not None and record.state is StepState.SUCCEEDED and record.result:
            return record.result.decode()
    return ""


def _outcome(ended: Ended) -> tuple[str, str]:
    """Token and payment of a deployment that ends."""
    charge = ended.records.get("charge")
    return _delivered(ended.records), charge.result.decode() if charge else ""


def _ending(ended: Ended, deployment: Deployment) -> events.Event:
    failed = [record for record in ended.records.values() if record.error_reason]
    state = PipelineState.SUCCEEDED if deployment.token else ended.state
    return _DEPLOYMENT.told(
        _STATUS[state],
        _name(deployment),
        principal=deployment.owner,
        actor=events.ACTOR_KIND_USER,
        caller="backend",
        error_reason=failed[0].error_reason if failed and not deployment.token else "",
        details={"token": deployment.token} if deployment.token else {},
        traceparent=ended.claim.traceparent,
    )
