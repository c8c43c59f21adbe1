"""What was charged is delivered or refunded, to the unit, whoever hurries, fails or is away."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest

from contract import wire
from contract.errors import Error
from contract.status import from_rpc_error
from icto.events.v1 import events_pb2 as events
from icto.payment.v1 import payment_pb2
from icto.token.v1 import token_pb2
from icto.token.v1.token_pb2_grpc import TokenServiceStub
from mesh.cli.client import Client
from services.kit.money import memos
from services.kit.testing.rehearsal import REFUSED_PREFIX, SLOW_PREFIX
from services.ledger.domain import Operation
from tests.support.installation import (
    E8S,
    TOKEN_ORDER,
    Installation,
    deployed,
    new_symbol,
    until,
)
from tests.support.money import (
    FEE,
    LAUNCH,
    TREASURY,
    Backend,
    balance,
    channel_of,
    configured,
    empty_treasury,
    gathered,
    get,
    new_operation,
    person,
    post,
    reason_of,
    refund_in,
)
from tests.support.operations import story
from tests.support.tokens import Mint

PRICE = E8S
WHY = "as a test asks"
REFUSED = f"{REFUSED_PREFIX}token"


@pytest.fixture
async def backend(mesh: Installation) -> AsyncIterator[Backend]:
    async with channel_of(mesh, "backend") as channel:
        yield Backend(channel)


@pytest.fixture
async def admin(mesh: Installation, mint: Mint) -> AsyncIterator[Client]:
    async with person(mesh, mint, "ADMIN") as client:
        yield client


@pytest.fixture
async def chief(mesh: Installation, mint: Mint) -> AsyncIterator[Client]:
    async with person(mesh, mint, "SUPER_ADMIN") as client:
        yield client


def nothing_is_automatic(config: dict[str, Any]) -> None:
    config["payment"]["automaticRefundLimit"] = "0"


async def transfers(mesh: Installation, refund: str) -> list[int]:
    """What the ledger paid for a refund, each transfer."""
    memo = memos.of("refund", refund.removeprefix("refunds/"))
    async with mesh.superuser() as database:
        rows = await database.fetch("SELECT amount FROM ledger.blocks WHERE memo = $1", memo)
    return [row["amount"] for row in rows]


async def decide(client: Client, refund: str, verb: str, request_id: str = "") -> dict[str, Any]:
    more = {"requestId": request_id} if request_id else {}
    return await post(client, f"/v1/{refund}:{verb}", justification=WHY, **more)


async def charged(client: Client, backend: Backend, *items: tuple[str, str]) -> payment_pb2.Payment:
    quote = await client.quote(*(items or (TOKEN_ORDER,)))
    return await backend.charge(client, quote["name"], new_operation())


# By itself.


async def test_what_could_not_be_delivered_is_paid_back_to_the_unit(
    mesh: Installation, alice: Client
) -> None:
    """F-4, F-5, F-25: a definite failure after the charge; the platform bears the refund's fee."""
    before, held = await balance(alice), await balance(alice, TREASURY)
    deployment = await deployed(alice, displayName=REFUSED)
    assert deployment["state"] == "DEPLOYMENT_STATE_FAILED"
    assert deployment["error"]["reason"] == "CHAIN_REFUSED"
    steps = {step["name"]: step["state"] for step in deployment["steps"]}
    assert steps == {
        "charge": "STEP_STATE_SUCCEEDED",
        "create_token": "STEP_STATE_FAILED",
        "abandon": "STEP_STATE_SUCCEEDED",
        "settle": "STEP_STATE_SUCCEEDED",
    }
    refund = await refund_in(alice, deployment["payment"], "COMPLETED")
    assert (refund["amount"], refund["decidedBy"]) == (str(PRICE), "automatic")
    assert refund["reason"] == "REFUND_REASON_SERVICE_FAILURE"
    payment = await get(alice, deployment["payment"])
    assert (payment["state"], payment["refundedAmount"]) == (
        "PAYMENT_STATE_REFUNDED",
        str(PRICE),
    )
    assert (await get(alice, payment["invoice"]))["state"] == "INVOICE_STATE_REFUNDED"
    # The payer bore the ledger's fee of the approval and of the charge, and of nothing else.
    assert before - await balance(alice) == 2 * FEE
    assert held - await balance(alice, TREASURY) == FEE
    assert await transfers(mesh, refund["name"]) == [PRICE]
    begun, ended = await story(mesh, refund["name"], "RefundPayment")
    assert (begun.status, ended.status) == (
        events.ACT_STATUS_INITIATED,
        events.ACT_STATUS_COMPLETED,
    )
    assert (ended.principal, ended.details["amount"]) == (alice.principal, str(PRICE))


