"""Tests that kill parts of a mesh share one that nobody else has, and leave it running."""

from collections.abc import AsyncIterator

import pytest

from tests.support.installation import Installation, installation


@pytest.fixture(scope="package")
async def house() -> AsyncIterator[Installation]:
    """The mesh whose parts are killed."""
    async with installation() as running:
        yield running
