"""Launches share the places: one user holds no more than a share, and whatever fits ends.

What the queue promises is shown on the journal in test_journal.py; here it is the platform's.
"""

import itertools
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf import json_format

from contract import ids, loader
from contract.environment import Environment
from icto.backend.v1 import launches_pb2 as pb
from icto.backend.v1.launches_pb2_grpc import LaunchServiceStub
from mesh.cli.client import Client
from schema_setup import migrations
from services.kit.journal.model import PipelineState
from services.kit.testing.rehearsal import SLOW_PREFIX
from tests.support.installation import Installation, until
from tests.support.journals import TRACEPARENT, Bench
from tests.support.launches import ended, lock, quoted, spec, token, validated
from tests.support.money import configured
from tests.support.postgres import Postgres
from tests.support.tokens import somebody

BACKEND = "services.backend"
DOOR = loader.load("test").method(f"/{pb.DESCRIPTOR.package}.LaunchService/CreateLaunch")
MILESTONES = 40
LARGE = 165
MANY_MILESTONES = 10_000 // MILESTONES


def milestones(attestor: str, text: str) -> dict[str, Any]:
    """A schedule of many words."""
    each = [
        {"id": f"m{number}", "description": text, "basisPoints": MANY_MILESTONES}
        for number in range(MILESTONES)
    ]
    return {"milestones": {"attestor": attestor, "milestones": each}}


def large_lock(who: str) -> dict[str, Any]:
    """A lock that takes most of a request: a schedule of their own for each beneficiary."""
    beneficiaries = [
        {"principal": somebody(), "amount": "1000", "schedule": milestones(who, "x" * 130)}
        for _ in range(LARGE)
    ]
    return lock(who, 1000 * LARGE, beneficiaries=beneficiaries)


async def fitted(client: Client, wanted: dict[str, Any]) -> pb.CreateLaunchRequest:
    """A paid order whose last words make it as large as one may be."""
    request = pb.CreateLaunchRequest(request_id=str(uuid4()), quote=f"quotes/{uuid4()}")
    json_format.ParseDict(wanted, request.spec)
    missing = DOOR.max_request_bytes - request.ByteSize()
    schedules = [one.schedule.milestones.milestones for one in request.spec.locks[0].beneficiaries]
    assert 0 <= missing < 70 * len(schedules) * MILESTONES, missing
    for milestone in itertools.chain.from_iterable(schedules):
        more = min(missing, 70)
        milestone.description += "x" * more
        missing -= more
    assert request.ByteSize() == DOOR.max_request_bytes
    stub = LaunchServiceStub(client.channel)
    answer = await stub.ValidateLaunch(
        pb.ValidateLaunchRequest(spec=request.spec), metadata=await client.metadata()
    )
    items = [json_format.MessageToDict(item) for item in answer.items]
    request.quote = (await quoted(client, items))["name"]
    return request


async def test_an_accepted_launch_ends_though_it_fills_its_request(alice: Client) -> None:
    """What fits through the door has room in the step that carries it, beside its envelope."""
    wanted = spec({"newToken": token()}, [large_lock(alice.principal)])
    request = await fitted(alice, wanted)
    stub = LaunchServiceStub(alice.channel)
    accepted = await stub.CreateLaunch(request, metadata=await alice.metadata())

    async def over() -> pb.Launch | None:
        asked = pb.GetLaunchRequest(name=accepted.name)
        found: pb.Launch = await stub.GetLaunch(asked, metadata=await alice.metadata())
        return found if found.state > pb.LAUNCH_STATE_IN_PROGRESS else None

    assert (await until(over, 30)).state == pb.LAUNCH_STATE_SUCCEEDED


def two_at_a_time(config: dict[str, Any]) -> None:
    """So that a tenth, the share of one user, is one."""
    config["limits"]["maxConcurrentPipelines"] = 2


@pytest.fixture
async def slow(alice: Client, bob: Client) -> list[tuple[Client, dict[str, Any]]]:
    """Orders of two users that take their time: three of one, then one of another."""
    orders = []
    for client in (alice, alice, alice, bob):
        wanted = spec({"newToken": token(displayName=f"{SLOW_PREFIX}token")})
        quote = await quoted(client, (await validated(client, wanted))["items"])
        body = {"requestId": str(uuid4()), "spec": wanted, "quote": quote["name"]}
        orders.append((client, body))
    return orders


async def test_one_user_holds_a_share_of_the_places_and_every_place_is_told(
    mesh: Installation,
    admin: Client,
    alice: Client,
    slow: list[tuple[Client, dict[str, Any]]],
) -> None:
    async with configured(mesh, admin, two_at_a_time):
        names = [
            (client, (await client.rest("POST", "/v1/launches", body)).body["name"])
            for client, body in slow
        ]

        async def all_ended() -> bool:
            told = (await alice.rest("GET", "/v1/launches")).body["launches"][::-1]
            mine = [launch["state"].removeprefix("LAUNCH_STATE_") for launch in told]
            assert mine.count("IN_PROGRESS") <= 1, mine
            places = [one["queuePosition"] for one in told if one["queuePosition"]]
            assert places == sorted(set(places)), places
            return mine == ["SUCCEEDED"] * 3

        await until(all_ended, 30)
        for client, name in names:
            assert (await ended(client, name))["state"] == "LAUNCH_STATE_SUCCEEDED"


QUEUED, WAITING, PARKED = (ids.new_id("ann") for _ in range(3))


async def test_launches_that_an_earlier_release_accepted_go_on_and_have_their_owners(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the queue, waiting for an attempt, and parked: as ae57535 left them."""
    schema = await postgres.empty_schema()
    everything = migrations._all_steps
    with monkeypatch.context() as patch:
        patch.setattr(
            migrations,
            "_all_steps",
            lambda package: (step for step in everything(package) if step.number <= 2),
        )
        async with schema.connection() as connection:
            await migrations.migrate(connection, BACKEND, Environment.TEST)
    async with schema.connection() as connection:
        for pipeline, state in ((QUEUED, 6), (WAITING, 1), (PARKED, 5)):
            await connection.execute(
                "INSERT INTO kit_pipelines (id, definition, version, input, traceparent, state,"
                " epoch) VALUES ($1, 'launch', 1, 'create_token 0 0', $2, $3, $4)",
                pipeline,
                TRACEPARENT,
                state,
                0 if state == 6 else 1,
            )
            await connection.execute(
                "INSERT INTO launches (id, owner, spec, shape, quote, cost, trace_id)"
                " VALUES ($1, 'ann', '', 'create_token 0 0', '', '0', '')",
                pipeline,
            )
        assert await migrations.migrate(connection, BACKEND, Environment.TEST)
        owners = await connection.fetch("SELECT owner FROM kit_pipelines")
        assert [row["owner"] for row in owners] == ["ann"] * 3
    async with Bench(schema).worker("ann") as worker:
        known = [("launch", 1)]
        (waiting,) = await worker.claim(known=known)
        assert waiting.id == WAITING
        async with worker.database.transaction() as transaction:
            assert await worker.journal.unpark(transaction, PARKED)
        assert [claim.id for claim in await worker.claim(known=known)] == [PARKED]
        assert [claim.id for claim in await worker.admitted(3, name="launch")] == [QUEUED]
        assert (await worker.run_of(QUEUED)).state is PipelineState.RUNNING