async def test_only_the_share_of_what_is_missing_goes_back(alice: Client, backend: Backend) -> None:
    """F-27: the shares were fixed in the quote, and add up."""
    payment = await charged(alice, backend, *LAUNCH)
    lines = {x["step"]: int(x["amount"]) for x in (await get(alice, payment.invoice))["lines"]}
    before = await balance(alice)
    settled = await backend.settle(payment.operation, "create_token")
    assert int(settled.refunded_amount) == lines["lock"]
    assert int(settled.delivered_amount) == lines["base"] + lines["create_token"]
    await refund_in(alice, payment.name, "COMPLETED")
    assert await balance(alice) - before == lines["lock"]
    invoice = await get(alice, payment.invoice)
    assert invoice["state"] == "INVOICE_STATE_PARTIALLY_REFUNDED"
    assert int(invoice["refunded"]) == lines["lock"]


async def test_a_settlement_that_is_repeated_changes_nothing(
    mesh: Installation, alice: Client, backend: Backend
) -> None:
    """F-1, F-2: also under other request ids, and a hundred at a time."""
    payment = await charged(alice, backend)
    before = await balance(alice)
    answers = await asyncio.gather(
        *(
            backend.settle(payment.operation, request_id="same" if n % 2 else "")
            for n in range(100)
        ),
        return_exceptions=True,
    )
    refused = Counter(a.reason for a in answers if isinstance(a, Error))
    assert set(refused) <= {"PAYMENT_SETTLED", "REQUEST_IN_PROGRESS", "REFUND_CHANGED"}, refused
    refund = await refund_in(alice, payment.name, "COMPLETED")
    assert await transfers(mesh, refund["name"]) == [PRICE]
    assert await balance(alice) - before == PRICE
    with pytest.raises(Error, match="PAYMENT_SETTLED"):
        await backend.settle(payment.operation, "create_token")


@pytest.mark.parametrize(
    "point",
    [
        "payment.settle.committed",
        "payment.refund.after",
    ],
)
async def test_whoever_dies_around_a_refund_it_is_paid_once(
    mesh: Installation, alice: Client, point: str
) -> None:
    """F-8, F-18. The crash harness has every point, and many at a time."""
    before = await balance(alice)
    async with mesh.crash_at(point):
        deployment = await deployed(alice, displayName=REFUSED)
        refund = await refund_in(alice, deployment["payment"], "COMPLETED")
        await until(lambda: _hit(mesh, point))
    await mesh.until_healthy()
    assert await transfers(mesh, refund["name"]) == [PRICE]
    assert before - await balance(alice) == 2 * FEE


async def _hit(mesh: Installation, point: str) -> bool:
    return (mesh.faults / f"{point}.hit").exists()


# Late deliveries.


class Deployer:
    """The backend's own calls of the token deployer."""

    def __init__(self, channel: grpc.aio.Channel, owner: str) -> None:
        self._tokens = TokenServiceStub(channel)
        self._behalf = ((wire.HEADER_ON_BEHALF_OF, owner),)

    async def deploy(self, operation: str, spec: token_pb2.TokenSpec, payment: str = "") -> str:
        """The token, or why there is none."""
        request = token_pb2.DeployTokenRequest(
            request_id=f"{operation}:create_token", operation=operation, spec=spec, payment=payment
        )
        try:
            token = await self._tokens.DeployToken(request, metadata=self._behalf, timeout=10)
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error).reason
        return token.name

    async def abandon(self, operation: str) -> str:
        """The token that was delivered before, if one was."""
        request = token_pb2.AbandonTokenRequest(request_id=str(uuid4()), operation=operation)
        return (await self._tokens.AbandonToken(request, timeout=10)).delivered_token


def spec(name: str = "A token") -> token_pb2.TokenSpec:
    return token_pb2.TokenSpec(
        display_name=name, symbol=new_symbol(), total_supply="1000", transfer_fee="1"
    )


@pytest.fixture
async def deployer(mesh: Installation, alice: Client) -> AsyncIterator[Deployer]:
    async with channel_of(mesh, "backend") as channel:
        yield Deployer(channel, alice.principal)


async def test_the_original_call_that_arrives_after_the_refund_is_refused(
    alice: Client, deployer: Deployer
) -> None:
    """F-25: a free token, or a lost one."""
    failed = await deployed(alice, displayName=REFUSED)
    await refund_in(alice, failed["payment"], "COMPLETED")
    late = token_pb2.TokenSpec(
        display_name=REFUSED, symbol=failed["spec"]["symbol"], total_supply="1000000000"
    )
    outcome = await deployer.deploy(failed["name"], late, failed["payment"])
    assert outcome == "OPERATION_ABANDONED"


