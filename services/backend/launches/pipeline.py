"""The pipeline of a launch: which steps there are, what waits for what, and what undoes what.

    charge -> create_token | take_in -> {lock_1 ... || distribution_1 ...}
           -> transfer_ownership -> finalize -> settle

Parts do not wait for one another. A part that fails, or that a cancelled launch leaves out, is
given up by an `abandon_...` step of its own: what it took goes back into escrow, and what the
others delivered stays delivered. Only when every part is delivered is the rest paid to the owner;
else it stays in escrow, for another launch or for the owner to withdraw.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final
from uuid import UUID

from google.protobuf.descriptor import ServiceDescriptor

from contract import ids
from contract.errors import RemoteError
from icto.backend.v1 import launches_pb2 as pb
from icto.distribution.v1 import distribution_pb2
from icto.distribution.v1.distribution_pb2_grpc import DistributionServiceStub
from icto.events.v1 import events_pb2 as events
from icto.ledger.v1 import ledger_pb2
from icto.lock.v1 import lock_pb2
from icto.lock.v1.lock_pb2_grpc import LockServiceStub
from icto.payment.v1 import payment_pb2
from icto.payment.v1.payment_pb2_grpc import PaymentServiceStub
from icto.policy.v1 import policy_pb2
from icto.token.v1 import token_pb2
from icto.token.v1.token_pb2_grpc import TokenServiceStub
from services.backend import store as backend_store
from services.backend.launches import domain, store
from services.backend.launches.domain import CREATE_TOKEN, TAKE_IN, Launch, Outcome, Shape
from services.backend.launches.escrow import Escrow
from services.kit.audit.operations import Operation
from services.kit.calling.client import on_behalf_of
from services.kit.journal.model import (
    Definition,
    Ended,
    Family,
    SkipStep,
    Step,
    StepContext,
    StepState,
)
from services.kit.money import escrow
from services.kit.serving import Kit
from services.kit.storage import Connection

CHARGE: Final = "charge"
OWNERSHIP: Final = "transfer_ownership"
FINALIZE: Final = "finalize"
SETTLE: Final = "settle"
_LAUNCH: Final = Operation.of(pb.DESCRIPTOR.services_by_name["LaunchService"], "CreateLaunch")

Work = Callable[[StepContext], Awaitable[bytes]]


class LaunchPipeline:
    """Does launches. What was charged for is delivered XOR refunded, part by part."""

    def __init__(self, kit: Kit, accounts: Escrow) -> None:
        self._database = kit.database
        self._accounts = accounts
        self._payments = kit.clients.stub(PaymentServiceStub)
        self._tokens = kit.clients.stub(TokenServiceStub)
        self._locks = kit.clients.stub(LockServiceStub)
        self._distributions = kit.clients.stub(DistributionServiceStub)
        platform = kit.platform
        self.family = Family(
            "launch",
            version=1,
            shape=lambda argument: self.definition(Shape.decode(argument)),
            limit=lambda: platform.config.limits.max_concurrent_pipelines,
            share=lambda: domain.share_of_places(
                platform.config.limits.max_concurrent_pipelines,
                platform.config.limits.max_concurrent_pipelines_per_user,
            ),
        )

    def definition(self, shape: Shape) -> Definition:
        """The steps of a launch, in one place."""
        origin, parts = shape.origin, shape.parts
        undone = tuple(domain.abandoning(part) for part in parts)
        token = [Step(CREATE_TOKEN, self._create_token, after=(CHARGE,))]
        if shape.makes_token:
            token.append(
                Step(
                    domain.abandoning(CREATE_TOKEN),
                    self._abandon_token,
                    after=(CREATE_TOKEN,),
                    needs=(CHARGE,),
                    unless=(CREATE_TOKEN,),
                )
            )
        else:
            token = [Step(origin, self._take_in, after=(CHARGE,))]
        before = tuple(step.name for step in token)
        steps = (
            Step(CHARGE, self._charge),
            *token,
            *(Step(part, self._deliver(part), after=(origin,)) for part in parts),
            *(
                Step(
                    domain.abandoning(part),
                    self._abandon(part),
                    after=(part,),
                    needs=(origin,),
                    unless=(part,),
                )
                for part in parts
            ),
            *(
                [Step(OWNERSHIP, self._own, after=(*before, *undone), needs=(CHARGE,))]
                if shape.makes_token
                else []
            ),
            Step(
                FINALIZE,
                partial(self._finalize, shape),
                after=(*before, *undone, *([OWNERSHIP] if shape.makes_token else [])),
                needs=(origin, *parts),
            ),
            Step(SETTLE, partial(self._settle_payment, shape), after=(FINALIZE,), needs=(CHARGE,)),
        )
        return Definition("launch", 1, steps, self._settle)

    def _deliver(self, part: str) -> Work:
        deliver = self._deliver_lock if part.startswith("lock") else self._deliver_distribution
        return partial(deliver, part)

    def _abandon(self, part: str) -> Work:
        abandon = self._abandon_lock if part.startswith("lock") else self._abandon_distribution
        return partial(abandon, part)

    async def _read(self, launch_id: UUID) -> tuple[Launch, pb.LaunchSpec]:
        """The row that says for whom and what; never a header (design: identity)."""
        launch = await store.get(self._database, launch_id)
        if launch is None:
            raise RuntimeError("a pipeline without its launch")
        return launch, pb.LaunchSpec.FromString(launch.spec)

    async def _charge(self, context: StepContext) -> bytes:
        """Takes the money of the quote that the launch was accepted with."""
        launch, _ = await context.once(self._read)
        if not launch.quote:
            return b""
        request = payment_pb2.ChargeRequest(
            request_id=context.request_id, operation=launch.name, quote=launch.quote
        )
        request.accept_time.FromDatetime(launch.accept_time)
        payment = await self._payments.Charge(request, metadata=on_behalf_of(launch.owner))
        return payment.name.encode()

    async def _create_token(self, context: StepContext) -> bytes:
        """Has the token deployed, its whole supply and every right in the launch's hands."""
        launch, spec = await context.once(self._read)
        request = token_pb2.DeployTokenRequest(
            request_id=context.request_id,
            operation=launch.name,
            spec=spec.new_token,
            payment=context.result(CHARGE).decode(),
            custodian=self._accounts.account(launch.id),
        )
        token = await self._tokens.DeployToken(request, metadata=on_behalf_of(launch.owner))
        return token.name.encode()

    async def _abandon_token(self, context: StepContext) -> bytes:
        """Gives the token up; tells if it was delivered before that."""
        launch, _ = await context.once(self._read)
        answer = await self._tokens.AbandonToken(
            token_pb2.AbandonTokenRequest(request_id=context.request_id, operation=launch.name)
        )
        return answer.delivered_token.encode()

    async def _take_in(self, context: StepContext) -> bytes:
        """Takes what the parts need into escrow: from the owner, or from an earlier launch."""
        launch, spec = await context.once(self._read)
        ledger = ledger_of(launch.token)
        fee = await self._accounts.fee(ledger)
        amount = domain.needed(part_amounts(spec), fee)
        if launch.earlier is None:
            await self._accounts.take(launch, TAKE_IN, ledger, amount)
        else:
            to = self._accounts.account(launch.id)
            await self._accounts.pay(launch, TAKE_IN, ledger, to, amount, source=launch.earlier)
        return launch.token.encode()

    async def _deliver_lock(self, part: str, context: StepContext) -> bytes:
        """Reserves a lock, pays its tokens into its account, and has it begin."""
        launch, spec = await context.once(self._read)
        ledger = ledger_of(_token(context, launch))
        lock_spec = spec.locks[domain.part_number(part)]
        request = lock_pb2.CreateLockRequest(
            request_id=f"{context.request_id}:1",
            operation=_operation(launch, part),
            payment=context.result(CHARGE).decode(),
            spec=lock_spec,
            ledger=ledger,
            escrow=self._accounts.account(launch.id),
        )
        request.accept_time.FromDatetime(launch.accept_time)
        lock = await self._locks.CreateLock(request, metadata=on_behalf_of(launch.owner))
        await self._fund(launch, part, ledger, lock.account, lock_spec.total_amount)
        active = await self._locks.ActivateLock(
            lock_pb2.ActivateLockRequest(
                request_id=f"{context.request_id}:2", operation=_operation(launch, part)
            )
        )
        return active.name.encode()

    async def _abandon_lock(self, part: str, context: StepContext) -> bytes:
        """Gives a lock up; tells if it was delivered before that."""
        launch, _ = await context.once(self._read)
        await self._await_funding(launch, part, context)
        answer = await self._locks.AbandonLock(
            lock_pb2.AbandonLockRequest(
                request_id=context.request_id,
                operation=_operation(launch, part),
                ledger=ledger_of(_token(context, launch)),
                escrow=self._accounts.account(launch.id),
            )
        )
        return answer.delivered_lock.encode()

    async def _deliver_distribution(self, part: str, context: StepContext) -> bytes:
        """Reserves a distribution, pays its tokens into its account, and has it begin."""
        launch, spec = await context.once(self._read)
        ledger = ledger_of(_token(context, launch))
        distribution_spec = spec.distributions[domain.part_number(part)]
        request = distribution_pb2.CreateDistributionRequest(
            request_id=f"{context.request_id}:1",
            operation=_operation(launch, part),
            payment=context.result(CHARGE).decode(),
            spec=distribution_spec,
            ledger=ledger,
            escrow=self._accounts.account(launch.id),
        )
        request.accept_time.FromDatetime(launch.accept_time)
        made = await self._distributions.CreateDistribution(
            request, metadata=on_behalf_of(launch.owner)
        )
        await self._fund(launch, part, ledger, made.account, distribution_spec.total_amount)
        active = await self._distributions.ActivateDistribution(
            distribution_pb2.ActivateDistributionRequest(
                request_id=f"{context.request_id}:2", operation=_operation(launch, part)
            )
        )
        return active.name.encode()

    async def _abandon_distribution(self, part: str, context: StepContext) -> bytes:
        """Gives a distribution up; tells if it was delivered before that."""
        launch, _ = await context.once(self._read)
        await self._await_funding(launch, part, context)
        answer = await self._distributions.AbandonDistribution(
            distribution_pb2.AbandonDistributionRequest(
                request_id=context.request_id,
                operation=_operation(launch, part),
                ledger=ledger_of(_token(context, launch)),
                escrow=self._accounts.account(launch.id),
            )
        )
        return answer.delivered_distribution.encode()

    async def _fund(
        self, launch: Launch, part: str, ledger: str, account: ledger_pb2.Account, amount: str
    ) -> None:
        await self._accounts.pay(launch, part, ledger, account, int(amount))

    async def _await_funding(self, launch: Launch, part: str, context: StepContext) -> None:
        """Takes a transfer that may be under way to a known end before its part is given up.

        A part that a cancelled launch left out may have begun in a worker that is frozen. The
        transfer is made once, whoever asks for it: when it is known to be made, or to be refused,
        no late call can move anything, and what lies on the part's account is all that ever will.
        """
        record = context.records[part]
        never_begun = record.state is StepState.SKIPPED and not record.attempts
        if record.state is StepState.FAILED or never_begun:
            return
        _, spec = await context.once(self._read)
        mesh_name, amount = _funding(part, spec)
        owner, subaccount = escrow.account_of(mesh_name, _operation(launch, part))
        account = ledger_pb2.Account(owner=owner, subaccount=subaccount)
        try:
            await self._fund(launch, part, ledger_of(_token(context, launch)), account, amount)
        except RemoteError as error:
            if not error.definite:
                raise

    async def _own(self, context: StepContext) -> bytes:
        """Hands the token over to the owner, if it was delivered."""
        launch, _ = await context.once(self._read)
        if not domain.delivered(context.records, CREATE_TOKEN):
            raise SkipStep
        token = await self._tokens.TransferTokenOwnership(
            token_pb2.TransferTokenOwnershipRequest(
                request_id=context.request_id, operation=launch.name
            )
        )
        return token.owner.encode()

    async def _finalize(self, shape: Shape, context: StepContext) -> bytes:
        """Pays what nobody needs any more out of escrow to the owner."""
        launch, spec = await context.once(self._read)
        if not shape.makes_token:
            raise SkipStep
        supply, fee = int(spec.new_token.total_supply), int(spec.new_token.transfer_fee)
        remainder = domain.coverage(supply, part_amounts(spec), fee).remainder
        if not remainder:
            raise SkipStep
        ledger = ledger_of(_token(context, launch))
        owner = ledger_pb2.Account(owner=launch.owner)
        block = await self._accounts.pay(launch, FINALIZE, ledger, owner, remainder)
        return str(block).encode()

    async def _settle_payment(self, shape: Shape, context: StepContext) -> bytes:
        """Tells the payment what was delivered; the shares of the rest go back."""
        launch, _ = await context.once(self._read)
        if not context.result(CHARGE):
            raise SkipStep
        delivered = list(domain.delivered_steps(context.records, shape))
        failures = [r.error_message for r in context.records.values() if r.error_message]
        complete = len(delivered) == len(shape.paid_steps) - 1
        request = payment_pb2.SettlePaymentRequest(
            request_id=context.request_id,
            operation=launch.name,
            delivered_steps=[*delivered, domain.BASE_FEE] if delivered else [],
            failure="" if complete else (failures or ["The launch was cancelled."])[0],
        )
        await self._payments.SettlePayment(request)
        return b""

    async def _settle(
        self, connection: Connection, ended: Sequence[Ended]
    ) -> Sequence[events.Event]:
        """Links what was delivered, and tells the audit how it ended."""
        outcomes = {one.claim.id: _outcome(one) for one in ended}
        launches = await store.settle(connection, outcomes)
        rows = launches.values()
        linked = {launch.project_id: _made(launch) for launch in rows if launch.project_id}
        await backend_store.settle_projects(connection, linked)
        await backend_store.release_tokens(connection, [r.owner for r in rows if not _made(r)])
        return [_ending(one, launches[one.claim.id]) for one in ended]


