"""Expositions of many processes, made one that the reference parsers take."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from mesh import exposition
from mesh.exposition import Format

# As Envoy writes it: no help, a counter without a suffix, bounds as they come.
ENVOY = """# TYPE envoy_cluster_retries counter
envoy_cluster_retries{cluster="a"} 3

# TYPE envoy_server_live gauge
envoy_server_live{} 1

# TYPE envoy_rq_time histogram
envoy_rq_time_bucket{le="2.5"} 1
envoy_rq_time_bucket{le="10"} 2
envoy_rq_time_bucket{le="1000000"} 2
envoy_rq_time_bucket{le="+Inf"} 2
envoy_rq_time_sum{} 7
envoy_rq_time_count{} 2
"""
AWKWARD = 'a "quoted" \\ and\nbroken {line}, le="10"'


def replica(value: float) -> str:
    """What one process says of itself."""
    registry = CollectorRegistry()
    Counter("calls_total", "Calls.", ("why",), registry=registry).labels(AWKWARD).inc(value)
    Gauge("lag", 'A "lag" \\ with\nlines.', registry=registry).set(value)
    Histogram("wait", "Waits.", buckets=(1, 2.5), registry=registry).observe(value)
    return generate_latest(registry).decode()


def merged(form: Format) -> str:
    families = [
        *exposition.read(replica(1), exposition.labels(instance="lab-1")),
        *exposition.read(replica(2), exposition.labels(instance="lab-2")),
        *exposition.read(ENVOY),
    ]
    return exposition.write(exposition.merge(families), form).decode()


def parsed(form: Format) -> dict[str, Any]:
    parse: Any = {
        Format.TEXT: text_string_to_metric_families,
        Format.OPENMETRICS: openmetrics.text_string_to_metric_families,
    }[form]
    return {family.name: family for family in parse(merged(form))}


def samples(family: Any) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
    return {(s.name, frozenset(s.labels.items()), s.value) for s in family.samples}


def test_both_formats_say_the_same() -> None:
    text, other = parsed(Format.TEXT), parsed(Format.OPENMETRICS)
    assert text.keys() == other.keys()
    for name, family in text.items():
        assert (family.type, family.documentation) == (other[name].type, other[name].documentation)
        assert samples(family) == samples(other[name]), name


def test_each_process_is_told_apart_and_nothing_of_it_is_lost() -> None:
    families = parsed(Format.OPENMETRICS)
    calls = {sample.labels["instance"]: sample for sample in families["calls"].samples}
    assert {name: sample.value for name, sample in calls.items()} == {"lab-1": 1, "lab-2": 2}
    assert calls["lab-1"].labels["why"] == AWKWARD
    assert {s.labels["instance"]: s.value for s in families["lag"].samples} == {
        "lab-1": 1,
        "lab-2": 2,
    }


def test_envoys_names_follow_the_conventions() -> None:
    families = parsed(Format.OPENMETRICS)
    (retries,) = families["envoy_cluster_retries"].samples
    assert (retries.name, retries.value) == ("envoy_cluster_retries_total", 3)
    bounds = [s.labels["le"] for s in families["envoy_rq_time"].samples if "le" in s.labels]
    assert bounds == ["2.5", "10.0", "1e+06", "+Inf"]


def test_of_two_kinds_under_one_name_the_first_counts() -> None:
    one, other = exposition.Family("x", "gauge", "X.", ["x 1"]), exposition.Family("x", "counter")
    assert exposition.merge([one, other]) == [one]
