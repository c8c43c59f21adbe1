"""Handlers of the ledger: translate, call, answer."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

import asyncpg
from typing_extensions import override

from contract import principal
from contract.environment import Environment
from contract.errors import Code, Error, invalid, not_found
from contract.identities import OPERATOR
from icto.ledger.v1 import ledger_pb2 as pb
from icto.ledger.v1.ledger_handlers import LedgerServiceHandlers, ledger_service
from observability.tracing import current_traceparent
from services.kit.answering import paging
from services.kit.serving import Call, Kit, Serving
from services.kit.storage.group_commit import GroupCommit
from services.ledger import domain, store
from services.ledger.domain import Account, Ledger, Request
from services.ledger.messages import (
    account_message,
    allowance_message,
    block_message,
    ledger_message,
    ledger_name,
    parse_account,
    parse_account_name,
    parse_allowance_name,
    parse_approval,
    parse_block,
    parse_ledger,
    parse_new_ledger,
    parse_transfer,
    parse_transfer_from,
)
from services.ledger.posting import Poster, Posting, Response

log = logging.getLogger(__name__)
R = TypeVar(
    "R", pb.TransferResponse, pb.TransferFromResponse, pb.ApproveResponse, pb.PayOutResponse
)

_BATCH = 256
_PARALLEL_LEDGERS = 4
_HOUSEKEEPING_SECONDS = 600.0
_RETRY_SECONDS = 1.0


def compose(kit: Kit) -> Serving:
    """The service of its parts."""
    handlers = LedgerService(kit)
    return Serving(ledger_service(handlers), [handlers.run])


class LedgerService(LedgerServiceHandlers[Call]):
    """icto.ledger.v1.LedgerService."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._environment = kit.settings.environment
        poster = Poster(kit.database, kit.outbox)
        self._postings: GroupCommit[UUID, Posting, Response] = GroupCommit(
            poster.commit, batch=_BATCH, parallel=_PARALLEL_LEDGERS
        )

    async def run(self) -> None:
        """Owns the batches and keeps house, as long as the replica lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._postings.run())
            tasks.create_task(self._keep_house())

    @override
    async def CreateLedger(self, request: pb.CreateLedgerRequest, call: Call) -> pb.Ledger:
        """Creates a ledger with its initial balances, in one statement."""
        ledger, initial = parse_new_ledger(request)
        now = await store.now(self._database)
        book = domain.new_ledger(ledger, initial, now)
        response = ledger_message(book.ledger, datetime.fromtimestamp(now / 1e9, UTC))
        act = call.act(details={"symbol": ledger.symbol, "supply": response.total_supply})
        effects = (store.inserted_ledger(book.ledger), *store.written_book(book))
        try:
            return await call.commit(response, *effects, subject=response.name, act=act)
        except asyncpg.UniqueViolationError:
            raise Error(
                Code.ALREADY_EXISTS, "LEDGER_EXISTS", f"{request.name} exists already."
            ) from None

    @override
    async def CloseLedger(
        self, request: pb.CloseLedgerRequest, call: Call
    ) -> pb.CloseLedgerResponse:
        """Closes a ledger, whether it exists or not."""
        closed = store.closed_ledger(parse_ledger(request.name))
        return await call.commit(pb.CloseLedgerResponse(), closed, subject=request.name)

    @override
    async def SetController(self, request: pb.SetControllerRequest, call: Call) -> pb.Ledger:
        """Hands control of a ledger to another principal."""
        ledger_id = parse_ledger(request.name)
        async with call.transaction() as tx:
            locked = await store.lock_ledger(tx, ledger_id)
            if locked is None:
                raise not_found("ledger", request.name)
            if locked.closed:
                raise domain.closed(request.name)
            minter = locked.ledger.minting_account
            if request.HasField("minting_account"):
                minter = parse_account(request.minting_account, "minting_account")
            held = await store.balance(tx, ledger_id, minter) if minter else None
            balances = {minter: held} if minter and held else {}
            book = domain.Book(locked.ledger, balances, {}, locked.now)
            book.hand_over(request.controller, minter)
            if book.blocks:
                head = store.written_head(book, locked.version)
                await tx.apply(*store.written_book(book), head)
            await store.set_controller(tx, ledger_id, request.controller, minter)
            act = call.act(
                previous_value=locked.ledger.controller,
                new_value=request.controller,
                details={"burned": str(sum(block.amount for block in book.blocks))},
            )
            response = ledger_message(book.ledger, locked.create_time)
            return tx.answer(response, subject=response.name, act=act)

    @override
    async def GetLedger(self, request: pb.GetLedgerRequest, call: Call) -> pb.Ledger:
        """One ledger."""
        del call
        stored = await store.get_ledger(self._database, parse_ledger(request.name))
        if stored is None:
            raise not_found("ledger", request.name)
        return ledger_message(stored.ledger, stored.create_time)

    @override
    async def GetAccount(self, request: pb.GetAccountRequest, call: Call) -> pb.LedgerAccount:
        """Balance of one account, now or after a block; zero for one that nobody used."""
        del call
        ledger_id, account = parse_account_name(request.name)
        if request.HasField("block_index"):
            balance = await self._balance_after(ledger_id, account, request.block_index)
        else:
            balance = await self._balance(ledger_id, account)
        return pb.LedgerAccount(
            name=request.name, account=account_message(account), balance=str(balance)
        )

    async def _balance(self, ledger_id: UUID, account: Account) -> int:
        balance = await store.balance(self._database, ledger_id, account)
        if balance is None:
            raise not_found("ledger", ledger_name(ledger_id))
        return balance

    async def _balance_after(self, ledger_id: UUID, account: Account, index: int) -> int:
        """The balance right after a block, from the account's own blocks since then."""
        if await store.get_ledger(self._database, ledger_id) is None:
            raise not_found("ledger", ledger_name(ledger_id))
        known = index <= paging.MAX_POSITION
        balance = (
            await store.balance_after(self._database, ledger_id, account, index) if known else None
        )
        if balance is None:
            raise not_found("block", f"{ledger_name(ledger_id)}/blocks/{index}")
        return balance

    @override
    async def GetAllowance(self, request: pb.GetAllowanceRequest, call: Call) -> pb.Allowance:
        """What a spender may still take."""
        del call
        ledger_id, payer, spender = parse_allowance_name(request.name)
        found = await store.allowance(self._database, ledger_id, payer, spender)
        if found is None:
            raise not_found("ledger", ledger_name(ledger_id))
        return allowance_message(request.name, *found)

    @override
    async def Transfer(self, request: pb.TransferRequest, call: Call) -> pb.TransferResponse:
        """Moves tokens; committed together with other operations on the same token."""
        transfer = parse_transfer(request, call.principal)
        return await self._post(request.ledger, transfer, pb.TransferResponse, call)

    @override
    async def TransferFrom(
        self, request: pb.TransferFromRequest, call: Call
    ) -> pb.TransferFromResponse:
        """Moves tokens of somebody who approved the caller."""
        transfer = parse_transfer_from(request, call.principal)
        return await self._post(request.ledger, transfer, pb.TransferFromResponse, call)

    @override
    async def VoidTransferFrom(
        self, request: pb.VoidTransferFromRequest, call: Call
    ) -> pb.VoidTransferFromResponse:
        """Remembers a transfer as one that is never made, unless it was."""
        transfer = parse_transfer_from(request.transfer, call.principal)
        key, created = transfer.duplicate_key, transfer.created_at
        if key is None or created is None:
            raise invalid("transfer.created_at_time", "is required")
        ledger_id = parse_ledger(request.transfer.ledger, "transfer.ledger")
        async with call.transaction() as tx:
            # Postings hold the same lock: each of them is before this, and found, or after it.
            locked = await store.lock_ledger(tx, ledger_id)
            if locked is None:
                raise not_found("ledger", request.transfer.ledger)
            domain.check_time(created, locked.now)
            block = await store.block_of(tx, ledger_id, key)
            if block is None:
                await tx.apply(store.voided(ledger_id, key, created))
            response = pb.VoidTransferFromResponse(block_index=block)
            act = call.act(details={"amount": str(transfer.amount), "made": str(block is not None)})
            return tx.answer(response, subject=ledger_name(ledger_id), act=act)

    @override
    async def PayOut(self, request: pb.PayOutRequest, call: Call) -> pb.PayOutResponse:
        """Moves tokens that the calling service holds for somebody."""
        transfer = parse_transfer(request, call.principal)
        return await self._post(request.ledger, transfer, pb.PayOutResponse, call)

    @override
    async def Approve(self, request: pb.ApproveRequest, call: Call) -> pb.ApproveResponse:
        """Lets a spender pay from the caller's account."""
        approval = parse_approval(request, call.principal)
        return await self._post(request.ledger, approval, pb.ApproveResponse, call)

    async def _post(self, ledger: str, request: Request, response: type[R], call: Call) -> R:
        ledger_id = parse_ledger(ledger, "ledger")
        posting = Posting(
            request, response, call.idempotency_key, call.act(), current_traceparent()
        )
        posted = await self._postings.submit(ledger_id, posting)
        assert isinstance(posted, response)  # noqa: S101  # made from the posting's own type
        return posted

    @override
    async def GetBlock(self, request: pb.GetBlockRequest, call: Call) -> pb.Block:
        """One block."""
        del call
        block = await store.get_block(self._database, *parse_block(request.name))
        if block is None:
            raise not_found("block", request.name)
        return block_message(block)

    @override
    async def ListBlocks(self, request: pb.ListBlocksRequest, call: Call) -> pb.ListBlocksResponse:
        """Blocks of a ledger, oldest first."""
        del call
        ledger_id = parse_ledger(request.parent, "parent")
        asked = paging.by_number(request)
        start = 0 if asked.after is None else asked.after + 1
        blocks = await store.list_blocks(
            self._database, ledger_id, start, asked.limit, request.memo
        )
        if not blocks and await store.get_ledger(self._database, ledger_id) is None:
            raise not_found("ledger", request.parent)
        page, token = asked.page(blocks, map(block_message, blocks), lambda block: block.index)
        return pb.ListBlocksResponse(blocks=page, next_page_token=token)

    async def _keep_house(self) -> None:
        """Makes sure that the fee token exists, and forgets duplicates whose window is over."""
        while True:
            pause = _HOUSEKEEPING_SECONDS
            try:
                await self._ensure_fee_token()
                now = await store.now(self._database)
                window = domain.DEDUPLICATION_WINDOW + domain.PERMITTED_DRIFT
                await store.forget_duplicates(self._database, now - window)
            except Error as error:
                log.warning("housekeeping waits: %s", error)
                pause = _RETRY_SECONDS
            await asyncio.sleep(pause)

    async def _ensure_fee_token(self) -> None:
        """The fee token. Where tokens are worth nothing, the operator may mint it (the faucet)."""
        minter = None
        if self._environment is not Environment.PRODUCTION:
            minter = Account(principal.of_service(OPERATOR))
        icp = Ledger(
            id=domain.ICP_LEDGER,
            display_name="Internet Computer",
            symbol="ICP",
            decimals=8,
            transfer_fee=domain.ICP_TRANSFER_FEE,
            controller=principal.of_service(OPERATOR),
            minting_account=minter,
        )
        await store.ensure_ledger(self._database, icp)
