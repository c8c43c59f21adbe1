"""The address of an external PostgreSQL, as libpq writes it: what of it can be kept, and what not.

An option that our client does not know would be sent to the server as a setting, which refuses it
in words about something else. Nothing here says any part of an address that may be a password.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

VARIABLE: Final = "ICTO_DATABASE_URL"
_LIKE: Final = (
    f"{VARIABLE} must be like postgresql://user:password@host:5432/database, and what is special in"
    " the password is written as in URLs: @ as %40, / as %2F, : as %3A, # as %23, ? as %3F."
)
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/]*)(:\d+)?")
_CONNECT_TIMEOUT: Final = "connect_timeout"
# What our client does by itself, so that to ask for it changes nothing.
_SATISFIED: Final[Mapping[str, Sequence[str]]] = {
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("utf8", "UTF8", "auto"),
    "fallback_application_name": (),
    "gssdelegation": ("0",),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "sslcertmode": ("allow",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}
_ANY_VALUE: Final = frozenset({"fallback_application_name"})
_IMPOSSIBLE: Final = frozenset(
    {
        "hostaddr", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval",
        "max_protocol_version", "min_protocol_version", "oauth_client_id", "oauth_client_secret",
        "oauth_issuer", "oauth_scope", "replication", "require_auth", "requirepeer", "requiressl",
        "scram_client_key", "scram_server_key", "search_path", "servicefile", "ssl_crldir",
        "sslcrldir", "sslkeylogfile", "tcp_user_timeout", "tty",
    }
)  # fmt: skip
_LOGIN: Final = frozenset({"user", "password", "passfile"})


class DatabaseUrlError(Exception):
    """The address cannot be used. The message says why, and no part of a password."""


def parse(url: str) -> tuple[str, float]:
    """An address as our client takes it, and how many seconds connecting may take; 0 is no bound.

    Raises:
        DatabaseUrlError: it is no address, names no database, or asks for what cannot be.
    """
    try:
        parts = urlsplit(url)
        options = _options(parts.query, strict=bool(parts.query))
    except ValueError:
        raise DatabaseUrlError(_LIKE) from None
    named = parts.path.strip("/") or {"dbname", "database"} & options.keys()
    if not named or not _is_sound(url, parts):
        raise DatabaseUrlError(_LIKE)
    seconds = _seconds(options.pop(_CONNECT_TIMEOUT, "0"))
    kept = {name: value for name, value in options.items() if not _is_satisfied(name, value)}
    if refused := sorted(kept.keys() & {*_IMPOSSIBLE, *_SATISFIED}):
        raise DatabaseUrlError(
            f"{VARIABLE} asks by {', '.join(refused)} for what our client of PostgreSQL cannot do."
            " Take it out of the address."
        )
    return _with(parts, options=kept), seconds


def with_login(dsn: str, user: str, password: str) -> str:
    """The same place for another login."""
    parts = urlsplit(dsn)
    options = {k: v for k, v in _options(parts.query).items() if k not in _LOGIN}
    host = parts.netloc.rpartition("@")[2]
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return _with(parts._replace(netloc=f"{login}@{host}"), options=options)


def place(dsn: str) -> str:
    """Where it is, without who may enter."""
    parts = urlsplit(dsn)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _options(query: str, *, strict: bool = False) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=strict))


def _with(parts: SplitResult, options: Mapping[str, str]) -> str:
    query = urlencode(options, safe="/:,", quote_via=quote)
    # Not by urlunsplit, which forgets an empty host.
    return f"{parts.scheme}://{parts.netloc}{parts.path}" + (f"?{query}" if query else "")


def _is_sound(url: str, parts: SplitResult) -> bool:
    """Whether nothing looks as if it belonged to a password not written as in URLs."""
    login, at, hosts = parts.netloc.rpartition("@")
    return (
        parts.scheme in {"postgresql", "postgres"}
        and "#" not in url
        and "@" not in login + parts.path
        and ("@" not in parts.query or at == "@" or not hosts)
        and parts.path.count("/") <= 1
        and all(_HOST.fullmatch(host) for host in hosts.split(","))
    )


def _is_satisfied(name: str, value: str) -> bool:
    return name in _ANY_VALUE or value in _SATISFIED.get(name, ())


def _seconds(text: str) -> float:
    """The option connect_timeout: whole seconds, 0 for no bound."""
    if not re.fullmatch(r"-?\d{1,6}", text):
        raise DatabaseUrlError(f"{VARIABLE}: {_CONNECT_TIMEOUT} must be a number of seconds.")
    return float(max(int(text), 0))
