"""The wheel alone gives a working `icto`: built by pip, installed where there is nothing else.

`make wheel` runs it, and CI does. It needs what pip needs: an index, or a folder of wheels.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.installation import installation

pytestmark = pytest.mark.skipif(
    os.environ.get("ICTO_TRY_WHEEL") != "1", reason="it downloads; 'make wheel' tries it, once"
)
ROOT = Path(__file__).parents[2]


def pip(python: Path | str, *arguments: str, folder: Path) -> None:
    """Runs pip outside of the checkout."""
    command = [str(python), "-m", "pip", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def icto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`icto` of a wheel that was built from this commit, in an environment of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "-w", "dist", f"git+file://{ROOT}", folder=folder)
    (wheel,) = folder.glob("dist/*.whl")
    subprocess.run([sys.executable, "-m", "venv", "fresh"], cwd=folder, check=True)
    pip(folder / "fresh/bin/python", "install", str(wheel), folder=folder)
    return folder / "fresh/bin/icto"


@pytest.mark.timeout(900)
async def test_the_wheel_alone_starts_launches_and_stops(icto: Path, tmp_path: Path) -> None:
    file = tmp_path / "launch.yaml"
    file.write_text((ROOT / "examples" / "launch.yaml").read_text())
    async with installation(icto=icto) as running:
        for command in (["login"], ["faucet"], ["launch", str(file), "--yes"], ["status"]):
            status, output = await running.icto(*command, home=tmp_path)
            assert status == 0, output
        _, output = await running.icto("launches", home=tmp_path)
        assert re.search(r"succ", output), output
        status, output = await running.icto("down")
        assert (status, output.strip()) == (0, "Stopped. The data is kept.")
