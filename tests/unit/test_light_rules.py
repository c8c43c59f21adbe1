"""Rules are pure: what decides loads no server, no database driver and no telemetry."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
HEAVY: Final = frozenset({"asyncpg", "grpc", "opentelemetry"})
RULES: Final = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for top in ("gateway", "services")
    for pattern in ("**/domain.py", "**/*_rules.py")
    for path in (ROOT / top).glob(pattern)
)


def loaded_with(module: str) -> set[str]:
    """Packages that a fresh process has loaded after it imported a module."""
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", RULES)
def test_rules_load_nothing_that_does_io(module: str) -> None:
    assert not loaded_with(module) & HEAVY


def test_a_store_is_seen_to_load_its_driver() -> None:
    assert loaded_with("services.ledger.store") & HEAVY
    assert {"services.ledger.domain", "services.backend.launches.domain"} <= set(RULES)
