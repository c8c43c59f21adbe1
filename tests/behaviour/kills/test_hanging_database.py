"""A database that hangs: who is told what meanwhile, and that all is well afterwards."""

import asyncio

from mesh.silence import HANG_INTERVALS
from tests.support.edge import Rest, caller
from tests.support.installation import HEALTH_INTERVAL, Installation, until
from tests.support.processes import frozen


async def test_a_database_that_hangs_takes_every_replica_out_of_service_until_it_answers(
    house: Installation,
) -> None:
    """Whoever calls meanwhile is told so, and does not wait for a deadline.

    No replica is taken for one that hangs: they answer, though what they say is NOT_SERVING.
    """
    assert house.postgres_pid is not None
    before = [replica["pid"] for replica in (await house.status())["replicas"]]

    async def nobody_serves() -> bool:
        return not any(replica["healthy"] for replica in (await house.status())["replicas"])

    with frozen(house.postgres_pid):
        await until(nobody_serves, 30)
        async with caller(house.target) as edge:
            outcome = await edge.rest(Rest("GET", "/v1/system/status"))
        assert (outcome.status, outcome.reason) == (503, "SERVICE_UNAVAILABLE")
        await asyncio.sleep(2 * HANG_INTERVALS * HEALTH_INTERVAL)
    await house.until_healthy()
    assert [replica["pid"] for replica in (await house.status())["replicas"]] == before
    async with caller(house.target) as edge:
        assert (await edge.rest(Rest("GET", "/v1/system/status"))).status == 200
