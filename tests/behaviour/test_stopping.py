"""Stopping and going on: what is cancelled, parked, retried or reconciled is charged for once.

Whatever is under way is kept so by a table that nobody may write; what waits for a person is parked
by the hand of the database's superuser.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest
from google.protobuf import json_format

from icto.backend.v1 import deployments_pb2 as pb
from icto.backend.v1.deployments_pb2_grpc import DeploymentServiceStub
from mesh.cli import follow
from mesh.cli.client import Client
from observability import names
from services.kit.money import memos
from services.kit.testing.rehearsal import REFUSED_PREFIX, SLOW_PREFIX
from tests.support.installation import E8S, Installation, finished, paid_body, until
from tests.support.launches import (
    FEE,
    SUPPLY,
    distribution,
    ended,
    launched,
    ledger_of,
    lock,
    ordered,
    paid,
    spec,
    steps,
    token,
)
from tests.support.launches import balance as held_by
from tests.support.money import FEE as ICP_FEE
from tests.support.money import balance, configured, get, person, post, reason_of
from tests.support.operations import act
from tests.support.tokens import Mint

PAYMENTS: Final = "invoice_storage.payments"
TOKENS: Final = "token_deployer.tokens"
LOCKS: Final = "lock_deployer.locks"
WHY: Final = "as a test asks"
SHARE: Final = E8S // 2
"""Price of a lock, of a distribution and of a launch."""
_ABANDONED: Final = 9


@pytest.fixture
async def admin(mesh: Installation, mint: Mint) -> AsyncIterator[Client]:
    async with person(mesh, mint, "SUPER_ADMIN") as client:
        yield client


async def park(mesh: Installation, name: str) -> None:
    """Has an operation wait for a person, whoever works on it; what was under way has ended."""
    async with mesh.superuser() as database:

        async def nobody_waits_for_a_table() -> bool:
            return not await database.fetchval(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"
            )

        parked = await database.execute(
            "UPDATE backend.kit_pipelines SET state = 5, parked_reason = $2, epoch = epoch + 1,"
            " worker = NULL, lease_time = NULL WHERE id = $1 AND state = 1",
            _id(name),
            WHY,
        )
        assert parked == "UPDATE 1"
        await until(nobody_waits_for_a_table)


def _id(name: str) -> UUID:
    return UUID(name.partition("/")[2])


async def step(client: Client, name: str, wanted: str, *states: str) -> dict[str, Any]:
    """An operation once one of its steps is in a state."""

    async def there() -> dict[str, Any] | None:
        found = await get(client, name)
        return found if steps(found)[wanted] in states else None

    found: dict[str, Any] = await until(there)
    return found


async def cancel(client: Client, name: str, **more: Any) -> dict[str, Any]:
    return await post(client, f"/v1/{name}:cancel", **more)


async def retry(admin: Client, name: str, **more: Any) -> dict[str, Any]:
    return await post(admin, f"/v1/{name}:retry", **({"justification": WHY} | more))


async def charges(mesh: Installation, name: str) -> int:
    """How often an operation was charged on the ledger."""
    memo = memos.of("charge", name)
    async with mesh.superuser() as database:
        count = await database.fetchval("SELECT count(*) FROM ledger.blocks WHERE memo = $1", memo)
    return int(count)


async def tokens(mesh: Installation, name: str) -> list[int]:
    """States of the tokens that were made for an operation."""
    async with mesh.superuser() as database:
        rows = await database.fetch(
            "SELECT state FROM token_deployer.tokens WHERE operation = $1", name
        )
    return [row["state"] for row in rows]


@contextlib.asynccontextmanager
async def at_work(work: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Task[None]"]:
    """Something that goes on during the block, and never longer."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def token_order(client: Client) -> str:
    """A token that was ordered and paid for."""
    return str((await post(client, "/v1/tokens", **await paid_body(client)))["name"])


async def holds(client: Client, launch: Mapping[str, Any], amount: int) -> bool:
    """Whether this lies in a launch's escrow."""
    return await held_by(client, ledger_of(launch), launch["escrow"]) == amount


# Deployments.


