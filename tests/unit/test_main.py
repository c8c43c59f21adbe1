"""The first steps of `icto`: it says when what is installed is not of this code."""

import os
from pathlib import Path

import pytest

from mesh.main import OutdatedError, check_generated


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with two protos, compiled."""
    made = tmp_path / "protos/gen/icto/v1"
    made.mkdir(parents=True)
    (tmp_path / "protos/icto/v1").mkdir(parents=True)
    for name in ("one", "two"):
        proto = tmp_path / f"protos/icto/v1/{name}.proto"
        proto.touch()
        os.utime(proto, (1, 1))
        (made / f"{name}_pb2.py").touch()
        (made / f"{name}_pb2_grpc.py").touch()
    (made.parent / "descriptors.binpb").touch()
    return tmp_path


def check(root: Path) -> None:
    check_generated(root, root / "protos/gen/icto")


def test_what_was_compiled_from_these_protos_is_taken(checkout: Path) -> None:
    check(checkout)


def test_a_proto_that_went_is_told(checkout: Path) -> None:
    (checkout / "protos/icto/v1/one.proto").unlink()
    with pytest.raises(OutdatedError, match=r"protos changed .*\(icto/v1/one.proto\)"):
        check(checkout)


def test_a_proto_that_came_is_told(checkout: Path) -> None:
    (checkout / "protos/icto/v1/three.proto").touch()
    with pytest.raises(OutdatedError, match=r"protos changed .*\(icto/v1/three.proto\)"):
        check(checkout)


def test_a_proto_that_changed_is_told(checkout: Path) -> None:
    os.utime(checkout / "protos/icto/v1/two.proto", None)
    os.utime(checkout / "protos/gen/icto/descriptors.binpb", (2, 2))
    with pytest.raises(OutdatedError, match=r"protos changed .*\(icto/v1/two.proto\)"):
        check(checkout)


def test_what_was_never_compiled_is_told(checkout: Path) -> None:
    with pytest.raises(OutdatedError, match="the protos are not compiled"):
        check_generated(checkout, None)


def test_a_wheel_brings_its_own(checkout: Path, tmp_path: Path) -> None:
    check_generated(tmp_path / "site-packages", checkout / "protos/gen/icto")
