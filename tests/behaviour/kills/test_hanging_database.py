"""A database that hangs: who is told what meanwhile, and that all is well afterwards."""

from tests.support.edge import Rest, caller
from tests.support.installation import Installation, until
from tests.support.processes import frozen


async def test_a_database_that_hangs_takes_every_replica_out_of_service_until_it_answers(
    house: Installation,
) -> None:
    """Whoever calls meanwhile is told so, and does not wait for a deadline."""
    assert house.postgres_pid is not None

    async def nobody_serves() -> bool:
        return not any(replica["healthy"] for replica in (await house.status())["replicas"])

    with frozen(house.postgres_pid):
        await until(nobody_serves, 30)
        async with caller(house.target) as edge:
            outcome = await edge.rest(Rest("GET", "/v1/system/status"))
        assert (outcome.status, outcome.reason) == (503, "SERVICE_UNAVAILABLE")
    await house.until_healthy()
    async with caller(house.target) as edge:
        assert (await edge.rest(Rest("GET", "/v1/system/status"))).status == 200
