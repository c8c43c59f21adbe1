"""Compiles the protos when the project is installed (a hatchling build hook).

Makes the Python modules with their stubs, importable as `icto.<area>.v1`; for each proto that
declares services a module `..._handlers` with the Protocol that the handlers of each implement; and
`icto/descriptors.binpb`, the descriptor set that the mesh is derived from. A checkout that is
installed as it stands has them in protos/gen; a wheel takes them along, made by whatever compiler
builds it, and leaves protos/gen alone. Nothing of it is committed.
"""

import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
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
    _write_handlers(staging, includes, ours)
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


HANDLERS = '''"""What handles the services of {proto}: written by protos/build.py from it."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol, TypeVar

{imports}

Call = TypeVar("Call", contravariant=True)
"""What a handler is told of the call beside its request."""
{services}'''

SERVICE = '''

class {name}Handlers(Protocol[Call]):
    """Handlers of {full_name}.{comment}
    """
{methods}

def {function}(handlers: {name}Handlers[Any]) -> Mapping[str, Callable[..., Any]]:
    """What handles each method of {full_name}, by the method's path."""
    return {{
{routes}
    }}
'''

UNARY = '''
    @abstractmethod
    async def {name}(self, request: {request}, call: Call, /) -> {response}:
        """{comment}"""
'''

STREAM = '''
    @abstractmethod
    def {name}(self, request: {request}, call: Call, /) -> AsyncIterator[{response}]:
        """{comment}"""
'''

# Where descriptors keep comments: the services of a file, and the methods of a service.
SERVICES, METHODS = 6, 2


def _write_handlers(staging: Path, includes: Sequence[str], ours: Sequence[str]) -> None:
    """Writes the Protocols of every proto that declares services."""
    described = staging / "described.binpb"
    whole = ("--include_imports", "--include_source_info", f"--descriptor_set_out={described}")
    _run([*includes, *whole, *ours])
    files = FileDescriptorSet.FromString(described.read_bytes()).file
    described.unlink()
    places = {
        f".{file.package}.{message.name}": _module(file.name)
        for file in files
        for message in file.message_type
    }
    for file in files:
        if file.name in ours and file.service:
            target = staging / file.name.replace(".proto", "_handlers.py")
            target.write_text(_handlers(file, places))


def _handlers(file: FileDescriptorProto, places: Mapping[str, str]) -> str:
    """The module with the Protocols of a proto's services.

    Args:
        file: the proto.
        places: the module of each message, by the message's full name.
    """
    comments = {tuple(one.path): one.leading_comments for one in file.source_code_info.location}
    used = {
        places[name]
        for service in file.service
        for method in service.method
        for name in (method.input_type, method.output_type)
    }
    services = (
        _service(file.package, service, number, comments, places)
        for number, service in enumerate(file.service)
    )
    return HANDLERS.format(
        proto=file.name,
        imports="\n".join(f"import {module}" for module in sorted(used)),
        services="".join(services),
    )


def _service(
    package: str,
    service: ServiceDescriptorProto,
    number: int,
    comments: Mapping[tuple[int, ...], str],
    places: Mapping[str, str],
) -> str:
    place = (SERVICES, number)
    full_name = f"{package}.{service.name}"
    methods = (
        _method(method, comments.get((*place, METHODS, position), ""), places)
        for position, method in enumerate(service.method)
    )
    return SERVICE.format(
        name=service.name,
        full_name=full_name,
        comment="\n\n    " + _docstring(comments.get(place, ""), 4),
        function=re.sub(r"(?<=[a-z])(?=[A-Z])", "_", service.name).lower(),
        methods="".join(methods),
        routes="\n".join(
            f'        "/{full_name}/{method.name}": handlers.{method.name},'
            for method in service.method
        ),
    )


def _method(method: MethodDescriptorProto, comment: str, places: Mapping[str, str]) -> str:
    request, response = (
        f"{places[name]}.{name.rpartition('.')[2]}"
        for name in (method.input_type, method.output_type)
    )
    if method.client_streaming:
        raise SystemExit(f"protos/build.py: {method.name} takes a stream; none of ours does.")
    template = STREAM if method.server_streaming else UNARY
    return template.format(
        name=method.name, request=request, response=response, comment=_docstring(comment, 8)
    )


def _module(proto: str) -> str:
    """The Python module of a proto, for instance `icto.ledger.v1.ledger_pb2`."""
    return proto.replace(".proto", "_pb2").replace("/", ".")


def _docstring(comment: str, indent: int) -> str:
    """A comment of a proto as a docstring has it."""
    return "\n".join(_lines(comment, " " * indent)).strip()


def _lines(comment: str, indent: str) -> Iterator[str]:
    for line in comment.replace("\\", "\\\\").replace('"', "'").strip().splitlines():
        yield (indent + line.strip()).rstrip()


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
