"""What a process takes over from the environment that `icto` was typed in: a list for each kind.

Libraries read variables that the operator of this mesh never thought of: libpq's, gRPC's,
OpenTelemetry's, Python's, curl's. One of them may stop Postgres, send a call for this machine to a
proxy, or end every replica at its start. So nothing comes along but what is listed here.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from contract.environment import PREFIX

_ALIKE: Final = 0.9
_LEFT: Final = f"{PREFIX}LEFT_BEHIND"

# Read by `icto` itself.
_COMMANDS: Final = ("ICTO_DATABASE_URL", "ICTO_EDGE", "ICTO_RUN_DIR", "ICTO_START")
# Read by replicas. Whatever else they are told, the supervisor tells them.
_REPLICAS: Final = (
    "ICTO_AUDIT_CHECKPOINT_SECONDS",
    "ICTO_DRAIN_SECONDS",
    "ICTO_FAULT_DIRECTORY",
    "ICTO_GRACE_SECONDS",
    "ICTO_INITIAL_CONFIG",
)
# Where traces go on to; read by the supervisor, which alone passes them on.
_COLLECTOR: Final = (
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
)
_AUTHORITIES: Final = ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "SSL_CERT_DIR", "SSL_CERT_FILE")
# An interpreter that needs these to start, or to find this code, needs them for replicas too.
_PYTHON: Final = (
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
    "PYTHONPYCACHEPREFIX",
    "PYTHONUTF8",
)
_PERSON: Final = ("HOME", "LOGNAME", "TMPDIR", "USER", "XDG_CONFIG_HOME")
_LANGUAGE: Final = ("LANG", "LC_ALL", "LC_CTYPE")
_TERMINAL: Final = ("COLORTERM", "COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR", "TERM")
_CLOCK: Final = ("TZ",)


@dataclass(frozen=True)
class Kind:
    """A kind of process: the variables that it inherits, and what it is always given."""

    names: Sequence[str]
    given: Mapping[str, str] = field(default_factory=dict)


# Its own library would print a line for each replica that closes its connection.
_QUIET: Final = {"GRPC_VERBOSITY": "ERROR"}

ICTO: Final = Kind(
    (*_COLLECTOR, *_AUTHORITIES, *_PYTHON, *_PERSON, *_LANGUAGE, *_TERMINAL, *_CLOCK), _QUIET
)
REPLICA: Final = Kind(
    (*_REPLICAS, *_PYTHON, *_CLOCK, "HOME"),  # asyncpg looks for certificates at home
    {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
)
FORK_SERVER: Final = Kind(
    # What replicas have as well, and cannot be given later; nothing that is meant for them alone.
    (*_PYTHON, *_CLOCK),
    {**REPLICA.given, "GRPC_ENABLE_FORK_SUPPORT": "0"},
)
HELPER: Final = Kind((*_PYTHON, *_CLOCK), {**REPLICA.given, **_QUIET})
POSTGRES: Final = Kind(_CLOCK, {"LC_ALL": "C.UTF-8"})
ENVOY: Final = Kind(_CLOCK)
JAEGER: Final = Kind(_CLOCK, {"OTEL_TRACES_SAMPLER": "always_off"})


def environment(kind: Kind, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of a kind that is started from `environ`."""
    kept = {name: value for name, value in environ.items() if name in kind.names}
    return {"PATH": os.defpath} | kept | dict(kind.given)


def own(environ: Mapping[str, str]) -> dict[str, str]:
    """What `icto` itself goes by: its list, and whatever has our prefix.

    With the names of what it leaves behind, for those who look for a reason.
    """
    ours = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    kept = environment(ICTO, environ) | ours
    left = sorted(name for name in environ.keys() - kept.keys() if name.startswith("OTEL_"))
    return {_LEFT: " ".join(left)} | kept


def ignored(environ: Mapping[str, str]) -> list[str]:
    """A line for each variable that looks as if it were for the mesh, and that nothing reads."""
    read = (*_COMMANDS, *_REPLICAS, *_COLLECTOR, _LEFT)
    lines = []
    for name in sorted({*environ, *environ.get(_LEFT, "").split()}):
        if name.startswith((PREFIX, "OTEL_")) and name not in read:
            meant = difflib.get_close_matches(name, read, 1, _ALIKE)
            hint = f" Did you mean {meant[0]}?" if meant else ""
            lines.append(f"{name} is ignored: nothing here reads it.{hint}")
    return lines
