"""No answer is larger than what every hop takes: lists of the largest rows, and the largest row.

Rows are written past the rules, since it is their size that matters.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from contract.status import from_rpc_error
from icto.backend.v1 import deployments_pb2, launches_pb2
from icto.backend.v1.deployments_pb2_grpc import DeploymentServiceStub
from icto.backend.v1.launches_pb2_grpc import LaunchServiceStub
from icto.token.v1 import token_pb2
from icto.token.v1.token_pb2_grpc import TokenServiceStub
from mesh.cli.client import CallError, Client
from tests.support import large
from tests.support.installation import Installation

_MOST_PAGES: Final = 200
_SECONDS: Final = 30.0
MIB: Final = 2**20


async def by_rest(client: Client, path: str, field: str) -> list[dict[str, Any]]:
    """Everything of a list, page by page, each as large as it comes when nothing is said."""
    found, token = list[dict[str, Any]](), ""
    for _ in range(_MOST_PAGES):
        page = (await client.rest("GET", path + f"pageToken={token}")).body
        assert len(json.dumps(page)) <= 2 * MIB
        assert page[field], "a page that is not the last has something on it"
        found += page[field]
        token = page["nextPageToken"]
        if not token:
            return found
    raise AssertionError("the list does not end")


def named(found: list[dict[str, Any]], wanted: list[str]) -> list[str]:
    """Names of what was found, as far as they are among those wanted: others share the mesh."""
    return [one["name"] for one in found if one["name"] in wanted]


async def test_tokens_are_listed_and_found_whatever_the_size_of_their_logos(
    mesh: Installation, alice: Client
) -> None:
    """48 of them made the default list an error for everybody."""
    async with large.tokens(mesh, 48, "Biglogo") as wanted:
        listed = await by_rest(alice, "/v1/tokens?", "tokens")
        assert named(listed, wanted) == wanted
        found = await by_rest(alice, "/v1/tokens:search?query=biglogo&", "tokens")
        assert sorted(named(found, wanted)) == sorted(wanted)
        (shown,) = [one for one in listed if one["name"] == wanted[0]]
        assert (shown["spec"]["logo"], shown["spec"]["initialBalances"]) == ("", [])
        whole = (await alice.rest("GET", f"/v1/{wanted[0]}")).body
        assert whole["spec"]["logo"] == large.LOGO
        assert len(whole["spec"]["initialBalances"]) == large.HOLDERS
        assert whole["spec"] | {"logo": "", "initialBalances": []} == shown["spec"]

        stub = TokenServiceStub(alice.channel)
        page = await stub.ListTokens(token_pb2.ListTokensRequest(page_size=100), timeout=_SECONDS)
        assert {one.spec.logo for one in page.tokens if one.name in wanted} == {""}
        one = await stub.GetToken(token_pb2.GetTokenRequest(name=wanted[0]), timeout=_SECONDS)
        assert one.spec.logo == large.LOGO


async def test_launches_are_listed_whatever_the_number_of_their_beneficiaries(
    mesh: Installation, tmp_path: Path
) -> None:
    """Four of 8 x 1,000 broke the list of their owner by REST, seven that by gRPC and the CLI."""
    status, told = await mesh.icto("login", home=tmp_path)
    assert status == 0, told
    (owner,) = re.findall(r"(?:[a-z0-9]{5}-){10}[a-z0-9]{3}", told)
    async with large.launches(mesh, owner, 8, large.launch_spec()) as wanted:
        status, output = await mesh.icto("launches", home=tmp_path)
        assert status == 0, output
        assert re.findall(r"launches/[0-9a-f-]{36}", output) == wanted


async def test_an_owner_s_launches_are_listed_by_rest_and_grpc_and_got_whole(
    mesh: Installation, alice: Client
) -> None:
    async with large.launches(mesh, alice.principal, 8, large.launch_spec()) as wanted:
        listed = await by_rest(alice, "/v1/launches?", "launches")
        assert named(listed, wanted) == wanted
        assert {len(lock["beneficiaries"]) for lock in listed[0]["spec"]["locks"]} == {0}
        assert listed[0]["spec"]["newToken"]["logo"] == ""

        stub, token, found = LaunchServiceStub(alice.channel), "", list[str]()
        while token or not found:
            request = launches_pb2.ListLaunchesRequest(page_size=100, page_token=token)
            page = await stub.ListLaunches(
                request, timeout=_SECONDS, metadata=[("authorization", await bearer(alice))]
            )
            found += [one.name for one in page.launches]
            token = page.next_page_token
            if not token:
                break
        assert found == wanted

        whole = (await alice.rest("GET", f"/v1/{wanted[0]}")).body
        assert {len(lock["beneficiaries"]) for lock in whole["spec"]["locks"]} == {1_000}
        assert whole["spec"]["newToken"]["logo"] == large.LOGO


async def bearer(client: Client) -> str:
    """What the metadata of a call carries."""
    return f"Bearer {await client.token()}"


async def test_deployments_are_listed_whatever_the_size_of_their_logos(
    mesh: Installation, alice: Client
) -> None:
    async with large.deployments(mesh, alice.principal, 70) as wanted:
        listed = await by_rest(alice, "/v1/deployments?pageSize=100&", "deployments")
        assert named(listed, wanted) == wanted
        assert {one["spec"]["logo"] for one in listed} == {""}
        whole = (await alice.rest("GET", f"/v1/{wanted[0]}")).body
        assert whole["spec"]["logo"] == large.LOGO


async def test_a_page_of_locks_ends_by_bytes_where_their_schedules_are_long(
    mesh: Installation, alice: Client
) -> None:
    async with large.locks(mesh, alice.principal, 100) as wanted:
        listed = await by_rest(alice, "/v1/locks?pageSize=100&", "locks")
        assert named(listed, wanted) == wanted
        assert len(listed[0]["spec"]["schedule"]["milestones"]["milestones"]) == 120


async def test_invoices_are_listed_whatever_the_number_of_their_lines(
    mesh: Installation, alice: Client
) -> None:
    async with large.payments(mesh, alice.principal, 60) as wanted:
        listed = await by_rest(alice, "/v1/invoices?pageSize=100&", "invoices")
        assert named(listed, wanted) == wanted
        assert {len(one["lines"]) for one in listed} == {100}


async def test_dead_letters_are_listed_whatever_their_size(
    mesh: Installation, admin: Client
) -> None:
    """Base64 makes a third more of them: two were too many."""
    async with large.dead_letters(mesh, 3) as wanted:
        listed = await by_rest(admin, "/v1/deadLetters?", "deadLetters")
        assert named(listed, wanted) == wanted
        assert {one["event"] for one in listed} == {""}
        whole = (await admin.rest("GET", f"/v1/{wanted[0]}")).body
        assert len(whole["event"]) == 4 * ((1_000_000 + 2) // 3)


async def test_the_largest_launch_is_got_whole_though_json_makes_six_bytes_of_one(
    mesh: Installation, alice: Client
) -> None:
    """A request has a mebibyte at most; every byte of text in it may be one that is escaped."""
    spec = large.launch_spec(locks=0)
    one = large.lock_spec(beneficiaries=0)
    many = one.beneficiaries.add(principal=large.PRINCIPAL, amount="1")
    many.schedule.CopyFrom(large.milestones())
    while spec.ByteSize() + one.ByteSize() < MIB and len(one.beneficiaries) < 1_000:
        one.beneficiaries.add().CopyFrom(many)
    spec.locks.add().CopyFrom(one)
    del spec.locks[0].beneficiaries[-1]
    assert 0.9 * MIB < spec.ByteSize() < MIB
    async with large.launches(mesh, alice.principal, 3, spec) as wanted:
        whole = (await alice.rest("GET", f"/v1/{wanted[0]}")).body
        assert len(whole["spec"]["locks"][0]["beneficiaries"]) == len(spec.locks[0].beneficiaries)
        listed = await by_rest(alice, "/v1/launches?", "launches")
        assert named(listed, wanted) == wanted
        stub = LaunchServiceStub(alice.channel)
        got = await stub.GetLaunch(
            launches_pb2.GetLaunchRequest(name=wanted[0]),
            timeout=_SECONDS,
            metadata=[("authorization", await bearer(alice))],
        )
        assert got.spec == spec


async def test_an_answer_that_is_too_large_all_the_same_says_so_and_blames_no_request(
    mesh: Installation, alice: Client
) -> None:
    """Written past every bound. A list shows it; a Get and a stream have a reason of their own."""
    spec = launches_pb2.LaunchSpec(display_name="Too large")
    spec.new_token.CopyFrom(large.token_spec("Too large", logo="x" * 5 * MIB))
    metadata = [("authorization", await bearer(alice))]
    async with large.launches(mesh, alice.principal, 1, spec) as wanted:
        listed = await by_rest(alice, "/v1/launches?", "launches")
        assert named(listed, wanted) == wanted
        with pytest.raises(CallError) as refused:
            await alice.rest("GET", f"/v1/{wanted[0]}")
        assert (refused.value.status, refused.value.reason) == (500, "RESPONSE_TOO_LARGE")
        assert "nothing wrong with the request" in str(refused.value)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await LaunchServiceStub(alice.channel).GetLaunch(
                launches_pb2.GetLaunchRequest(name=wanted[0]), timeout=_SECONDS, metadata=metadata
            )
        assert reason_of(failed.value) == (grpc.StatusCode.INTERNAL, "RESPONSE_TOO_LARGE")
    async with large.deployments(mesh, alice.principal, 1, logo="x" * 5 * MIB) as (deployment, *_):
        request = deployments_pb2.WatchDeploymentRequest(name=deployment)
        stream = DeploymentServiceStub(alice.channel).WatchDeployment(
            request, timeout=_SECONDS, metadata=metadata
        )
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await anext(aiter(stream))
        assert reason_of(failed.value) == (grpc.StatusCode.INTERNAL, "RESPONSE_TOO_LARGE")


def reason_of(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    """How a call failed: its code, and its reason."""
    return error.code(), from_rpc_error(error).reason