async def test_a_deployment_cancelled_while_it_is_charged_gives_all_of_it_back(
    mesh: Installation, alice: Client
) -> None:
    """It may be charged by now: it is charged first, and then nothing else begins."""
    before = await balance(alice)
    async with mesh.held(PAYMENTS):
        name = await token_order(alice)
        await step(alice, name, "charge", "RUNNING")
        answer = await cancel(alice, name)
        assert answer["state"] == "DEPLOYMENT_STATE_IN_PROGRESS"
    done = await finished(alice, name)
    assert done["state"] == "DEPLOYMENT_STATE_CANCELLED"
    assert steps(done) == {
        "charge": "SUCCEEDED",
        "create_token": "SKIPPED",
        "abandon": "SUCCEEDED",
        "settle": "SUCCEEDED",
    }
    assert (await paid(alice, done))["refundedAmount"] == str(E8S)
    # The payer bears two ledger fees: of the approval and of the charge.
    assert before - await balance(alice) == 2 * ICP_FEE
    assert await reason_of(cancel(alice, name)) == "DEPLOYMENT_ENDED"


async def test_a_deployment_cancelled_after_the_charge_is_given_up_before_it_is_refunded(
    mesh: Installation, alice: Client
) -> None:
    before = await balance(alice)
    async with mesh.held(TOKENS):
        name = await token_order(alice)
        await step(alice, name, "create_token", "RUNNING", "RETRYING")
        await park(mesh, name)
        answer = await cancel(alice, name)
        assert steps(answer)["charge"] == "SUCCEEDED"
        assert answer["parkedReason"] == ""
    done = await finished(alice, name)
    assert done["state"] == "DEPLOYMENT_STATE_CANCELLED"
    assert (await paid(alice, done))["refundedAmount"] == str(E8S)
    assert before - await balance(alice) == 2 * ICP_FEE
    assert await tokens(mesh, name) == [_ABANDONED]


async def test_a_parked_deployment_is_shown_and_goes_on_where_it_stopped(
    mesh: Installation, alice: Client, admin: Client
) -> None:
    async with mesh.held(TOKENS):
        name = await token_order(alice)
        await step(alice, name, "create_token", "RUNNING", "RETRYING")
        assert await reason_of(retry(admin, name)) == "DEPLOYMENT_NOT_PARKED"
        await park(mesh, name)
        shown = await get(admin, "deployments:pending")
        assert [d["parkedReason"] for d in shown["deployments"] if d["name"] == name] == [WHY]
        request_id = str(uuid4())
        answer = await retry(admin, name, requestId=request_id)
        assert answer["state"] == "DEPLOYMENT_STATE_IN_PROGRESS"
        assert steps(answer)["charge"] == "SUCCEEDED"
        assert answer["parkedReason"] == ""
        assert await retry(admin, name, requestId=request_id) == answer
    told = await act(mesh, name, "RetryDeployment")
    assert (told.previous_value, told.new_value) == (f"PARKED, {WHY}", "RUNNING")
    assert told.justification == WHY
    done = await finished(alice, name)
    assert done["state"] == "DEPLOYMENT_STATE_SUCCEEDED", done
    assert (await charges(mesh, name), len(await tokens(mesh, name))) == (1, 1)
    assert (await paid(alice, done))["refundedAmount"] == "0"
    shown = await get(admin, "deployments:pending")
    assert name not in {d["name"] for d in shown["deployments"]}


@pytest.mark.parametrize(
    ("moment", "state", "refunded"),
    [("before", "CANCELLED", E8S), ("after", "SUCCEEDED", 0)],
)
async def test_a_create_whose_outcome_is_unknown_is_decided_by_who_would_have_delivered(
    mesh: Installation, alice: Client, admin: Client, moment: str, state: str, refunded: int
) -> None:
    """F-52: whoever asked for the token died; what was delivered stays so, and is not refunded."""
    point = f"deploy_token.create_token.{moment}"
    async with mesh.crash_at(point):
        name = await token_order(alice)
        hit = mesh.faults / f"{point}.hit"
        await until(lambda: asyncio.sleep(0, hit.exists()))
        await park(mesh, name)
    await post(admin, f"/v1/{name}:reconcile", justification=WHY)
    told = await act(mesh, name, "ReconcileDeployment")
    assert (told.previous_value, told.justification) == (f"PARKED, {WHY}", WHY)
    assert told.new_value == "RUNNING, asked to stop"
    done = await finished(alice, name)
    assert done["state"] == f"DEPLOYMENT_STATE_{state}"
    assert bool(done["token"]) is (refunded == 0)
    assert int((await paid(alice, done))["refundedAmount"]) == refunded
    again = post(admin, f"/v1/{name}:reconcile", justification=WHY)
    assert await reason_of(again) == "DEPLOYMENT_ENDED"
    await mesh.until_healthy()