async def test_an_operation_that_nobody_heard_of_can_be_given_up(deployer: Deployer) -> None:
    operation = new_operation()
    assert await deployer.abandon(operation) == ""
    assert await deployer.deploy(operation, spec()) == "OPERATION_ABANDONED"


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.1, 0.3])
async def test_a_delivery_that_races_with_giving_up_is_one_of_them(
    alice: Client, deployer: Deployer, seconds: float
) -> None:
    """F-25: the chain takes half a second, and meanwhile the operation is given up."""
    operation = new_operation()
    delivering = asyncio.create_task(deployer.deploy(operation, spec(f"{SLOW_PREFIX}token")))
    await asyncio.sleep(seconds)
    before = await deployer.abandon(operation)
    outcome = await delivering
    assert before in {"", outcome}
    if before == "":
        assert outcome in {"OPERATION_ABANDONED", "LEDGER_CLOSED"}
    owned = (await get(alice, f"tokens?owner={alice.principal}"))["tokens"]
    active = [token["name"] for token in owned if token["state"] == "TOKEN_STATE_ACTIVE"]
    assert active == ([before] if before else [])
    for token in owned:
        if token["name"] not in active:
            ledger = token["name"].replace("tokens/", "ledgers/")
            assert await reason_of(get(alice, ledger)) == "LEDGER_NOT_FOUND"


async def test_a_payment_is_good_for_one_token(deployer: Deployer) -> None:
    """F-19: the deployer does not take the caller's word twice."""
    payment = f"payments/{uuid4()}"
    assert (await deployer.deploy(new_operation(), spec(), payment)).startswith("tokens/")
    assert await deployer.deploy(new_operation(), spec(), payment) == "PAYMENT_CONSUMED"


# By people.


async def test_above_the_limit_a_refund_waits_for_a_person(
    mesh: Installation, alice: Client, admin: Client, chief: Client
) -> None:
    """F-1: two administrators at the same moment. C14."""
    async with configured(mesh, chief, nothing_is_automatic):
        failed = await deployed(alice, displayName=REFUSED)
        refund = await refund_in(alice, failed["payment"], "PENDING")
    before = await balance(alice)
    assert await transfers(mesh, refund["name"]) == []
    listed = await get(admin, f"refunds?owner={alice.principal}&state=REFUND_STATE_PENDING")
    assert [one["name"] for one in listed["refunds"]] == [refund["name"]]
    reasons = await gathered(
        *(decide(who, refund["name"], "approve") for who in (admin, chief) * 3)
    )
    assert reasons.count("") == 1
    assert set(reasons) <= {"", "REFUND_STATE", "REFUND_CHANGED"}
    done = await refund_in(alice, failed["payment"], "COMPLETED")
    assert done["decidedBy"] in (admin.principal, chief.principal)
    assert await transfers(mesh, refund["name"]) == [PRICE]
    assert await balance(alice) - before == PRICE
    assert await reason_of(decide(admin, refund["name"], "reject")) == "REFUND_STATE"


async def test_a_hundred_approvals_under_one_request_id_are_one(
    mesh: Installation, alice: Client, admin: Client, chief: Client
) -> None:
    async with configured(mesh, chief, nothing_is_automatic):
        failed = await deployed(alice, displayName=REFUSED)
        refund = await refund_in(alice, failed["payment"], "PENDING")
    reasons = await gathered(
        *(decide(admin, refund["name"], "approve", "the same") for _ in range(100))
    )
    assert set(reasons) <= {"", "REQUEST_IN_PROGRESS"}
    await refund_in(alice, failed["payment"], "COMPLETED")
    assert await transfers(mesh, refund["name"]) == [PRICE]


