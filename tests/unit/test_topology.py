"""mesh.toml: what it may change, and how it is told that it may not."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from contract import loader
from mesh import topology
from mesh.topology import Topology, TopologyError
from tests.support.protos import contract_of, method, service

CONTRACT = loader.read(contract_of(service(method(), replicas=2)), "test")


def load(text: str, tmp_path: Path, overrides: dict[str, Any] | None = None) -> Topology:
    file = tmp_path / "mesh.toml"
    file.write_text(text)
    return topology.load(CONTRACT, file, overrides)


def test_without_a_file_the_contract_stands(tmp_path: Path) -> None:
    for found in (
        topology.load(CONTRACT, None),
        topology.load(CONTRACT, tmp_path / "missing.toml"),
        load("", tmp_path),
    ):
        assert found.services == CONTRACT.services
        assert found.buckets == CONTRACT.buckets
        assert found.edge == topology.Edge()
        assert found.edge.address == "127.0.0.1"


def test_what_the_file_says_is_changed_and_nothing_else(tmp_path: Path) -> None:
    found = load(
        """
        health_interval = 2
        [edge]
        port = 9090
        cors_origins = ["https://app.example"]
        [observability]
        trace_ratio = 0
        [database]
        pool = 3
        [services.things]
        replicas = 5
        [services.things.breaker]
        max_requests = 7
        [limits.WRITE]
        capacity = 500
        per_second = 200
        """,
        tmp_path,
    )
    things, before = found.services["things"], CONTRACT.services["things"]
    assert (found.edge.port, found.edge.address) == (9090, "127.0.0.1")
    assert found.edge.cors_origins == ("https://app.example",)
    assert found.health_interval == 2.0
    assert found.observability.trace_ratio == 0.0
    assert type(found.observability.trace_ratio) is float
    assert (things.replicas, things.breaker.max_requests) == (5, 7)
    assert things.breaker.max_connections == before.breaker.max_connections
    assert things.methods == before.methods
    written = CONTRACT.buckets["WRITE"]
    assert found.buckets["WRITE"] == replace(written, capacity=500, per_second=200)
    assert found.buckets["READ"] == CONTRACT.buckets["READ"]
    assert (found.replica_count, found.database_connections) == (5, 15)


def test_overrides_lie_over_the_file(tmp_path: Path) -> None:
    text = '[edge]\nport = 1000\naudience = "mine"\n'
    found = load(text, tmp_path, {"edge": {"port": 2000}, "health_interval": 1.5})
    assert (found.edge.port, found.edge.audience) == (2000, "mine")
    assert found.health_interval == 1.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "mesh.toml has no colour; it has database, edge"),
        ("[edge]\nprot = 1", "edge has no prot; it has"),
        ("[services.ghosts]\nreplicas = 1", "services has no ghosts; it has things"),
        ("[services.things]\nreplica = 1", "services.things has no replica"),
        ("[services.things.breaker]\nlimit = 1", "services.things.breaker has no limit"),
        ("[limits.FAST]\ncapacity = 1", "limits has no FAST; it has"),
        ('[edge]\nport = "8080"', "edge.port is '8080'; it must be int, for instance 8080"),
        ("[edge]\nport = 80.5", "edge.port is 80.5; it must be int"),
        ("[edge]\nport = true", "edge.port is True; it must be int"),
        ("[edge]\nport = [1]", r"edge.port is \[1\]; it must be int"),
        ("[edge]\naddress = 1", "edge.address is 1; it must be str"),
        ("[edge.port]\nvalue = 1", r"edge.port is {.*}; it must be int"),
        ("[edge]\ncors_origins = 'x'", "edge.cors_origins is 'x'; it must be"),
        ("[edge]\ncors_origins = [1]", r"edge.cors_origins is \[1\]; it must be"),
        ("[services.things]\nbreaker = 1", "services.things.breaker is 1; it must be Breaker"),
        ("[services.things]\nmethods = []", "services.things has no methods"),
        ('[services.things]\nmesh_name = "x"', "services.things has no mesh_name"),
        ("services = 1", "services must be a table"),
        ("[services]\nthings = 1", "services.things must be a table"),
        ("edge = 1", "edge must be a table"),
        ('health_interval = "often"', "health_interval is 'often'; it must be float"),
        ("health_interval = true", "health_interval is True; it must be float"),
        ("[observability]\ntrace_ratio = true", "observability.trace_ratio is True; it must"),
        ("[edge", "mesh.toml: "),
        ("[edge]\nport = 70000", "edge.port is 70000; it must be from 1 to 65535"),
        ("[edge]\nport = 0", "edge.port is 0; it must be from 1"),
        ("[observability]\nmetrics_port = 99999", "observability.metrics_port is 99999; it must"),
        ("[observability]\ntrace_ratio = 1.5", "observability.trace_ratio is 1.5; it must be"),
        ("health_interval = 0", "health_interval is 0; it must be from 0.05 to 60"),
        ("health_interval = nan", "health_interval is nan; it must be from 0.05 to 60"),
        ("[services.things]\nreplicas = 0", "services.things.replicas is 0; it must be from 1"),
        ("[services.things]\nreplicas = -3", "services.things.replicas is -3; it must be"),
        ("[database]\npool = 0", "database.pool is 0; it must be from 1 to 100"),
        ("[services.things.ejection]\nmax_percent = 400", "ejection.max_percent is 400; it must"),
        ("[limits.WRITE]\nper_second = 0", "limits.WRITE.per_second is 0; it must be from 1"),
        ("[limits.SIGN_IN]\nby_address = false", "limits.SIGN_IN has no by_address"),
        ('[observability]\nlog_level = "chatty"', "log_level is 'chatty'; it must be debug, info"),
        ('[services.things]\nbalancing = "X"', "balancing is 'X'; it must be LEAST_REQUEST or"),
        ('[edge]\naddress = "here"', "edge.address is 'here'; it must be an IP address"),
        ('[edge]\naddress = "1.2.3"', "edge.address is '1.2.3'; it must be an IP address"),
        ('[observability]\nmetrics_address = "::g"', "metrics_address is '::g'; it must be an IP"),
        ('[edge]\naudience = "a\\nb"', r"edge.audience is 'a\\nb'; it must be a name without"),
        ('[edge]\norigins = ["https://A"]', "edge.origins is 'https://A'; it must be like https"),
        ('[edge]\norigins = ["https://a/b"]', "edge.origins is 'https://a/b'; it must be like"),
        (
            '[edge]\ntrusted_proxies = ["proxy"]',
            "edge.trusted_proxies is 'proxy': 'proxy' does not",
        ),
        ('[edge]\ntrusted_proxies = ["10.0.0.1/8"]', "10.0.0.1/8 has host bits set; write 10.0"),
        ('[edge]\ntrusted_proxies = ["0.0.0.0/0"]', "it would let everybody choose their address"),
        ('[edge]\ntrusted_proxies = ["::/0"]', "it would let everybody choose their address"),
        ("[services.things]\nstreams_per_address = 0", "streams_per_address is 0; it must be"),
        ("[limits.WRITE]\nbytes = 1000", "limits.WRITE.bytes is 1000; it must be from 65536"),
        ('[edge]\ncors_origins = ["app"]', "edge.cors_origins is 'app'; it must be like https://"),
    ],
)
def test_a_mistake_is_told_by_its_key(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=message):
        load(text, tmp_path)


@pytest.mark.parametrize(
    ("edge", "origins"),
    [
        ({}, ["http://localhost:8080", "http://127.0.0.1:8080"]),
        ({"port": 80}, ["http://localhost", "http://127.0.0.1"]),
        (
            {"address": "0.0.0.0"},
            ["http://localhost:8080", "http://127.0.0.1:8080", "http://0.0.0.0:8080"],
        ),
        (
            {"address": "::", "port": 80},
            ["http://localhost", "http://127.0.0.1", "http://[::1]", "http://[::]"],
        ),
        ({"address": "::1"}, ["http://localhost:8080", "http://[::1]:8080"]),
        ({"address": "10.0.0.5"}, ["http://10.0.0.5:8080"]),
        ({"address": "fd00::1"}, ["http://[fd00::1]:8080"]),
        (
            {"origins": ["https://icto.example:443", "http://[::1]:80"]},
            ["https://icto.example", "http://[::1]"],
        ),
    ],
)
def test_people_sign_in_where_it_listens_or_where_mesh_toml_says(
    edge: dict[str, object], origins: list[str]
) -> None:
    assert list(topology.apply(CONTRACT, {"edge": edge}).edge.own_origins) == origins


@pytest.mark.parametrize(
    ("edge", "told"),
    [
        ({}, False),
        ({"address": "::1"}, False),
        ({"address": "0.0.0.0"}, True),
        ({"https": True}, True),
        ({"https": True, "origins": ["https://icto.example"]}, False),
    ],
)
def test_an_operator_is_told_where_nobody_outside_could_sign_in(
    edge: dict[str, object], told: bool
) -> None:
    assert ("origins" in topology.apply(CONTRACT, {"edge": edge}).edge.unlisted) == told


@pytest.mark.parametrize("address", ["::1", "::", "0.0.0.0", "10.1.2.3", "2001:db8::1"])
def test_an_address_is_of_either_kind(address: str, tmp_path: Path) -> None:
    found = load(f'[edge]\naddress = "{address}"', tmp_path)
    host = f"[{address}]" if ":" in address else address
    assert found.origin == f"http://{host}:8080"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"# M\xfcnchen\n", "mesh.toml: line 1 is not UTF-8; save the file as UTF-8"),
        (b"\n\n[edge]\n# \xff", "line 4 is not UTF-8"),
    ],
)
def test_a_file_that_is_no_text_is_told(text: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_bytes(text)
    with pytest.raises(TopologyError, match=message):
        topology.load(CONTRACT, file)


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="cannot be read: Is a directory"):
        topology.load(CONTRACT, tmp_path)


def test_a_mark_of_its_encoding_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_bytes(b"\xef\xbb\xbf[edge]\nport = 9\n")
    assert topology.load(CONTRACT, tmp_path / "mesh.toml").edge.port == 9


@pytest.mark.parametrize(
    ("edge", "metrics"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::")]
)
def test_one_port_for_two_is_refused(edge: str, metrics: str, tmp_path: Path) -> None:
    text = f"""
        [edge]
        address = "{edge}"
        port = 9464
        [observability]
        metrics_address = "{metrics}"
        """
    with pytest.raises(TopologyError, match=r"edge.port and observability.metrics_port are both"):
        load(text, tmp_path)


def test_one_port_on_two_addresses_is_taken(tmp_path: Path) -> None:
    load('[edge]\naddress = "10.0.0.1"\nport = 9464', tmp_path)


def test_connections_of_listeners_are_counted() -> None:
    counted = loader.read(contract_of(service(method(), replicas=2, listeners=3)), "test")
    found = topology.apply(counted, {"database": {"pool": 5, "max_connections": 18}})
    assert found.database_connections == 16
    with pytest.raises(TopologyError, match=r"may open 16 .* room for 15. Raise database.max_conn"):
        found.check_embedded()
    topology.apply(counted, {"database": {"pool": 5, "max_connections": 19}}).check_embedded()


def test_what_changed_is_told_by_its_key(tmp_path: Path) -> None:
    before = load("", tmp_path)
    now = load("[services.things]\nreplicas = 5\n[edge]\nhttps = true", tmp_path)
    assert topology.differences(before, now) == [
        "edge.https is True and was False",
        "services.things.replicas is 5 and was 2",
    ]
    assert topology.differences(before, before) == []


def test_every_number_and_text_has_its_bounds() -> None:
    (things,) = CONTRACT.services.values()
    sections = (
        topology.Edge(), topology.Observability(), topology.DatabaseLimits(), things,
        things.breaker, things.ejection, CONTRACT.buckets["WRITE"],
    )  # fmt: skip
    without = {
        f"{type(section).__name__}.{item.name}"
        for section in sections
        for item in fields(section)
        if item.name not in topology._FIXED
        and isinstance(getattr(section, item.name), int | float | str)
        and not isinstance(getattr(section, item.name), bool)
    } - {*topology._BOUNDS, *topology._TEXTS}
    assert not without


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("", False),
        ("https = true", True),
        ('https = true\ntrusted_proxies = ["10.0.0.0/8", "::1"]', False),
    ],
)
def test_https_without_proxies_that_are_trusted_is_a_warning(
    text: str, warned: bool, tmp_path: Path
) -> None:
    """Whatever ends https is everybody's address then."""
    told = load(f"[edge]\n{text}", tmp_path).edge.warnings
    assert any("trusted_proxies" in line for line in told) is warned
