"""The address of the metrics: what it answers, and how often it gathers for how many."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from mesh.exporter import Gatherer, Server, Sources
from mesh.exposition import Family

_SCRAPERS = 8
_NOWHERE = Path("/nonexistent")


class Counting(Gatherer):
    """Counts how often it gathers from parts of which none is there."""

    def __init__(self) -> None:
        super().__init__(Sources(_NOWHERE, _NOWHERE, _NOWHERE))
        self.gathered = 0

    def _gather(self) -> Sequence[Family]:
        self.gathered += 1
        return super()._gather()


@pytest.fixture
def gatherer() -> Counting:
    return Counting()


@pytest.fixture
def address(gatherer: Counting) -> Iterator[str]:
    server = Server("127.0.0.1", 0, gatherer)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    serving.join()
    server.server_close()


def test_scrapes_that_come_together_share_one_gathering(gatherer: Counting, address: str) -> None:
    with ThreadPoolExecutor(_SCRAPERS) as scrapers:
        answers = list(scrapers.map(httpx.get, [f"{address}/metrics"] * _SCRAPERS))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert gatherer.gathered == 1


def test_that_nothing_answers_is_told_by_metrics(address: str) -> None:
    text = httpx.get(f"{address}/metrics").text
    assert 'icto_metrics_source_up{source="envoy"} 0.0' in text
    assert 'icto_metrics_source_up{source="supervisor"} 0.0' in text
    assert "icto_deny_list_age_seconds" not in text


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metricsx", "/healthz/x", "/x?/metrics"])
def test_nothing_else_is_answered(address: str, path: str) -> None:
    assert httpx.get(address + path).status_code == 404


def test_only_reads_are_answered(address: str) -> None:
    assert httpx.get(f"{address}/healthz").text == "ok\n"
    assert httpx.get(f"{address}/metrics?x=y").status_code == 200
    head = httpx.head(f"{address}/metrics")
    assert (head.status_code, head.text) == (200, "")
    assert int(head.headers["content-length"]) > 0
    assert httpx.post(f"{address}/metrics").status_code == 501
