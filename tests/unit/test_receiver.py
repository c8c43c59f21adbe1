"""Where traces are passed on to, as OpenTelemetry's standard variables say it."""

from pathlib import Path

import pytest

from observability.receiver import _PEM, Destination, DestinationError


def destination(endpoint: str, **more: str) -> Destination | None:
    said = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in more.items()}
    return Destination.of_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **said})


@pytest.mark.parametrize(
    ("endpoint", "target", "secure"),
    [
        ("http://collector:4317", "collector:4317", False),
        ("http://collector:4317/", "collector:4317", False),
        ("https://collector:443", "collector:443", True),
        ("https://collector", "collector:4317", True),
        ("collector:4318", "collector:4318", False),
        ("HTTP://127.0.0.1:1", "127.0.0.1:1", False),
        ("https://[::1]:4317", "[::1]:4317", True),
    ],
)
def test_an_endpoint_is_a_url(endpoint: str, target: str, *, secure: bool) -> None:
    assert destination(endpoint) == Destination(target, (), secure)


def test_without_an_endpoint_traces_stay_at_home() -> None:
    assert Destination.of_environment({}) is None
    assert destination("") is None


def test_a_variable_that_is_empty_is_not_set() -> None:
    """So says the specification."""
    found = destination("http://collector", HEADERS="", CERTIFICATE="", PROTOCOL="")
    assert found == Destination("collector:4317")


def test_headers_and_roots_come_along(tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_bytes(_PEM)
    found = destination(
        "https://collector",
        HEADERS="Authorization=Bearer%20key,x-team=ops",
        CERTIFICATE=str(tmp_path / "roots.pem"),
        PROTOCOL="grpc",
    )
    headers = (("authorization", "Bearer key"), ("x-team", "ops"))
    assert found == Destination("collector:4317", headers, secure=True, roots=_PEM)


@pytest.mark.parametrize(
    ("endpoint", "more", "says"),
    [
        ("ftp://collector", {}, "is 'ftp://collector'; it must be like http://collector:4317"),
        ("http://", {}, "must be like"),
        ("http://collector:port", {}, "must be like"),
        ("http://[", {}, "must be like"),
        ("http://collector:4318/v1/traces", {}, "must be like"),
        ("http://me:secret@collector", {}, "must be like"),
        ("http://collector", {"PROTOCOL": "http/protobuf"}, "go on by gRPC"),
        ("http://collector", {"CERTIFICATE": "/nowhere"}, "CERTIFICATE cannot be read"),
        ("http://collector", {"CERTIFICATE": "/etc/passwd"}, "has no certificate in PEM"),
        ("http://collector", {"HEADERS": "authorization"}, "HEADERS must be like"),
        ("http://collector", {"HEADERS": "a=1,b"}, "HEADERS must be like"),
        ("http://collector", {"HEADERS": "na me=1"}, "HEADERS must be like"),
        ("http://collector", {"HEADERS": "key=%00"}, "HEADERS must be like"),
        ("http://collector", {"HEADERS": "key=\N{SNOWMAN}"}, "HEADERS must be like"),
    ],
)
def test_what_cannot_be_is_refused_in_words(endpoint: str, more: dict[str, str], says: str) -> None:
    with pytest.raises(DestinationError, match=says):
        destination(endpoint, **more)
