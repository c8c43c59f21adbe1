"""Whom the edge turns away: what Envoy is told, and how it is kept new."""

import json
from pathlib import Path
from typing import Any

from icto.identity.v1.identity_pb2 import GetDenyListRequest, GetDenyListResponse
from mesh import denylist
from mesh.denylist import Keeper


class Gateway:
    """Tells of the users that it was given."""

    def __init__(self) -> None:
        self.denied: list[str] = []

    def GetDenyList(self, request: GetDenyListRequest, timeout: float) -> GetDenyListResponse:  # noqa: N802
        """The list, if it is not the one already known."""
        del timeout
        revision = "of " + " ".join(self.denied)
        known = request.known_revision == revision
        return GetDenyListResponse(revision=revision, principals=() if known else self.denied)


def names_in(file: Path) -> set[str]:
    config: Any = json.loads(file.read_text())["resources"][0]["typed_config"]
    by_name = config["matcher"]["on_no_match"].get("matcher")
    return set(by_name["matcher_tree"]["exact_match_map"]["map"]) if by_name else set()


def test_envoy_is_told_of_each_change_and_the_list_is_confirmed_whenever_it_was_asked_for(
    tmp_path: Path,
) -> None:
    gateway, file, confirmed = Gateway(), tmp_path / "denylist.json", tmp_path / "confirmed"
    keeper = Keeper(gateway, file, confirmed)
    for denied in ([], ["somebody"], ["somebody", "else"], []):
        gateway.denied = denied
        keeper.renew()
        assert names_in(file) == set(denied)
        written = file.stat().st_mtime_ns
        confirmed.unlink()
        keeper.renew()
        assert confirmed.exists()
        assert file.stat().st_mtime_ns == written, "nothing had changed"


def test_what_cannot_be_written_now_is_written_the_next_time_and_not_confirmed_before(
    tmp_path: Path,
) -> None:
    """A full disk must not let a suspension be forgotten."""
    gateway, folder, confirmed = Gateway(), tmp_path / "missing", tmp_path / "confirmed"
    gateway.denied = ["somebody"]
    keeper = Keeper(gateway, folder / "denylist.json", confirmed)
    keeper.renew()
    assert not confirmed.exists()
    folder.mkdir()
    keeper.renew()
    assert names_in(folder / "denylist.json") == {"somebody"}
    assert confirmed.exists()


def test_a_list_of_fifty_thousand_is_told_in_a_moment() -> None:
    """By a template it took seconds."""
    told = denylist.resource([f"user-{number}" for number in range(50_000)])
    assert len(json.dumps(told)) < 50_000 * 300
