"""Compiles the protos when the project is installed (a hatchling build hook).

Makes the Python modules with their stubs, importable as `icto.<area>.v1`, and
`icto/descriptors.binpb`, the descriptor set that the mesh is derived from. A checkout that is
installed as it stands has them in protos/gen; a wheel takes them along, made by whatever compiler
builds it, and leaves protos/gen alone. Nothing of it is committed.
"""

import os
import shutil
import sys
import sysconfig
import tempfile
from importlib import resources
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from google.api import annotations_pb2
from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOS = Path(__file__).parent
GENERATED = PROTOS / "gen"
# In the descriptor set, since Envoy answers REST callers with an empty body when it does not know
# the type of an error's details.
DETAILS = "google/rpc/error_details.proto"
COMPILER = "grpcio-tools"
PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")


def include_paths() -> list[Path]:
    """Where imports are looked up: ours, vendored ones, and those in wheels."""
    # Where it is imported from: pip builds in an environment that sysconfig knows nothing of.
    wheels = Path(annotations_pb2.__file__).parents[2]
    well_known = Path(str(resources.files("grpc_tools") / "_proto"))
    return [PROTOS, PROTOS / "vendor", wheels, well_known]


def compile_protos(target: Path = GENERATED) -> None:
    """Compiles every proto below protos/ into `target`, replacing what is there.

    Raises:
        SystemExit: the compiler refused a proto; it has printed why.
    """
    ours = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.glob("icto/**/*.proto"))
    vendored = sorted(
        path.relative_to(PROTOS / "vendor").as_posix()
        for path in (PROTOS / "vendor").glob("**/*.proto")
    )
    staging = target.with_name(f".{target.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    includes = [f"-I{path}" for path in include_paths()]
    python = [
        *(f"--plugin={name}={_program(name)}" for name in PLUGINS),
        f"--python_out={staging}",
        f"--mypy_out=quiet:{staging}",
        f"--grpc_python_out={staging}",
        f"--mypy_grpc_out=quiet,only_async:{staging}",
    ]
    _run([*includes, *python, *ours, *vendored])
    for folder in {path.parent for path in staging.glob("icto/**/*.py")} | {staging / "icto"}:
        _make_packages(folder, staging)
    (staging / "icto" / "py.typed").touch()
    image = staging / "icto" / "descriptors.binpb"
    _run([*includes, "--include_imports", f"--descriptor_set_out={image}", *ours, DETAILS])
    shutil.rmtree(target, ignore_errors=True)
    staging.rename(target)


def _program(name: str) -> str:
    """A program of a package: beside this Python, or where pip put it for this build."""
    places = (sysconfig.get_paths()["scripts"], os.environ.get("PATH", os.defpath))
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise SystemExit(f"protos/build.py: there is no {name}; install mypy-protobuf.")
    return found


def _run(arguments: list[str]) -> None:
    if protoc.main(["protoc", *arguments]) != 0:
        raise SystemExit("protos/build.py: the proto compiler refused a file; see above.")


def _make_packages(folder: Path, root: Path) -> None:
    while folder != root:
        (folder / "__init__.py").touch()
        folder = folder.parent


class CustomBuildHook(BuildHookInterface[Any]):
    """Runs the compiler before hatchling collects files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles, and adds the result to the wheel."""
        if version == "editable":
            compile_protos()
            return
        self._folder = tempfile.TemporaryDirectory(prefix="icto-protos-")
        generated = Path(self._folder.name) / "gen"
        compile_protos(generated)
        for entry in ("icto", "buf"):
            build_data["force_include"][str(generated / entry)] = entry
        # What is generated runs with what is as new as its compiler.
        needed = requires(COMPILER) or ()
        build_data["dependencies"] = [n for n in needed if n.startswith(("grpcio", "protobuf"))]

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes what was compiled for a wheel."""
        del build_data, artifact_path
        if version != "editable":
            self._folder.cleanup()


if __name__ == "__main__":
    compile_protos(*map(Path, sys.argv[1:2]))
