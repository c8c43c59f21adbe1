"""What the platform says of itself was measured, just now."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from mesh import contract
from mesh.cli.client import Client
from services.kit.settings import Environment
from tests.support.installation import HEALTH_INTERVAL, Installation, until

SERVICES = set(contract.load(Environment.TEST).services)


async def told(client: Client) -> dict[str, dict[str, Any]]:
    """The status, by service."""
    status = (await client.rest("GET", "/v1/system/status")).body
    return {service["service"]: service for service in status["services"]}


async def test_every_service_is_told_as_a_probe_found_it(alice: Client) -> None:
    """No list of names that are healthy by default, and no made-up times (F-61)."""
    first = await told(alice)
    assert set(first) == SERVICES
    assert {service["state"] for service in first.values()} == {"HEALTH_STATE_HEALTHY"}
    assert len({service["responseSeconds"] for service in first.values()}) > 1
    await asyncio.sleep(2 * HEALTH_INTERVAL)
    for name, service in (await told(alice)).items():
        probed = datetime.fromisoformat(service["probeTime"])
        assert probed > datetime.fromisoformat(first[name]["probeTime"])
        assert datetime.now(UTC) - probed < timedelta(seconds=3 * 2 * HEALTH_INTERVAL)


async def test_a_service_that_hangs_is_not_told_as_healthy(
    mesh: Installation, alice: Client
) -> None:
    """Though it is configured, switched on, and was healthy a moment ago (F-62)."""
    async with mesh.frozen("token_deployer"):

        async def found_out() -> dict[str, Any] | None:
            service = (await told(alice))["token_deployer"]
            return service if service["state"] == "HEALTH_STATE_UNHEALTHY" else None

        service = await until(found_out)
        assert service["error"]
        assert (await told(alice))["ledger"]["state"] == "HEALTH_STATE_HEALTHY"
