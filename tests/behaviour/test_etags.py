"""A change made from what was seen: `If-Match` and `ETag` (RFC 9110), at the edge."""

import json
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import pytest

from contract.errors import Code
from icto.backend.v1 import projects_pb2 as pb
from mesh.cli.client import Client
from tests.support.edge import Edge, Outcome, Rest, Rpc, bearer
from tests.support.lab import JSON

UPDATE: Final = "/icto.backend.v1.ProjectService/UpdateProject"
STALE: Final = (412, "IF_MATCH_FAILED")


@dataclass(frozen=True)
class Project:
    """A project of a user, over REST."""

    edge: Edge
    token: str
    path: str

    @classmethod
    async def of(cls, edge: Edge, user: Client) -> "Project":
        token = await user.token()
        body = {"requestId": str(uuid4()), "project": {"displayName": "A project"}}
        made = await edge.rest(
            Rest("POST", "/v1/projects", json.dumps(body).encode(), {**JSON, **bearer(token)})
        )
        return cls(edge, token, f"/v1/{json.loads(made.body)['name']}")

    async def read(self) -> Outcome:
        return await self.edge.rest(Rest("GET", self.path, headers=bearer(self.token)))

    async def rename(self, name: str, *tags: str, **more: Any) -> Outcome:
        """Changes the name, under `If-Match` if tags are given."""
        body = {"requestId": str(uuid4()), "project": {"displayName": name}} | more
        headers = {**JSON, **bearer(self.token)}
        if tags:
            headers["if-match"] = ", ".join(tags)
        return await self.edge.rest(Rest("PATCH", self.path, json.dumps(body).encode(), headers))

    async def name(self) -> str:
        return str(json.loads((await self.read()).body)["displayName"])


@pytest.fixture
async def project(edge: Edge, alice: Client) -> Project:
    return await Project.of(edge, alice)


async def test_answers_carry_the_etag_of_what_they_tell(project: Project) -> None:
    """On what is created, read, changed, and answered again."""
    read = await project.read()
    assert read.headers["etag"] == json.loads(read.body)["etag"]
    repeat = {"requestId": str(uuid4())}
    changed = [await project.rename("Another name", **repeat) for _ in range(2)]
    for outcome in changed:
        assert outcome.headers["etag"] == json.loads(outcome.body)["etag"] != read.headers["etag"]


@pytest.mark.parametrize("tags", [['"stale"'], ['W/"0"', '"x"'], ["stale"], ['"a, b"'], [","]])
async def test_a_change_of_what_was_changed_meanwhile_is_refused(
    project: Project, tags: list[str]
) -> None:
    """412, and nothing is lost to others."""
    refused = await project.rename("Lost", *tags)
    assert refused.refusal == STALE
    assert await project.name() == "A project"


async def test_a_weak_etag_matches_nothing(project: Project) -> None:
    tag = (await project.read()).headers.get("etag", '"0"')
    assert (await project.rename("Lost", f"W/{tag}")).refusal == STALE


async def test_a_change_of_what_was_seen_goes_through(project: Project) -> None:
    seen = json.loads((await project.read()).body)["etag"]
    assert (await project.rename("First", seen)).status == 200
    assert (await project.rename("Second", seen)).refusal == STALE
    now = json.loads((await project.read()).body)["etag"]
    assert (await project.rename("Third", '"other"', now)).status == 200
    assert (await project.rename("Fourth", "*")).status == 200
    assert await project.name() == "Fourth"


async def test_a_repeat_gets_its_answer_whatever_was_changed_by_it(project: Project) -> None:
    seen = json.loads((await project.read()).body)["etag"]
    repeat = {"requestId": str(uuid4())}
    first, again = [await project.rename("Once", seen, **repeat) for _ in range(2)]
    assert (first.status, first.body) == (again.status, again.body)


async def test_over_grpc_it_is_a_failed_precondition(project: Project) -> None:
    request = pb.UpdateProjectRequest(request_id=str(uuid4()))
    request.project.name = project.path.removeprefix("/v1/")
    request.project.display_name = "Lost"
    headers = {**bearer(project.token), "if-match": '"stale"'}
    rpc = Rpc(UPDATE, request.SerializeToString(), headers)
    for outcome in (await project.edge.all(None, rpc)).values():
        assert (outcome.code, outcome.reason) == (Code.FAILED_PRECONDITION, STALE[1])
    assert await project.name() == "A project"


@pytest.mark.parametrize(
    ("verb", "path", "body"),
    [
        ("PATCH", "/v1/users/me", {"profile": {"displayName": "Lost"}}),
        ("POST", "/v1/projects", {"project": {"displayName": "Lost"}}),
    ],
)
async def test_what_has_no_etag_matches_none(
    edge: Edge, alice: Client, verb: str, path: str, body: dict[str, Any]
) -> None:
    """Ignored, the condition would let a change through that its sender did not want."""
    headers = {**JSON, **bearer(await alice.token()), "if-match": '"seen"'}
    content = json.dumps(body | {"requestId": str(uuid4())}).encode()
    assert (await edge.rest(Rest(verb, path, content, headers))).refusal == STALE
