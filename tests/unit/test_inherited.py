"""What comes along from the environment: a list for each kind of process, and nothing else."""

import importlib
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from contract import loader
from contract.environment import PREFIX, Environment
from mesh import inherited
from mesh.inherited import Kind
from mesh.postgres import Server
from mesh.rundir import RunDirectory
from mesh.supervisor import Options, Supervisor
from schema_setup.packages import package_of
from services.kit.settings import Settings
from tests.support import strange

KINDS = {
    "postgres": inherited.POSTGRES,
    "envoy": inherited.ENVOY,
    "replica": inherited.REPLICA,
    "jaeger": inherited.JAEGER,
}
MEANT = {"TZ": "Europe/Berlin", "ICTO_INITIAL_CONFIG": "{}", "HOME": "/home/me"}
# Of these some have a meaning for Python, and are given a value of ours.
GIVEN = {"PYTHONUTF8", "LC_ALL", "OTEL_TRACES_SAMPLER"}


@pytest.mark.parametrize("library", strange.BY_LIBRARY)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_no_child_inherits_what_a_library_reads(kind: Kind, library: str) -> None:
    found = inherited.environment(kind, strange.BY_LIBRARY[library] | {"TZ": "Europe/Berlin"})
    assert found.keys() & strange.BY_LIBRARY[library].keys() <= GIVEN
    for name in found.keys() & GIVEN:
        assert found[name] == kind.given[name]
    assert found["TZ"] == "Europe/Berlin"


def test_replicas_get_what_is_meant_for_them() -> None:
    found = inherited.environment(inherited.REPLICA, MEANT | {"ICTO_DATABASE_URL": "secret"})
    assert found.items() >= MEANT.items()
    assert "ICTO_DATABASE_URL" not in found


def test_icto_itself_keeps_what_an_operator_means() -> None:
    meant = MEANT | {
        "ICTO_EDGE": "here", "XDG_CONFIG_HOME": "/keys", "SSL_CERT_FILE": "/roots.pem",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "k=v",
    }  # fmt: skip
    found = inherited.own(meant | strange.LIBPQ | strange.GRPC)
    assert found.items() >= meant.items()
    # What it is given itself has a value of ours.
    assert not found.items() & (strange.LIBPQ | strange.GRPC).items()


def test_what_nothing_reads_is_named() -> None:
    given = MEANT | {"OTEL_SDK_DISABLED": "1", "ICTO_DATABASE_ULR": "x", "PGHOST": "y"}
    assert inherited.ignored(inherited.own(given)) == [
        "ICTO_DATABASE_ULR is ignored: nothing here reads it. Did you mean ICTO_DATABASE_URL?",
        "OTEL_SDK_DISABLED is ignored: nothing here reads it.",
    ]


def test_every_setting_of_a_replica_is_told_by_the_supervisor_or_inherited(tmp_path: Path) -> None:
    """Whoever adds a setting adds it to the list in mesh/inherited.py, or has it in mesh.toml."""
    supervisor = Supervisor(Options(RunDirectory(tmp_path)), lambda *_: None, lambda _: None)
    told = {*supervisor._replica_environment(Server("postgresql://a@b/c"), "backend")}
    told |= {f"{PREFIX}{name}" for name in ("INSTANCE", "LISTEN", "STATE_DIRECTORY")}
    read = {f"{PREFIX}{item.name.upper()}" for item in fields(Settings)}
    for mesh_name in loader.load(Environment.TEST).services:
        package = package_of(mesh_name)
        for file in Path(*package.split(".")).glob("**/*.py"):
            module = importlib.import_module(".".join(file.with_suffix("").parts))
            for name, kind in vars(module).items():
                if name.endswith("Settings") and is_dataclass(kind):
                    read |= {f"{PREFIX}{item.name.upper()}" for item in fields(kind)}
    assert read <= told | set(inherited.REPLICA.names)