READING = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query LIKE '%FROM kit_pipelines WHERE id = ANY%'
"""


async def test_a_deployment_that_is_read_while_it_ends_shows_what_was_delivered(
    mesh: Installation, alice: Client, admin: Client
) -> None:
    """Asked to stop too late: its row is read before it has its token, its pipeline after."""
    async with mesh.held(TOKENS):
        name = await token_order(alice)
        await step(alice, name, "create_token", "RUNNING", "RETRYING")
        await park(mesh, name)
    async with mesh.superuser() as database, mesh.superuser() as watching:
        ending = database.transaction()
        await ending.start()
        await database.execute("LOCK TABLE backend.kit_pipelines IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(get(alice, name))
        await until(lambda: watching.fetchval(READING))
        await database.execute(SHOWN_AS, _id(name), 4, "tokens/made")
        await ending.commit()
        shown = await reading
        await database.execute(SHOWN_AS, _id(name), 5, "")
    assert (shown["state"], shown["token"]) == ("DEPLOYMENT_STATE_SUCCEEDED", "tokens/made")
    await retry(admin, name)
    assert (await finished(alice, name))["state"] == "DEPLOYMENT_STATE_SUCCEEDED"


SHOWN_AS = """
WITH run AS (UPDATE backend.kit_pipelines SET state = $2 WHERE id = $1)
UPDATE backend.deployments SET token = $3 WHERE id = $1
"""


async def test_a_deployment_is_watched_by_grpc_to_its_end(
    mesh: Installation, alice: Client
) -> None:
    seen: list[dict[str, Any]] = []

    async def watch(name: str) -> None:
        stub = DeploymentServiceStub(alice.channel)
        request = pb.WatchDeploymentRequest(name=name)
        async for told in stub.WatchDeployment(request, metadata=await alice.metadata()):
            if told.HasField("deployment"):
                seen.extend([json_format.MessageToDict(told.deployment)])

    async with contextlib.AsyncExitStack() as stack:
        async with mesh.held(TOKENS):
            name = await token_order(alice)
            await step(alice, name, "create_token", "RUNNING", "RETRYING")
            watching = await stack.enter_async_context(at_work(watch(name)))
            await until(lambda: asyncio.sleep(0, bool(seen)))
            assert steps(seen[0])["charge"] == "SUCCEEDED"
            await cancel(alice, name)
        async with asyncio.timeout(20):
            await watching
    assert seen[-1]["state"] in ("DEPLOYMENT_STATE_SUCCEEDED", "DEPLOYMENT_STATE_CANCELLED")
    assert steps(seen[-1]) == steps(await get(alice, name))


# Launches.


async def under_way(client: Client, *parts: Mapping[str, Any], **more: Any) -> str:
    """A launch whose first lock is at work, while nobody can write locks."""
    wanted = spec({"newToken": token()}, parts or [lock(client.principal)], **more)
    name = str((await ordered(client, wanted))["name"])
    await step(client, name, "lock_1", "RUNNING", "RETRYING")
    return name


async def parked_launches(mesh: Installation, count: int) -> bool:
    """Whether every replica of the backend shows so many in its metrics."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{mesh.metrics_port}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith(names.PIPELINES_PARKED)]
    shown = [line.rpartition(" ")[2] for line in lines if 'definition="launch"' in line]
    return len(shown) == 2 and {float(value) for value in shown} == {count}


async def test_a_parked_launch_is_shown_and_goes_on_where_it_stopped(
    mesh: Installation, alice: Client, admin: Client
) -> None:
    async with mesh.held(LOCKS):
        name = await under_way(alice)
        assert await reason_of(retry(admin, name)) == "LAUNCH_NOT_PARKED"
        await park(mesh, name)
        shown = await get(admin, "launches:pending")
        assert [x["parkedReason"] for x in shown["launches"] if x["name"] == name] == [WHY]
        await until(lambda: parked_launches(mesh, 1))
        answer = await retry(admin, name)
        assert answer["state"] == "LAUNCH_STATE_IN_PROGRESS"
        assert steps(answer)["create_token"] == "SUCCEEDED"
        await step(alice, name, "lock_1", "RUNNING", "RETRYING")
    told = await act(mesh, name, "RetryPipeline")
    assert (told.previous_value, told.new_value) == (f"PARKED, {WHY}", "RUNNING")
    done = await ended(alice, name)
    assert done["state"] == "LAUNCH_STATE_SUCCEEDED", done
    assert (await charges(mesh, name), len(await tokens(mesh, name))) == (1, 1)
    assert (await paid(alice, done))["refundedAmount"] == "0"
    shown = await get(admin, "launches:pending")
    assert name not in {x["name"] for x in shown["launches"]}
    await until(lambda: parked_launches(mesh, 0))


