"""The program `icto`: its first steps, before anything is imported that may be missing or stale."""

import importlib.util
import locale
import os
import sys
from pathlib import Path
from typing import Final

from mesh import inherited

_ROOT: Final = Path(__file__).parents[1]
_REMEDY: Final = f"Run 'make .venv/.ready' in {_ROOT}, or install this version anew with pip."
_INTERRUPTED: Final = 130


class OutdatedError(Exception):
    """What is installed does not fit this code. The message says what."""


def main() -> None:
    """Runs the command line."""
    try:
        _tidy_environment()
        _run()
    except OutdatedError as error:
        raise SystemExit(f"icto: {error} {_REMEDY}") from None
    except OSError as error:
        if error.filename is None:
            raise
        raise SystemExit(f"icto: {error.filename} cannot be used: {error.strerror}.") from None
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


def _tidy_environment() -> None:
    """Keeps of the environment only what is for us."""
    kept = inherited.own(os.environ)
    strange = {name for name in os.environ if name.startswith("PYTHON")} - kept.keys()
    if strange or locale.getpreferredencoding(do_setlocale=False).lower() != "utf-8":
        # This Python has read its variables, and goes by them to its end. Another one does not.
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, kept | {"PYTHONUTF8": "1"})  # noqa: S606
    os.environ.clear()
    os.environ.update(kept)


def _run() -> None:
    check_generated(_ROOT, _generated())
    try:
        from mesh.cli import app  # noqa: PLC0415  # only now: it imports everything
    except ImportError as error:
        raise OutdatedError(f"what is installed is not of this version: {error}.") from None
    app()


def _generated() -> Path | None:
    """Where the generated code is, if it is anywhere."""
    found = importlib.util.find_spec("icto")
    places = found.submodule_search_locations if found is not None else None
    return Path(places[0]) if places else None


def check_generated(root: Path, made: Path | None) -> None:
    """Passes when generated code was made from the protos of this checkout, if it is one.

    Raises:
        OutdatedError: it is missing, or the protos have changed since.
    """
    if made is None:
        raise OutdatedError("the protos are not compiled.")
    if made != root / "protos" / "gen" / "icto":
        return  # in a wheel it came with this code
    sources = {file.relative_to(root / "protos") for file in root.glob("protos/icto/**/*.proto")}
    compiled = {
        file.relative_to(made.parent).with_name(f"{file.stem.removesuffix('_pb2')}.proto")
        for file in made.glob("**/*_pb2.py")
    }
    date = (made / "descriptors.binpb").stat().st_mtime
    newer = {file for file in sources if (root / "protos" / file).stat().st_mtime > date}
    if changed := sorted(map(str, newer | sources ^ compiled)):
        raise OutdatedError(f"the protos changed since they were compiled ({changed[0]}).")
