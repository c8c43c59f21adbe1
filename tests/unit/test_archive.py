"""The file of a backup: what was changed in it, anywhere, is refused."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh import archive
from mesh.archive import BackupError, Manifest, Member

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
VERIFICATION = KEY.public_key().public_bytes_raw().hex()
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\x01")


def content(folder: Path) -> Manifest:
    """A small backup's files, and what describes them."""
    (folder / "state").mkdir(parents=True)
    (folder / "database.dump").write_bytes(b"rows")
    (folder / "state" / "key").write_bytes(b"secret")
    return Manifest("0.1.0", 18, "2026-01-02T03:04:05+00:00", 7, "ab", archive.describe(folder))


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    manifest = content(tmp_path / "from")
    archive.write(tmp_path / "backup", tmp_path / "from", manifest, KEY)
    return tmp_path / "backup"


def test_a_backup_gives_back_what_was_put_in(backup: Path, tmp_path: Path) -> None:
    manifest = archive.unpack(backup, tmp_path / "to", VERIFICATION)
    assert manifest.audit_sequence == 7
    assert (tmp_path / "to" / "state" / "key").read_bytes() == b"secret"
    assert backup.stat().st_mode & 0o777 == 0o600


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_changed_byte_is_restored(backup: Path, position: int, change: int) -> None:
    """Either it is refused, or the change lies where a tar keeps nothing."""
    whole = bytearray(backup.read_bytes())
    whole[position % len(whole)] ^= change
    changed, target = backup.with_name("changed"), backup.with_name(f"to-{position}-{change}")
    changed.write_bytes(whole)
    try:
        archive.unpack(changed, target, VERIFICATION)
    except BackupError:
        return
    assert (target / "database.dump").read_bytes() == b"rows"
    assert (target / "state" / "key").read_bytes() == b"secret"


def test_a_backup_that_was_signed_again_is_refused(tmp_path: Path) -> None:
    manifest = content(tmp_path / "from")
    archive.write(tmp_path / "backup", tmp_path / "from", manifest, STRANGER)
    with pytest.raises(BackupError, match="its signature does not verify"):
        archive.unpack(tmp_path / "backup", tmp_path / "to", VERIFICATION)


@pytest.mark.parametrize("name", ["../outside", "/outside"])
def test_nothing_leaves_the_folder(tmp_path: Path, name: str) -> None:
    manifest = replace(content(tmp_path / "from"), members={name: Member(0, "")})
    signed = manifest.to_bytes()
    with tarfile.open(tmp_path / "backup", "w") as tar:
        for member, data in (
            ("manifest.json", signed), ("manifest.signature", KEY.sign(signed)), (name, b""),
        ):  # fmt: skip
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(BackupError, match="not a whole backup"):
        archive.unpack(tmp_path / "backup", tmp_path / "to", VERIFICATION)
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1024, 2048])
def test_a_cut_backup_is_refused(backup: Path, tmp_path: Path, size: int) -> None:
    backup.write_bytes(backup.read_bytes()[:size])
    with pytest.raises(BackupError):
        archive.unpack(backup, tmp_path / "to", VERIFICATION)


def test_a_later_format_is_refused_in_words(tmp_path: Path) -> None:
    manifest = replace(content(tmp_path / "from"), format=2)
    archive.write(tmp_path / "backup", tmp_path / "from", manifest, KEY)
    with pytest.raises(BackupError, match="has format 2; this version reads 1"):
        archive.unpack(tmp_path / "backup", tmp_path / "to", VERIFICATION)