async def test_whoever_stops_somebody_else_s_launch_says_why(
    mesh: Installation, alice: Client, admin: Client
) -> None:
    async with mesh.held(LOCKS):
        name = await under_way(alice)
        assert await reason_of(cancel(admin, name)) == "INVALID_FIELD"
        await post(admin, f"/v1/{name}:cancel", justification=WHY)
    told = await act(mesh, name, "CancelPipeline")
    assert (told.principal, told.justification) == (admin.principal, WHY)
    assert (told.previous_value, told.new_value) == ("RUNNING", "RUNNING, asked to stop")
    await ended(alice, name)


async def test_a_launch_that_failed_is_not_retried_for_free(alice: Client, admin: Client) -> None:
    refused = token(displayName=f"{REFUSED_PREFIX}token")
    failed = await launched(alice, spec({"newToken": refused}))
    assert failed["state"] == "LAUNCH_STATE_FAILED"
    assert await reason_of(retry(admin, failed["name"])) == "LAUNCH_NOT_PARKED"
    assert await get(alice, failed["name"]) == failed


async def test_a_step_at_work_shows_with_the_replica_that_is_at_it(
    mesh: Installation, alice: Client
) -> None:
    async with mesh.held(LOCKS):
        name = await under_way(alice)
        found = await get(alice, name)
        shown = {s["name"]: s for s in found["steps"]}
        assert shown["lock_1"]["replica"] in {r["name"] for r in await mesh.replicas("backend")}
        assert shown["abandon_lock_1"]["state"] == "STEP_STATE_PENDING"
        assert shown["abandon_lock_1"]["replica"] == ""
        await park(mesh, name)
        assert steps(await get(alice, name))["lock_1"] == "PENDING"
        await cancel(alice, name)
    await ended(alice, name)


async def test_a_launch_cancelled_while_a_lock_is_under_way_has_it_or_its_share_back(
    mesh: Installation, alice: Client
) -> None:
    async with mesh.held(LOCKS):
        name = await under_way(alice)
        await cancel(alice, name)
    done = await ended(alice, name)
    payment = await paid(alice, done)
    delivered = bool(done["locks"])
    assert int(payment["refundedAmount"]) == (0 if delivered else SHARE)
    assert done["state"] == f"LAUNCH_STATE_{'' if delivered else 'PARTIALLY_'}SUCCEEDED"


async def test_a_parked_launch_that_is_cancelled_keeps_its_token_and_gives_the_rest_up(
    mesh: Installation, alice: Client
) -> None:
    """A part that may have begun is taken to a known end: its tokens are in escrow again."""
    async with mesh.held(LOCKS):
        name = await under_way(alice)
        await park(mesh, name)
        await cancel(alice, name)
    done = await ended(alice, name)
    assert done["state"] == "LAUNCH_STATE_PARTIALLY_SUCCEEDED"
    assert steps(done)["lock_1"] == "SKIPPED"
    assert steps(done)["abandon_lock_1"] == "SUCCEEDED"
    assert (await paid(alice, done))["refundedAmount"] == str(SHARE)
    # The transfer that may have been under way was made, and went back.
    await until(lambda: holds(alice, done, SUPPLY - 2 * FEE))


async def test_parts_that_nobody_began_cost_nothing_to_give_up(
    mesh: Installation, alice: Client
) -> None:
    async with mesh.held(TOKENS):
        me = alice.principal
        wanted = spec({"newToken": token()}, [lock(me)], [distribution(me)])
        name = (await ordered(alice, wanted))["name"]
        await step(alice, name, "create_token", "RUNNING", "RETRYING")
        await cancel(alice, name)
    done = await ended(alice, name)
    assert done["state"] == "LAUNCH_STATE_PARTIALLY_SUCCEEDED"
    assert steps(done)["lock_1"] == steps(done)["distribution_1"] == "SKIPPED"
    assert (await paid(alice, done))["refundedAmount"] == str(2 * SHARE)
    assert await holds(alice, done, SUPPLY)


def one_at_a_time(config: dict[str, Any]) -> None:
    """A limit on all launches."""
    config["limits"]["maxConcurrentPipelines"] = 1


