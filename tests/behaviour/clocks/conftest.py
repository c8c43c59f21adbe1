"""Tests that move clocks share a mesh that nobody else has: time only goes on."""

from collections.abc import AsyncIterator

import pytest

from tests.support.installation import Installation, installation


@pytest.fixture(scope="package")
async def mesh() -> AsyncIterator[Installation]:
    """The mesh whose clocks are moved."""
    async with installation(environment={"ICTO_AUDIT_CHECKPOINT_SECONDS": "1"}) as running:
        yield running
