"""The CLI reaches a platform behind TLS by REST and by gRPC, if the machine trusts it."""

from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from mesh.cli.address import Address
from tests.support.installation import Installation
from tests.support.tls import tls_edge

_SECONDS = 10.0


async def test_an_edge_behind_tls_answers_by_rest_and_by_grpc(
    mesh: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tls_edge(mesh.target, tmp_path) as (edge, roots):
        monkeypatch.setenv("SSL_CERT_FILE", str(roots))
        address = Address.parse(edge)
        async with address.http(_SECONDS) as client:
            assert (await client.get("/v1/system/status")).status_code == 200
        async with address.channel() as channel:
            stub: Any = HealthStub(channel)  # type: ignore[no-untyped-call]
            told = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
        assert told.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_cli_names_the_https_origin_that_an_operator_has_to_add(
    mesh: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tls_edge(mesh.target, tmp_path) as (edge, roots):
        monkeypatch.setenv("SSL_CERT_FILE", str(roots))
        code, said = await mesh.icto("login", "--edge", edge, home=tmp_path)
    assert (code, f"ORIGIN_UNKNOWN: This installation is not known as '{edge}'" in said) == (
        1,
        True,
    ), said


async def test_a_certificate_that_nobody_vouches_for_is_refused_in_a_line(
    mesh: Installation, tmp_path: Path
) -> None:
    async with tls_edge(mesh.target, tmp_path) as (edge, _):
        code, said = await mesh.icto("login", "--edge", edge, home=tmp_path)
    assert code == 1
    assert "certificate" in said.lower()
    assert "Traceback" not in said
