"""When what cleans up is refused, the backend's pipelines wait for a person and pay nothing back.

The real engine, journal and tables; whoever would deliver, charge and settle is the test itself.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final, cast
from uuid import UUID

import pytest
from google.protobuf.message import Message

from contract import ids
from contract.errors import Code, RemoteError
from icto.backend.v1 import launches_pb2
from icto.token.v1 import token_pb2
from services.backend import store
from services.backend.domain import Deployment
from services.backend.launches import store as launch_store
from services.backend.launches.domain import CREATE_TOKEN, Launch, Shape
from services.backend.launches.escrow import Escrow
from services.backend.launches.pipeline import LaunchPipeline
from services.backend.pipelines import DeployTokenPipeline
from services.kit.journal.model import (
    Definition,
    PipelineState,
    RetryPolicy,
    Run,
    StepRecord,
    StepState,
)
from services.kit.journal.port import Sleep
from services.kit.kit import Kit
from tests.support.installation import until
from tests.support.journals import Bench, Worker, new_pipeline
from tests.support.postgres import Postgres

# Tried once; the pause after it is long enough to be concluded from.
ONCE: Final = RetryPolicy(first=1.1, attempts=1)
NEVER: Final = Code.PERMISSION_DENIED
TOKEN: Final = ids.resource_name("tokens", ids.new_id("ann"))
SHAPE: Final = Shape(CREATE_TOKEN, locks=1, distributions=1)


class Others:
    """Every other service: answers what it is asked for, and refuses some methods."""

    def __init__(self, refused: Mapping[str, Code]) -> None:
        self._refused = refused
        self.asked: list[str] = []

    def stub(self, _: object) -> "Others":
        return self

    def __getattr__(self, method: str) -> Any:
        async def answer(request: Message, metadata: object = None) -> Any:
            del request, metadata
            self.asked.append(method)
            if method in self._refused:
                raise RemoteError(self._refused[method], "NO", "Never.")
            return SimpleNamespace(
                name=TOKEN, owner="ann", delivered_token="", delivered_lock="",
                delivered_distribution="", account=None, block_index=1,
            )  # fmt: skip

        return answer


@pytest.fixture
async def worker(postgres: Postgres) -> AsyncIterator[Worker]:
    bench = Bench(await postgres.schema("services.backend"))
    async with bench.worker("backend-1") as made:
        yield made


def kit(worker: Worker, others: Others) -> Kit:
    """What a pipeline takes of the kit."""
    limits = SimpleNamespace(max_concurrent_pipelines=1)
    made = SimpleNamespace(
        database=worker.database,
        clients=others,
        service=SimpleNamespace(mesh_name="backend"),
        platform=SimpleNamespace(config=SimpleNamespace(limits=limits)),
    )
    return cast("Kit", made)


async def token_alone(worker: Worker, others: Others, pipeline_id: UUID) -> Definition:
    spec = token_pb2.TokenSpec().SerializeToString()
    deployment = Deployment(pipeline_id, "ann", None, spec, "trace", quote="quotes/x", cost="1")
    await worker.database.apply(store.added_deployment(deployment))
    return DeployTokenPipeline(kit(worker, others)).definition


async def launch(worker: Worker, others: Others, pipeline_id: UUID) -> Definition:
    spec = launches_pb2.LaunchSpec(display_name="A launch")
    spec.new_token.total_supply, spec.new_token.transfer_fee = "1000", "1"
    spec.locks.add(total_amount="10")
    spec.distributions.add(total_amount="10")
    row = Launch(
        pipeline_id, "ann", None, spec.SerializeToString(), SHAPE, "trace", "quotes/x", "1"
    )
    await worker.database.apply(launch_store.added(row))
    made = kit(worker, others)
    return LaunchPipeline(made, Escrow(made)).definition(SHAPE)


async def stopped(
    worker: Worker, make: Any, refused: Mapping[str, Code], *, cancelled: bool = False
) -> tuple[Run, Others]:
    """A pipeline of the backend once it stops, with some methods refused for ever.

    One that is cancelled was left with its token made and its parts begun, perhaps.
    """
    others = Others(refused)
    new = new_pipeline()
    made: Definition = await make(worker, others, new.id)
    quick = replace(made, steps=tuple(replace(step, retry=ONCE) for step in made.steps))
    claim = await worker.begin(replace(new, definition=quick.name, input=SHAPE.encode()))
    if cancelled:
        done = [_done("charge", b""), _done(CREATE_TOKEN, TOKEN.encode())]
        await worker.journal.advance(claim, done, Sleep(0))
        async with worker.database.transaction() as connection:
            await worker.journal.cancel(connection, claim.id)
    async with worker.engine(quick) as engine:
        if not cancelled:
            engine.adopt(claim)

        async def over() -> Run | None:
            run = await worker.run_of(claim.id)
            return run if run.state is not PipelineState.RUNNING else None

        return await until(over), others


def _done(name: str, result: bytes) -> StepRecord:
    now = datetime.now(UTC)
    return StepRecord(name, StepState.SUCCEEDED, 1, now, now, "backend-1", result)


@pytest.mark.parametrize(
    ("make", "failing", "undoing"),
    [
        (token_alone, "DeployToken", "AbandonToken"),
        (launch, "DeployToken", "AbandonToken"),
        (launch, "CreateLock", "AbandonLock"),
        (launch, "CreateDistribution", "AbandonDistribution"),
    ],
)
async def test_nothing_is_paid_back_unless_it_was_given_up_for_good(
    worker: Worker, make: Any, failing: str, undoing: str
) -> None:
    run, others = await stopped(worker, make, dict.fromkeys((failing, undoing), NEVER))
    assert run.state is PipelineState.PARKED
    assert "NO after 1 attempts" in run.parked_reason
    assert undoing in others.asked
    assert "SettlePayment" not in others.asked


@pytest.mark.parametrize("make", [token_alone, launch])
async def test_a_settlement_that_is_refused_is_not_lost(worker: Worker, make: Any) -> None:
    run, others = await stopped(
        worker, make, dict.fromkeys(("DeployToken", "SettlePayment"), NEVER)
    )
    assert run.state is PipelineState.PARKED
    assert run.parked_reason == "settle: NO after 1 attempts"
    assert others.asked[-1] == "SettlePayment"


@pytest.mark.parametrize("code", [Code.ABORTED, Code.RESOURCE_EXHAUSTED, Code.INTERNAL])
async def test_a_part_is_not_given_up_while_its_tokens_may_still_move(
    worker: Worker, code: Code
) -> None:
    """A refusal of the moment says nothing of the transfer that a frozen worker may yet make."""
    run, others = await stopped(worker, launch, {"Transfer": code}, cancelled=True)
    assert run.state is PipelineState.PARKED
    assert "Transfer" in others.asked
    assert not {"AbandonLock", "AbandonDistribution", "SettlePayment"} & set(others.asked)


async def test_a_part_is_given_up_once_its_transfer_is_refused_for_good(worker: Worker) -> None:
    run, others = await stopped(worker, launch, {"Transfer": NEVER}, cancelled=True)
    assert run.state is PipelineState.CANCELLED
    assert {"AbandonLock", "AbandonDistribution"} <= set(others.asked)
