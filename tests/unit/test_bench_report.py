"""What `make bench` prints."""

import json

import pytest

from tests.bench.report import Figure, Report, percentile


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(as_json=True)
    report.title("a title is for people")
    report.add(Figure("cold start", 6.5, "s", "bar 8", 1))
    report.latencies("accepted", [0.001, 0.002, 0.003], "bar 8")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {
        "name": "cold start", "value": 6.5, "unit": "s", "reference": "bar 8", "runs": 1,
    }  # fmt: skip
    assert [line["name"] for line in lines[1:]] == [f"accepted, p{p}" for p in (50, 95, 99)]
    assert {line["runs"] for line in lines[1:]} == {3}


def test_a_table_has_the_reference_beside_each_figure(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(as_json=False)
    report.title("Start")
    report.add(Figure("cold start", 6.543, "s", "bar 8"))
    report.add(Figure("fsync", "on", "", "on"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["Start"]
    assert lines[3:] == [["cold", "start", "6.54", "s", "bar", "8"], ["fsync", "on", "on"]]


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 51), (95, 96), (99, 100), (100, 100)])
def test_a_percentile_is_one_of_the_values(percent: float, value: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == value
