"""Quotes and charges on the real mesh: what is paid, when, and that it is paid once."""

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest

from contract.errors import RemoteError
from contract.status import from_rpc_error
from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from icto.payment.v1 import payment_pb2
from mesh.cli.client import CallError, Client
from services.kit.money import memos
from services.kit.money.transfers import stamp
from tests.support.installation import (
    E8S,
    TOKEN_ORDER,
    Installation,
    deployed,
    finished,
    paid_body,
    token_body,
    until,
)
from tests.support.lab import shifted
from tests.support.money import (
    FEE,
    LAUNCH,
    TREASURY,
    Backend,
    approve,
    balance,
    channel_of,
    configured,
    gathered,
    get,
    new_operation,
    person,
    post,
    quote_for,
    reason_of,
)
from tests.support.tokens import Mint

PRICE = E8S
OPEN, USED, EXPIRED = (f"QUOTE_STATE_{state}" for state in ("OPEN", "USED", "EXPIRED"))
SUCCEEDED = "DEPLOYMENT_STATE_SUCCEEDED"
_DONE = payment_pb2.PAYMENT_STATE_COMPLETED


@pytest.fixture
async def backend(mesh: Installation) -> AsyncIterator[Backend]:
    async with channel_of(mesh, "backend") as channel:
        yield Backend(channel)


@pytest.fixture
async def admin(mesh: Installation, mint: Mint) -> AsyncIterator[Client]:
    async with person(mesh, mint, "SUPER_ADMIN") as client:
        yield client


