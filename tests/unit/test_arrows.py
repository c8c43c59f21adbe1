"""Imports point one way: every one of them is in the picture that CONTRIBUTING draws.

Imports within functions and under TYPE_CHECKING count, and so does a text that names a module: so
one is started (`python -m`) or loaded.
"""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
STARTED: Final = ("mesh/replicas.py", "services.kit.server")
"""The one program that the mesh starts."""
_PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: Final = (*_PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], "tests")
_BY_NAME: Final = frozenset({"import_module", "find_spec", "__import__", "run_module"})


def room(module: str) -> str:
    """Where a module lives, as the picture names it; "" for what is not ours."""
    top, *below = module.split(".")
    if top not in PACKAGES:
        return ""
    return "/".join((top, *below[:1])) if top == "services" else top


def picture() -> Mapping[str, frozenset[str]]:
    """The rooms that each room may import."""
    drawn = re.findall(
        r"^(\S+) +-> ([^(\n]*)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    return {above: frozenset(filter(None, re.split(r", *", below))) for above, below in drawn}


def named(tree: ast.Module) -> Iterator[str]:
    """Every module that a file names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{one.name}" for one in node.names)
        elif isinstance(node, ast.Constant) and _is_module(str(node.value)):
            yield str(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in _BY_NAME:
            yield from _first_text(node.args)


def _first_text(arguments: list[ast.expr]) -> Iterator[str]:
    """What a name begins with that may be put together."""
    for one in arguments[:1]:
        parts = one.values if isinstance(one, ast.JoinedStr) else [one]
        if isinstance(parts[0], ast.Constant):
            yield str(parts[0].value)


def _is_module(text: str) -> bool:
    return (
        re.fullmatch(r"\w+(\.\w+)+", text) is not None
        and (ROOT / f"{text.replace('.', '/')}.py").is_file()
    )


def arrows() -> Iterator[tuple[str, str, str]]:
    """File, room and module of every import of something of ours in another room."""
    for package in PACKAGES[:-1]:
        for path in (ROOT / package).rglob("*.py"):
            file = path.relative_to(ROOT).as_posix()
            here = room(file.removesuffix(".py").replace("/", "."))
            for module in named(ast.parse(path.read_text())):
                if room(module) not in ("", here):
                    yield file, here, module


def test_every_import_is_in_the_picture() -> None:
    drawn = picture()
    assert {"contract", "observability", "mesh", "services/kit"} <= drawn.keys()
    forbidden = []
    for file, here, module in arrows():
        allowed = drawn.get(here, drawn["services/<name>"] if here.startswith("services/") else ())
        if room(module) not in allowed and (file, module) != STARTED:
            forbidden.append(f"{file} imports {module}: {here} -> {room(module)}")
    assert not forbidden, "\n".join(sorted(forbidden))


def subject(module: str) -> str:
    """The folder of the kit that a module is in, or its own name beside those; "" elsewhere."""
    parts = module.split(".")
    return parts[2] if room(module) == "services/kit" and len(parts) > 2 else ""


def test_the_folders_of_the_kit_form_no_circle() -> None:
    below: dict[str, set[str]] = {}
    for path in (ROOT / "services/kit").rglob("*.py"):
        here = subject(path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."))
        found = {subject(module) for module in named(ast.parse(path.read_text()))}
        below.setdefault(here, set()).update(found - {here, ""})
    TopologicalSorter(below).prepare()


@pytest.mark.parametrize(
    "text",
    [
        "import services.kit.call",
        "def later():\n    from services.kit import call",
        "if TYPE_CHECKING:\n    from services.kit.call import Call",
        "importlib.import_module('services.kit')",
        "import_module(f'services.kit.{name}')",
        "importlib.util.find_spec('services.kit')",
        "command = (sys.executable, '-m', 'services.kit.server')",
    ],
)
def test_whatever_names_a_module_counts(text: str) -> None:
    assert "services/kit" in map(room, named(ast.parse(text)))
