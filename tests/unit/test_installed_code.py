"""Whether the code that is installed is still what was loaded: any file of it may tell."""

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from mesh.fork_server import installed_code
from mesh.fork_server.installed_code import first_difference, look

ROOT: Final = Path(__file__).parents[2]


class House:
    """Code of ours, and a package of somebody else's."""

    def __init__(self, base: Path) -> None:
        self.ours = base / "house" / "services"
        self.theirs = base / "packages"
        self.metadata = self.theirs / "parser-1.0.dist-info" / "METADATA"
        for folder in (self.ours / "lab" / "__pycache__", self.metadata.parent):
            folder.mkdir(parents=True)
        (self.ours / "lab" / "service.py").write_text("answer = 1")
        (self.ours / "lab" / "schema.sql").write_text("CREATE TABLE t ()")
        (self.theirs / "parser.py").write_text("answer = 1")
        self.metadata.write_text("Version: 1.0")

    def look(self) -> installed_code.InstalledCode:
        """What is installed."""
        return look((str(self.ours),))


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    made = House(tmp_path)
    monkeypatch.setattr("sys.path", [str(made.theirs), str(tmp_path / "nothing"), ""])
    monkeypatch.chdir(tmp_path)
    return made


def edit(house: House) -> str:
    (house.ours / "lab" / "service.py").write_text("answer = 10")
    return "services/lab/service.py"


def edit_sql(house: House) -> str:
    (house.ours / "lab" / "schema.sql").write_text("CREATE TABLE u ()")
    return "services/lab/schema.sql"


def touch(house: House) -> str:
    os.utime(house.ours / "lab" / "service.py", ns=(1, 1))
    return "services/lab/service.py"


def replace_by_a_twin(house: House) -> str:
    """Another file with the same size, text and time of change."""
    file = house.ours / "lab" / "service.py"
    before = file.stat()
    twin = file.with_name("twin")
    twin.write_bytes(file.read_bytes())
    os.utime(twin, ns=(before.st_atime_ns, before.st_mtime_ns))
    twin.replace(file)
    return "services/lab/service.py"


def add(house: House) -> str:
    (house.ours / "lab" / "rules.py").touch()
    return "services/lab/rules.py"


def remove(house: House) -> str:
    (house.ours / "lab" / "schema.sql").unlink()
    return "services/lab/schema.sql"


def upgrade(house: House) -> str:
    house.metadata.parent.rename(house.theirs / "parser-1.1.dist-info")
    return "packages/parser-1.0.dist-info/METADATA"


def install_anew(house: House) -> str:
    house.metadata.write_text("Version: 1.0\nName: parser")
    return "packages/parser-1.0.dist-info/METADATA"


@pytest.mark.parametrize(
    "change", [edit, edit_sql, touch, replace_by_a_twin, add, remove, upgrade, install_anew]
)
def test_every_change_is_seen_and_named(house: House, change: Callable[[House], str]) -> None:
    before = house.look()
    assert house.look() == before
    named = change(house)
    assert house.look() != before
    assert first_difference(before, house.look()) == named


def test_what_python_writes_itself_is_no_change(house: House) -> None:
    before = house.look()
    (house.ours / "lab" / "__pycache__" / "service.cpython-311.pyc").touch()
    assert house.look() == before
    assert first_difference(before, before) == ""


def test_code_that_is_being_replaced_differs(house: House) -> None:
    before = house.look()
    house.ours.rename(house.ours.with_name("old"))
    assert house.look() != before


def test_all_packages_of_ours_are_looked_at() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    (compiled,) = re.findall(r"for entry in \((.*)\):", (ROOT / "protos/build.py").read_text())
    assert set(installed_code.PACKAGES) == {*shipped, *re.findall(r'"(\w+)"', compiled)}
    found = look(installed_code.folders())
    for file in ("icto/lab/v1/lab_pb2.py", "icto/descriptors.binpb", "lab/service.py"):
        assert any(path.endswith(f"/{file}") for path in found), file
    assert any(re.search(r"/grpcio-[\d.]+\.dist-info/METADATA$", path) for path in found)