async def test_what_was_rejected_may_be_asked_for_again(
    mesh: Installation, alice: Client, bob: Client, admin: Client, chief: Client
) -> None:
    """F-2, F-3, F-17."""
    async with configured(mesh, chief, nothing_is_automatic):
        failed = await deployed(alice, displayName=REFUSED)
        refund = await refund_in(alice, failed["payment"], "PENDING")
    ask = {"payment": failed["payment"], "description": "please"}
    assert await reason_of(post(alice, "/v1/refunds", **ask)) == "REFUND_EXISTS"
    rejected = await decide(admin, refund["name"], "reject")
    assert rejected["state"] == "REFUND_STATE_REJECTED"
    assert await reason_of(decide(admin, refund["name"], "approve")) == "REFUND_STATE"
    assert await reason_of(post(bob, "/v1/refunds", **ask)) == "PAYMENT_NOT_FOUND"
    assert await gathered(*(post(alice, "/v1/refunds", **ask) for _ in range(5))) == [
        "",
        *["REFUND_EXISTS"] * 4,
    ]
    again = await refund_in(alice, failed["payment"], "PENDING")
    assert (again["reason"], again["amount"]) == ("REFUND_REASON_USER_REQUEST", str(PRICE))
    for verb in ("approve", "reject", "process"):
        assert await reason_of(decide(alice, again["name"], verb)) == "ACCESS_DENIED"
    assert await reason_of(get(bob, again["name"])) == "REFUND_NOT_FOUND"
    await decide(admin, again["name"], "approve")
    await refund_in(alice, failed["payment"], "COMPLETED")
    assert await reason_of(post(alice, "/v1/refunds", **ask)) == "PAYMENT_REFUNDED"


async def test_what_was_delivered_is_not_refunded(alice: Client) -> None:
    """F-3."""
    done = await deployed(alice)
    ask = {"payment": done["payment"], "description": "please"}
    assert await reason_of(post(alice, "/v1/refunds", **ask)) == "PAYMENT_DELIVERED"
    forged = {"payment": f"payments/{uuid4()}", "description": "please"}
    assert await reason_of(post(alice, "/v1/refunds", **forged)) == "PAYMENT_NOT_FOUND"


async def test_a_request_is_decided_once_delivery_was_given_up(
    mesh: Installation, alice: Client, admin: Client, chief: Client, backend: Backend
) -> None:
    """F-25: an approval while delivery is still possible would pay for what may yet come."""
    payment = await charged(alice, backend)
    ask = {"payment": payment.name, "description": "too slow"}
    taken_back = await post(alice, "/v1/refunds", **ask)
    cancelled = await post(alice, f"/v1/{taken_back['name']}:cancel")
    assert cancelled["state"] == "REFUND_STATE_CANCELLED"
    refund = await post(alice, "/v1/refunds", **ask)
    approval = decide(admin, refund["name"], "approve")
    assert await reason_of(approval) == "PAYMENT_NOT_SETTLED"
    async with configured(mesh, chief, nothing_is_automatic):
        await backend.settle(payment.operation)
    found = await get(alice, refund["name"])
    assert (found["state"], found["reason"]) == (
        "REFUND_STATE_PENDING",
        "REFUND_REASON_SERVICE_FAILURE",
    )
    taking_back = post(alice, f"/v1/{refund['name']}:cancel")
    assert await reason_of(taking_back) == "REFUND_NOT_REQUESTED"
    await decide(admin, refund["name"], "approve")
    await refund_in(alice, payment.name, "COMPLETED")
    assert await transfers(mesh, refund["name"]) == [PRICE]


async def test_whoever_asks_for_a_refund_waits_no_longer_for_it(
    mesh: Installation, alice: Client, backend: Backend
) -> None:
    """What goes back by itself does so, too, when its payer has asked for it meanwhile."""
    payment = await charged(alice, backend, *LAUNCH)
    asked = await post(alice, "/v1/refunds", payment=payment.name, description="too slow")
    before = await balance(alice)
    settled = await backend.settle(payment.operation, "create_token")
    assert settled.refund == asked["name"]
    done = await refund_in(alice, payment.name, "COMPLETED")
    assert (done["name"], done["decidedBy"]) == (asked["name"], "automatic")
    assert (done["amount"], done["reason"]) == (
        settled.refunded_amount,
        "REFUND_REASON_SERVICE_FAILURE",
    )
    assert await transfers(mesh, asked["name"]) == [int(settled.refunded_amount)]
    assert await balance(alice) - before == int(settled.refunded_amount)


# Between two attempts only: one that is under way might still end after the treasury is full again.
PARK = """
UPDATE invoice_storage.kit_pipelines SET state = 5, epoch = epoch + 1,
    parked_reason = 'a test' WHERE id = $1 AND state = 1 AND worker IS NULL
"""
MOVE = "UPDATE invoice_storage.refunds SET ledger = $2 WHERE id = $1"


