"""Fixtures: one mesh for all tests that leave it as it was, a fresh one for those that do not."""

import os
import shutil
from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest

from mesh.cli.client import Client
from tests.support.administration import administrator
from tests.support.edge import Edge, caller
from tests.support.failures import told_since
from tests.support.installation import Installation, installation
from tests.support.postgres import Postgres, Replica, Schema, embedded
from tests.support.tokens import Mint, mint_of

REQUIRED = os.environ.get("ICTO_REQUIRE_TOOLS") == "1"

PAGE = "https://app.example"
NARROW_IDLE_SECONDS = 1.2
NARROW_SIGN_INS = 5
NARROW_STREAMS_PER_PRINCIPAL, NARROW_STREAMS_PER_ADDRESS = 2, 3
PROXY = "127.0.9.1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed shows what its installation logged meanwhile."""
    report = yield
    if report.failed:
        told = told_since(call.start, getattr(item, "funcargs", {}).values())
        if told:
            report.sections.append(("Warnings and errors of the installation", told))
    return report


@pytest.fixture(scope="session")
async def mesh() -> AsyncIterator[Installation]:
    """The shared mesh. Tests may add to it, and must leave it healthy."""
    async with installation(environment={"ICTO_AUDIT_CHECKPOINT_SECONDS": "1"}) as running:
        yield running


@pytest.fixture(scope="session")
async def edge(mesh: Installation) -> AsyncIterator[Edge]:
    """A caller of the shared mesh, whoever it says it is."""
    async with caller(mesh.target) as made:
        yield made


@pytest.fixture(scope="session")
async def narrow() -> AsyncIterator[Installation]:
    """A mesh with a page of its own, little patience, and few sign-ins for an address.

    Its replicas are programs of their own; those of the others are forked.
    """
    async with installation(
        f"""
        [edge]
        cors_origins = ["{PAGE}"]
        https = true
        trusted_proxies = ["{PROXY}", "127.0.9.8/31"]
        stream_idle_timeout = {NARROW_IDLE_SECONDS}
        [services.gateway]
        streams_per_principal = {NARROW_STREAMS_PER_PRINCIPAL}
        streams_per_address = {NARROW_STREAMS_PER_ADDRESS}
        """,
        environment={"ICTO_START": "spawn"},
        limits={"SIGN_IN": {"capacity": NARROW_SIGN_INS, "per_second": 1}},
    ) as running:
        yield running


@pytest.fixture(scope="session")
async def narrow_edge(narrow: Installation) -> AsyncIterator[Edge]:
    """A caller of the narrow mesh."""
    async with caller(narrow.target) as made:
        yield made


@pytest.fixture(scope="session")
async def mint(mesh: Installation) -> Mint:
    """Makes tokens for the shared mesh."""
    return await mint_of(mesh)


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[Postgres]:
    """The real Postgres, with no mesh around it."""
    async with embedded() as server:
        yield server


@pytest.fixture
async def schema(postgres: Postgres) -> Schema:
    """A fresh schema with the kit's tables."""
    return await postgres.schema()


@pytest.fixture
async def replica(schema: Schema) -> AsyncIterator[Replica]:
    """What one replica has of the kit, in a fresh schema."""
    async with schema.replica() as made:
        yield made


@pytest.fixture
async def alice(mesh: Installation) -> AsyncIterator[Client]:
    """A user of the shared mesh."""
    client = await mesh.user()
    yield client
    await client.close()


@pytest.fixture
async def bob(mesh: Installation) -> AsyncIterator[Client]:
    """Another user of the shared mesh."""
    client = await mesh.user()
    yield client
    await client.close()


@pytest.fixture
async def admin(mesh: Installation) -> AsyncIterator[Client]:
    """A super-admin of the shared mesh."""
    async with administrator(mesh) as client:
        yield client


def tool(name: str) -> str:
    """The path of a tool that a plain user may lack: a test skips without it, except in CI."""
    found = shutil.which(name)
    if found is None and REQUIRED:
        pytest.fail(f"{name} is required here; 'make tools' installs it")
    if found is None:
        pytest.skip(f"{name} is not installed; 'make tools' installs it")
    return found