def part_amounts(spec: pb.LaunchSpec) -> list[int]:
    """What each part takes, base units of the token."""
    amounts = [lock.total_amount for lock in spec.locks]
    amounts += [distribution.total_amount for distribution in spec.distributions]
    return [int(amount) for amount in amounts]


def ledger_of(token: str) -> str:
    """The ledger of a token: it has the token's id."""
    return ids.resource_name("ledgers", ids.parse_name("tokens", token))


def _funding(part: str, spec: pb.LaunchSpec) -> tuple[str, str]:
    """Who keeps the account of a part, and what it takes."""
    number = domain.part_number(part)
    if part.startswith("lock"):
        return _LOCKS, str(spec.locks[number].total_amount)
    return _DISTRIBUTIONS, str(spec.distributions[number].total_amount)


def _mesh_name(service: ServiceDescriptor) -> str:
    return str(service.GetOptions().Extensions[policy_pb2.service].mesh_name)


_LOCKS: Final = _mesh_name(lock_pb2.DESCRIPTOR.services_by_name["LockService"])
_DISTRIBUTIONS: Final = _mesh_name(
    distribution_pb2.DESCRIPTOR.services_by_name["DistributionService"]
)


def _operation(launch: Launch, part: str) -> str:
    return f"{launch.name}/steps/{part}"


