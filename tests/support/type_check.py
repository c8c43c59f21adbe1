"""What mypy says of the code if some of its files were written otherwise."""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_ERROR: Final = re.compile(r"^(\S+\.py):\d+: error: (.*)$", re.MULTILINE)


def complaints(
    changes: Mapping[str, tuple[tuple[str, str], ...]], folder: Path
) -> list[tuple[str, str]]:
    """File and message of each error, once texts of some files are replaced.

    Args:
        changes: what is replaced by what, by the path of the file; each text stands there once.
        folder: an empty one. It gets a copy of mypy's cache, which spares most of the work.
    """
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", folder / "cache")
    shadows: list[str] = []
    for number, (path, replacements) in enumerate(changes.items()):
        text = (ROOT / path).read_text()
        for before, after in replacements:
            assert text.count(before) == 1, f"{path} has not once: {before}"
            text = text.replace(before, after)
        (folder / f"{number}.py").write_text(text)
        shadows += ["--shadow-file", path, str(folder / f"{number}.py")]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(folder / "cache"), *shadows],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not checked.stderr, checked.stderr
    return [(found[1], found[2]) for found in _ERROR.finditer(checked.stdout)]
