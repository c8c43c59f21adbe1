"""How replicas are started: what an operator may choose, and what is refused by name."""

import pytest

from mesh import inherited
from mesh.fork_server import start_method
from mesh.fork_server.start_method import StartMethod, StartMethodError


def test_replicas_are_forked_unless_the_operator_wants_them_spawned() -> None:
    assert start_method.chosen({}) is StartMethod.FORK
    assert start_method.chosen({"ICTO_START": "fork"}) is StartMethod.FORK
    assert start_method.chosen({"ICTO_START": "spawn"}) is StartMethod.SPAWN


@pytest.mark.parametrize("text", ["", "Spawn", "forkserver"])
def test_another_method_is_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(StartMethodError, match=f"ICTO_START is '{text}'.* fork, spawn"):
        start_method.chosen({"ICTO_START": text})


def test_the_choice_is_no_variable_that_nothing_reads() -> None:
    assert inherited.ignored({"ICTO_START": "spawn"}) == []


def test_what_replicas_are_given_anyway_goes_with_a_fork_server() -> None:
    environ = {"PATH": "/bin", "PYTHONPATH": "/code", "LD_LIBRARY_PATH": "/lib", "HOME": "/home"}
    server = inherited.environment(inherited.FORK_SERVER, environ)
    replica = inherited.environment(inherited.REPLICA, environ)
    start_method.check_environment(server, replica | {"ICTO_INSTANCE": "ledger-1"})


@pytest.mark.parametrize(
    "name", ["PYTHONMALLOC", "PYTHONHASHSEED", "MALLOC_ARENA_MAX", "LD_PRELOAD", "GLIBC_TUNABLES"]
)
def test_what_is_read_when_a_program_starts_cannot_differ_for_one_that_is_forked(name: str) -> None:
    for server, replica in (({}, {name: "1"}), ({name: "1"}, {}), ({name: "1"}, {name: "2"})):
        with pytest.raises(StartMethodError, match=f"^{name}: .*ICTO_START=spawn"):
            start_method.check_environment(server, replica)


def test_the_fork_server_gets_nothing_that_is_meant_for_a_replica() -> None:
    given = dict.fromkeys((*inherited.REPLICA.names, "ICTO_DATABASE_URL"), "secret")
    found = inherited.environment(inherited.FORK_SERVER, given)
    assert not [name for name in found if name.startswith("ICTO_")]
    assert found["GRPC_ENABLE_FORK_SUPPORT"] == "0"
