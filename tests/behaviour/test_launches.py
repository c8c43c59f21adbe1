"""Launches on a running mesh: delivered in parallel, compensated part by part, never free."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from mesh.cli.client import CallError, Client
from services.kit.testing.rehearsal import REFUSED_PREFIX, SLOW_PREFIX
from tests.chaos import invariants
from tests.support.installation import Installation, deployed, until
from tests.support.launches import (
    FEE,
    SUPPLY,
    balance,
    distribution,
    ended,
    launched,
    ledger_of,
    lock,
    ordered,
    paid,
    quoted,
    spec,
    steps,
    token,
    validated,
)
from tests.support.money import configured, get, post, reason_of
from tests.support.operations import act

REFUSED_PART = f"{REFUSED_PREFIX}part"


@pytest.fixture
async def creator(mesh: Installation) -> AsyncIterator[Client]:
    client = await mesh.user()
    yield client
    await client.close()


async def test_a_launch_delivers_everything_and_the_rest_to_its_owner(creator: Client) -> None:
    me = creator.principal
    wanted = spec({"newToken": token()}, [lock(me), lock(me, 7_000)], [distribution(me)])
    launch = await launched(creator, wanted)
    assert launch["state"] == "LAUNCH_STATE_SUCCEEDED", launch
    assert len(launch["locks"]) == 2
    assert len(launch["distributions"]) == 1
    ledger = ledger_of(launch)
    taken = 100_000 + 7_000 + 50_000 + 3 * FEE
    assert await balance(creator, ledger, me) == SUPPLY - taken - FEE
    assert await balance(creator, ledger, launch["escrow"]) == 0
    supply = int((await creator.rest("GET", f"/v1/{ledger}")).body["totalSupply"])
    assert supply == SUPPLY - 4 * FEE
    payment = await paid(creator, launch)
    assert payment["state"] == "PAYMENT_STATE_SETTLED"
    assert int(payment["amount"]) == 1_0000_0000 + 3 * 5000_0000 + 5000_0000


async def test_parts_run_in_parallel(creator: Client) -> None:
    """At one time, and by more than one replica of whoever delivers them."""
    me = creator.principal
    parts = [lock(me, displayName=f"Slow {n}") for n in range(10)]
    launch = await launched(creator, spec({"newToken": token()}, parts))
    times = {s["name"]: (s["startTime"], s.get("endTime", "")) for s in launch["steps"]}
    first_end = min(times[f"lock_{n}"][1] for n in range(1, 11))
    last_start = max(times[f"lock_{n}"][0] for n in range(1, 11))
    assert last_start < first_end

    async def makers() -> list[str] | None:
        """Replicas that made the locks, as the audit knows them."""
        path = "/v1/auditEntries?action=CreateLock&pageSize=100"
        acts = [e["event"]["act"] for e in (await creator.rest("GET", path)).body["entries"]]
        return [act["instance"] for act in acts] if len(acts) == 10 else None

    assert set(await until(makers)) == {"lock_deployer-1", "lock_deployer-2"}


async def test_a_failed_part_is_undone_alone_and_its_share_goes_back(creator: Client) -> None:
    me = creator.principal
    bad = lock(me, 9_000, displayName=REFUSED_PART)
    launch = await launched(creator, spec({"newToken": token()}, [lock(me), bad]))
    assert launch["state"] == "LAUNCH_STATE_PARTIALLY_SUCCEEDED"
    assert steps(launch)["lock_1"] == "SUCCEEDED"
    assert steps(launch)["lock_2"] == "FAILED"
    assert steps(launch)["abandon_lock_2"] == "SUCCEEDED"
    assert launch["error"]["reason"] == "LOCK_REFUSED"
    payment = await paid(creator, launch)
    assert int(payment["refundedAmount"]) == 5000_0000
    # What was delivered stays so, the token is its owner's, and the rest lies in escrow.
    escrowed = SUPPLY - 100_000 - FEE
    assert await balance(creator, ledger_of(launch), launch["escrow"]) == escrowed


async def test_a_token_that_fails_takes_the_whole_launch_and_all_its_cost_back(
    creator: Client,
) -> None:
    me = creator.principal
    before = await balance(creator, "ledgers/icp", me)
    new = token(displayName=f"{REFUSED_PREFIX}token")
    launch = await launched(creator, spec({"newToken": new}, [lock(me)], [distribution(me)]))
    assert launch["state"] == "LAUNCH_STATE_FAILED"
    assert steps(launch)["lock_1"] == "SKIPPED"
    payment = await paid(creator, launch)
    assert payment["refundedAmount"] == payment["amount"]
    # The payer bears two ledger fees: of the approval and of the charge.
    assert before - await balance(creator, "ledgers/icp", me) == 2 * 10_000


async def test_what_failed_is_launched_again_from_escrow_and_paid_for(creator: Client) -> None:
    me = creator.principal
    bad = lock(me, 9_000, displayName=REFUSED_PART)
    first = await launched(creator, spec({"newToken": token()}, [bad]))
    again = spec({"launch": first["name"]}, [lock(me, 9_000)])
    items = (await validated(creator, again))["items"]
    assert [item["step"] for item in items] == ["lock_1", "launch"]
    with pytest.raises(CallError) as refused:
        await creator.rest("POST", "/v1/launches", {"requestId": str(uuid4()), "spec": again})
    assert refused.value.reason == "QUOTE_REQUIRED"
    second = await launched(creator, again)
    assert second["state"] == "LAUNCH_STATE_SUCCEEDED", second
    assert second["token"] == first["token"]
    left = SUPPLY - (9_000 + FEE) - FEE
    assert await balance(creator, ledger_of(first), first["escrow"]) == left


async def test_the_owner_withdraws_what_lies_in_escrow_once(
    mesh: Installation, creator: Client
) -> None:
    me = creator.principal
    bad = lock(me, 9_000, displayName=REFUSED_PART)
    launch = await launched(creator, spec({"newToken": token()}, [bad]))
    path = f"/v1/{launch['name']}:withdrawEscrow"
    stranger = await mesh.user(0)
    with pytest.raises(CallError) as foreign:
        await stranger.rest("POST", path, {"requestId": str(uuid4())})
    assert foreign.value.status == 404
    await stranger.close()
    tries = [creator.rest("POST", path, {"requestId": str(uuid4())}) for _ in range(5)]
    async with mesh.held("ledger.blocks"):  # the first payout must not be over before the others
        answers = await asyncio.gather(*tries, return_exceptions=True)
    good = [answer for answer in answers if not isinstance(answer, BaseException)]
    bad_reasons = {a.reason for a in answers if isinstance(a, CallError)}
    assert len(good) == 1
    assert bad_reasons == {"WITHDRAWAL_UNDER_WAY"}
    assert int(good[0].body["amount"]) == SUPPLY - FEE

    async def arrived() -> bool:
        return await balance(creator, ledger_of(launch), me) == SUPPLY - FEE

    await until(arrived)

    async def told() -> bool:
        found = (await creator.rest("GET", f"/v1/{launch['name']}")).body
        return bool(found["withdrawnAmount"] == str(SUPPLY - FEE))

    await until(told)
    with pytest.raises(CallError) as again:
        await creator.rest("POST", path, {"requestId": str(uuid4())})
    assert again.value.reason == "NOTHING_TO_WITHDRAW"
    begun, arrived_act = await withdrawals(creator, launch["name"])
    assert begun["details"] == {"amount": str(SUPPLY - FEE)}
    block = f"/v1/{ledger_of(launch)}/blocks/{arrived_act['details']['block_index']}"
    transfer = (await creator.rest("GET", block)).body
    assert transfer["amount"] == arrived_act["details"]["amount"] == str(SUPPLY - FEE)
    assert transfer["to"]["owner"] == me


async def withdrawals(client: Client, launch: str) -> list[dict[str, Any]]:
    """What the audit knows of a withdrawal: that it began, and that it arrived."""
    query = f"/v1/auditEntries?operation={launch}&action=WithdrawEscrow"

    async def told() -> list[dict[str, Any]] | None:
        entries = (await client.rest("GET", query)).body["entries"]
        acts = [entry["event"]["act"] for entry in entries]
        return sorted(acts, key=lambda act: act["status"], reverse=True) if len(acts) == 2 else None

    found: list[dict[str, Any]] = await until(told)
    assert [act["status"] for act in found] == ["ACT_STATUS_INITIATED", "ACT_STATUS_COMPLETED"]
    return found


async def test_until_the_ownership_step_supply_and_mint_rights_are_the_launchs(
    mesh: Installation, creator: Client
) -> None:
    me = creator.principal
    new = token(mintingAccount={"owner": me, "subaccount": base64.b64encode(b"m" * 32).decode()})
    slow = lock(me, displayName="Slow part")
    accepted = await ordered(creator, spec({"newToken": new}, [slow]))

    async def token_there() -> dict[str, Any] | None:
        found = (await creator.rest("GET", f"/v1/{accepted['name']}")).body
        return found if found["token"] and found["state"] == "LAUNCH_STATE_IN_PROGRESS" else None

    found = await until(token_there)
    ledger = ledger_of(found)
    mint = {
        "requestId": str(uuid4()),
        "to": {"owner": me},
        "amount": "1000",
        "fromSubaccount": base64.b64encode(b"m" * 32).decode(),
    }
    with pytest.raises(CallError) as refused:
        await creator.rest("POST", f"/v1/{ledger}:transfer", mint)
    assert refused.value.reason == "INSUFFICIENT_FUNDS"
    async with mesh.superuser() as database:
        during = await database.fetchrow(
            "SELECT controller, minting_owner FROM ledger.ledgers WHERE id = $1",
            UUID(ledger.partition("/")[2]),
        )
    assert during is not None
    assert me not in (during["controller"], during["minting_owner"])
    assert (await ended(creator, accepted["name"]))["state"] == "LAUNCH_STATE_SUCCEEDED"
    await creator.rest("POST", f"/v1/{ledger}:transfer", mint | {"requestId": str(uuid4())})
    after = (await creator.rest("GET", f"/v1/{ledger}")).body
    assert after["controller"] == me


async def test_what_is_sent_to_the_future_minting_account_meanwhile_is_burned_with_the_handover(
    mesh: Installation, creator: Client
) -> None:
    """Nobody can hold a launch up with dust, and the supply stays what the balances add up to."""
    me, dust = creator.principal, 123
    minter = {"owner": me, "subaccount": base64.b64encode(b"m" * 32).decode()}
    wanted = spec({"newToken": token(mintingAccount=minter)}, [lock(me)], [distribution(me)])
    async with mesh.held("lock_deployer.locks"):
        name = (await ordered(creator, wanted))["name"]

        async def distributed() -> dict[str, Any] | None:
            found = await get(creator, name)
            return found if found["distributions"] else None

        found = await until(distributed)
        ledger = ledger_of(found)
        await post(creator, f"/v1/{found['distributions'][0]}:claim")

        async def arrived() -> bool:
            return await balance(creator, ledger, me) == 50_000 - FEE

        await until(arrived)
        await post(creator, f"/v1/{ledger}:transfer", to=minter, amount=str(dust))
        assert await balance(creator, ledger, minter) == dust
    assert (await ended(creator, name))["state"] == "LAUNCH_STATE_SUCCEEDED"
    assert await balance(creator, ledger, minter) == 0
    # Two parts, the claim, the dust's transfer, and the remainder to the owner.
    supply = int((await get(creator, ledger))["totalSupply"])
    assert supply == SUPPLY - 5 * FEE - dust
    assert (await act(mesh, ledger, "SetController")).details["burned"] == str(dust)
    async with mesh.superuser() as database:
        problems = await invariants.of_ledgers(database)
    assert not [problem for problem in problems if ledger.partition("/")[2] in problem]


async def test_a_token_that_exists_is_launched_by_allowance_of_its_owner(
    creator: Client, bob: Client
) -> None:
    me = creator.principal
    mine = (await deployed(creator, transferFee=str(FEE)))["token"]
    ledger = mine.replace("tokens/", "ledgers/")
    wanted = spec({"token": mine}, [lock(me)], [distribution(me)])
    told = await validated(creator, wanted)
    assert int(told["escrowAmount"]) == 150_000 + 2 * FEE
    assert told["remainderAmount"] == "0"
    taken = int(told["escrowAmount"]) + FEE

    async def approve(amount: int) -> None:
        await creator.approve(ledger, told["spender"], str(amount))

    await approve(taken - 1)
    assert await reason_of(ordered(creator, wanted)) == "INSUFFICIENT_ALLOWANCE"
    await approve(taken)
    before = await balance(creator, ledger, me)
    quote = await quoted(creator, told["items"])
    order = {"requestId": str(uuid4()), "spec": wanted, "quote": quote["name"]}
    accepted = await post(creator, "/v1/launches", **order)
    launch = await ended(creator, accepted["name"])
    assert launch["state"] == "LAUNCH_STATE_SUCCEEDED", launch
    assert before - await balance(creator, ledger, me) == taken
    # Its allowance is spent by now: a repeat has the answer of the first all the same.
    assert await post(creator, "/v1/launches", **order) == accepted
    more = spec({"token": mine}, [lock(me, SUPPLY)])
    await approve(2 * SUPPLY)
    assert await reason_of(ordered(creator, more)) == "INSUFFICIENT_FUNDS"
    theirs = spec({"token": mine}, [lock(bob.principal)])
    assert await reason_of(validated(bob, theirs)) == "NOT_TOKEN_OWNER"
    assert (await bob.rest("GET", "/v1/launches")).body["launches"] == []


async def test_an_allowance_that_goes_after_the_order_gives_the_money_back(
    mesh: Installation, creator: Client, admin: Client
) -> None:
    """What was seen before the charge may have gone by the time that it is taken."""
    mine = (await deployed(creator, transferFee=str(FEE)))["token"]
    ledger = mine.replace("tokens/", "ledgers/")
    wanted = spec({"token": mine}, [lock(creator.principal)])
    spender = (await validated(creator, wanted))["spender"]
    await creator.approve(ledger, spender, str(SUPPLY))
    async with configured(mesh, admin, one_at_a_time):
        for _ in range(3):
            ahead = token(displayName=f"{SLOW_PREFIX}token")
            await ordered(creator, spec({"newToken": ahead}))
        launch = await ordered(creator, wanted)
        assert launch["state"] == "LAUNCH_STATE_PENDING"
        await creator.approve(ledger, spender, "0")
        failed = await ended(creator, launch["name"])
    assert failed["state"] == "LAUNCH_STATE_FAILED"
    assert failed["error"]["reason"] == "INSUFFICIENT_ALLOWANCE"
    assert (await paid(creator, failed))["state"] == "PAYMENT_STATE_REFUNDED"


async def test_a_cancelled_launch_keeps_what_was_delivered_and_refunds_the_rest(
    creator: Client,
) -> None:
    me = creator.principal
    new = token(displayName=f"{SLOW_PREFIX}token")
    accepted = await ordered(creator, spec({"newToken": new}, [lock(me)], [distribution(me)]))
    name = accepted["name"]

    async def charged() -> bool:
        found = (await creator.rest("GET", f"/v1/{name}")).body
        return steps(found)["charge"] == "SUCCEEDED"

    await until(charged)
    await creator.rest("POST", f"/v1/{name}:cancel", {"requestId": str(uuid4())})
    launch = await ended(creator, name)
    assert launch["state"] in ("LAUNCH_STATE_CANCELLED", "LAUNCH_STATE_PARTIALLY_SUCCEEDED")
    assert steps(launch)["lock_1"] == "SKIPPED"
    payment = await paid(creator, launch)
    delivered = 1_5000_0000 if launch["token"] else 0
    assert int(payment["amount"]) - int(payment["refundedAmount"]) == delivered
    with pytest.raises(CallError) as late:
        await creator.rest("POST", f"/v1/{name}:cancel", {"requestId": str(uuid4())})
    assert late.value.reason == "LAUNCH_ENDED"


def one_at_a_time(config: dict[str, Any]) -> None:
    """A limit on all launches."""
    config["limits"]["maxConcurrentPipelines"] = 1


async def test_beyond_the_limit_launches_wait_in_a_queue_and_tell_their_place(
    mesh: Installation, creator: Client, admin: Client
) -> None:
    async with configured(mesh, admin, one_at_a_time):
        names = []
        for _ in range(3):
            new = token(displayName=f"{SLOW_PREFIX}token")
            names.append((await ordered(creator, spec({"newToken": new})))["name"])

        async def queued() -> list[int] | None:
            found = (await creator.rest("GET", "/v1/launches")).body["launches"][::-1]
            places = [launch["queuePosition"] for launch in found]
            assert sum(launch["state"] == "LAUNCH_STATE_IN_PROGRESS" for launch in found) <= 1
            return places if places[-1] == 2 else None

        assert await until(queued) == [0, 1, 2]
        for name in names:
            assert (await ended(creator, name))["state"] == "LAUNCH_STATE_SUCCEEDED"


async def test_one_request_id_is_one_launch(creator: Client) -> None:
    wanted = spec({"newToken": token()}, [lock(creator.principal)])
    quote = await quoted(creator, (await validated(creator, wanted))["items"])
    body = {"requestId": str(uuid4()), "spec": wanted, "quote": quote["name"]}
    tries = [creator.rest("POST", "/v1/launches", body) for _ in range(20)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    names = {a.body["name"] for a in answers if not isinstance(a, BaseException)}
    assert len(names) == 1
    assert all(a.status == 409 for a in answers if isinstance(a, CallError))
    assert (await ended(creator, names.pop()))["state"] == "LAUNCH_STATE_SUCCEEDED"
    listed = (await creator.rest("GET", "/v1/launches")).body["launches"]
    assert len(listed) == 1


Make = Callable[[str], dict[str, Any]]
BAD: dict[str, tuple[Make, str]] = {
    "more than the supply": (
        lambda me: spec({"newToken": token()}, [lock(me, SUPPLY)]),
        "ESCROW_NOT_COVERED",
    ),
    "short by one unit for the fees": (
        lambda me: spec({"newToken": token()}, [lock(me, SUPPLY - FEE + 1)]),
        "ESCROW_NOT_COVERED",
    ),
    "a remainder that nobody can move": (
        lambda me: spec({"newToken": token()}, [lock(me, SUPPLY - 2 * FEE)]),
        "REMAINDER_TOO_SMALL",
    ),
    "initial balances": (
        lambda me: spec(
            {"newToken": token(initialBalances=[{"account": {"owner": me}, "amount": "1000"}])}
        ),
        "spec.new_token.initial_balances",
    ),
    "a minting account that payments would be burned by": (
        lambda me: spec({"newToken": token(mintingAccount={"owner": me})}),
        "spec.new_token.minting_account",
    ),
    "nothing to do": (
        lambda _: spec({"token": f"tokens/{uuid4()}"}),
        "neither a lock nor a distribution",
    ),
    "a token that is not there": (
        lambda me: spec({"token": f"tokens/{uuid4()}"}, [lock(me)]),
        "LEDGER_NOT_FOUND",
    ),
    "an earlier launch that is not there": (
        lambda me: spec({"launch": f"launches/{uuid4()}"}, [lock(me)]),
        "LAUNCH_NOT_FOUND",
    ),
    "a schedule that does not sum": (
        lambda me: spec(
            {"newToken": token()},
            [lock(me, schedule={"stepped": {"steps": [{"offset": "5s", "basisPoints": 3300}]}})],
        ),
        "spec.locks[0].schedule",
    ),
    "beneficiaries who do not sum": (
        lambda me: spec({"newToken": token()}, [lock(me, totalAmount="99999")]),
        "AMOUNTS_SUM: spec.locks[0].beneficiaries",
    ),
    "a recipient twice": (
        lambda me: spec(
            {"newToken": token()},
            [
                lock(
                    me,
                    beneficiaries=[
                        {"principal": me, "amount": "50000"},
                        {"principal": me, "amount": "50000"},
                    ],
                )
            ],
        ),
        "DUPLICATE_BENEFICIARY",
    ),
    "a start in the past": (
        lambda me: spec({"newToken": token()}, [lock(me, startTime="2020-01-01T00:00:00Z")]),
        "spec.locks[0].start_time",
    ),
    "two categories of one id": (
        lambda me: spec(
            {"newToken": token()},
            [],
            [distribution(me, 100, categories=2 * distribution(me)["categories"])],
        ),
        "DUPLICATE_CATEGORY",
    ),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_launch_that_cannot_be_is_refused_and_nothing_is_charged(
    what: str, creator: Client
) -> None:
    make, named = BAD[what]
    before = await balance(creator, "ledgers/icp", creator.principal)
    body = {"requestId": str(uuid4()), "spec": make(creator.principal)}
    with pytest.raises(CallError) as refused:
        await creator.rest("POST", "/v1/launches", body)
    assert 400 <= refused.value.status < 500
    assert named in str(refused.value)
    assert (await creator.rest("GET", "/v1/launches")).body["launches"] == []
    assert await balance(creator, "ledgers/icp", creator.principal) == before
