"""What accepting a deployment and accepting a launch have in common: its cost, and its limits."""

from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from google.protobuf.duration_pb2 import Duration

from contract.errors import Code, Error
from icto.config.v1 import config_pb2
from icto.payment.v1 import payment_pb2
from icto.payment.v1.payment_pb2_grpc import PaymentServiceStub
from services.backend import domain, store
from services.backend.domain import Approval, Limits
from services.kit.calling.client import Metadata
from services.kit.replica.platform import Platform
from services.kit.serving import Effect
from services.kit.storage import Database

Order = Mapping[str, "payment_pb2.PaidService.ValueType"]
"""Steps that are paid for, and what each is."""


async def cost(
    payments: PaymentServiceStub, platform: Platform, quote: str, order: Order, metadata: Metadata
) -> str:
    """What an order costs by its quote; nothing, where all of it is free on purpose.

    The quote is approved on the ledger, too: an order that cannot be charged is not accepted.

    Raises:
        Error: FAILED_PRECONDITION, the quote is missing, for something else, not open, or not
            approved; NOT_FOUND, it is not the caller's.
    """
    if not quote:
        free = {p.service for p in platform.config.payment.prices if p.free}
        if not free.issuperset(order.values()):
            raise domain.quote_required()
        return "0"
    found = await payments.GetQuote(payment_pb2.GetQuoteRequest(name=quote), metadata=metadata)
    domain.check_quote([line.step for line in found.lines], list(order))
    if any(line.service != order[line.step] for line in found.lines):
        raise domain.quote_mismatch()
    if found.state != payment_pb2.QUOTE_STATE_OPEN:
        state = payment_pb2.QuoteState.Name(found.state).removeprefix("QUOTE_STATE_")
        raise Error(Code.FAILED_PRECONDITION, f"QUOTE_{state}", f"The quote is {state.lower()}.")
    if int(found.total):
        request = payment_pb2.CheckPaymentApprovalRequest(quote=quote)
        told = await payments.CheckPaymentApproval(request, metadata=metadata)
        domain.check_approved(
            Approval(int(told.required), int(told.allowance), int(told.balance), told.problem)
        )
    return found.total


def limits(config: config_pb2.UserLimits, cooldown: Duration) -> Limits:
    """What one user may order."""
    return Limits(
        tokens=config.max_tokens_per_user,
        per_day=config.max_deployments_per_day,
        cooldown=timedelta(seconds=cooldown.seconds),
    )


async def check_limits(database: Database, principal: str, limits: Limits) -> None:
    """Passes when a user may order now: before anything is approved, and again when it is counted.

    Raises:
        Error: RESOURCE_EXHAUSTED, they may not, and from when on they may.
    """
    known = await store.ordered(database, principal)
    if known is not None:
        domain.check_limits(known, limits)


async def occupy_project(
    tx: Effect, project_id: UUID, owner: str, name: str, operation: UUID
) -> None:
    """Links what is under way to a project of the caller.

    Raises:
        Error: NOT_FOUND, it is not theirs; FAILED_PRECONDITION, it has its token, or one is on the
            way.
    """
    project = await store.lock_project(tx, project_id)
    if project is None or project.owner != owner:
        raise domain.project_not_found(name)
    domain.check_project_free(project)
    await store.occupy_project(tx, project.id, operation)
