"""Handlers of the token deployer: translate, call, answer."""

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from typing_extensions import override

from contract import ids
from contract.environment import Environment
from contract.errors import Code, Error, RemoteError, not_found
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from icto.token.v1 import token_pb2 as pb
from icto.token.v1.token_handlers import TokenServiceHandlers, token_service
from services.kit.answering import paging
from services.kit.serving import Call, Kit, Serving
from services.token_deployer import domain, store
from services.token_deployer.chain import Chain
from services.token_deployer.domain import Account, State, Token, TokenSpec
from services.token_deployer.faulty_chain import FaultyChain
from services.token_deployer.fee_token import FeeTokens
from services.token_deployer.ledger_chain import LedgerChain
from services.token_deployer.messages import (
    parse_custodian,
    parse_spec,
    spec_message,
    token_message,
)
from services.token_deployer.store import StoredToken

_DEPLOYMENTS: Final = "icto_token_deployments_total"
_FIRST: Final = UUID(int=0)


def compose(kit: Kit) -> Serving:
    """The service of its parts."""
    return Serving(token_service(TokenService(kit)))


class TokenService(TokenServiceHandlers[Call]):
    """icto.token.v1.TokenService."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        ledger = kit.clients.stub(LedgerServiceStub)
        self._faults = kit.faults
        self._fees = FeeTokens(kit)
        self._chain = _chain(LedgerChain(ledger), kit.settings.environment)
        self._deployments = kit.telemetry.metrics.counter(
            _DEPLOYMENTS, "Deployments that ended, by how.", "state"
        )

    @override
    async def DeployToken(self, request: pb.DeployTokenRequest, call: Call) -> pb.Token:
        """Deploys a token, or goes on where an earlier call of the operation stopped."""
        custodian = parse_custodian(request)
        spec = domain.complete(parse_spec(request.spec), call.principal, custodian)
        domain.check_no_imitation(spec, await self._fees.current())
        stored = await self._reserve(request, spec, custodian, call.principal)
        for stage in domain.remaining_stages(stored.token.state, self._chain.stages):
            await self._run(stage, stored)
        active = store.activated(stored, call.method.cycle_cost, datetime.now(UTC))
        response = _message(active)
        act = call.act(
            operation=request.operation,
            details={"symbol": spec.symbol, "cycles": str(call.method.cycle_cost)},
        )
        await call.commit(response, *store.activation(active), subject=response.name, act=act)
        self._faults.point("token.active.committed")
        self._deployments.labels(State.ACTIVE.name).inc()
        return response

    @override
    async def ValidateToken(
        self, request: pb.ValidateTokenRequest, call: Call
    ) -> pb.ValidateTokenResponse:
        """Checks a spec without deploying it."""
        custodian = parse_custodian(request)
        spec = domain.complete(parse_spec(request.spec), call.principal, custodian)
        domain.check_no_imitation(spec, await self._fees.current())
        if await store.symbol_taken(self._database, spec.symbol):
            raise domain.symbol_taken(spec.symbol)
        return pb.ValidateTokenResponse(spec=spec_message(spec))

    @override
    async def AbandonToken(
        self, request: pb.AbandonTokenRequest, call: Call
    ) -> pb.AbandonTokenResponse:
        """Gives an operation up: its tombstone first, then whatever it left on the chain."""
        token_id, delivered = await store.give_up(self._database, request.operation)
        if not delivered:
            await self._chain.abandon(token_id)
        name = ids.resource_name("tokens", token_id)
        response = pb.AbandonTokenResponse(delivered_token=name if delivered else "")
        act = call.act(operation=request.operation, details={"delivered": str(delivered).lower()})
        await call.commit(response, subject=name, act=act)
        if not delivered:
            self._deployments.labels(State.ABANDONED.name).inc()
        return response

    @override
    async def TransferTokenOwnership(
        self, request: pb.TransferTokenOwnershipRequest, call: Call
    ) -> pb.Token:
        """Hands a token over from its custodian to its owner."""
        stored = await store.of_operation(self._database, request.operation)
        if stored is None:
            raise not_found("token", request.operation)
        domain.check_delivered(stored.token.state)
        if stored.token.custodian is not None:
            await self._chain.transfer_ownership(stored.token)
        response = _message(store.handed_over(stored))
        written = store.handover(stored.token.id)
        act = call.act(operation=request.operation, new_value=stored.token.owner)
        return await call.commit(response, written, subject=response.name, act=act)

    async def _reserve(
        self,
        request: pb.DeployTokenRequest,
        spec: TokenSpec,
        custodian: Account | None,
        owner: str,
    ) -> StoredToken:
        """The token of the operation: reserved now, or found where an earlier call left it."""
        first = self._chain.stages[0]
        token = Token(
            ids.new_id(spec.symbol.upper()),
            request.operation,
            owner,
            spec,
            first,
            custodian=custodian,
        )
        stored = await store.reserve(self._database, token, request.payment)
        if stored.token.spec != spec or stored.token.owner != owner:
            raise Error(
                Code.ALREADY_EXISTS,
                "OPERATION_REUSED",
                f"{request.operation} deployed a different token.",
            )
        return stored

    async def _run(self, stage: State, stored: StoredToken) -> None:
        """One stage: recorded before the chain is asked, and as failed when the chain refuses."""
        token = stored.token
        ask = {
            State.CREATING: self._chain.create,
            State.INSTALLING: self._chain.install,
            State.TRANSFERRING_OWNERSHIP: self._chain.transfer_ownership,
        }[stage]
        if stored.found or stage is not token.state:
            await store.enter(self._database, token.id, stage, retry=stored.found)
        try:
            self._faults.point(f"token.{stage.name.lower()}.before")
            await ask(token)
            self._faults.point(f"token.{stage.name.lower()}.after")
        except RemoteError as error:
            if not error.outcome_unknown:
                await store.fail(self._database, token.id, domain.failed(stage), str(error))
                self._deployments.labels(domain.failed(stage).name).inc()
            raise

    @override
    async def GetToken(self, request: pb.GetTokenRequest, call: Call) -> pb.Token:
        """One token."""
        del call
        stored = await store.get(self._database, ids.parse_name("tokens", request.name))
        if stored is None:
            raise not_found("token", request.name)
        return _message(stored)

    @override
    async def ListTokens(self, request: pb.ListTokensRequest, call: Call) -> pb.ListTokensResponse:
        """Tokens, newest first."""
        del call
        asked = paging.by_id(request)
        if request.owner:
            rows = await store.list_owned(self._database, request.owner, asked.after, asked.limit)
        else:
            rows = await store.list_active(self._database, asked.after, asked.limit)
        page, token = asked.page(rows, map(_message, rows))
        return pb.ListTokensResponse(tokens=page, next_page_token=token)

    @override
    async def SearchTokens(
        self, request: pb.SearchTokensRequest, call: Call
    ) -> pb.SearchTokensResponse:
        """Tokens by the start of a word."""
        del call
        cursor = paging.decode_token(request.page_token, str, str)
        after = (str(cursor[0]), paging.as_uuid(cursor[1])) if cursor else ("", _FIRST)
        size = paging.page_size(request.page_size)
        prefix = request.query.strip().casefold()
        rows = await store.search(self._database, prefix, after, size + 1)
        page, token = paging.page(
            rows,
            (_message(stored) for _, stored in rows),
            size,
            lambda row: paging.encode_token(row[0], str(row[1].token.id)),
        )
        return pb.SearchTokensResponse(tokens=page, next_page_token=token)

    @override
    async def CheckSymbol(
        self, request: pb.CheckSymbolRequest, call: Call
    ) -> pb.CheckSymbolResponse:
        """Whether a symbol is free."""
        del call
        free = (
            domain.is_symbol(request.symbol)
            and not domain.is_imitation(request.symbol, await self._fees.current())
            and not await store.symbol_taken(self._database, request.symbol)
        )
        return pb.CheckSymbolResponse(available=free)


def _chain(chain: Chain, environment: Environment) -> Chain:
    """The chain; in the test environment one that refuses tokens which ask for it."""
    return FaultyChain(chain) if environment is Environment.TEST else chain


def _message(stored: StoredToken) -> pb.Token:
    return token_message(stored.token, stored.create_time, stored.deploy_time)
