"""What README.md and CONTRIBUTING.md name is there."""

import re
import tomllib
from pathlib import Path

import pytest

from contract import loader
from contract.environment import Environment
from mesh import topology
from tests.support.markdown import blocks

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
PRODUCTION = loader.load(Environment.PRODUCTION)


def test_the_readme_shows_every_service() -> None:
    shown = re.findall(r"^  (\w+) +\u00d7(\d+) ", blocks(README, "text")[0], re.MULTILINE)
    services = PRODUCTION.services.values()
    assert sorted(shown) == sorted((s.mesh_name, str(s.replicas)) for s in services)


def test_the_mesh_toml_of_the_readme_is_accepted() -> None:
    (example,) = blocks(README, "toml")
    chosen = topology.apply(PRODUCTION, tomllib.loads(example))
    assert chosen.services["token_deployer"].replicas == 5


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_is_there(document: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)[` ]", (ROOT / document).read_text()))
    assert named
    assert named - targets == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_is_there(document: str) -> None:
    text = (ROOT / document).read_text()
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert linked
    assert [name for name in linked if not (ROOT / name).exists()] == []