def _token(context: StepContext, launch: Launch) -> str:
    """The token of a launch whose origin has succeeded."""
    return context.result(launch.shape.origin).decode()


def _made(launch: Launch) -> str:
    """The token that a launch made; "" when it made none."""
    return launch.token if launch.shape.makes_token else ""


def _outcome(ended: Ended) -> tuple[str, str]:
    """Token and payment of a launch that ends."""
    shape = Shape.decode(ended.claim.input)
    charge = ended.records.get(CHARGE)
    return domain.delivered(ended.records, shape.origin), charge.result.decode() if charge else ""


_STATUS: Final = {
    Outcome.SUCCEEDED: events.ACT_STATUS_COMPLETED,
    Outcome.PARTIALLY_SUCCEEDED: events.ACT_STATUS_COMPLETED,
    Outcome.FAILED: events.ACT_STATUS_FAILED,
    Outcome.CANCELLED: events.ACT_STATUS_CANCELLED,
}


def _ending(ended: Ended, launch: Launch) -> events.Event:
    delivered = {
        step: domain.delivered(ended.records, step)
        for step in domain.delivered_steps(ended.records, launch.shape)
    }
    outcome = domain.outcome(ended.state, anything=bool(delivered))
    failed = [record for record in ended.records.values() if record.error_reason]
    return _LAUNCH.told(
        _STATUS[outcome],
        launch.name,
        principal=launch.owner,
        actor=events.ACTOR_KIND_USER,
        caller="backend",
        severity=events.SEVERITY_INFO if outcome == Outcome.SUCCEEDED else events.SEVERITY_ERROR,
        error_reason=failed[0].error_reason if failed else "",
        details=delivered,
        traceparent=ended.claim.traceparent,
    )
