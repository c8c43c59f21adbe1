"""ICRC-1 and ICRC-2 on the real mesh: every variant of every error, accounts, blocks (domain 6)."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from contract import principal
from contract.errors import Error, RemoteError
from contract.status import from_rpc_error
from icto.ledger.v1 import ledger_pb2 as pb
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from mesh.cli.client import Client
from services.ledger.domain import DEDUPLICATION_WINDOW
from tests.support.installation import Installation, deployed
from tests.support.lab import shifted

FEE: Final = 10
HELD: Final = 1_000_000
SAVINGS: Final = bytes(31) + b"\x07"


@dataclass
class Holder:
    """Somebody on one ledger."""

    client: Client
    ledger: str

    @property
    def account(self) -> pb.Account:
        return pb.Account(owner=self.client.principal)

    async def _call(self, name: str, request: Any) -> int:
        stub: Any = LedgerServiceStub(self.client.channel)
        metadata = await self.client.metadata()
        try:
            answer = await getattr(stub, name)(request, metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return int(answer.block_index)

    async def transfer(self, to: pb.Account, amount: int, **more: Any) -> int:
        return await self._call(
            "Transfer",
            pb.TransferRequest(
                request_id=str(uuid4()), ledger=self.ledger, to=to, amount=str(amount), **more
            ),
        )

    async def approve(self, spender: pb.Account, amount: int, **more: Any) -> int:
        return await self._call(
            "Approve",
            pb.ApproveRequest(
                request_id=str(uuid4()),
                ledger=self.ledger,
                spender=spender,
                amount=str(amount),
                **more,
            ),
        )

    async def transfer_from(
        self, payer: pb.Account, to: pb.Account, amount: int, **more: Any
    ) -> int:
        return await self._call(
            "TransferFrom",
            pb.TransferFromRequest(
                request_id=str(uuid4()),
                ledger=self.ledger,
                to=to,
                amount=str(amount),
                **more,
                **{"from": payer},  # type: ignore[arg-type]  # a word of Python's
            ),
        )

    async def balance(self, account: pb.Account | None = None) -> int:
        told = account or self.account
        text = principal.encode_account(told.owner, told.subaccount or bytes(32))
        found = await self.client.rest("GET", f"/v1/{self.ledger}/accounts/{text}")
        return int(found.body["balance"])

    async def allowance(self, payer: pb.Account, spender: pb.Account) -> dict[str, Any]:
        path = f"/v1/{self.ledger}/accounts/{payer.owner}/allowances/{spender.owner}"
        return (await self.client.rest("GET", path)).body


@dataclass
class Cast:
    """A token: who mints it, who holds it, who spends for the holder."""

    minter: Holder
    holder: Holder
    spender: Holder


@pytest.fixture(scope="module")
async def cast(mesh: Installation) -> AsyncIterator[Cast]:
    users = [await mesh.user() for _ in range(3)]
    minter, holder, _ = users
    deployment = await deployed(
        minter,
        totalSupply=str(HELD),
        transferFee=str(FEE),
        mintingAccount={"owner": minter.principal},
        initialBalances=[{"account": {"owner": holder.principal}, "amount": str(HELD)}],
    )
    ledger = deployment["token"].replace("tokens/", "ledgers/")
    yield Cast(*(Holder(user, ledger) for user in users))
    for user in users:
        await user.close()


def stamp(shift: timedelta = timedelta()) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(datetime.now(UTC) + shift)
    return made


OLD: Final = timedelta(microseconds=-DEDUPLICATION_WINDOW / 1000) - timedelta(minutes=3)
AHEAD: Final = timedelta(minutes=3)


async def refusal(work: Any) -> tuple[str, dict[str, str]]:
    with pytest.raises(RemoteError) as caught:
        await work
    told = dict(caught.value.metadata)
    told.pop("trace_id", None)
    return caught.value.reason, told


async def test_every_error_of_a_transfer(cast: Cast) -> None:
    """F-10: the variant and its fields, not a generic text."""
    minter, holder, to = cast.minter, cast.holder, cast.spender.account
    held = await holder.balance()
    assert await refusal(holder.transfer(to, 1, fee="9")) == ("BAD_FEE", {"expected_fee": "10"})
    assert await refusal(minter.transfer(to, 1, fee="10")) == ("BAD_FEE", {"expected_fee": "0"})
    assert await refusal(holder.transfer(minter.account, 9)) == (
        "BAD_BURN",
        {"min_burn_amount": "10"},
    )
    assert await refusal(holder.transfer(to, held - FEE + 1)) == (
        "INSUFFICIENT_FUNDS",
        {"balance": str(held)},
    )
    assert (await refusal(holder.transfer(to, 1, created_at_time=stamp(OLD))))[0] == "TOO_OLD"
    reason, told = await refusal(holder.transfer(to, 1, created_at_time=stamp(AHEAD)))
    assert reason == "CREATED_IN_FUTURE"
    assert abs(int(told["ledger_time"]) / 1e9 - datetime.now(UTC).timestamp()) < 60
    assert await refusal(minter.transfer(minter.account, 1)) == (
        "GENERIC_ERROR",
        {"error_code": "2"},
    )
    assert await refusal(minter.transfer(to, 2**128 - 1)) == ("GENERIC_ERROR", {"error_code": "1"})
    assert await holder.balance() == held


async def test_every_error_of_an_approval(cast: Cast) -> None:
    minter, holder, spender = cast.minter, cast.holder, cast.spender.account
    await holder.approve(spender, 500)
    held = await holder.balance()
    assert await refusal(holder.approve(spender, 1, fee="0")) == ("BAD_FEE", {"expected_fee": "10"})
    assert await refusal(holder.approve(spender, 1, expected_allowance="499")) == (
        "ALLOWANCE_CHANGED",
        {"current_allowance": "500"},
    )
    reason, told = await refusal(holder.approve(spender, 1, expire_time=stamp(-AHEAD)))
    assert reason == "EXPIRED"
    assert "ledger_time" in told
    assert (await refusal(holder.approve(spender, 1, created_at_time=stamp(OLD))))[0] == "TOO_OLD"
    ahead = holder.approve(spender, 1, created_at_time=stamp(AHEAD))
    assert (await refusal(ahead))[0] == "CREATED_IN_FUTURE"
    poor = Holder(cast.spender.client, cast.holder.ledger)
    held_by_poor = await poor.balance()
    if held_by_poor > 0:
        await poor.transfer(holder.account, held_by_poor - FEE)
    assert await refusal(poor.approve(holder.account, 1)) == (
        "INSUFFICIENT_FUNDS",
        {"balance": "0"},
    )
    assert await refusal(minter.approve(spender, 1)) == ("GENERIC_ERROR", {"error_code": "3"})
    own = pb.Account(owner=holder.client.principal, subaccount=SAVINGS)
    assert await refusal(holder.approve(own, 1)) == ("GENERIC_ERROR", {"error_code": "4"})
    assert (await cast.spender.allowance(holder.account, spender))["allowance"] == "500"
    assert await holder.balance() == held + max(0, held_by_poor - FEE)
    once = stamp()
    block = await holder.approve(spender, 700, created_at_time=once)
    again = holder.approve(spender, 700, created_at_time=once)
    assert await refusal(again) == ("DUPLICATE", {"duplicate_of": str(block)})


async def test_every_error_of_a_transfer_by_a_spender(cast: Cast) -> None:
    minter, holder, spender = cast.minter, cast.holder, cast.spender
    payer, to = holder.account, cast.minter.account
    friend = pb.Account(owner=principal.of_service("a friend"))
    await holder.approve(spender.account, 1_000)
    take = spender.transfer_from
    assert await refusal(take(payer, friend, 1, fee="1")) == ("BAD_FEE", {"expected_fee": "10"})
    assert await refusal(take(payer, to, 5)) == ("BAD_BURN", {"min_burn_amount": "10"})
    assert await refusal(take(payer, friend, 991)) == (
        "INSUFFICIENT_ALLOWANCE",
        {"allowance": "1000"},
    )
    assert (await refusal(take(payer, friend, 1, created_at_time=stamp(OLD))))[0] == "TOO_OLD"
    ahead = take(payer, friend, 1, created_at_time=stamp(AHEAD))
    assert (await refusal(ahead))[0] == "CREATED_IN_FUTURE"
    held = await holder.balance()
    await holder.approve(spender.account, 10 * HELD)
    assert await refusal(take(payer, friend, held)) == (
        "INSUFFICIENT_FUNDS",
        {"balance": str(held - FEE)},
    )
    once = stamp()
    block = await take(payer, friend, 3, created_at_time=once)
    assert await refusal(take(payer, friend, 3, created_at_time=once)) == (
        "DUPLICATE",
        {"duplicate_of": str(block)},
    )
    # Without an allowance nobody takes anything, the minter not either.
    assert await refusal(minter.transfer_from(payer, friend, 1)) == (
        "INSUFFICIENT_ALLOWANCE",
        {"allowance": "0"},
    )
    await holder.approve(spender.account, 0)
    assert await refusal(take(payer, friend, 0)) == ("INSUFFICIENT_ALLOWANCE", {"allowance": "0"})


async def test_an_allowance_is_used_up_fee_included_and_ends_on_time(
    mesh: Installation, cast: Cast
) -> None:
    holder, spender = cast.holder, cast.spender
    friend = pb.Account(owner=principal.of_service("another friend"))
    until = stamp(timedelta(minutes=10))
    await holder.approve(spender.account, 200, expire_time=until)
    await spender.transfer_from(holder.account, friend, 100)
    found = await spender.allowance(holder.account, spender.account)
    assert found["allowance"] == str(200 - 100 - FEE)
    assert found["expireTime"]
    assert await holder.balance(friend) == 100
    async with shifted(mesh, "ledger", "11 minutes"):
        ended = await spender.allowance(holder.account, spender.account)
        assert ended["allowance"] == "0"
        refused = spender.transfer_from(holder.account, friend, 1)
        assert await refusal(refused) == ("INSUFFICIENT_ALLOWANCE", {"allowance": "0"})
    # A new approval replaces amount and end; it does not add.
    await holder.approve(spender.account, 50)
    replaced = await spender.allowance(holder.account, spender.account)
    assert replaced["allowance"] == "50"
    assert "expireTime" not in replaced


async def test_subaccounts_are_accounts_of_their_own(cast: Cast) -> None:
    holder, spender = cast.holder, cast.spender
    savings = pb.Account(owner=holder.client.principal, subaccount=SAVINGS)
    before = await holder.balance()
    await holder.transfer(savings, 500)
    assert before - await holder.balance() == 500 + FEE
    assert await holder.balance(savings) == 500
    await holder.transfer(spender.account, 100, from_subaccount=SAVINGS)
    assert await holder.balance(savings) == 500 - 100 - FEE
    short = holder.transfer(spender.account, 400, from_subaccount=SAVINGS)
    assert await refusal(short) == ("INSUFFICIENT_FUNDS", {"balance": "390"})
    # An approval of one account is none of the other.
    await holder.approve(spender.account, 300, from_subaccount=SAVINGS)
    await spender.transfer_from(savings, spender.account, 100)
    await holder.approve(spender.account, 0)
    refused = spender.transfer_from(holder.account, spender.account, 1)
    assert (await refusal(refused))[0] == "INSUFFICIENT_ALLOWANCE"
    # Spending one's own takes no allowance.
    await holder.transfer_from(holder.account, spender.account, 1)


async def test_one_call_that_is_sent_a_hundred_times_moves_once(cast: Cast) -> None:
    """F-8: under a hundred request ids; time and memo make it one."""
    holder, friend = cast.holder, pb.Account(owner=principal.of_service("the third friend"))
    once, memo = stamp(), uuid4().bytes
    before = await holder.balance()

    async def send() -> str:
        try:
            return str(await holder.transfer(friend, 7, created_at_time=once, memo=memo))
        except Error as error:
            return error.metadata["duplicate_of"]

    blocks = Counter(await asyncio.gather(*(send() for _ in range(100))))
    assert list(blocks.values()) == [100]
    assert (await holder.balance(friend), before - await holder.balance()) == (7, 7 + FEE)
    request = pb.ListBlocksRequest(parent=holder.ledger, memo=memo)
    found = await LedgerServiceStub(holder.client.channel).ListBlocks(request, timeout=10)
    (block,) = found.blocks
    assert str(block.index) in blocks
    assert (block.operation, block.amount, block.fee) == (pb.OPERATION_TRANSFER, "7", "10")


async def test_zero_moves_and_costs_the_fee_and_mint_and_burn_change_the_supply(
    cast: Cast,
) -> None:
    minter, holder = cast.minter, cast.holder

    async def supply() -> int:
        found = await holder.client.rest("GET", f"/v1/{holder.ledger}")
        return int(found.body["totalSupply"])

    before, held = await supply(), await holder.balance()
    await holder.transfer(cast.spender.account, 0)
    assert (before - await supply(), held - await holder.balance()) == (FEE, FEE)
    await minter.transfer(holder.account, 1_000)
    assert await supply() == before - FEE + 1_000
    await holder.transfer(minter.account, 1_000)
    assert (await supply(), await holder.balance()) == (before - FEE, held - FEE)
    assert await minter.balance() == 0


@pytest.mark.parametrize("amount", ["-1", "1.0", "01", "1e3", "", " 1", str(2**128), "٣"])
async def test_what_is_no_amount_moves_nothing(cast: Cast, amount: str) -> None:
    holder = cast.holder
    request = pb.TransferRequest(
        request_id=str(uuid4()), ledger=holder.ledger, to=cast.spender.account, amount=amount
    )
    before = await holder.balance()
    assert (await refusal(holder._call("Transfer", request)))[0] in {
        "INVALID_AMOUNT",
        "INVALID_FIELD",
    }
    assert await holder.balance() == before


FAR: Final = Timestamp(seconds=253_402_300_799)
"""The last second of the year 9999."""


async def test_a_time_that_cannot_be_kept_is_refused_and_spoils_nobody(cast: Cast) -> None:
    """Operations are committed together: one that the database does not take failed them all."""
    holder, spender = cast.holder, cast.spender.account
    strange = [holder.approve(spender, 1, expire_time=FAR) for _ in range(5)]
    strange += [holder.transfer(spender, 1, created_at_time=FAR) for _ in range(5)]
    good = [holder.transfer(spender, 1) for _ in range(10)]
    mixed = [work for pair in zip(strange, good, strict=True) for work in pair]
    outcomes = await asyncio.gather(*mixed, return_exceptions=True)
    assert all(isinstance(outcome, int) for outcome in outcomes[1::2]), outcomes
    told = {(o.reason, o.violations[0][0]) for o in outcomes[::2] if isinstance(o, RemoteError)}
    assert told == {("INVALID_FIELD", "expire_time"), ("INVALID_FIELD", "created_at_time")}


@pytest.mark.parametrize("index", [2**63, 10**19 - 1, 10**40, "x"])
async def test_a_block_that_cannot_be_is_refused(cast: Cast, index: object) -> None:
    stub: Any = LedgerServiceStub(cast.holder.client.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetBlock(pb.GetBlockRequest(name=f"{cast.holder.ledger}/blocks/{index}"))
    assert from_rpc_error(caught.value).reason in {"INVALID_NAME", "INVALID_FIELD"}


SUMS: Final = """
SELECT l.total_supply, l.block_count, sum(b.balance) AS held, min(b.balance) AS least,
    (SELECT count(*) FROM ledger.blocks WHERE ledger_id = l.id) AS blocks
FROM ledger.ledgers AS l LEFT JOIN ledger.balances AS b ON b.ledger_id = l.id
GROUP BY l.id
"""


async def test_balances_add_up_to_the_supply_on_every_ledger(mesh: Installation) -> None:
    """Cross-cutting invariant 4, over everything that this run has done."""
    async with mesh.superuser() as database:
        rows = await database.fetch(SUMS)
    assert rows
    for row in rows:
        assert row["total_supply"] == (row["held"] or 0)
        assert (row["least"] or 0) >= 0
        assert row["blocks"] == row["block_count"]
