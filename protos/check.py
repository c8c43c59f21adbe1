"""Checks the protos: lint, comments, format, and that no released caller is broken.

    python protos/check.py             check; prints what is wrong, file by file
    python protos/check.py --release   remember the present protos as the last release

buf does the work, and asks no schema registry: what ours import lies in protos/vendor and in the
wheel of googleapis' protos, which is laid out below protos/gen first. The last release is the
committed image released.binpb; both sides of the comparison are built by the same buf.
"""

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from google.api.resource_pb2 import resource
from google.protobuf.descriptor_pb2 import FileDescriptorSet

PROTOS = Path(__file__).resolve().parent
RELEASED = PROTOS / "released.binpb"
GENERATED = PROTOS / "gen"
GOOGLEAPIS = GENERATED / "googleapis"
RAW_BODY = ".google.api.HttpBody"


def main(arguments: list[str]) -> int:
    """Runs the checks; the exit status is 0 when all passed."""
    lay_out_googleapis()
    if arguments == ["--release"]:
        return build(RELEASED)
    present = GENERATED / "present.binpb"
    failures = [
        buf("lint", ".", "--path", "icto"),
        buf("format", ".", "--path", "icto", "--diff", "--exit-code"),
        build(present) or check_responses(present),
        buf(
            "breaking", str(present), "--against", str(RELEASED),
            "--exclude-imports", "--config", "buf.yaml",
        ),
    ]  # fmt: skip
    return int(any(failures))


def lay_out_googleapis() -> None:
    """Copies the wheel's protos to where buf.yaml looks for them."""
    shutil.rmtree(GOOGLEAPIS, ignore_errors=True)
    for file in metadata.files("googleapis-common-protos") or ():
        if file.suffix == ".proto":
            target = GOOGLEAPIS / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(str(file.locate())), target)


def buf(*arguments: str) -> int:
    """Runs buf on this folder and returns its exit status."""
    program = Path(sysconfig.get_paths()["scripts"]) / "buf"
    return subprocess.run([program, *arguments], cwd=PROTOS, check=False).returncode  # noqa: S603


def build(image: Path) -> int:
    """Builds an image of ours and all that they import."""
    return buf("build", ".", "--path", "icto", "--exclude-source-info", "-o", str(image))


def check_responses(image: Path) -> int:
    """A method answers with its own response, or with a resource (AIP-131), or with raw bytes."""
    wrong = list(_odd_responses(FileDescriptorSet.FromString(image.read_bytes())))
    for line in wrong:
        print(line)
    return len(wrong)


def _odd_responses(files: FileDescriptorSet) -> Iterator[str]:
    resources = {
        f".{file.package}.{message.name}"
        for file in files.file
        for message in file.message_type
        if message.options.HasExtension(resource)
    }
    for file in files.file:
        if not file.package.startswith("icto."):
            continue
        for service in file.service:
            for method in service.method:
                own = f".{file.package}.{method.name}Response"
                if method.output_type not in resources | {own, RAW_BODY}:
                    yield (
                        f"protos/{file.name}: {service.name}.{method.name} answers with"
                        f" {method.output_type[1:]}, which is neither {own[1:]} nor a resource"
                    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