async def order(client: Client, quote: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A token for a quote, until it has ended."""
    body = token_body(**spec) | {"quote": quote["name"]}
    accepted = (await client.rest("POST", "/v1/tokens", body)).body
    return await finished(client, accepted["name"])


async def charges(mesh: Installation, operation: str) -> int:
    """How often the ledger took the money of an operation."""
    async with mesh.superuser() as database:
        count: int = await database.fetchval(
            "SELECT count(*) FROM ledger.blocks WHERE memo = $1", memos.of("charge", operation)
        )
    return count


# Quotes.


async def test_a_token_costs_what_its_quote_says_and_the_invoice_shows_it(alice: Client) -> None:
    """F-27: quoted verbatim. F-13: the account that takes the money is the one that refunds it."""
    before = await balance(alice)
    deployment = await deployed(alice)
    payment = await get(alice, deployment["payment"])
    quote = await get(alice, deployment["quote"])
    invoice = await get(alice, payment["invoice"])
    assert deployment["cost"] == quote["total"] == payment["amount"] == invoice["total"]
    assert (await get(alice, "invoices"))["invoices"][0] == invoice
    assert int(quote["total"]) == PRICE
    assert quote["spender"]["owner"] == TREASURY
    assert (quote["state"], payment["state"]) == (USED, "PAYMENT_STATE_SETTLED")
    assert payment["deliveredAmount"] == str(PRICE)
    assert payment["refundedAmount"] == "0"
    # The approval and the charge cost the ledger's fee each.
    assert before - await balance(alice) == PRICE + 2 * FEE
    block = await get(alice, f"ledgers/icp/blocks/{payment['blockIndex']}")
    assert (block["operation"], block["to"]["owner"]) == ("OPERATION_TRANSFER_FROM", TREASURY)


async def test_without_a_quote_nothing_is_deployed(alice: Client) -> None:
    """Required by rule: a platform whose tokens are free would do without."""
    body = token_body()
    with pytest.raises(CallError, match="QUOTE_REQUIRED"):
        await alice.rest("POST", "/v1/tokens", body)


async def test_a_quote_is_its_owners(alice: Client, bob: Client) -> None:
    quote = await alice.quote(TOKEN_ORDER)
    body = token_body() | {"quote": quote["name"]}
    with pytest.raises(CallError, match="QUOTE_NOT_FOUND"):
        await bob.rest("POST", "/v1/tokens", body)
    for path in (quote["name"], f"{quote['name']}:checkApproval"):
        assert await reason_of(get(bob, path)) == "QUOTE_NOT_FOUND"
    assert (await get(alice, quote["name"]))["state"] == OPEN


async def test_a_quote_pays_for_what_it_is_for(alice: Client) -> None:
    quote = await alice.quote(*LAUNCH)
    body = token_body() | {"quote": quote["name"]}
    with pytest.raises(CallError, match="QUOTE_MISMATCH"):
        await alice.rest("POST", "/v1/tokens", body)


async def test_an_expired_quote_is_refused_and_nothing_is_charged(
    mesh: Installation, alice: Client
) -> None:
    quote = await alice.quote(TOKEN_ORDER)
    before = await balance(alice)
    async with shifted(mesh, "invoice_storage", "61 minutes"):
        assert (await get(alice, quote["name"]))["state"] == EXPIRED
        with pytest.raises(CallError, match="QUOTE_EXPIRED"):
            await order(alice, quote)
        path = f"{quote['name']}:checkApproval"
        assert await reason_of(get(alice, path)) == "QUOTE_EXPIRED"
    assert await balance(alice) == before


async def test_a_quote_is_honoured_whatever_the_price_is_now(
    mesh: Installation, admin: Client, alice: Client
) -> None:
    quote = await alice.quote(TOKEN_ORDER)

    def dearer(config: dict[str, Any]) -> None:
        for price in config["payment"]["prices"]:
            price["amount"] = str(3 * int(price["amount"]))

    async with configured(mesh, admin, dearer):
        assert int((await quote_for(alice, TOKEN_ORDER))["total"]) == 3 * PRICE
        deployment = await order(alice, quote)
    assert (deployment["state"], int(deployment["cost"])) == (SUCCEEDED, PRICE)
    assert int((await get(alice, deployment["payment"]))["amount"]) == PRICE


async def test_a_volume_discount_is_charged_and_the_shares_add_up(
    mesh: Installation, admin: Client, alice: Client, backend: Backend
) -> None:
    """F-27: it was computed, and the base was charged."""
    await deployed(alice)

    def generous(config: dict[str, Any]) -> None:
        (price,) = [p for p in config["payment"]["prices"] if p["priceVariable"]]
        price["amount"] = "50000003"
        price["discounts"] = [{"minVolume": 1, "basisPoints": 1234, "active": True}]

    async with configured(mesh, admin, generous):
        quote = await quote_for(alice, *LAUNCH)
    lines = {line["step"]: int(line["amount"]) for line in quote["lines"]}
    assert quote["discountBasisPoints"] == 1234
    assert lines["base"] == 50000003 - 50000003 * 1234 // 10_000
    assert sum(lines.values()) == int(quote["total"])
    await approve(alice, quote, int(quote["approvalAmount"]))
    before = await balance(alice)
    payment = await backend.charge(alice, quote["name"], new_operation())
    assert before - await balance(alice) == int(quote["total"]) + FEE
    invoice = await get(alice, payment.invoice)
    assert int(invoice["discount"]) == 50000003 - lines["base"]
    assert int(invoice["total"]) == int(invoice["subtotal"]) - int(invoice["discount"])
    await backend.settle(payment.operation, "create_token", "lock")


# Before the charge.


async def test_a_preflight_tells_what_the_charge_would_meet(alice: Client, bob: Client) -> None:
    """F-9, F-58: fee and expiry count, and each problem is told apart."""
    quote = await quote_for(alice, TOKEN_ORDER)
    path = f"{quote['name']}:checkApproval"
    needed = PRICE + FEE

    async def problem() -> str:
        found = await get(alice, path)
        assert int(found["required"]) == needed
        assert found["approved"] is not bool(found["problem"])
        return str(found["problem"])

    told = [await problem()]
    await approve(alice, quote, needed - 1)
    told.append(await problem())
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    await approve(alice, quote, needed, expireTime=soon)
    told.append(await problem())
    await approve(alice, quote, needed)
    assert await problem() == ""
    ledger_path = f"/v1/{quote['ledger']}:transfer"
    all_but = await balance(alice) - FEE - needed + 1
    await post(alice, ledger_path, to={"owner": bob.principal}, amount=str(all_but))
    told.append(await problem())
    assert len(set(told)) == 4
    assert all(told)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"symbol": "!"}, "INVALID_FIELD"),
        ({"totalSupply": "0"}, "INVALID_FIELD"),
        ({"totalSupply": str(2**128)}, "INVALID_AMOUNT"),
    ],
)
async def test_what_cannot_be_deployed_is_refused_before_it_is_charged(
    alice: Client, spec: dict[str, Any], reason: str
) -> None:
    """F-12: validation came after the charge."""
    quote = await alice.quote(TOKEN_ORDER)
    before = await balance(alice)
    body = token_body(**spec) | {"quote": quote["name"]}
    assert await reason_of(alice.rest("POST", "/v1/tokens", body)) == reason
    assert (await get(alice, quote["name"]))["state"] == OPEN
    assert await balance(alice) == before


async def test_a_feature_that_is_off_is_told_before_anything_is_charged(
    mesh: Installation, admin: Client, alice: Client
) -> None:
    """F-12, F-16."""
    quote = await alice.quote(TOKEN_ORDER)

    def off(config: dict[str, Any]) -> None:
        config["features"]["tokenDeployment"] = False

    async with configured(mesh, admin, off):
        body = token_body() | {"quote": quote["name"]}
        assert await reason_of(alice.rest("POST", "/v1/tokens", body)) == "FEATURE_DISABLED"
    assert (await order(alice, quote))["state"] == SUCCEEDED


# The charge.


async def test_a_charge_that_the_ledger_refuses_says_why_and_costs_nothing(
    mesh: Installation, alice: Client, backend: Backend
) -> None:
    """F-9, F-10: the ledger's own variant, not a generic text; and the quote is good again."""
    poor = await mesh.user(PRICE // 2)
    short = await quote_for(alice, TOKEN_ORDER)
    await approve(alice, short, PRICE + FEE - 1)
    ended = await quote_for(poor, TOKEN_ORDER)
    await approve(poor, ended, PRICE + FEE)
    for client, quote, reason in (
        (alice, short, "INSUFFICIENT_ALLOWANCE"),
        (poor, ended, "INSUFFICIENT_FUNDS"),
    ):
        before = await balance(client)
        assert await reason_of(order(client, quote)) == reason
        assert await reason_of(backend.charge(client, quote["name"], new_operation())) == reason
        assert await balance(client) == before
        assert (await get(client, quote["name"]))["state"] == OPEN
    await approve(alice, short, PRICE + FEE)
    assert (await order(alice, short))["state"] == SUCCEEDED
    await poor.close()


async def test_an_approval_that_has_ended_pays_for_nothing(
    mesh: Installation, alice: Client
) -> None:
    """F-9: expiry was not looked at."""
    quote = await quote_for(alice, TOKEN_ORDER)
    later = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
    await approve(alice, quote, PRICE + FEE, expireTime=later)
    before = await balance(alice)
    async with shifted(mesh, "ledger", "11 minutes"):
        assert await reason_of(order(alice, quote)) == "INSUFFICIENT_ALLOWANCE"
    assert await balance(alice) == before


async def test_one_order_that_is_sent_a_hundred_times_at_once_is_one(
    mesh: Installation, alice: Client
) -> None:
    """Cross-cutting invariant 7: replay."""
    before, body = await balance(alice), await paid_body(alice)
    answers = await asyncio.gather(
        *(alice.rest("POST", "/v1/tokens", body) for _ in range(100)), return_exceptions=True
    )
    # One that waited too long for the first is told to come again, and has changed nothing.
    told = Counter(a.body["name"] if not isinstance(a, BaseException) else "" for a in answers)
    assert {getattr(a, "reason", "") for a in answers} <= {"", "REQUEST_IN_PROGRESS"}
    del told[""]
    (name,) = told
    assert (await finished(alice, name))["state"] == SUCCEEDED
    assert (await alice.rest("POST", "/v1/tokens", body)).body["name"] == name
    assert before - await balance(alice) == PRICE + 2 * FEE
    assert await charges(mesh, name) == 1
    listed = await get(alice, "deployments")
    assert [one["name"] for one in listed["deployments"]] == [name]


async def test_one_quote_that_pays_for_two_orders_pays_for_one(alice: Client) -> None:
    """A double submit under two request ids."""
    quote = await alice.quote(TOKEN_ORDER)
    await approve(alice, quote, 10 * PRICE)
    before = await balance(alice)
    ended = await asyncio.gather(*(order(alice, quote) for _ in range(4)), return_exceptions=True)
    accepted = [one for one in ended if isinstance(one, dict)]
    reasons = Counter(one["error"]["reason"] if "error" in one else "" for one in accepted)
    reasons.update(one.reason for one in ended if isinstance(one, CallError))
    assert reasons == Counter({"": 1, "QUOTE_USED": 3})
    assert before - await balance(alice) == PRICE + FEE


async def test_a_reused_operation_is_refused(alice: Client, backend: Backend) -> None:
    operation = new_operation()
    first, second = [await alice.quote(TOKEN_ORDER) for _ in range(2)]
    await backend.charge(alice, first["name"], operation)
    with pytest.raises(RemoteError, match="OPERATION_REUSED"):
        await backend.charge(alice, second["name"], operation)
    before = await balance(alice)
    again = await backend.charge(alice, first["name"], operation)
    assert (again.state, await balance(alice)) == (_DONE, before)
    await backend.settle(operation, "create_token")


@pytest.mark.parametrize(
    "point",
    [
        "payment.charge.after",
        "payment.charge.committed",
        "deploy_token.charge.after",
    ],
)
async def test_whoever_dies_around_the_charge_it_is_made_once(
    mesh: Installation, alice: Client, point: str
) -> None:
    """F-8, F-11, F-18: the money is taken, and the process that knew it is gone."""
    before, body = await balance(alice), await paid_body(alice)
    async with mesh.crash_at(point):
        accepted = (await alice.rest("POST", "/v1/tokens", body)).body
        deployment = await finished(alice, accepted["name"], 30)
    await mesh.until_healthy()
    assert deployment["state"] == SUCCEEDED
    assert before - await balance(alice) == PRICE + 2 * FEE
    assert await charges(mesh, accepted["name"]) == 1
    payment = await get(alice, deployment["payment"])
    assert payment["state"] == "PAYMENT_STATE_SETTLED"


FORGET = """
UPDATE invoice_storage.payments SET state = 1, block_index = NULL, charge_time = NULL
WHERE operation = $1
"""


async def test_a_charge_that_is_resumed_after_two_days_finds_its_block(
    mesh: Installation, alice: Client, backend: Backend
) -> None:
    """F-11: too old means unknown, so the blocks are searched before anything is decided."""
    quote, operation = await alice.quote(TOKEN_ORDER), new_operation()
    charged = await backend.charge(alice, quote["name"], operation)
    async with mesh.superuser() as database:
        # As a replica leaves it that dies between the ledger's answer and its own record.
        await database.execute(FORGET, operation)
        await database.execute("DELETE FROM invoice_storage.kit_answers")
        await database.execute("DELETE FROM ledger.kit_answers")
    assert (await get(alice, charged.name))["state"] == "PAYMENT_STATE_IN_FLIGHT"
    before = await balance(alice)
    async with shifted(mesh, "ledger", "48 h"), shifted(mesh, "invoice_storage", "48 h"):
        resumed = await backend.charge(
            alice, quote["name"], operation, accept_time=charged.create_time
        )
    assert (resumed.state, resumed.block_index) == (_DONE, charged.block_index)
    assert await balance(alice) == before
    assert await charges(mesh, operation) == 1
    await backend.settle(operation, "create_token")


LEFT_BEHIND = """
INSERT INTO payments SELECT gen_random_uuid(), owner, $1, id, ledger, total, lines, 1,
    (extract(epoch FROM now() - interval '48 h') * 1e9)::bigint
FROM quotes WHERE id = $2
"""


async def left_behind(mesh: Installation, quote: dict[str, Any], operation: str) -> None:
    """A payment that was begun two days ago, and of whose charge nothing is known."""
    async with mesh.superuser() as database:
        await database.execute("SET search_path TO invoice_storage")
        await database.execute(LEFT_BEHIND, operation, quote["name"].removeprefix("quotes/"))


async def test_a_charge_that_was_never_made_is_made_under_a_fresh_time(
    mesh: Installation, alice: Client, backend: Backend
) -> None:
    """Nothing is found, and nothing that was under way can arrive any more."""
    quote, operation = await alice.quote(TOKEN_ORDER), new_operation()
    await left_behind(mesh, quote, operation)
    before = await balance(alice)
    payment = await backend.charge(alice, quote["name"], operation)
    assert payment.state == _DONE
    assert before - await balance(alice) == PRICE + FEE
    again = await backend.charge(alice, quote["name"], operation)
    assert again.block_index == payment.block_index
    assert await charges(mesh, operation) == 1
    await backend.settle(operation, "create_token")


async def test_attempts_that_find_one_time_too_old_charge_once(
    mesh: Installation, alice: Client, backend: Backend
) -> None:
    """Each of them sees no block and wants a fresh time; they get one between them."""
    quote, operation = await alice.quote(TOKEN_ORDER), new_operation()
    await approve(alice, quote, 10 * PRICE)
    await left_behind(mesh, quote, operation)
    before = await balance(alice)
    outcomes = await gathered(*(backend.charge(alice, quote["name"], operation) for _ in range(8)))
    assert set(outcomes) <= {"", "PAYMENT_CHANGED", "CONFLICT"}
    assert (await backend.charge(alice, quote["name"], operation)).state == _DONE
    assert before - await balance(alice) == PRICE + FEE
    assert await charges(mesh, operation) == 1
    await backend.settle(operation, "create_token")


async def test_an_approval_that_carries_the_memo_of_a_charge_is_none(
    mesh: Installation, alice: Client, backend: Backend
) -> None:
    """The memo can be guessed; whoever approves under it has paid nothing."""
    quote, operation = await alice.quote(TOKEN_ORDER), new_operation()
    memo = base64.b64encode(memos.of("charge", operation)).decode()
    await approve(alice, quote, PRICE, memo=memo)
    await approve(alice, quote, PRICE + FEE)
    await left_behind(mesh, quote, operation)
    before = await balance(alice)
    payment = await backend.charge(alice, quote["name"], operation)
    assert before - await balance(alice) == PRICE + FEE
    block = await get(alice, f"ledgers/icp/blocks/{payment.block_index}")
    assert block["operation"] == "OPERATION_TRANSFER_FROM"
    await backend.settle(operation, "create_token")


IN_THE_WAY = """
CREATE FUNCTION ledger.in_the_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'in the way' USING ERRCODE = 'serialization_failure'; END $$;
CREATE TRIGGER in_the_way BEFORE INSERT ON ledger.blocks FOR EACH ROW
    WHEN (NEW.memo = '\\x{memo}') EXECUTE FUNCTION ledger.in_the_way();
"""


async def test_a_refusal_of_the_moment_leaves_the_charge_in_flight(
    mesh: Installation, alice: Client, backend: Backend
) -> None:
    """F-9: a conflict in the ledger ended the order, and its quote went back."""
    quote, operation = await alice.quote(TOKEN_ORDER), new_operation()
    before = await balance(alice)
    async with mesh.superuser() as database:
        memo = memos.of("charge", operation).hex()
        await database.execute(IN_THE_WAY.format(memo=memo))
        try:
            refused = reason_of(backend.charge(alice, quote["name"], operation))
            assert await refused == "CONFLICT"
        finally:
            await database.execute("DROP FUNCTION ledger.in_the_way CASCADE")
    assert (await get(alice, quote["name"]))["state"] == USED
    assert await balance(alice) == before
    payment = await backend.charge(alice, quote["name"], operation)
    assert payment.state == _DONE
    assert before - await balance(alice) == PRICE + FEE
    await backend.settle(operation, "create_token")


TIME = "SELECT created_at_ns FROM invoice_storage.payments WHERE operation = $1"


async def late_charge(
    mesh: Installation, client: Client, quote: dict[str, Any], operation: str
) -> ledger_pb2.TransferFromRequest:
    """The charge of an operation as the payment service asks the ledger for it."""
    async with mesh.superuser() as database:
        created_at = await database.fetchval(TIME, operation)
    return ledger_pb2.TransferFromRequest(
        request_id=str(uuid4()),
        ledger=quote["ledger"],
        to=ledger_pb2.Account(owner=TREASURY),
        amount=quote["total"],
        memo=memos.of("charge", operation),
        created_at_time=stamp(created_at),
        **{"from": ledger_pb2.Account(owner=client.principal)},  # type: ignore[arg-type]
    )


async def test_a_late_call_for_a_charge_that_was_refused_moves_nothing(
    mesh: Installation, alice: Client, backend: Backend
) -> None:
    """F-25: it waited in a frozen replica, and the approval is for what was ordered next."""
    quote, operation = await quote_for(alice, TOKEN_ORDER), new_operation()
    await approve(alice, quote, PRICE)
    refused = reason_of(backend.charge(alice, quote["name"], operation))
    assert await refused == "INSUFFICIENT_ALLOWANCE"
    await approve(alice, quote, 2 * PRICE)
    before = await balance(alice)
    late = await late_charge(mesh, alice, quote, operation)
    async with channel_of(mesh, "invoice_storage") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await LedgerServiceStub(channel).TransferFrom(late, timeout=5)
    assert from_rpc_error(caught.value).reason == "TRANSFER_VOIDED"
    assert await balance(alice) == before
    again = await backend.charge(alice, quote["name"], new_operation())
    assert before - await balance(alice) == PRICE + FEE
    await backend.settle(again.operation, "create_token")


async def test_a_charge_that_was_made_is_not_given_up(
    mesh: Installation, alice: Client, backend: Backend
) -> None:
    quote, operation = await alice.quote(TOKEN_ORDER), new_operation()
    payment = await backend.charge(alice, quote["name"], operation)
    made = await late_charge(mesh, alice, quote, operation)
    request = ledger_pb2.VoidTransferFromRequest(request_id=str(uuid4()), transfer=made)
    async with channel_of(mesh, "invoice_storage") as channel:
        ledger = LedgerServiceStub(channel)
        answer = await ledger.VoidTransferFrom(request, timeout=5)
        assert answer.block_index == payment.block_index
        request.request_id = str(uuid4())
        request.transfer.ClearField("created_at_time")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ledger.VoidTransferFrom(request, timeout=5)
    assert from_rpc_error(caught.value).reason == "INVALID_FIELD"
    await backend.settle(operation, "create_token")


# When a part is away.


async def test_without_payments_nothing_is_charged_and_callers_are_told(
    mesh: Installation, alice: Client
) -> None:
    """C18: payment down, launches stop before the charge."""
    body, before = await paid_body(alice), await balance(alice)
    async with mesh.frozen("invoice_storage"):
        refusals = await asyncio.gather(
            alice.rest("POST", "/v1/tokens", body),
            quote_for(alice, TOKEN_ORDER),
            get(alice, body["quote"]),
            return_exceptions=True,
        )
        told = [(r.status, r.reason) for r in refusals if isinstance(r, CallError)]
        assert told == [(503, "SERVICE_UNAVAILABLE")] * 3
        assert await balance(alice) == before
        assert not (await get(alice, "deployments"))["deployments"]
    deployment = (await alice.rest("POST", "/v1/tokens", body)).body
    assert (await finished(alice, deployment["name"]))["state"] == SUCCEEDED


async def test_without_the_audit_deployments_go_on_and_it_catches_up(
    mesh: Installation, alice: Client
) -> None:
    """C18, F-28: the outbox waits."""
    body = await paid_body(alice)
    async with mesh.frozen("audit_storage"):
        accepted = (await alice.rest("POST", "/v1/tokens", body)).body
        assert (await finished(alice, accepted["name"]))["state"] == SUCCEEDED
        async with mesh.superuser() as database:
            assert await database.fetchval("SELECT count(*) FROM backend.kit_outbox")

    async def told() -> bool:
        path = f"auditEntries?operation={accepted['name']}"
        entries = (await get(alice, path))["entries"]
        statuses = {entry["event"]["act"]["status"] for entry in entries}
        return {"ACT_STATUS_INITIATED", "ACT_STATUS_COMPLETED"} <= statuses

    await until(told, 20)


async def test_a_request_id_belongs_to_one_body(alice: Client) -> None:
    body = await paid_body(alice)
    accepted = (await alice.rest("POST", "/v1/tokens", body)).body
    other = token_body() | {"quote": body["quote"], "requestId": body["requestId"]}
    assert await reason_of(alice.rest("POST", "/v1/tokens", other)) == "REQUEST_ID_REUSED"
    assert (await finished(alice, accepted["name"]))["state"] == SUCCEEDED
    forged = token_body() | {"quote": f"quotes/{uuid4()}"}
    assert await reason_of(alice.rest("POST", "/v1/tokens", forged)) == "QUOTE_NOT_FOUND"


WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::regclass"


async def test_a_charge_that_another_attempt_made_after_it_was_refused_is_not_given_up(
    mesh: Installation, alice: Client, backend: Backend
) -> None:
    """What was in a frozen replica arrives between the refusal and the end of the payment."""
    quote, operation = await quote_for(alice, TOKEN_ORDER), new_operation()
    before, payments = await balance(alice), "invoice_storage.payments"
    async with (
        mesh.superuser() as watching,
        mesh.superuser() as database,
        channel_of(mesh, "invoice_storage") as channel,
        database.transaction(),
    ):

        async def somebody_waits_for(table: str) -> bool:
            return bool(await watching.fetchval(WAITING, table))

        async with mesh.held("ledger.allowances", reads=True):
            charging = asyncio.create_task(backend.charge(alice, quote["name"], operation))
            await until(lambda: somebody_waits_for("ledger.allowances"))
            late = await late_charge(mesh, alice, quote, operation)
            await database.execute(f"LOCK TABLE {payments} IN ACCESS EXCLUSIVE MODE")
        await until(lambda: somebody_waits_for(payments))
        await approve(alice, quote, PRICE + FEE)
        made = await LedgerServiceStub(channel).TransferFrom(late, timeout=5)
    payment = await charging
    assert (payment.state, payment.block_index) == (_DONE, made.block_index)
    # Its approval and the charge.
    assert before - await balance(alice) == PRICE + 2 * FEE
    assert await charges(mesh, operation) == 1
    await backend.settle(operation, "create_token")
