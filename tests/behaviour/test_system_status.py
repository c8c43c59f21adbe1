"""What the platform says of itself was measured, just now."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from contract import loader
from contract.environment import Environment
from mesh.cli.client import Client
from tests.support.administration import administrator, emergency_stop
from tests.support.installation import HEALTH_INTERVAL, Installation, until
from tests.support.money import get, post, until_followed
from tests.support.roles import in_role

SERVICES = set(loader.load(Environment.TEST).services)


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


async def test_a_stop_is_told_with_who_and_since_when_and_who_has_to_agree(
    mesh: Installation, tmp_path: Path
) -> None:
    """By the status, the CLI and metrics alike; and maintenance stays on with a word."""
    async with administrator(mesh) as admin:
        before = (await admin.rest("GET", "/v1/system/status")).body
        assert {"maintenance", "emergencyStop"}.isdisjoint(before)
        async with emergency_stop(mesh, admin):
            status = (await admin.rest("GET", "/v1/system/status")).body
            for held in (status["maintenance"], status["emergencyStop"]):
                assert (held["principal"], held["justification"]) == (admin.principal, "a test")
                age = datetime.now(UTC) - datetime.fromisoformat(held["startTime"])
                assert timedelta() < age < timedelta(minutes=2)
            assert status["missingReleaseCount"] >= 1
            first = await post(admin, "/v1/config:release", justification="a test")
            assert first["explanation"]
            _, shown = await mesh.icto("status", home=tmp_path)
            assert f"The platform is STOPPED since {held['startTime'][:10]}" in shown
            assert f"by {admin.principal}: a test" in shown
            assert "to ask: 'icto release" in shown
            for name in ("icto_maintenance", "icto_emergency_stop"):
                assert set(await gauges(mesh, name)) == {1.0}
        _, shown = await mesh.icto("status", home=tmp_path)
        assert "STOPPED" not in shown
    after = await told_whole(mesh)
    assert {"maintenance", "emergencyStop"}.isdisjoint(after)
    assert after["missingReleaseCount"] == 0


async def gauges(mesh: Installation, name: str) -> list[float]:
    """A metric of every replica."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{mesh.metrics_port}/metrics")).text
    return [
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name}{{")
    ]


async def told_whole(mesh: Installation) -> dict[str, Any]:
    async with httpx.AsyncClient() as client:
        found: dict[str, Any] = (await client.get(f"{mesh.edge}/v1/system/status")).json()
    return found


async def test_commands_stop_release_and_end_maintenance(
    mesh: Installation, tmp_path: Path
) -> None:
    async def icto(*arguments: str) -> str:
        code, shown = await mesh.icto(*arguments, home=tmp_path)
        assert code == 0, shown
        return shown

    who = (await icto("login")).split()[2]
    await in_role(mesh, who, "SUPER_ADMIN")
    async with administrator(mesh) as second:
        shown = await icto("stop", "--why", "a fire")
        assert f"by {who}: a fire" in shown
        assert "2 more people have to ask: 'icto release" in shown
        shown = await icto("release", "--why", "it is out")
        assert "Another administrator has to ask as well" in shown
        assert f"{who} asks for its release, until" in shown
        assert "1 more person has to ask" in shown
        await post(second, "/v1/config:release", justification="a test")
        shown = await icto("status")
        assert "STOPPED" not in shown
        assert "'icto maintenance off --why REASON' ends it." in shown
        assert await icto("maintenance", "off", "--why", "done") == ""
        config = await get(second, "config")
        await until_followed(mesh, int(config["revision"]))
        assert not config["maintenanceMode"]
