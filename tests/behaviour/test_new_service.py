"""A new service is what CONTRIBUTING.md says: a folder and a proto, and it answers over REST."""

import re
from pathlib import Path
from uuid import uuid4

import pytest

from mesh.cli.client import CallError
from tests.support.house_copy import copy_of_the_house, run
from tests.support.installation import Installation, installation, until

ROOT = Path(__file__).parents[2]
FILES = dict(
    re.findall(
        r"^`([\w/.]+)`\n\n```\w+\n(.*?)^```$",
        (ROOT / "CONTRIBUTING.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
)
_ONE_REPLICA = "[services.{}]\nreplicas = 1\n"
_OTHERS = ("audit_storage", "backend", "invoice_storage", "token_deployer")


def test_a_service_takes_under_60_lines_besides_its_proto() -> None:
    ours = [text for name, text in FILES.items() if not name.endswith(".proto")]
    assert len(ours) == 5
    lines = [line for text in ours for line in text.splitlines() if line.strip()]
    assert len(lines) < 60


async def test_a_service_made_by_following_the_instructions_answers_over_rest(
    tmp_path: Path,
) -> None:
    house = tmp_path / "house"
    copy_of_the_house(house)
    for name, text in FILES.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(text)
    await built(house)
    toml = "".join(map(_ONE_REPLICA.format, _OTHERS))
    async with installation(toml, icto=house / ".venv/bin/icto") as running:
        assert len(await running.replicas("notes")) == 2
        await check_notes(running)


async def built(house: Path) -> None:
    """Makes the copy as a contributor does, and has the new files checked."""
    ours = [name for name in FILES if name.endswith(".py")]
    await run(house, "make", "-s", ".venv/.ready")
    await run(house, ".venv/bin/ruff", "check", "-q", *ours)
    await run(house, ".venv/bin/ruff", "format", "-q", "--check", *ours)
    await run(house, ".venv/bin/python", "protos/check.py")


async def check_notes(running: Installation) -> None:
    """Writes, repeats, pages, is refused, and is audited."""
    user, other = await running.user(funds=0), await running.user(funds=0)
    texts = [f"note {number}" for number in range(3)]
    for text in texts:
        body = {"requestId": str(uuid4()), "text": text}
        first = await user.rest("POST", "/v1/notes", body)
        assert (await user.rest("POST", "/v1/notes", body)).body == first.body
    page = (await user.rest("GET", "/v1/notes?pageSize=2")).body
    assert [note["text"] for note in page["notes"]] == texts[:0:-1]
    rest = (await user.rest("GET", f"/v1/notes?pageToken={page['nextPageToken']}")).body
    assert ([note["text"] for note in rest["notes"]], rest["nextPageToken"]) == (texts[:1], "")
    assert (await other.rest("GET", "/v1/notes")).body["notes"] == []

    with pytest.raises(CallError, match="INVALID"):
        await user.rest("POST", "/v1/notes", {"requestId": str(uuid4()), "text": " "})

    async def audited() -> bool:
        found = (await user.rest("GET", "/v1/auditEntries?action=CreateNote")).body
        return len(found["entries"]) == len(texts)

    await until(audited)
    await user.close()
    await other.close()
