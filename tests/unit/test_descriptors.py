"""A low limit on open files: fitted where that is enough, refused where it is not."""

import resource
from dataclasses import replace

import pytest

from contract import loader
from mesh import descriptors, topology
from mesh.topology import Topology, TopologyError
from tests.support.protos import contract_of, method, service

CONTRACT = loader.read(contract_of(service(method())), "test")


def with_connections(number: int) -> Topology:
    made = topology.apply(CONTRACT, {})
    return replace(made, edge=replace(made.edge, max_connections=number))


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Soft and hard limit as this process finds them; not really changed."""
    found = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(found))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: found.__setitem__(0, new[0]))
    return found


def test_the_soft_limit_is_raised(limits: list[int]) -> None:
    assert descriptors.fitted(with_connections(2000)).edge.max_connections == 2000
    assert limits[0] == 2512


def test_a_hard_limit_bounds_the_standard(limits: list[int]) -> None:
    fitted = descriptors.fitted(with_connections(topology.DEFAULT_MAX_CONNECTIONS))
    assert fitted.edge.max_connections == 3584
    assert limits[0] == 4096


def test_no_limit_is_none(limits: list[int]) -> None:
    limits[:] = [1024, resource.RLIM_INFINITY]
    assert descriptors.fitted(with_connections(100_000)).edge.max_connections == 100_000


@pytest.mark.parametrize(
    ("hard", "wanted"), [(4096, 5000), (256, topology.DEFAULT_MAX_CONNECTIONS), (560, 60)]
)
def test_what_cannot_be_is_refused_with_its_key(limits: list[int], hard: int, wanted: int) -> None:
    limits[1] = hard
    with pytest.raises(TopologyError, match=r"set edge\.max_connections in mesh\.toml lower"):
        descriptors.fitted(with_connections(wanted))