async def test_a_launch_cancelled_in_the_queue_is_never_charged(
    mesh: Installation, alice: Client, admin: Client
) -> None:
    async with configured(mesh, admin, one_at_a_time):
        async with mesh.held(LOCKS):
            ahead = await under_way(alice)
            slow = spec({"newToken": token(displayName=f"{SLOW_PREFIX}token")})
            name = (await ordered(alice, slow))["name"]
            before = await balance(alice)
            answer = await cancel(alice, name)
            assert answer["queuePosition"] == 0
            done = await ended(alice, name)
        await ended(alice, ahead)
    assert done["state"] == "LAUNCH_STATE_CANCELLED"
    assert set(steps(done).values()) == {"SKIPPED"}
    assert done["payment"] == ""
    assert await balance(alice) == before
    assert (await charges(mesh, name), await tokens(mesh, name)) == (0, [])


async def test_an_escrow_that_is_drawn_on_is_busy_until_the_later_launch_ends(
    mesh: Installation, alice: Client
) -> None:
    me = alice.principal
    bad = lock(me, 9_000, displayName=f"{REFUSED_PREFIX}part")
    first = await launched(alice, spec({"newToken": token()}, [bad]))
    again = spec({"launch": first["name"]}, [lock(me, 9_000)])
    path = f"/v1/{first['name']}:withdrawEscrow"
    async with mesh.held(LOCKS):
        second = (await ordered(alice, again))["name"]
        await step(alice, second, "lock_1", "RUNNING", "RETRYING")
        assert await reason_of(post(alice, path)) == "ESCROW_BUSY"
        assert await reason_of(ordered(alice, again)) == "ESCROW_BUSY"
        await park(mesh, second)
        await cancel(alice, second)
    done = await ended(alice, second)
    assert done["state"] == "LAUNCH_STATE_CANCELLED"
    assert (await paid(alice, done))["refundedAmount"] == str(2 * SHARE)
    withdrawn = await post(alice, path)
    # Taken into the second escrow, whose own transfers went to the lock and back again.
    assert int(withdrawn["amount"]) == SUPPLY - (9_000 + FEE) - FEE - FEE


@pytest.mark.parametrize("exists", [False, True])
async def test_an_open_launch_keeps_its_escrow(
    mesh: Installation, alice: Client, *, exists: bool
) -> None:
    me = alice.principal
    source: dict[str, Any] = {"newToken": token()}
    if exists:
        first = await launched(alice, spec(source))
        ledger = ledger_of(first)
        spender = (
            await post(
                alice, "/v1/launches:validate", spec=spec({"token": first["token"]}, [lock(me)])
            )
        )["spender"]
        await alice.approve(ledger, spender, str(SUPPLY))
        source = {"token": first["token"]}
    async with mesh.held(LOCKS):
        name = (await ordered(alice, spec(source, [lock(me)])))["name"]
        await step(alice, name, "lock_1", "RUNNING", "RETRYING")
        withdrawal = post(alice, f"/v1/{name}:withdrawEscrow")
        assert await reason_of(withdrawal) == "LAUNCH_OPEN"
    assert (await ended(alice, name))["state"] == "LAUNCH_STATE_SUCCEEDED"


def turns(changes: Sequence[Mapping[str, Any]]) -> int:
    """How often a launch is told to go on, after it was admitted."""
    return [change.get("state") for change in changes].count("LAUNCH_STATE_IN_PROGRESS") - 1


async def test_watchers_learn_of_a_cancellation_and_of_a_retry(
    mesh: Installation, alice: Client, admin: Client
) -> None:
    """Each is a change of its own."""
    seen: list[dict[str, Any]] = []

    async def watch(name: str) -> None:
        async for change in follow.changes(alice, name):
            seen.extend([json_format.MessageToDict(change)])

    async with contextlib.AsyncExitStack() as stack:
        async with mesh.held(LOCKS):
            name = await under_way(alice)
            watching = await stack.enter_async_context(at_work(watch(name)))
            await until(lambda: asyncio.sleep(0, len(seen) >= 3))
            await park(mesh, name)
            for stop_or_go_on, least in ((retry, 1), (cancel, 2)):
                await stop_or_go_on(admin, name, justification=WHY)
                await until(lambda least=least: asyncio.sleep(0, turns(seen) >= least))
        async with asyncio.timeout(30):
            await watching
    assert [int(change["sequence"]) for change in seen] == list(range(1, len(seen) + 1))