async def test_a_transfer_that_failed_is_processed_again_once(
    mesh: Installation, alice: Client, admin: Client, chief: Client
) -> None:
    """F-1: two administrators process it at the same moment."""
    async with configured(mesh, chief, nothing_is_automatic):
        failed = await deployed(alice, displayName=REFUSED)
        refund = await refund_in(alice, failed["payment"], "PENDING")
    key = refund["name"].removeprefix("refunds/")
    async with mesh.superuser() as database:
        await database.execute(MOVE, key, f"ledgers/{uuid4()}")
        await decide(admin, refund["name"], "approve")
        broken = await refund_in(alice, failed["payment"], "FAILED")
        await database.execute(MOVE, key, "ledgers/icp")
    assert broken["problem"] == "LEDGER_NOT_FOUND"
    assert (await get(alice, failed["payment"]))["state"] == "PAYMENT_STATE_SETTLED"
    reasons = await gathered(
        *(decide(who, refund["name"], "process") for who in (admin, chief) * 4)
    )
    assert reasons.count("") == 1
    assert set(reasons) <= {"", "REFUND_STATE", "REFUND_CHANGED"}
    done = await refund_in(alice, failed["payment"], "COMPLETED")
    assert done["problem"] == ""
    assert await transfers(mesh, refund["name"]) == [PRICE]


# The treasury.


async def below_its_float(mesh: Installation) -> bool:
    """Whether the metrics say so at every replica: what an alert looks at."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{mesh.metrics_port}/metrics")).text
    held, wanted = (
        [
            float(value)
            for value in re.findall(rf"^icto_treasury_{name}\S* (\S+)$", text, re.MULTILINE)
        ]
        for name in ("balance", "float")
    )
    return bool(held) and max(held) < min(wanted)


async def test_a_treasury_that_is_short_holds_refunds_up_and_they_resume_by_themselves(
    mesh: Installation, alice: Client, admin: Client
) -> None:
    """The refund stays in processing, says why, and shows to those who can do something."""
    totals = await get(admin, "payments:totals")
    assert totals["treasuryShortCount"] == 0
    before = await balance(alice)
    async with empty_treasury(mesh):
        await until(lambda: below_its_float(mesh), 20)
        failed = await deployed(alice, displayName=REFUSED)
        # What was just charged suffices for the amount, and not for the ledger's fee.

        async def told() -> dict[str, Any] | None:
            name = (await get(alice, failed["payment"]))["refund"]
            found = await get(alice, name)
            return found if found["problem"] else None

        refund = await until(told, 15)
        assert (refund["state"], refund["problem"]) == (
            "REFUND_STATE_PROCESSING",
            "TREASURY_SHORT",
        )
        assert (await get(admin, "payments:totals"))["treasuryShortCount"] == 1
        assert await transfers(mesh, refund["name"]) == []
    done = await refund_in(alice, failed["payment"], "COMPLETED")
    assert (done["problem"], await transfers(mesh, refund["name"])) == ("", [PRICE])
    assert before - await balance(alice) == 2 * FEE
    assert (await get(admin, "payments:totals"))["treasuryShortCount"] == 0


async def test_a_refund_that_waits_for_a_person_goes_on_when_one_says_so(
    mesh: Installation, alice: Client, admin: Client
) -> None:
    """The journal parks what never becomes known; nobody's money stays there."""
    async with empty_treasury(mesh):
        failed = await deployed(alice, displayName=REFUSED)
        refund = await refund_in(alice, failed["payment"], "PROCESSING")

        async def parked() -> bool:
            async with mesh.superuser() as database:
                done: str = await database.execute(PARK, refund["name"].removeprefix("refunds/"))
            return done == "UPDATE 1"

        await until(parked)
    assert await transfers(mesh, refund["name"]) == []
    await decide(admin, refund["name"], "process")
    await refund_in(alice, failed["payment"], "COMPLETED")
    assert await transfers(mesh, refund["name"]) == [PRICE]
    assert await reason_of(decide(admin, refund["name"], "process")) == "REFUND_STATE"


async def test_all_money_is_accounted_for(mesh: Installation, admin: Client) -> None:
    """Cross-cutting invariant 1, F-7. Last: over everything that this run has paid."""
    totals = {key: int(value) for key, value in (await get(admin, "payments:totals")).items()}
    assert totals["charged"] > 0
    assert totals["charged"] == (
        totals["delivered"] + totals["refunded"] + totals["refundPending"] + totals["held"]
    )
    async with mesh.superuser() as database:
        twice = await database.fetch(
            "SELECT memo FROM ledger.blocks WHERE memo <> '' AND operation <> $1"
            " GROUP BY memo HAVING count(*) > 1",
            Operation.APPROVE,
        )
        open_ = await database.fetch(
            "SELECT p.id FROM invoice_storage.payments p LEFT JOIN invoice_storage.refunds r"
            " ON r.payment_id = p.id AND r.state NOT IN (6, 7)"
            " WHERE (p.state = 5) <> (r.state IS NOT NULL AND r.state = 4)"
        )
    assert not twice
    assert not open_
