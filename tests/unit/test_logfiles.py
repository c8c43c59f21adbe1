"""Log files: what cannot be written is lost, counted, and stops nobody."""

import json
from pathlib import Path

from mesh.logfiles import LogFiles


def messages(file: Path) -> list[str]:
    return [json.loads(line)["message"] for line in file.read_text().splitlines()]


def test_lines_that_find_no_room_are_lost_and_counted(tmp_path: Path) -> None:
    files, file = LogFiles(tmp_path), tmp_path / "lab-1.log"
    file.symlink_to("/dev/full")
    for number in range(3):
        files.write("lab-1", f"lost {number}")
    file.unlink()
    for number in range(2):
        files.write("lab-1", f"kept {number}")
    files.close()
    assert messages(file) == ["3 lines before this could not be written", "kept 0", "kept 1"]


def test_a_full_disk_at_the_end_is_no_failure(tmp_path: Path) -> None:
    files = LogFiles(tmp_path)
    (tmp_path / "lab-1.log").symlink_to("/dev/full")
    files.write("lab-1", "lost")
    files.close()


def test_a_full_log_is_followed_by_a_fresh_one(tmp_path: Path) -> None:
    files = LogFiles(tmp_path)
    for _ in range(9):
        files.write("lab-1", "x" * 1024 * 1024)
    files.close()
    assert len(messages(tmp_path / "lab-1.log")) == 1
    assert len(messages(tmp_path / "lab-1.log.1")) == 8
