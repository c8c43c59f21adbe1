"""Files that were cut, lost, or made by somebody else: told in words, and left alone."""

from pathlib import Path

import pytest

from contract.errors import Error
from mesh import rundir
from mesh.cli.client import KeyFileError, load_key
from mesh.rundir import RunDirectory, RunDirectoryError
from services.audit_storage.checkpoints import Signer

CUT = [b"", b"abc", b"zz" * 32, b"00" * 31, b"\xff\xfe", b"00" * 33]


@pytest.mark.parametrize("text", CUT)
def test_a_user_s_key_that_is_cut_is_told(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(text)
    with pytest.raises(KeyFileError, match=f"{file} does not hold a key of 64"):
        load_key(file)
    assert file.read_bytes() == text


def test_a_key_that_is_made_is_found_again(tmp_path: Path) -> None:
    first, again = (load_key(tmp_path / "icto" / "key") for _ in range(2))
    assert first.private_bytes_raw() == again.private_bytes_raw()


@pytest.mark.parametrize("place", ["/dev/null/icto/key", "/proc/icto/key"])
def test_a_key_that_cannot_be_kept_is_told(place: str) -> None:
    with pytest.raises(KeyFileError, match=f"{place} cannot be used: .*XDG_CONFIG_HOME"):
        load_key(Path(place))


@pytest.mark.parametrize("text", CUT)
def test_the_audit_s_key_that_is_cut_is_told(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "checkpoint.key"
    file.write_bytes(text)
    with pytest.raises(Error, match=f"{file} does not hold a key of 64"):
        Signer.from_file(file)
    assert file.read_bytes() == text


@pytest.mark.parametrize("text", ["", '{"a": ', "\N{SNOWMAN}"])
def test_secrets_that_are_cut_are_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "secrets.json").write_text(text)
    with pytest.raises(RunDirectoryError, match=r"secrets\.json is damaged\. Put back"):
        RunDirectory(tmp_path).secret("one")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run directory of root, whose data lie elsewhere."""
    monkeypatch.setattr(rundir, "_ROOT_STATE", tmp_path / "state")
    monkeypatch.setattr("os.getuid", lambda: 0)
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    return run


def test_a_fresh_installation_finds_nothing_of_another(root: RunDirectory) -> None:
    assert root.left_behind == ()


def test_data_of_a_lost_run_directory_are_named(root: RunDirectory) -> None:
    (root.database / "data").mkdir(parents=True)
    assert list(root.left_behind) == [root.database]
    root.state("audit_storage").mkdir(parents=True)
    assert list(root.left_behind) == [root.database, root.state("audit_storage").parent]


def test_what_root_keeps_elsewhere_belongs_to_a_run_directory_with_secrets(
    root: RunDirectory,
) -> None:
    (root.database / "data").mkdir(parents=True)
    root.secret("database ledger")
    assert root.left_behind == ()
