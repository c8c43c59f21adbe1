"""What code is installed now: the files of our packages, and the versions of all others.

A fork server has loaded it once. Before each fork the supervisor looks whether it is still the
same, by size, time of change and inode.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

PACKAGES: Final = (
    "buf", "contract", "gateway", "icto", "mesh", "observability", "schema_setup", "services",
)  # fmt: skip
"""Our packages, and those that are compiled from the protos."""
_CACHE: Final = "__pycache__"
_METADATA: Final = ".dist-info"
_VERSION_FILES: Final = ("METADATA", "RECORD")

Mark = tuple[int, int, int]
"""Size in bytes, time of change in nanoseconds, inode."""
InstalledCode = Mapping[str, Mark]
"""The mark of each file by its path."""


def folders() -> tuple[str, ...]:
    """Where our packages are."""
    found = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        found += list(spec.submodule_search_locations or ()) if spec is not None else []
    return tuple(found)


def look(ours: tuple[str, ...]) -> InstalledCode:
    """What is installed now. `ours` are the folders of our packages."""
    found: dict[str, Mark] = {}
    for folder in ours:
        found.update(_files(folder))
    for folder in dict.fromkeys(sys.path):
        found.update(_versions(folder))
    return found


def first_difference(before: InstalledCode, now: InstalledCode) -> str:
    """The path of a file that differs, without the folders above its package; "" if none does."""
    differing = (path for path in sorted({**before, **now}) if before.get(path) != now.get(path))
    return str(Path(*Path(path).parts[-3:])) if (path := next(differing, "")) else ""


def _files(folder: str) -> Iterator[tuple[str, Mark]]:
    for entry in _entries(folder):
        if entry.name == _CACHE:
            continue
        if entry.is_dir():
            yield from _files(entry.path)
        else:
            yield from _marked(entry)


def _versions(folder: str) -> Iterator[tuple[str, Mark]]:
    for package in _entries(folder or "."):
        if package.name.endswith(_METADATA):
            for entry in _entries(package.path):
                if entry.name in _VERSION_FILES:
                    yield from _marked(entry)


def _entries(folder: str) -> "list[os.DirEntry[str]]":
    """What is in a folder; nothing when it is none, or is being replaced: then it differs."""
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def _marked(entry: "os.DirEntry[str]") -> Iterator[tuple[str, Mark]]:
    try:
        found = entry.stat()
    except OSError:
        return
    yield entry.path, (found.st_size, found.st_mtime_ns, found.st_ino)
