"""The schema's own checks: what they let pass and what they stop."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROTOS = Path(__file__).parents[2] / "protos"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The protos, to be spoilt."""
    target = tmp_path / "protos"
    shutil.copytree(PROTOS, target, ignore=shutil.ignore_patterns("gen", ".gen.new"))
    return target


def check(protos: Path) -> tuple[int, str]:
    """Exit status and output of the checks."""
    ran = subprocess.run(
        [sys.executable, protos / "check.py"], capture_output=True, text=True, check=False
    )
    return ran.returncode, ran.stdout + ran.stderr


def replace(file: Path, old: str, new: str) -> None:
    """Edits a proto."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_the_protos_pass_and_a_new_field_breaks_nobody(copy: Path) -> None:
    replace(
        copy / "icto/backend/v1/users.proto",
        "message GetMyProfileRequest {}",
        "message GetMyProfileRequest {\n  // New.\n  bool fresh = 1;\n}",
    )
    assert check(copy) == (0, "")


def test_a_removed_field_is_refused(copy: Path) -> None:
    proto = copy / "icto/backend/v1/projects.proto"
    proto.write_text(
        "\n".join(line for line in proto.read_text().splitlines() if "string token = 6" not in line)
        + "\n"
    )
    status, output = check(copy)
    assert status == 1
    assert 'field "6" with name "token" on message "Project" was deleted' in output


def test_a_field_without_a_comment_is_refused(copy: Path) -> None:
    replace(copy / "icto/token/v1/token.proto", "  // `tokens/{id}`.\n", "")
    status, output = check(copy)
    assert status == 1
    assert "should have a non-empty comment" in output


def test_a_response_that_is_neither_the_methods_own_nor_a_resource_is_refused(copy: Path) -> None:
    proto = copy / "icto/backend/v1/users.proto"
    replace(proto, "returns (Profile)", "returns (GetMyProfileRequest)")
    status, output = check(copy)
    assert status == 1
    assert "answers with icto.backend.v1.GetMyProfileRequest" in output


def test_an_unformatted_proto_is_refused(copy: Path) -> None:
    replace(copy / "icto/lab/v1/lab.proto", "message LimitedRequest {}", "message LimitedRequest{}")
    status, output = check(copy)
    assert status == 1
    assert "+message LimitedRequest {}" in output
